"""`killed_rank.py MARKER ...`: the command line, whose second rank kills itself once, in the third epoch of the supernet.

Started by torchrun. The marker is a file that says that the rank was killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from autospike.cli import main
from autospike.data.batches import Batch, TrainingBatches

MARKER = Path(sys.argv[1])
load = TrainingBatches.__call__
trainings = 0  # of this process: the reference network's, then the supernet's


def killing(batches: TrainingBatches, start: int, stop: int) -> Iterator[Batch]:
    """The batches, until the second one of the third epoch."""
    global trainings
    trainings += 1
    for step, batch in zip(range(start, stop), load(batches, start, stop), strict=True):
        if trainings == 2 and step == 2 * batches.per_epoch + 1 and batches.rank_slice.rank == 1 and not MARKER.exists():
            MARKER.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch


if __name__ == "__main__":
    sys.argv[1:] = sys.argv[2:]
    with patch.object(TrainingBatches, "__call__", killing):
        main()
