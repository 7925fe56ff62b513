"""Three splits: `train` fits weights and calibrates, `search` scores candidates, `test` is opened by the final measurement.

A split is a stratified draw keyed by the seed alone: every command of a run, and every run of the seed, sees the same images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import train_test_split

from autospike.errors import UserError
from autospike.randomness import keyed_seed


def carve(indices: Sequence[int], labels: Sequence[int], share: float, *, seed: int, name: str) -> tuple[list[int], list[int]]:
    """Divide `indices` into (the rest, a stratified `share` of them), both sorted.

    Raises:
        UserError: a class has too few images to be in both parts.
    """
    try:
        rest, carved = train_test_split(
            np.asarray(indices),
            test_size=share,
            random_state=keyed_seed(seed, "split", name),
            stratify=np.asarray(labels)[list(indices)],
        )
    except ValueError as error:
        raise UserError(f"data: the {name} split of {share:g} cannot be drawn from {len(indices)} images: {error}") from None
    return sorted(rest.tolist()), sorted(carved.tolist())
