"""Divide a data set into the splits train, search and test by a named rule (`data.split`).

| rule         | test split                                               | search split                                |
|--------------|----------------------------------------------------------|---------------------------------------------|
| `stratified` | published, or else a stratified sample                   | a stratified sample of the training samples |
| `first`      | of each class the samples after the first 90 %, by name  | as `stratified`                             |
| `tebn`       | of each class the samples with numbers 0 to 99           | as `stratified`                             |
| `subject`    | the published subjects                                   | further subjects, drawn at random           |
| `lists`      | the published list                                       | the published validation list               |

`first` has the share `1 - data.test_share` in place of 90 %. Spikformer, QKFormer and Spike-driven Transformer use it for
CIFAR10-DVS; TEBN (NeurIPS 2022) and others use samples 0 to 99, which gives higher accuracies. Results of the two are not
comparable.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal

import numpy as np
from sklearn.model_selection import train_test_split

from autospike.errors import UserError
from autospike.randomness import keyed, keyed_seed

SplitName = Literal["train", "search", "test"]
Indices = Mapping[SplitName, Sequence[int]]

# The numbers of the samples of each class that TEBN tests on.
TEBN_TEST = 100


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the splits of a data set are chosen by.

    Attributes:
        labels: Class of each sample.
        names: File names, from which `tebn` takes the number of a sample; those of a class are in the order of its files.
        parts: Indices of the published parts; empty if none are published.
        subjects: Who is recorded in each sample; empty if it is not known.
    """

    labels: Sequence[int]
    names: Sequence[str]
    parts: Indices = field(default_factory=dict)
    subjects: Sequence[str] = ()

    @property
    def rules(self) -> list[str]:
        """The rules that apply, the default first."""
        own = ["lists"] * ("search" in self.parts) + ["subject"] * bool(self.subjects)
        return [*own, "stratified", *([] if self.parts else ["first", "tebn"])]


def partition(
    samples: Samples, rule: str | None, *, search_share: float, test_share: float, seed: int
) -> dict[SplitName, list[int]]:
    """Choose the samples of each split.

    Args:
        samples: The samples.
        rule: One of the table above; the default of the data set if None.
        search_share: Fraction of the samples for the search split; of the training samples if the test split is not a sample.
        test_share: Fraction of the samples for the test split, if none is published.
        seed: Key of the random samples.

    Returns:
        Sorted indices of each split.

    Raises:
        UserError: The rule does not apply to these samples, or a class has too few of them.
    """
    chosen = rule or samples.rules[0]
    if chosen not in samples.rules:
        raise UserError(f"data.split: {chosen} does not apply to these data; choose from {', '.join(samples.rules)}")
    everything = range(len(samples.labels))
    if chosen == "lists":
        return {name: sorted(indices) for name, indices in samples.parts.items()}
    if chosen == "stratified" and not samples.parts:
        rest, test = stratified_split(everything, samples.labels, test_share, seed=seed, name="test")
        train, search = stratified_split(rest, samples.labels, search_share / (1 - test_share), seed=seed, name="search")
        return {"train": train, "search": search, "test": test}
    if samples.parts:
        rest, test = list(samples.parts["train"]), list(samples.parts["test"])
    else:
        rest, test = _first(samples, test_share) if chosen == "first" else _tebn(samples)
    if chosen == "subject":
        train, search = _by_subject(rest, samples.subjects, search_share, seed)
    else:
        train, search = stratified_split(rest, samples.labels, search_share, seed=seed, name="search")
    return {"train": train, "search": search, "test": sorted(test)}


def _first(samples: Samples, test_share: float) -> tuple[list[int], list[int]]:
    """The first `ceil((1 - test_share) * n)` of the n samples of each class, and the others."""
    counts, seen = Counter(samples.labels), Counter[int]()
    rest, test = list[int](), list[int]()
    for index, label in enumerate(samples.labels):
        (rest if seen[label] < math.ceil((1 - test_share) * counts[label]) else test).append(index)
        seen[label] += 1
    _check_classes(samples, test, f"data.test_share {test_share:g} leaves no sample of class")
    return rest, test


def _tebn(samples: Samples) -> tuple[list[int], list[int]]:
    rest, test = list[int](), list[int]()
    for index, name in enumerate(samples.names):
        found = re.search(r"(\d+)$", PurePath(name).stem)
        if found is None:
            raise UserError(f"data.split: tebn needs a number at the end of each file name, but {name} has none; use another rule")
        (test if int(found[1]) < TEBN_TEST else rest).append(index)
    _check_classes(samples, rest, f"tebn has no sample with a number from {TEBN_TEST} for class")
    _check_classes(samples, test, f"tebn has no sample with a number below {TEBN_TEST} for class")
    return rest, test


def _check_classes(samples: Samples, indices: Sequence[int], problem: str) -> None:
    missing = set(samples.labels) - {samples.labels[index] for index in indices}
    if missing:
        first = next(name for name, label in zip(samples.names, samples.labels, strict=True) if label in missing)
        raise UserError(f"data.split: {problem} {PurePath(first).parent}; use another rule, or add samples")


def _by_subject(rest: Sequence[int], subjects: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Hold out whole subjects until they have a share of the samples."""
    counts = Counter(subjects[index] for index in rest)
    names, held_out, wanted = sorted(counts), set[str](), share * len(rest)
    if len(names) < 2:
        raise UserError(f"data.split: subject needs two or more subjects for training, got {len(names)}; use stratified")
    keyed(seed, "split", "subjects").shuffle(names)
    for name in names[:-1]:
        if sum(counts[other] for other in held_out) >= wanted:
            break
        held_out.add(name)
    search = [index for index in rest if subjects[index] in held_out]
    return [index for index in rest if subjects[index] not in held_out], search


def stratified_split(
    indices: Sequence[int], labels: Sequence[int], share: float, *, seed: int, name: SplitName
) -> tuple[list[int], list[int]]:
    """Divide indices into the remaining ones and a stratified sample, both sorted.

    Args:
        indices: Of the samples to divide.
        labels: Class of each sample of the data set.
        share: Fraction of the sample.
        seed: Key of the sample.
        name: The split that it is for.

    Returns:
        The remaining indices and the sample.

    Raises:
        UserError: A class has too few images to be in both.
    """
    try:
        rest, sampled = train_test_split(
            np.asarray(indices),
            test_size=share,
            random_state=keyed_seed(seed, "split", name),
            stratify=np.asarray(labels)[list(indices)],
        )
    except ValueError:  # of scikit-learn: a part would lack a class
        counts = Counter(labels[index] for index in indices)
        raise UserError(
            f"data: the {name} split cannot be a share of {share:g} of {len(indices)} samples in {len(counts)} classes, the "
            f"smallest of which has {min(counts.values(), default=0)}; both parts need a sample of each class: add samples, or set "
            f"data.{name}_share"
        ) from None
    return sorted(rest.tolist()), sorted(sampled.tolist())
