"""By-product candidates of an architecture."""

from __future__ import annotations

from dataclasses import replace

import pytest
from populations import WRITTEN, sample

from autospike.evaluation.trie import HEAD, Trie
from autospike.searching.by_products import by_product_candidates
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block
from autospike.space.search_space import SearchSpace

SPACE = SearchSpace.from_dict(
    {
        "time_steps": [2, 4],
        "stages": [
            {"embed_dim": 8, "embedding": {"stride": 4}, "depth": [1, 3], "block": {"num_heads": [1, 2], "mlp_ratio": [1, 2]}}
        ],
    }
)
ONE, TWO, THREE = Block(num_heads=1, mlp_ratio=1), Block(num_heads=2, mlp_ratio=1), Block(num_heads=1, mlp_ratio=2)


def of(time_steps: int, *blocks: Block) -> Architecture:
    return Architecture(time_steps=time_steps, stages=(Stage(embed_dim=8, embedding=Embedding(stride=4), blocks=blocks),))


def test_by_product_candidates_by_hand() -> None:
    """A depth of 2 is none of the space."""
    expected = [of(2, ONE), of(4, ONE), of(2, ONE, TWO, THREE), of(4, ONE, TWO, THREE)]
    assert list(by_product_candidates(SPACE, of(4, ONE, TWO, THREE))) == expected
    assert list(by_product_candidates(SPACE, of(2, TWO))) == [of(2, TWO), of(4, TWO)]


def test_every_exit_margin_is_a_by_product_where_it_has_an_effect() -> None:
    space = SearchSpace.from_dict(
        {
            "time_steps": [1, 2],
            "exit_margin": [0.5, 1],
            "stages": [{"embed_dim": 8, "embedding": {"stride": 4}, "depth": 1, "block": {}}],
        }
    )
    whole = space.largest()
    expected = [replace(whole, time_steps=1), replace(whole, exit_margin=0.5), whole]
    assert list(by_product_candidates(space, whole)) == expected
    assert list(by_product_candidates(space, expected[0])) == expected


def test_only_the_last_stage_is_cut() -> None:
    """What follows an earlier stage would read another stream."""
    space = SearchSpace.from_dict(
        {
            "family": "qkformer",
            "time_steps": 1,
            "stages": [{"embed_dim": 8, "depth": [1, 2], "block": {"num_heads": 1}} for _ in range(2)],
        }
    )
    block = Block(num_heads=1)
    first = Stage(embed_dim=8, blocks=(block, block))
    deep = Architecture(family="qkformer", time_steps=1, stages=(first, first))
    assert list(by_product_candidates(space, deep)) == [replace(deep, stages=(first, replace(first, blocks=(block,)))), deep]


@pytest.mark.parametrize("name", WRITTEN)
def test_by_product_candidates_add_only_heads_to_the_trie(name: str) -> None:
    """Each once, itself among them; besides heads they add no node."""
    space = SearchSpace.from_dict(WRITTEN[name])
    for architecture in sample(space, 20):
        candidates = list(by_product_candidates(space, architecture))
        assert architecture in candidates
        assert len(set(candidates)) == len(candidates)
        assert all(space.contains(r) for r in candidates)
        alone, together = Trie([architecture]), Trie(candidates)
        assert {k for k, n in together.nodes.items() if n.name != HEAD} == {k for k, n in alone.nodes.items() if n.name != HEAD}
