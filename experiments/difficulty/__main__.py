"""`python experiments/difficulty RUN`: how hard the data of a run are, and how widely its subnets differ.

RUN is the folder of `autospike train EXPERIMENT --run RUN`. Prints the test accuracy of plain classifiers, and the accuracies
of 48 random subnets that inherit the weights of the supernet, on the search split. `--plain EXPERIMENT` prints the first part
without a run.
"""

import sys
import time
from pathlib import Path

from plain import EVENT_VIEWS, PLAIN, STILL_VIEWS, Labelled, accuracy, read
from spread import by_time_steps, measure, random_subnets, summary

from autospike.config import Experiment
from autospike.evaluation.setup import fixed_batches
from autospike.process import prepare_process
from autospike.run_directory import RunDirectory
from autospike.training.setup import open_experiment

EPOCHS = 10


def plain(experiment_path: Path) -> None:
    """Print the accuracy of plain classifiers."""
    setup = open_experiment(Experiment.load(experiment_path))
    classes = len(setup.images.classes)
    for view, function in (STILL_VIEWS if setup.images.time_steps is None else EVENT_VIEWS).items():
        train, test = (read(fixed_batches(setup, setup.images.splits[name]), function) for name in ("train", "test"))
        chance, error = 1 / classes, (1 / classes * (1 - 1 / classes) / len(test.y)) ** 0.5
        print(f"{view}: chance {chance:.3f} +- {1.96 * error:.3f} (95 % of {len(test.y)} samples)")
        compare(train, test, classes=classes)


def compare(train: Labelled, test: Labelled, *, classes: int) -> None:
    """Train every plain classifier and print its accuracy on the test samples."""
    for name, build in PLAIN.items():
        started = time.process_time()
        found = accuracy(build(*train.x.shape[1:3], classes), train, test, epochs=EPOCHS, learning_rate=2e-3)
        print(f"  {name}: test accuracy {found:.3f} ({time.process_time() - started:.0f} CPU s)", flush=True)


def main(arguments: list[str]) -> None:
    """Measure the data of an experiment, and the subnets of a run."""
    prepare_process()
    if arguments[0] == "--plain":
        plain(Path(arguments[1]))
        return
    folder = Path(arguments[0])
    plain(folder / "experiment.yaml")
    measured = measure(folder, random_subnets(RunDirectory.resume(folder).experiment.search_space))
    print(f"{len(measured)} random subnets: {summary([m.accuracy for m in measured])}")
    for steps, accuracies in by_time_steps(measured).items():
        print(f"  T = {steps} ({len(accuracies)}): {summary(accuracies)}")


if __name__ == "__main__":
    main(sys.argv[1:])
