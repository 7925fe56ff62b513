"""Sampling, mutation and crossover stay inside the space, at every depth, and do what their probabilities say."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest
from builders import CHOICES, POSITIONS, WRITTEN, edited, few, leaves, living, permits
from hypothesis import given
from hypothesis import strategies as st

from autospike.architecture import Architecture
from autospike.config import SearchConfig
from autospike.genes import Range
from autospike.search.variation import crossover, mutate
from autospike.space import SearchSpace

SPACES = {name: SearchSpace.from_dict(written) for name, written in WRITTEN.items()}
# Depths of the stages.
DEPTHS = {
    "choices": [(1,), (2,), (3,)],
    "ranges": [(1,), (3,)],
    "positions": [(1,), (2,)],
    "conditional": [(1, 1), (1, 3), (2, 1), (2, 3)],
}

names = st.sampled_from(sorted(SPACES))
seeds = st.integers(0, 10**6)


def rates(block: float, whole: float) -> SearchConfig:
    return SearchConfig(block_mutation=block, global_mutation=whole)


def depths(architecture: Architecture) -> tuple[int, ...]:
    return tuple(len(stage.blocks) for stage in architecture.stages)


def of_depth(name: str, *wanted: int, rng: random.Random) -> Architecture:
    """A member whose stages have that many blocks."""
    samples = (SPACES[name].sample(rng) for _ in range(1000))
    return next(sample for sample in samples if depths(sample) == wanted)


def is_member(name: str, architecture: Architecture) -> bool:
    return permits(WRITTEN[name], architecture) and SPACES[name].contains(architecture)


@few
@given(names, seeds, st.floats(0, 1), st.floats(0, 1))
def test_mutants_are_members(name: str, seed: int, block: float, whole: float) -> None:
    rng = random.Random(seed)
    parent = SPACES[name].sample(rng)
    for _ in range(3):
        parent = mutate(SPACES[name], parent, rng, rates(block, whole))
        assert is_member(name, parent)


@few
@given(names, seeds)
def test_children_are_members(name: str, seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    for _ in range(3):
        mother, father = crossover(SPACES[name], mother, father, rng), mother
        assert is_member(name, mother)


@pytest.mark.parametrize(("name", "wanted"), [(name, wanted) for name, some in DEPTHS.items() for wanted in some])
def test_every_depth_may_be_mutated_to_every_other(name: str, wanted: tuple[int, ...]) -> None:
    rng = random.Random(0)
    parent = of_depth(name, *wanted, rng=rng)
    children = [mutate(SPACES[name], parent, rng, rates(0.2, 0.5)) for _ in range(60)]
    assert all(is_member(name, child) for child in children)
    assert {depths(child) for child in children} == set(DEPTHS[name])


@pytest.mark.parametrize("name", sorted(DEPTHS))
def test_parents_of_any_two_depths_have_children_of_both(name: str) -> None:
    rng = random.Random(0)
    shallow, *_, deep = DEPTHS[name]
    mother, father = of_depth(name, *shallow, rng=rng), of_depth(name, *deep, rng=rng)
    children = [crossover(SPACES[name], mother, father, rng) for _ in range(40)]
    assert all(is_member(name, child) for child in children)
    assert {depths(child) for child in children} == set(product(*zip(shallow, deep, strict=True)))


@few
@given(names, seeds)
def test_every_gene_of_a_child_is_its_mothers_or_its_fathers(name: str, seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    child = crossover(SPACES[name], mother, father, rng)
    assert all(depth in both for depth, *both in zip(depths(child), depths(mother), depths(father), strict=True))
    parents = [living(mother), living(father)]
    for path, value in living(child).items():
        inherited = [parent[path] for parent in parents if path in parent]
        assert value in inherited or (not inherited and name == "conditional")


# Projections of attention have neurons under SEW shortcuts alone.
MIXED: dict[str, Any] = {
    "family": "meta_spikeformer",
    "shortcut": ["membrane", "sew"],
    "stages": [
        {
            "embed_dim": 8,
            "depth": 1,
            "block": {"token_mixer": ["sdsa_3", "none"], "num_heads": [1, 2, 4], "groups": {"projection": {"tau": [2, 3, 4]}}},
        }
    ],
}


def mixed(shortcut: str, token_mixer: str, **genes: object) -> Architecture:
    block = {"token_mixer": token_mixer, **genes}
    return Architecture.from_dict(
        {"family": "meta_spikeformer", "shortcut": shortcut, "stages": [{"embed_dim": 8, "blocks": [block]}]}
    )


def test_parents_of_different_mixers_and_shortcuts() -> None:
    # Heads come from the one parent that has them; the projection's neuron, which neither has, is drawn.
    space, rng = SearchSpace.from_dict(MIXED), random.Random(0)
    mother, father = mixed("membrane", "sdsa_3", num_heads=4), mixed("sew", "none")
    children = {crossover(space, mother, father, rng) for _ in range(100)}
    drawn = {mixed("sew", "sdsa_3", num_heads=4, groups={"projection": {"tau": tau}}) for tau in (2, 3, 4)}
    assert children == {mother, father, mixed("membrane", "none"), *drawn}


def test_a_mutant_of_another_mixer_or_shortcut_has_new_genes_drawn() -> None:
    space, rng = SearchSpace.from_dict(MIXED), random.Random(0)
    parent = mixed("membrane", "none")
    drawn = {mixed("membrane", "sdsa_3", num_heads=heads) for heads in (1, 2, 4)}
    assert {mutate(space, parent, rng, rates(1, 0)) for _ in range(100)} == drawn
    assert {mutate(space, parent, rng, rates(0, 1)) for _ in range(20)} == {mixed("sew", "none")}
    taus = {
        mixed("sew", "sdsa_3", num_heads=heads, groups={"projection": {"tau": tau}}) for heads, tau in product((1, 2, 4), (2, 3, 4))
    }
    assert {mutate(space, parent, rng, rates(1, 1)) for _ in range(200)} == taus
    assert {mutate(space, child, rng, rates(1, 1)) for child in taus} == {parent}


@few
@given(seeds)
def test_a_new_shortcut_keeps_the_genes_that_both_have(seed: int) -> None:
    rng = random.Random(seed)
    parent = of_depth("conditional", 2, 3, rng=rng)
    child = mutate(SPACES["conditional"], parent, rng, rates(0, 1))
    assert child.shortcut != parent.shortcut
    before, after = living(parent), living(child)
    kept = {path for path in before if path in after and ".blocks." in path}
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    new = {path.split(".groups.")[1].split(".")[0] for path in after if path not in before and ".groups." in path}
    assert new == ({"projection", "fc2"} if child.shortcut == "sew" else {"token_input", "channel_input"}) & new


def test_both_parents_give_genes() -> None:
    space, rng = SPACES["choices"], random.Random(3)
    mother, father = of_depth("choices", 3, rng=rng), of_depth("choices", 3, rng=rng)
    children = [leaves(crossover(space, mother, father, rng)) for _ in range(60)]
    genes = {path: (value, leaves(father)[path]) for path, value in leaves(mother).items()}
    for path, both in genes.items():
        assert {child[path] for child in children} == set(both)


def test_a_childs_genes_are_drawn_one_by_one() -> None:
    # 60 children of parents that differ in at least 10 genes: whole blocks copied would give far fewer.
    space, rng = SPACES["choices"], random.Random(4)
    mother, father = of_depth("choices", 3, rng=rng), of_depth("choices", 3, rng=rng)
    assert sum(leaves(mother)[path] != leaves(father)[path] for path in leaves(mother)) >= 10
    assert len({crossover(space, mother, father, rng) for _ in range(60)}) >= 50


@few
@given(names, seeds)
def test_the_child_of_one_parent_with_itself_is_the_parent(name: str, seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES[name].sample(rng)
    assert crossover(SPACES[name], parent, parent, rng) == parent


@few
@given(names, seeds)
def test_probability_zero_changes_nothing(name: str, seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES[name].sample(rng)
    assert mutate(SPACES[name], parent, rng, rates(0, 0)) == parent


def changes(parent: Architecture, child: Architecture) -> dict[str, bool]:
    """Which of the values that both have are different."""
    before, after = leaves(parent), leaves(child)
    return {path: before[path] != after[path] for path in before if path in after}


# Genes of CHOICES outside blocks, and the neuron groups that it has genes for.
WHOLE = {"time_steps", "stages.0.embed_dim"} | {f"stages.0.embedding.{g}" for g in ("stride", "neuron.v_threshold", "neuron.tau")}
GROUPS = ("q", "k", "v", "attention", "projection", "fc2")


@few
@given(seeds)
def test_probability_one_changes_every_gene(seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES["choices"].sample(rng)
    child = mutate(SPACES["choices"], parent, rng, rates(1, 1))
    assert child.depth != parent.depth
    changed = changes(parent, child)
    genes = {"num_heads", "mlp_ratio", "neuron.v_threshold", "neuron.tau"}
    genes |= {f"groups.{name}.{gene}" for name in GROUPS for gene in ("v_threshold", "tau")}
    common = min(parent.depth, child.depth)
    in_blocks = {f"stages.0.blocks.{i}.{gene}" for i in range(common) for gene in genes}
    assert {path for path, is_changed in changed.items() if is_changed} == WHOLE | in_blocks


@few
@given(seeds)
def test_probability_one_keeps_what_has_no_other_value(seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES["positions"].sample(rng)
    changed = changes(parent, mutate(SPACES["positions"], parent, rng, rates(1, 1)))
    free = {"stages.0.embed_dim", "stages.0.blocks.0.num_heads", "stages.0.blocks.1.num_heads", "stages.0.blocks.1.mlp_ratio"}
    assert {path for path, is_changed in changed.items() if is_changed} == free & set(changed)


@few
@given(seeds)
def test_genes_of_blocks_and_of_the_whole_have_probabilities_of_their_own(seed: int) -> None:
    rng = random.Random(seed)
    parent = of_depth("choices", 2, rng=rng)
    blocks = changes(parent, mutate(SPACES["choices"], parent, rng, rates(1, 0)))
    assert {path for path, is_changed in blocks.items() if is_changed and ".blocks." not in path} == set()
    assert blocks["stages.0.blocks.0.num_heads"]
    assert blocks["stages.0.blocks.1.groups.attention.tau"]
    whole = changes(parent, mutate(SPACES["choices"], parent, rng, rates(0, 1)))
    assert {path for path, is_changed in whole.items() if is_changed} == WHOLE


def test_genes_mutate_as_often_as_said() -> None:
    # 600 draws at 0.2 and at 0.4: five standard deviations are 0.082 and 0.1.
    rng = random.Random(0)
    parent = of_depth("choices", 3, rng=rng)
    children = [changes(parent, mutate(SPACES["choices"], parent, rng, rates(0.2, 0.4))) for _ in range(600)]
    shares = {path: sum(child[path] for child in children) / 600 for path in ("stages.0.blocks.0.neuron.tau", "time_steps")}
    assert shares["stages.0.blocks.0.neuron.tau"] == pytest.approx(0.2, abs=0.082)
    assert shares["time_steps"] == pytest.approx(0.4, abs=0.1)


def test_blocks_keep_their_place_when_depth_changes() -> None:
    rng = random.Random(1)
    only_depth = edited(POSITIONS, "stages.0.embed_dim", 16)
    space = SearchSpace.from_dict(only_depth)
    deep = next(sample for sample in iter(lambda: space.sample(rng), None) if sample.depth == 2)
    cut = mutate(space, deep, rng, rates(0, 1))
    assert cut.stages[0].blocks == deep.stages[0].blocks[:1]
    grown = [mutate(space, cut, rng, rates(0, 1)) for _ in range(40)]
    assert {child.stages[0].blocks[0] for child in grown} == {deep.stages[0].blocks[0]}
    assert len({child.stages[0].blocks[1] for child in grown}) == 4  # drawn afresh: 2 head counts, 2 ratios


def test_a_range_moves_by_steps_of_its_sigma() -> None:
    # 2000 steps: the mean is within five standard errors of where it began, and the deviation within a tenth.
    gene, rng = Range(low=0.0, high=100.0, sigma=2.0), random.Random(0)
    moved = [gene.mutate(50.0, rng) for _ in range(2000)]
    mean = sum(moved) / 2000
    assert mean == pytest.approx(50, abs=5 * 2 / 2000**0.5)
    assert (sum((value - mean) ** 2 for value in moved) / 2000) ** 0.5 == pytest.approx(2, rel=0.1)
    assert sum(value != 50.0 for value in moved) > 1990


def variants(name: str, seed: int) -> list[Any]:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    return [mother, father, mutate(SPACES[name], mother, rng, rates(0.5, 0.5)), crossover(SPACES[name], mother, father, rng)]


@few
@given(names, seeds)
def test_variation_depends_on_the_generator_alone(name: str, seed: int) -> None:
    first = variants(name, seed)
    random.seed(seed + 1)
    assert variants(name, seed) == first


def test_parents_are_not_changed() -> None:
    rng = random.Random(0)
    mother, father = (SearchSpace.from_dict(CHOICES).sample(rng) for _ in range(2))
    before = mother.to_json(), father.to_json()
    crossover(SPACES["choices"], mother, father, rng)
    mutate(SPACES["choices"], mother, rng, rates(1, 1))
    assert (mother.to_json(), father.to_json()) == before
