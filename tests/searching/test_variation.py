"""Mutation and crossover: members of the space at every depth, inherited genes, and probabilities."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product, takewhile
from typing import Any

import pytest
from builders import CHOICES, POSITIONS, SPACE_DICTS, edited, effective_genes, few_examples, leaves, permits
from hypothesis import given
from hypothesis import strategies as st

from autospike.config import SearchConfig
from autospike.evaluation.trie import segments
from autospike.searching.variation import crossover, mutate, one_point
from autospike.space.architecture import Architecture
from autospike.space.genes import Range
from autospike.space.search_space import SearchSpace

SPACES = {name: SearchSpace.from_dict(written) for name, written in SPACE_DICTS.items()}
# Depths of the stages.
DEPTHS: dict[str, list[tuple[int, ...]]] = {
    "choices": [(1,), (2,), (3,)],
    "ranges": [(1,), (3,)],
    "positions": [(1,), (2,)],
    "conditional": [(1, 1), (1, 3), (2, 1), (2, 3)],
}

space_names = st.sampled_from(sorted(SPACES))
seeds = st.integers(0, 10**6)

Cross = Callable[[SearchSpace, Architecture, Architecture, random.Random], Architecture]


def config_with(block: float, global_: float, late_point: float = 1.0) -> SearchConfig:
    return SearchConfig(block_mutation=block, global_mutation=global_, late_point=late_point)


def one_point_without_mutation(space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random) -> Architecture:
    """One-point crossover without mutation, with equally likely points."""
    return one_point(space, mother, father, rng, config_with(0, 0))


CROSSOVERS: dict[str, Cross] = {"uniform": crossover, "one-point": one_point_without_mutation}
crossovers = st.sampled_from(list(CROSSOVERS.values()))
every_crossover = pytest.mark.parametrize("cross", CROSSOVERS.values(), ids=CROSSOVERS)


def depths(architecture: Architecture) -> tuple[int, ...]:
    return tuple(len(stage.blocks) for stage in architecture.stages)


def sample_of_depth(name: str, *wanted: int, rng: random.Random) -> Architecture:
    """Return a member whose stages have these numbers of blocks."""
    samples = (SPACES[name].sample(rng) for _ in range(1000))
    return next(sample for sample in samples if depths(sample) == wanted)


def is_member(name: str, architecture: Architecture) -> bool:
    return permits(SPACE_DICTS[name], architecture) and SPACES[name].contains(architecture)


@few_examples
@given(space_names, seeds, st.floats(0, 1), st.floats(0, 1))
def test_mutants_are_members(name: str, seed: int, block: float, global_: float) -> None:
    rng = random.Random(seed)
    parent = SPACES[name].sample(rng)
    for _ in range(3):
        parent = mutate(SPACES[name], parent, rng, config_with(block, global_))
        assert is_member(name, parent)


@few_examples
@given(space_names, crossovers, seeds)
def test_children_are_members(name: str, cross: Cross, seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    for _ in range(3):
        mother, father = cross(SPACES[name], mother, father, rng), mother
        assert is_member(name, mother)


@pytest.mark.parametrize(("name", "wanted"), [(name, wanted) for name, some in DEPTHS.items() for wanted in some])
def test_every_depth_mutates_to_every_other_depth(name: str, wanted: tuple[int, ...]) -> None:
    rng = random.Random(0)
    parent = sample_of_depth(name, *wanted, rng=rng)
    children = [mutate(SPACES[name], parent, rng, config_with(0.2, 0.5)) for _ in range(60)]
    assert all(is_member(name, child) for child in children)
    assert {depths(child) for child in children} == set(DEPTHS[name])


@every_crossover
@pytest.mark.parametrize("name", sorted(DEPTHS))
def test_children_have_the_depth_of_either_parent(name: str, cross: Cross) -> None:
    rng = random.Random(0)
    shallow, *_, deep = DEPTHS[name]
    mother, father = sample_of_depth(name, *shallow, rng=rng), sample_of_depth(name, *deep, rng=rng)
    children = [cross(SPACES[name], mother, father, rng) for _ in range(40)]
    assert all(is_member(name, child) for child in children)
    assert {depths(child) for child in children} == set(product(*zip(shallow, deep, strict=True)))


@few_examples
@given(space_names, crossovers, seeds)
def test_every_gene_of_a_child_is_from_a_parent(name: str, cross: Cross, seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    child = cross(SPACES[name], mother, father, rng)
    assert all(depth in both for depth, *both in zip(depths(child), depths(mother), depths(father), strict=True))
    parents = [effective_genes(mother), effective_genes(father)]
    for path, value in effective_genes(child).items():
        inherited = [parent[path] for parent in parents if path in parent]
        assert value in inherited or (not inherited and name == "conditional")


# Projections of attention have neurons only with SEW shortcuts.
MIXERS_AND_SHORTCUTS: dict[str, Any] = {
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


def conditional_member(shortcut: str, token_mixer: str, **genes: object) -> Architecture:
    block = {"token_mixer": token_mixer, **genes}
    return Architecture.from_dict(
        {"family": "meta_spikeformer", "shortcut": shortcut, "stages": [{"embed_dim": 8, "blocks": [block]}]}
    )


def test_children_of_parents_with_different_mixers_and_shortcuts() -> None:
    # Heads are from the parent that has them; the neurons of the projection, which no parent has, are sampled.
    space, rng = SearchSpace.from_dict(MIXERS_AND_SHORTCUTS), random.Random(0)
    mother, father = conditional_member("membrane", "sdsa_3", num_heads=4), conditional_member("sew", "none")
    children = {crossover(space, mother, father, rng) for _ in range(100)}
    sampled = {conditional_member("sew", "sdsa_3", num_heads=4, groups={"projection": {"tau": tau}}) for tau in (2, 3, 4)}
    assert children == {mother, father, conditional_member("membrane", "none"), *sampled}


def test_genes_that_a_mutated_mixer_or_shortcut_adds_are_sampled() -> None:
    space, rng = SearchSpace.from_dict(MIXERS_AND_SHORTCUTS), random.Random(0)
    parent = conditional_member("membrane", "none")
    sampled = {conditional_member("membrane", "sdsa_3", num_heads=heads) for heads in (1, 2, 4)}
    assert {mutate(space, parent, rng, config_with(1, 0)) for _ in range(100)} == sampled
    assert {mutate(space, parent, rng, config_with(0, 1)) for _ in range(20)} == {conditional_member("sew", "none")}
    taus = {
        conditional_member("sew", "sdsa_3", num_heads=heads, groups={"projection": {"tau": tau}})
        for heads, tau in product((1, 2, 4), (2, 3, 4))
    }
    assert {mutate(space, parent, rng, config_with(1, 1)) for _ in range(200)} == taus
    assert {mutate(space, child, rng, config_with(1, 1)) for child in taus} == {parent}


@few_examples
@given(seeds)
def test_a_mutated_shortcut_keeps_the_genes_of_both_shortcuts(seed: int) -> None:
    rng = random.Random(seed)
    parent = sample_of_depth("conditional", 2, 3, rng=rng)
    child = mutate(SPACES["conditional"], parent, rng, config_with(0, 1))
    assert child.shortcut != parent.shortcut
    before, after = effective_genes(parent), effective_genes(child)
    kept = {path for path in before if path in after and ".blocks." in path}
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    new = {path.split(".groups.")[1].split(".")[0] for path in after if path not in before and ".groups." in path}
    assert new == ({"projection", "fc2"} if child.shortcut == "sew" else {"token_input", "channel_input"}) & new


def test_each_gene_of_children_is_from_either_parent() -> None:
    space, rng = SPACES["choices"], random.Random(3)
    mother, father = sample_of_depth("choices", 3, rng=rng), sample_of_depth("choices", 3, rng=rng)
    children = [leaves(crossover(space, mother, father, rng)) for _ in range(60)]
    genes = {path: (value, leaves(father)[path]) for path, value in leaves(mother).items()}
    for path, both in genes.items():
        assert {child[path] for child in children} == set(both)


def test_uniform_crossover_selects_each_gene_independently() -> None:
    # 60 children of parents that differ in at least 10 genes: copies of whole blocks would give fewer.
    space, rng = SPACES["choices"], random.Random(4)
    mother, father = sample_of_depth("choices", 3, rng=rng), sample_of_depth("choices", 3, rng=rng)
    assert sum(leaves(mother)[path] != leaves(father)[path] for path in leaves(mother)) >= 10
    assert len({crossover(space, mother, father, rng) for _ in range(60)}) >= 50


@few_examples
@given(space_names, crossovers, seeds)
def test_a_child_of_equal_parents_equals_them(name: str, cross: Cross, seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES[name].sample(rng)
    assert cross(SPACES[name], parent, parent, rng) == parent


def positions(architecture: Architecture) -> list[str]:
    """Return the path prefix of each embedding and each block, in network order."""
    return [
        prefix
        for i, depth in enumerate(depths(architecture))
        for prefix in (f"stages.{i}.", *(f"stages.{i}.blocks.{j}." for j in range(depth)))
    ]


def position_of(path: str, mother: Architecture) -> int:
    """Return the index of the mother's position that a gene affects; 0 for genes of the whole architecture."""
    found = [i for i, prefix in enumerate(positions(mother)) if path.startswith(prefix)]
    if ".blocks." in path and (not found or not positions(mother)[found[-1]].endswith(path.split(".")[3] + ".")):
        stage = int(path.split(".")[1])  # a block that the mother lacks
        return sum(depth + 1 for depth in depths(mother)[: stage + 1])
    return found[-1] if found else 0


