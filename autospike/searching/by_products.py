"""By-product candidates: architectures whose evaluation follows from the evaluation of another one.

The trie evaluation runs a candidate for the largest T of the space; its first t steps are the same network with T = t, and the
outputs of its steps give the exit of each image at any exit margin. The output of a block does not depend on later blocks, so a
shallower last stage needs an additional head only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import exit_margins


def by_product_candidates(space: SearchSpace, architecture: Architecture) -> Iterator[Architecture]:
    """Yield the by-product candidates of an architecture, and the architecture itself.

    Args:
        space: The search space.
        architecture: A member of the space.

    Yields:
        The architecture with each T and exit margin of the space and each depth of the last stage up to its own.
    """
    *earlier, last = architecture.stages
    for depth in space.stages[-1].depth.values:
        if depth <= len(last.blocks):
            stages = (*earlier, replace(last, blocks=last.blocks[:depth]))
            for time_steps in space.time_steps.values:
                for margin in exit_margins(space, time_steps).values:
                    yield replace(architecture, time_steps=time_steps, stages=stages, exit_margin=margin)
