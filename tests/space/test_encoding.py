"""The genes of architectures as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from builders import edited

from autospike.space.encoding import encode
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import with_values

WRITTEN: dict[str, Any] = {
    "family": "meta_spikeformer",
    "time_steps": [1, 2, 4],
    "stages": [{"embed_dim": 16, "depth": [1, 2], "block": {"token_mixer": ["sdsa_3", "sepconv"], "channel_mixer": "mlp"}}],
}


def test_numbers_names_and_genes_that_are_lacking() -> None:
    space = SearchSpace.from_dict(WRITTEN)
    shallow, deep = space.smallest(), with_values(space, space.largest(), {("stages", 0, "blocks", 1, "token_mixer"): "sepconv"})
    encoding = encode(space, [shallow, deep])
    block = ("stages", 0, "blocks")
    assert encoding.paths == (("time_steps",), ("stages", 0, "depth"), (*block, 0, "token_mixer"), (*block, 1, "token_mixer"))
    np.testing.assert_array_equal(encoding.values, [[1, 1, 0, np.nan], [4, 2, 0, 1]])
    by_hand = [[0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 1]]  # steps, depth, mixer of block 1, mixer of block 2
    np.testing.assert_array_equal(encoding.features(), by_hand)


def test_a_number_that_is_lacking_is_in_the_middle_of_its_range() -> None:
    space = SearchSpace.from_dict(edited(WRITTEN, "stages.0.block.neuron", {"tau": {"low": 1.5, "high": 3.5, "sigma": 0.1}}))
    tau = ("neuron", "tau")
    block = ("stages", 0, "blocks")
    deep = with_values(space, space.largest(), {(*block, 0, *tau): 2.0, (*block, 1, *tau): 3.0})
    features = encode(space, [space.smallest(), deep]).features()
    np.testing.assert_allclose(features[:, -1], [0.5, 0.75])
    np.testing.assert_allclose(features[1], [1, 1, 1, 0, 0.25, 1, 0, 0.75])


def test_a_space_of_one_architecture_has_one_feature() -> None:
    space = SearchSpace.of(SearchSpace.from_dict(WRITTEN).smallest())
    assert encode(space, [space.smallest()]).features().shape == (1, 1)
