"""Candidates that cost nothing once another is measured.

A walk runs a candidate at the largest T of the space, and its first steps are the same network at a smaller T. What leaves a block
depends on nothing behind it, so the candidate's last stage, cut off after any block, needs no more than a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace


def by_product_candidates(space: SearchSpace, architecture: Architecture) -> Iterator[Architecture]:
    """Every T of the space with every depth of the last stage up to this architecture's, as far as the space holds them; itself
    among them."""
    *before, last = architecture.stages
    for depth in space.stages[-1].depth.values:
        if depth <= len(last.blocks):
            stages = (*before, replace(last, blocks=last.blocks[:depth]))
            for time_steps in space.time_steps.values:
                yield replace(architecture, time_steps=time_steps, stages=stages)
