"""The command `autospike`, and `python -m autospike`.

The imports of the command line take a fraction of a second. A signal during them ends the command in one line, as later.
"""

from __future__ import annotations

import gc
import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _end) for number in numbers}
    from autospike.cli import main as run_command_line

    for number, handler in before.items():
        signal.signal(number, handler)
    try:
        run_command_line()
    finally:
        gc.freeze()  # the last collections of the interpreter would traverse all that libraries have created, for 0.3 s


def _end(number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted; run the same command again to resume\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
