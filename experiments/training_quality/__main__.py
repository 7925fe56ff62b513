"""`python experiments/training_quality [FOLDER]`: trains supernets of the digits space in each way, measures what their subnets
inherit, and writes `results.csv` and `alone.csv` beside this file. What FOLDER (runs/training_quality) holds is not done again.
"""

import sys
from pathlib import Path

from comparison import main

main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/training_quality"))