def possible_points(mother: Architecture, father: Architecture, child: Architecture) -> list[int]:
    """Return the points that explain an unmutated child: from the point on, genes are the father's if he has them."""
    genes, mother_genes, father_genes = effective_genes(child), effective_genes(mother), effective_genes(father)

    def is_point(point: int) -> bool:
        for path, value in genes.items():
            if path == "time_steps":
                continue
            before = position_of(path, mother) < point and path in mother_genes
            source = mother_genes if before or path not in father_genes else father_genes
            if path in source and value != source[path]:
                return False
        return True

    return [point for point in range(len(positions(mother))) if is_point(point)]


@few_examples
@given(space_names, seeds)
def test_one_point_crossover_has_a_point(name: str, seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    child = one_point_without_mutation(SPACES[name], mother, father, rng)
    assert possible_points(mother, father, child)
    assert child.time_steps in (mother.time_steps, father.time_steps)


# The smallest and the largest member differ in every gene.
STAGE = {"embed_dim": [8, 16], "embedding": {"stride": [1, 2]}, "depth": 3, "block": {"num_heads": [1, 2], "mlp_ratio": [1, 2]}}
TWO_VALUES = SearchSpace.from_dict({"time_steps": [1, 2], "stages": [STAGE]})


def point_of(child: Architecture) -> int:
    """Return the crossover point of a child of the smallest and the largest member of TWO_VALUES; 0 is the embedding."""
    (stage,), (mother_genes,) = child.stages, TWO_VALUES.smallest().stages
    kept = [stage.embed_dim == mother_genes.embed_dim, *(a == b for a, b in zip(stage.blocks, mother_genes.blocks, strict=True))]
    return kept.index(False)


def test_all_crossover_points_are_equally_likely() -> None:
    # An embedding and three blocks: four points with equal probability, and T from either parent.
    rng = random.Random(0)
    mother, father = TWO_VALUES.smallest(), TWO_VALUES.largest()
    children = [one_point_without_mutation(TWO_VALUES, mother, father, rng) for _ in range(400)]
    (mother_genes,), (father_genes,) = mother.stages, father.stages
    ends = [father_genes, *(replace(mother_genes, blocks=mother_genes.blocks[:n] + father_genes.blocks[n:]) for n in range(3))]
    for end, time_steps in product(ends, (1, 2)):  # 50 of each: five standard deviations are 33
        assert 17 < sum((c.stages, c.time_steps) == ((end,), time_steps) for c in children) < 83
    assert {c.stages for c in children} == {(end,) for end in ends}


@pytest.mark.slow
@pytest.mark.parametrize("late_point", [1.0, 2.0, 100.0])
def test_late_point_is_the_ratio_of_the_probabilities_of_successive_points(late_point: float) -> None:
    # 1600 children: five standard deviations of a frequency are at most 0.063. The ratio is limited to 64 ** (1 / 3) = 4.
    rng, growth = random.Random(0), min(late_point, 4.0)
    mother, father = TWO_VALUES.smallest(), TWO_VALUES.largest()
    found = [point_of(one_point(TWO_VALUES, mother, father, rng, config_with(0, 0, late_point))) for _ in range(1600)]
    total = 1 + growth + growth**2 + growth**3
    assert [found.count(i) / 1600 for i in range(4)] == pytest.approx([growth**i / total for i in range(4)], abs=0.063)


def test_only_genes_from_the_point_on_mutate() -> None:
    # With equal parents, every gene that differs has mutated; with probability 1, all genes from the point on and T.
    rng = random.Random(0)
    parent = sample_of_depth("choices", 3, rng=rng)
    for _ in range(100):
        child = one_point(SPACES["choices"], parent, parent, rng, config_with(1, 1))
        changed = changes(parent, child)
        mutated = {path for path, is_changed in changed.items() if is_changed} - {"time_steps"}
        first = min((position_of(path, parent) for path in mutated), default=3)  # a smaller depth may have removed all of them
        after_point = {path for path in changed if position_of(path, parent) >= first and has_alternatives(path)} - {"time_steps"}
        assert mutated == after_point
        assert child.depth != parent.depth


def has_alternatives(path: str) -> bool:
    """Return whether CHOICES has several values for a gene."""
    return path in GLOBAL_GENES or path.split(".", 4)[-1] in BLOCK_GENES


@pytest.mark.slow
def test_mutation_probabilities_after_the_point() -> None:
    # 2000 children. A quarter have the embedding as point; 0.4 of these mutate its width. 0.2 of all mutate the last block's heads.
    rng, parent = random.Random(0), TWO_VALUES.smallest()
    children = [one_point(TWO_VALUES, parent, parent, rng, config_with(0.2, 0.4)) for _ in range(2000)]
    assert sum(c.stages[0].embed_dim != 8 for c in children) / 2000 == pytest.approx(0.1, abs=0.034)
    assert sum(c.stages[0].blocks[0].num_heads != 1 for c in children) / 2000 == pytest.approx(0.1, abs=0.034)
    assert sum(c.stages[0].blocks[2].num_heads != 1 for c in children) / 2000 == pytest.approx(0.2, abs=0.045)
    assert sum(c.time_steps != 1 for c in children) / 2000 == pytest.approx(0.4, abs=0.055)


def test_children_share_a_prefix_with_their_mother() -> None:
    # The trie evaluation computes the segments before the point once for mother and child.
    rng = random.Random(0)
    for name in ("choices", "conditional"):
        mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
        shared = []
        for _ in range(200):
            child = one_point(SPACES[name], mother, father, rng, config_with(0.2, 0.4, 3.0))
            chains = zip(segments(mother), segments(child), strict=False)
            shared.append(sum(1 for _ in takewhile(lambda both: both[0] == both[1], chains)))
        assert sum(n > 0 for n in shared) > 150


def test_the_depth_of_a_stage_before_the_point_does_not_mutate() -> None:
    # With equal parents and probability 1, blocks and depth of the first stage both mutate, or the point is in the second stage.
    stages = [{"embed_dim": 8, "depth": [1, 2], "block": {"num_heads": [1, 2]}}, {"embed_dim": [8, 16], "depth": [1, 2]}]
    space, rng = SearchSpace.from_dict({"family": "meta_spikeformer", "stages": stages}), random.Random(0)
    parent = space.smallest()
    children = [one_point(space, parent, parent, rng, config_with(1, 1)).stages for _ in range(100)]
    mutated = [(first.blocks[0] != parent.stages[0].blocks[0], len(first.blocks) == 2) for first, _ in children]
    assert set(mutated) == {(True, True), (False, False)}
    assert {len(second.blocks) for _, second in children} == {2}


def test_the_embedding_of_a_later_stage_is_a_crossover_point() -> None:
    stages = [{"embed_dim": [8, 16], "depth": 1, "block": {"num_heads": [1, 2]}} for _ in range(2)]
    space, rng = SearchSpace.from_dict({"family": "meta_spikeformer", "stages": stages}), random.Random(0)
    mother, father = space.smallest(), space.largest()
    (a, b), (c, d) = mother.stages, father.stages
    expected = {(c, d), (replace(a, blocks=c.blocks), d), (a, d), (a, replace(b, blocks=d.blocks))}
    assert {one_point_without_mutation(space, mother, father, rng).stages for _ in range(100)} == expected


def test_additional_blocks_of_the_father_are_inherited_together() -> None:
    rng = random.Random(0)
    mother, father = sample_of_depth("choices", 1, rng=rng), sample_of_depth("choices", 3, rng=rng)
    children = [one_point_without_mutation(SPACES["choices"], mother, father, rng) for _ in range(60)]
    assert {c.stages[0].blocks for c in children} == {father.stages[0].blocks[:1], father.stages[0].blocks}


def test_additional_blocks_of_the_mother_are_inherited_together() -> None:
    rng = random.Random(0)
    mother, father = sample_of_depth("choices", 3, rng=rng), sample_of_depth("choices", 1, rng=rng)
    children = [one_point_without_mutation(SPACES["choices"], mother, father, rng) for _ in range(60)]
    assert {c.stages[0].blocks[1:] for c in children} == {(), mother.stages[0].blocks[1:]}
    assert {c.stages[0].blocks[0] for c in children} == {mother.stages[0].blocks[0], father.stages[0].blocks[0]}


def test_neurons_of_a_block_under_another_shortcut_are_sampled() -> None:
    space, rng = SearchSpace.from_dict(MIXERS_AND_SHORTCUTS), random.Random(0)
    mother, father = conditional_member("sew", "none"), conditional_member("membrane", "sdsa_3", num_heads=4)
    sampled = {conditional_member("sew", "sdsa_3", num_heads=4, groups={"projection": {"tau": tau}}) for tau in (2, 3, 4)}
    assert {one_point_without_mutation(space, mother, father, rng) for _ in range(100)} == {father, *sampled}


@few_examples
@given(space_names, seeds)
def test_probability_zero_changes_nothing(name: str, seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES[name].sample(rng)
    assert mutate(SPACES[name], parent, rng, config_with(0, 0)) == parent


def changes(parent: Architecture, child: Architecture) -> dict[str, bool]:
    """Return for each scalar of both architectures whether it differs."""
    before, after = leaves(parent), leaves(child)
    return {path: before[path] != after[path] for path in before if path in after}


# Genes of CHOICES outside blocks, and neuron groups with genes.
GLOBAL_GENES = {"time_steps", "stages.0.embed_dim"} | {
    f"stages.0.embedding.{g}" for g in ("stride", "neuron.v_threshold", "neuron.tau")
}
GROUPS = ("q", "k", "v", "attention", "projection", "fc2")
BLOCK_GENES = {"num_heads", "mlp_ratio", "neuron.v_threshold", "neuron.tau"}
BLOCK_GENES |= {f"groups.{name}.{gene}" for name in GROUPS for gene in ("v_threshold", "tau")}


@few_examples
@given(seeds)
def test_probability_one_changes_every_gene(seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES["choices"].sample(rng)
    child = mutate(SPACES["choices"], parent, rng, config_with(1, 1))
    assert child.depth != parent.depth
    changed = changes(parent, child)
    common = min(parent.depth, child.depth)
    in_blocks = {f"stages.0.blocks.{i}.{gene}" for i in range(common) for gene in BLOCK_GENES}
    assert {path for path, is_changed in changed.items() if is_changed} == GLOBAL_GENES | in_blocks


@few_examples
@given(seeds)
def test_probability_one_keeps_genes_with_a_single_value(seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES["positions"].sample(rng)
    changed = changes(parent, mutate(SPACES["positions"], parent, rng, config_with(1, 1)))
    changeable = {"stages.0.embed_dim", "stages.0.blocks.0.num_heads", "stages.0.blocks.1.num_heads", "stages.0.blocks.1.mlp_ratio"}
    assert {path for path, is_changed in changed.items() if is_changed} == changeable & set(changed)


@few_examples
@given(seeds)
def test_block_genes_and_global_genes_have_separate_probabilities(seed: int) -> None:
    rng = random.Random(seed)
    parent = sample_of_depth("choices", 2, rng=rng)
    blocks = changes(parent, mutate(SPACES["choices"], parent, rng, config_with(1, 0)))
    assert {path for path, is_changed in blocks.items() if is_changed and ".blocks." not in path} == set()
    assert blocks["stages.0.blocks.0.num_heads"]
    assert blocks["stages.0.blocks.1.groups.attention.tau"]
    global_ = changes(parent, mutate(SPACES["choices"], parent, rng, config_with(0, 1)))
    assert {path for path, is_changed in global_.items() if is_changed} == GLOBAL_GENES


def test_mutation_probabilities() -> None:
    # 600 draws at 0.2 and at 0.4: five standard deviations are 0.082 and 0.1.
    rng = random.Random(0)
    parent = sample_of_depth("choices", 3, rng=rng)
    children = [changes(parent, mutate(SPACES["choices"], parent, rng, config_with(0.2, 0.4))) for _ in range(600)]
    shares = {path: sum(child[path] for child in children) / 600 for path in ("stages.0.blocks.0.neuron.tau", "time_steps")}
    assert shares["stages.0.blocks.0.neuron.tau"] == pytest.approx(0.2, abs=0.082)
    assert shares["time_steps"] == pytest.approx(0.4, abs=0.1)


@few_examples
@given(space_names, seeds, st.floats(1, 8))
def test_mutated_children_are_members_for_any_late_point(name: str, seed: int, late_point: float) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    for _ in range(3):
        mother, father = one_point(SPACES[name], mother, father, rng, config_with(0.2, 0.4, late_point)), mother
        assert is_member(name, mother)


def test_blocks_keep_their_index_when_the_depth_changes() -> None:
    rng = random.Random(1)
    only_depth = edited(POSITIONS, "stages.0.embed_dim", 16)
    space = SearchSpace.from_dict(only_depth)
    deep = next(sample for sample in iter(lambda: space.sample(rng), None) if sample.depth == 2)
    cut = mutate(space, deep, rng, config_with(0, 1))
    assert cut.stages[0].blocks == deep.stages[0].blocks[:1]
    grown = [mutate(space, cut, rng, config_with(0, 1)) for _ in range(40)]
    assert {child.stages[0].blocks[0] for child in grown} == {deep.stages[0].blocks[0]}
    assert len({child.stages[0].blocks[1] for child in grown}) == 4  # sampled: 2 numbers of heads, 2 ratios


def test_mutation_of_a_range_is_gaussian_with_its_sigma() -> None:
    # 2000 mutations: the mean is within five standard errors, the standard deviation within 10 percent.
    gene, rng = Range(low=0.0, high=100.0, sigma=2.0), random.Random(0)
    mutated = [gene.mutate(50.0, rng) for _ in range(2000)]
    mean = sum(mutated) / 2000
    assert mean == pytest.approx(50, abs=5 * 2 / 2000**0.5)
    assert (sum((value - mean) ** 2 for value in mutated) / 2000) ** 0.5 == pytest.approx(2, rel=0.1)
    assert sum(value != 50.0 for value in mutated) > 1990


def variants(name: str, seed: int) -> list[Any]:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    children = [cross(SPACES[name], mother, father, rng) for cross in CROSSOVERS.values()]
    return [mother, father, mutate(SPACES[name], mother, rng, config_with(0.5, 0.5)), *children]


@few_examples
@given(space_names, seeds)
def test_variation_depends_only_on_the_generator(name: str, seed: int) -> None:
    first = variants(name, seed)
    random.seed(seed + 1)
    assert variants(name, seed) == first


def test_parents_are_not_changed() -> None:
    rng = random.Random(0)
    mother, father = (SearchSpace.from_dict(CHOICES).sample(rng) for _ in range(2))
    before = mother.to_json(), father.to_json()
    for cross in CROSSOVERS.values():
        cross(SPACES["choices"], mother, father, rng)
    mutate(SPACES["choices"], mother, rng, config_with(1, 1))
    assert (mother.to_json(), father.to_json()) == before


@pytest.mark.slow
def test_early_points_of_a_deep_network_have_a_minimum_probability() -> None:
    # Thirteen positions, the last 64 times as likely as the first: a ratio of 64 ** (1 / 12), 1.1 percent for the first two.
    stage = {"embed_dim": [8, 16], "depth": 12, "block": {"num_heads": [1, 2]}}
    space, rng = SearchSpace.from_dict({"stages": [stage]}), random.Random(0)
    mother, father = space.smallest(), space.largest()
    children = [one_point(space, mother, father, rng, config_with(0, 0, 4.0)) for _ in range(1000)]
    assert 0 < sum(c.stages[0].blocks[0] != mother.stages[0].blocks[0] for c in children) < 28
