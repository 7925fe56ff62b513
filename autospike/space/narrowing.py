"""Narrowed search spaces: genes with fewer choices than in the space that a supernet was trained on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields
from itertools import product
from typing import Any

from autospike.errors import UserError
from autospike.space.block import CONDITIONAL_GENE_DEFAULTS, has_gene
from autospike.space.genes import UNSET, Choice, Gene, Range
from autospike.space.search_space import SearchSpace


def without_unused(written: dict[str, Any]) -> dict[str, Any]:
    """Return a written search space without genes that its remaining choices do not use.

    After fewer token mixers or a smaller depth are chosen, these are the heads and projections that no mixer has, and blocks beyond
    the largest depth.

    Args:
        written: Nested dicts and lists, as from YAML.
    """
    space = deepcopy(written)
    for stage in space.get("stages", []):
        if not isinstance(stage, dict):
            continue
        depths = stage.get("depth")
        largest = max(depths) if isinstance(depths, list) and depths else depths
        if isinstance(stage.get("blocks"), list) and isinstance(largest, int):
            stage["blocks"] = stage["blocks"][:largest]
        for block in (stage.get("block"), *(stage.get("blocks") or ())):
            if isinstance(block, dict):
                pairs = list(product(_choices(block, "token_mixer", "sdsa_3"), _choices(block, "channel_mixer", "mlp")))
                for name in CONDITIONAL_GENE_DEFAULTS:
                    if not any(has_gene(name, *pair) for pair in pairs):
                        block.pop(name, None)
    return space


def _choices(block: dict[str, Any], name: str, default: str) -> list[Any]:
    """The values of a written gene, with one value as a list."""
    written = block.get(name, default)
    return written if isinstance(written, list) else [written]


def check_narrower(narrowed: SearchSpace, space: SearchSpace, *, source: str) -> None:
    """Check that every architecture of one space is a member of another one.

    Args:
        narrowed: The smaller space.
        space: The larger one.
        source: Prefix of the error message.

    Raises:
        UserError: A gene has a value that the larger space lacks, or a setting differs. The message names it.
    """
    problem = _difference(narrowed, space, "")
    if problem:
        raise UserError(f"{source}: space.{problem}")


def _difference(part: Any, whole: Any, path: str) -> str | None:
    """The first gene of a part that the whole does not contain, in words; None if there is none."""
    if part is None or whole is None:
        return None if part == whole else f"{path.lstrip('.')}: {part}, but the supernet was trained with {whole}"
    if isinstance(whole, Choice | Range):
        return _outside(part, whole, path)
    if isinstance(whole, tuple):
        if len(part) > len(whole):
            return f"{path}: {len(part)} stages, but the supernet was trained with {len(whole)}"
        pairs = [(f"{path}.{i}", *pair) for i, pair in enumerate(zip(part, whole, strict=False))]
    elif hasattr(whole, "block_spaces"):
        depth = max(part.depth.values)
        pairs = [(f"{path}.{name}", getattr(part, name), getattr(whole, name)) for name in ("embed_dim", "embedding", "depth")]
        if depth <= max(whole.depth.values):
            pairs += [(f"{path}.block", part.block_at(i), whole.block_at(i)) for i in range(depth)]
    elif hasattr(whole, "__dataclass_fields__"):
        pairs = [(f"{path}.{f.name}", getattr(part, f.name), getattr(whole, f.name)) for f in fields(whole)]
    else:
        return None if part == whole else f"{path.lstrip('.')}: {part}, but the supernet was trained with {whole}"
    found = (_difference(a, b, name) for name, a, b in pairs)
    return next((problem for problem in found if problem), None)


def _outside(part: Gene, whole: Gene, path: str) -> str | None:
    if part == UNSET:  # no token mixer that is left uses the gene
        return None
    inside = all(whole.contains(value) for value in part.values) and (isinstance(part, Choice) or isinstance(whole, Range))
    if inside:
        return None
    kind = "between" if isinstance(whole, Range) else "of"
    given, allowed = (", ".join(map(str, gene.values)) for gene in (part, whole))
    return (
        f"{path.lstrip('.')}: {given}; the supernet was trained with values {kind} {allowed}, and a search may only narrow a gene"
    )
