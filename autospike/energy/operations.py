"""Everything that a network does for one image: what was counted, what is free, and what nobody knows the cost of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from autospike.energy.conventions import DEFAULT, Energy, convention_of, energy
from autospike.energy.counts import LayerCount


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Means over the images that were counted.

    `free`: calls, in a forward pass, of operations that no convention counts, by the reason (normalisation is folded, ...).
    `unknown`: calls of operations that have no rule, by layer and operation: where there are any, every energy is a lower bound.
    """

    images: int
    counts: tuple[LayerCount, ...]
    free: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)

    def energy(self, convention: str = DEFAULT.name) -> Energy:
        """Of one image, under a convention such as `spikformer` or `binary-only/int8`. It warns where something is unknown.

        Raises:
            UserError: there is no such convention.
        """
        if self.unknown:
            warnings.warn(f"a lower bound: no rule says what these cost: {', '.join(self.unknown)}", stacklevel=2)
        return energy(self.counts, convention_of(convention))
