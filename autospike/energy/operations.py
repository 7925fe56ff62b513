"""Operations of any torch model for one image: counted ones, free ones, and those without a counting rule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from autospike.energy.conventions import DEFAULT, Energy, convention_of, energy
from autospike.energy.counts import LayerCount


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Result of counting the operations of a model.

    Attributes:
        images: Number of images over which the counts are averaged.
        counts: Operation counts of the layers.
        free: Number of calls in a forward pass of operations that no convention counts, by the reason (for example normalisation,
            which merges into weights).
        unknown: Number of calls of operations without a counting rule, by layer and operation. If there are any, every energy is a
            lower bound.
    """

    images: int
    counts: tuple[LayerCount, ...]
    free: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)

    def energy(self, convention: str = DEFAULT.name) -> Energy:
        """Return the energy of one image. Warn with a `UserWarning` if there are unknown operations.

        Args:
            convention: Name of a convention with optional modifiers, for example `spikformer` or `binary-only/int8`.

        Returns:
            Operations and energy in mJ, over all time steps.

        Raises:
            UserError: There is no such convention.
        """
        if self.unknown:
            warnings.warn(f"the energy is a lower bound: no counting rule for {', '.join(self.unknown)}", stacklevel=2)
        return energy(self.counts, convention_of(convention))
