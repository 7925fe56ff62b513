"""`python experiments/training_quality [FOLDER]`: compare ways of training a supernet by the accuracy of its subnets.

Trains supernets of the digits space in each way, and writes `results.csv` and `alone.csv` next to this file. Trainings that FOLDER
(runs/training_quality) contains are not repeated.
"""

import sys
from pathlib import Path

from comparison import main

main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/training_quality"))
