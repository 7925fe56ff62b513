"""Why an architecture is not in a search space."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from autospike.space.architecture import SETTINGS, Architecture
from autospike.space.genes import Gene, Range
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, visit_genes


def why_outside(space: SearchSpace, architecture: Architecture) -> str | None:
    """Return what an architecture has that a search space does not have, in words.

    Args:
        space: The search space.
        architecture: Any architecture.

    Returns:
        The first setting or gene that differs; None if the architecture belongs to the space.
    """
    if space.contains(architecture):
        return None
    for name in SETTINGS:
        given, allowed = getattr(architecture, name), getattr(space, name)
        if given != allowed:
            return f"{name} is {given}, in the space {allowed}"
    if len(architecture.stages) != len(space.stages):
        return f"the number of stages is {len(architecture.stages)}, in the space {len(space.stages)}"
    outside: list[str] = []

    def visit(gene: Gene, path: GenePath, *values: Any) -> Any:
        if not values:
            outside.append(f"{'.'.join(map(str, path))} is not {_allowed(gene)}")
        return values[0] if values else gene.values[0]

    nearest = visit_genes(space, visit, architecture)
    return outside[0] if outside else _first_difference(asdict(architecture), asdict(nearest))


def _allowed(gene: Gene) -> str:
    values = map(str, gene.values)
    return f"between {' and '.join(values)}" if isinstance(gene, Range) else f"one of {', '.join(values)}"


def _first_difference(given: Any, allowed: Any, path: str = "") -> str | None:
    """The first field that differs; of genes with one value, which are not visited, and of fields without effect."""
    if given == allowed:
        return None
    if isinstance(given, dict) and isinstance(allowed, dict):
        parts = [(f"{path}.{name}", given.get(name), allowed.get(name)) for name in dict.fromkeys((*given, *allowed))]
    elif isinstance(given, tuple) and isinstance(allowed, tuple) and len(given) == len(allowed):
        parts = [(f"{path}.{i}", *pair) for i, pair in enumerate(zip(given, allowed, strict=True))]
    else:
        return f"{path.lstrip('.')} is {given}, in the space {allowed}"
    found = (_first_difference(a, b, name) for name, a, b in parts)
    return next(difference for difference in found if difference)
