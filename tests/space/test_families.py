"""Families: valid shortcuts, strides, numbers of stages and widths; a one-line error for every other value."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from builders import FAMILIES, SHORTCUTS, one_line_error
from hypothesis import given
from hypothesis import strategies as st

from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

NAMES = sorted(FAMILIES)
# A width that is valid in every family.
WIDTH = 48


def stage(embed_dim: object = WIDTH, stride: object = 1) -> dict[str, Any]:
    return {"embed_dim": embed_dim, "embedding": {"stride": stride}}


def architecture_reader(family: str, *stages: dict[str, Any], **rest: object) -> Callable[[], object]:
    """Return a function that reads an architecture from a dictionary."""
    data = {"family": family, "shortcut": FAMILIES[family][0][0], **rest}
    blocks = [{"token_mixer": "none"}]
    return lambda: Architecture.from_dict({**data, "stages": [{**each, "blocks": blocks} for each in stages]}, source="f")


def space_reader(family: str, *stages: dict[str, Any], **rest: object) -> Callable[[], object]:
    """Return a function that reads a search space from a dictionary."""
    data = {"family": family, "shortcut": FAMILIES[family][0][0], **rest}
    more = {"depth": [1, 2], "block": {"token_mixer": "none"}}
    return lambda: SearchSpace.from_dict({**data, "stages": [{**each, **more} for each in stages]}, source="f")


def assert_read_or_rejected(read: Callable[[], object], *, allowed: bool, named: str) -> None:
    """Assert that a valid value is read, or that an invalid one is a one-line error that names the field."""
    if allowed:
        assert read()
    else:
        message = one_line_error(read)
        assert message.startswith("f: ")
        assert named in message


@pytest.fixture(params=[architecture_reader, space_reader], ids=["architecture", "space"])
def reader(request: pytest.FixtureRequest) -> Callable[..., Callable[[], object]]:
    return request.param


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_shortcuts_of_each_family(reader: Any, family: str, shortcut: str) -> None:
    shortcuts = FAMILIES[family][0]
    named = f"shortcut: the {family} family has {' or '.join(shortcuts)} shortcuts, got {shortcut}"
    assert_read_or_rejected(reader(family, stage(), shortcut=shortcut), allowed=shortcut in shortcuts, named=named)


@pytest.mark.parametrize("family", NAMES)
def test_a_space_chooses_among_the_shortcuts_of_its_family(family: str) -> None:
    space = space_reader(family, stage(), shortcut=list(FAMILIES[family][0]))()
    assert isinstance(space, SearchSpace)
    assert space.shortcut.values == FAMILIES[family][0]
    for shortcut in set(SHORTCUTS) - set(FAMILIES[family][0]):
        assert "shortcut: " in one_line_error(space_reader(family, stage(), shortcut=[FAMILIES[family][0][0], shortcut]))


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("stride", [-1, 0, 1, 2, 3, 4, 8, 16, 32])
def test_strides_of_the_first_stage(reader: Any, family: str, stride: int) -> None:
    allowed = FAMILIES[family][1]
    named = f"stages[0].embedding.stride: choose from {', '.join(map(str, allowed))} in the {family} family, got {stride}"
    assert_read_or_rejected(reader(family, stage(stride=stride)), allowed=stride in allowed, named=named)


@pytest.mark.parametrize("family", [name for name in NAMES if FAMILIES[name][2]])
@pytest.mark.parametrize("stride", [0, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("index", [1, 2])
def test_strides_of_later_stages(reader: Any, family: str, stride: int, index: int) -> None:
    allowed = FAMILIES[family][2]
    stages = [stage(), stage(), stage()]
    stages[index] = stage(stride=stride)
    named = f"stages[{index}].embedding.stride: choose from {', '.join(map(str, allowed))} in the {family} family, got {stride}"
    assert_read_or_rejected(reader(family, *stages), allowed=stride in allowed, named=named)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_numbers_of_stages_of_each_family(reader: Any, family: str, count: int) -> None:
    allowed = count == 1 or (count > 1 and family in ("meta_spikeformer", "qkformer"))
    named = f"the {family} family has exactly one stage, got {count}" if count else "stages: "
    assert_read_or_rejected(reader(family, *[stage()] * count), allowed=allowed, named=named)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("width", [-8, 0, 1, 2, 4, 7, 8, 12, 24, 30])
def test_widths_of_each_family(reader: Any, family: str, width: int) -> None:
    allowed = width > 0 and width % FAMILIES[family][3] == 0
    assert_read_or_rejected(reader(family, stage(width)), allowed=allowed, named="embed_dim")
    if FAMILIES[family][2]:
        assert_read_or_rejected(reader(family, stage(), stage(width)), allowed=allowed, named="embed_dim")


@pytest.mark.parametrize("family", NAMES)
def test_only_qkformer_has_a_compact_embedding(reader: Any, family: str) -> None:
    read = reader(family, stage(), compact_embedding=True)
    assert_read_or_rejected(read, allowed=family == "qkformer", named=f"compact_embedding: the {family} family has no such form")


@pytest.mark.parametrize("family", [name for name in NAMES if FAMILIES[name][3] > 1])
def test_the_error_of_an_invalid_width_names_the_multiple(reader: Any, family: str) -> None:
    multiple = FAMILIES[family][3]
    message = one_line_error(reader(family, stage(multiple + 1)))
    assert f"stages[0].embed_dim must be a multiple of {multiple} in the {family} family" in message
    assert message.endswith(f"got {multiple + 1}")


@pytest.mark.parametrize("family", NAMES)
def test_every_value_of_a_choice_is_checked(family: str) -> None:
    strides, multiple = FAMILIES[family][1], FAMILIES[family][3]
    assert "stages[0].embedding.stride" in one_line_error(space_reader(family, stage(stride=[*strides, 32])))
    if multiple > 1:
        assert "stages[0].embed_dim" in one_line_error(space_reader(family, stage([WIDTH, WIDTH + 1])))


@pytest.mark.parametrize("name", ["resnet", "", "Spikformer"])
def test_an_unknown_family_is_a_one_line_error_naming_the_known_ones(name: str) -> None:
    stages = [{"embed_dim": 8, "depth": 1}]
    space_message = one_line_error(lambda: SearchSpace.from_dict({"family": name, "stages": stages}))
    architecture_message = one_line_error(
        lambda: Architecture.from_dict({"family": name, "stages": [{"embed_dim": 8, "blocks": [{}]}]})
    )
    for message in (space_message, architecture_message):
        assert (
            f"family must be one of spikformer, spike_driven, meta_spikeformer, qkformer, e_spikeformer, max_former, got {name!r}"
            in message
        )


@given(st.sampled_from(NAMES), st.integers(0, 10**6))
def test_samples_of_a_space_with_all_values_of_a_family_are_valid(family: str, seed: int) -> None:
    shortcuts, first, later, multiple = FAMILIES[family]
    stages = [stage([multiple, 3 * multiple], list(first))] + [stage([multiple * 5], list(later))] * 2 * bool(later)
    space = space_reader(family, *stages, shortcut=list(shortcuts))()
    assert isinstance(space, SearchSpace)
    sample = space.sample(random.Random(seed))
    assert sample.family == family
    assert Architecture.from_json(sample.to_json()) == sample
    assert space.largest().stride == 1
    assert space.smallest().stride == max(first) * (max(later) ** 2 if later else 1)
