"""Sampling, mutation and crossover stay inside the space, at every depth, and do what their probabilities say."""

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
from autospike.search.variation import crossover, mutate, one_point
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

names = st.sampled_from(sorted(SPACES))
seeds = st.integers(0, 10**6)

Cross = Callable[[SearchSpace, Architecture, Architecture, random.Random], Architecture]


def rates(block: float, whole: float, late: float = 1.0) -> SearchConfig:
    return SearchConfig(block_mutation=block, global_mutation=whole, late_point=late)


def joined(space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random) -> Architecture:
    """A child of a one-point crossover that does not mutate; all places are alike."""
    return one_point(space, mother, father, rng, rates(0, 0))


CROSSOVERS: dict[str, Cross] = {"uniform": crossover, "one-point": joined}
crossovers = st.sampled_from(list(CROSSOVERS.values()))
either = pytest.mark.parametrize("cross", CROSSOVERS.values(), ids=CROSSOVERS)


def depths(architecture: Architecture) -> tuple[int, ...]:
    return tuple(len(stage.blocks) for stage in architecture.stages)


def of_depth(name: str, *wanted: int, rng: random.Random) -> Architecture:
    """A member whose stages have that many blocks."""
    samples = (SPACES[name].sample(rng) for _ in range(1000))
    return next(sample for sample in samples if depths(sample) == wanted)


def is_member(name: str, architecture: Architecture) -> bool:
    return permits(SPACE_DICTS[name], architecture) and SPACES[name].contains(architecture)


@few_examples
@given(names, seeds, st.floats(0, 1), st.floats(0, 1))
def test_mutants_are_members(name: str, seed: int, block: float, whole: float) -> None:
    rng = random.Random(seed)
    parent = SPACES[name].sample(rng)
    for _ in range(3):
        parent = mutate(SPACES[name], parent, rng, rates(block, whole))
        assert is_member(name, parent)


@few_examples
@given(names, crossovers, seeds)
def test_children_are_members(name: str, cross: Cross, seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    for _ in range(3):
        mother, father = cross(SPACES[name], mother, father, rng), mother
        assert is_member(name, mother)


@pytest.mark.parametrize(("name", "wanted"), [(name, wanted) for name, some in DEPTHS.items() for wanted in some])
def test_every_depth_may_be_mutated_to_every_other(name: str, wanted: tuple[int, ...]) -> None:
    rng = random.Random(0)
    parent = of_depth(name, *wanted, rng=rng)
    children = [mutate(SPACES[name], parent, rng, rates(0.2, 0.5)) for _ in range(60)]
    assert all(is_member(name, child) for child in children)
    assert {depths(child) for child in children} == set(DEPTHS[name])


@either
@pytest.mark.parametrize("name", sorted(DEPTHS))
def test_parents_of_any_two_depths_have_children_of_both(name: str, cross: Cross) -> None:
    rng = random.Random(0)
    shallow, *_, deep = DEPTHS[name]
    mother, father = of_depth(name, *shallow, rng=rng), of_depth(name, *deep, rng=rng)
    children = [cross(SPACES[name], mother, father, rng) for _ in range(40)]
    assert all(is_member(name, child) for child in children)
    assert {depths(child) for child in children} == set(product(*zip(shallow, deep, strict=True)))


@few_examples
@given(names, crossovers, seeds)
def test_every_gene_of_a_child_is_its_mothers_or_its_fathers(name: str, cross: Cross, seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    child = cross(SPACES[name], mother, father, rng)
    assert all(depth in both for depth, *both in zip(depths(child), depths(mother), depths(father), strict=True))
    parents = [effective_genes(mother), effective_genes(father)]
    for path, value in effective_genes(child).items():
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


@few_examples
@given(seeds)
def test_a_new_shortcut_keeps_the_genes_that_both_have(seed: int) -> None:
    rng = random.Random(seed)
    parent = of_depth("conditional", 2, 3, rng=rng)
    child = mutate(SPACES["conditional"], parent, rng, rates(0, 1))
    assert child.shortcut != parent.shortcut
    before, after = effective_genes(parent), effective_genes(child)
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


@few_examples
@given(names, crossovers, seeds)
def test_the_child_of_one_parent_with_itself_is_the_parent(name: str, cross: Cross, seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES[name].sample(rng)
    assert cross(SPACES[name], parent, parent, rng) == parent


def places(architecture: Architecture) -> list[str]:
    """The prefixes of gene paths, one of each embedding and each block, in the order in which a network has them."""
    return [
        place
        for i, depth in enumerate(depths(architecture))
        for place in (f"stages.{i}.", *(f"stages.{i}.blocks.{j}." for j in range(depth)))
    ]


def place_of(path: str, mother: Architecture) -> int:
    """In which of the mother's places a gene has its effect; what is of the whole, in the first."""
    found = [i for i, place in enumerate(places(mother)) if path.startswith(place)]
    if ".blocks." in path and (not found or not places(mother)[found[-1]].endswith(path.split(".")[3] + ".")):
        stage = int(path.split(".")[1])  # a block that she lacks
        return sum(depth + 1 for depth in depths(mother)[: stage + 1])
    return found[-1] if found else 0


def points(mother: Architecture, father: Architecture, child: Architecture) -> list[int]:
    """The places from which on a child that did not mutate may be its father's, where he has such a gene."""
    genes, hers, his = effective_genes(child), effective_genes(mother), effective_genes(father)

    def is_point(point: int) -> bool:
        for path, value in genes.items():
            if path == "time_steps":
                continue
            giver = hers if (place_of(path, mother) < point and path in hers) or path not in his else his
            if path in giver and value != giver[path]:
                return False
        return True

    return [point for point in range(len(places(mother))) if is_point(point)]


@few_examples
@given(names, seeds)
def test_a_child_begins_as_its_mother_and_ends_as_its_father(name: str, seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    child = joined(SPACES[name], mother, father, rng)
    assert points(mother, father, child)
    assert child.time_steps in (mother.time_steps, father.time_steps)


# The parents differ in every gene.
STAGE = {"embed_dim": [8, 16], "embedding": {"stride": [1, 2]}, "depth": 3, "block": {"num_heads": [1, 2], "mlp_ratio": [1, 2]}}
OPPOSITES = SearchSpace.from_dict({"time_steps": [1, 2], "stages": [STAGE]})


def point_of(child: Architecture) -> int:
    """Where a child of the smallest and the largest of OPPOSITES departs from its mother: at 0, the embedding, or a block."""
    (stage,), (hers,) = child.stages, OPPOSITES.smallest().stages
    kept = [stage.embed_dim == hers.embed_dim, *(a == b for a, b in zip(stage.blocks, hers.blocks, strict=True))]
    return kept.index(False)


def test_by_hand_where_a_child_is_joined() -> None:
    # An embedding and three blocks: four points, each as often, with either's T.
    rng = random.Random(0)
    mother, father = OPPOSITES.smallest(), OPPOSITES.largest()
    children = [joined(OPPOSITES, mother, father, rng) for _ in range(400)]
    (hers,), (his,) = mother.stages, father.stages
    ends = [his, *(replace(hers, blocks=hers.blocks[:n] + his.blocks[n:]) for n in range(3))]
    for end, time_steps in product(ends, (1, 2)):  # 50 of each: five standard deviations are 33
        assert 17 < sum((c.stages, c.time_steps) == ((end,), time_steps) for c in children) < 83
    assert {c.stages for c in children} == {(end,) for end in ends}


@pytest.mark.parametrize("late", [1.0, 2.0, 3.0, 4.0, 100.0])
def test_a_later_point_is_so_much_likelier(late: float) -> None:
    # 4000 children: five standard deviations of a share are 0.04 at most. 64 between four places are 4 from one to the next.
    rng, growth = random.Random(0), min(late, 4.0)
    mother, father = OPPOSITES.smallest(), OPPOSITES.largest()
    found = [point_of(one_point(OPPOSITES, mother, father, rng, rates(0, 0, late))) for _ in range(4000)]
    whole = 1 + growth + growth**2 + growth**3
    assert [found.count(i) / 4000 for i in range(4)] == pytest.approx([growth**i / whole for i in range(4)], abs=0.04)


def test_it_mutates_from_the_point_on_and_nowhere_before() -> None:
    # With himself as the father, every gene that differs has mutated: at probability 1 all from the point on, and T.
    rng = random.Random(0)
    parent = of_depth("choices", 3, rng=rng)
    for _ in range(100):
        child = one_point(SPACES["choices"], parent, parent, rng, rates(1, 1))
        changed = changes(parent, child)
        mutated = {path for path, is_changed in changed.items() if is_changed} - {"time_steps"}
        first = min((place_of(path, parent) for path in mutated), default=3)  # a smaller depth may have cut it all off
        behind = {path for path in changed if place_of(path, parent) >= first and is_choice(path)} - {"time_steps"}
        assert mutated == behind
        assert child.depth != parent.depth


def is_choice(path: str) -> bool:
    """Whether CHOICES has several values for a gene."""
    return path in WHOLE or path.split(".", 4)[-1] in IN_BLOCKS


def test_mutation_behind_the_point_is_as_often_as_said() -> None:
    # 4000 children, of which a quarter depart at the embedding: 0.4 of those change its width, 0.2 of all the last block's heads.
    rng, parent = random.Random(0), OPPOSITES.smallest()
    children = [one_point(OPPOSITES, parent, parent, rng, rates(0.2, 0.4)) for _ in range(4000)]
    assert sum(c.stages[0].embed_dim != 8 for c in children) / 4000 == pytest.approx(0.1, abs=0.024)
    assert sum(c.stages[0].blocks[0].num_heads != 1 for c in children) / 4000 == pytest.approx(0.1, abs=0.024)
    assert sum(c.stages[0].blocks[2].num_heads != 1 for c in children) / 4000 == pytest.approx(0.2, abs=0.032)
    assert sum(c.time_steps != 1 for c in children) / 4000 == pytest.approx(0.4, abs=0.039)


def test_a_child_shares_a_prefix_with_its_mother() -> None:
    # The trie evaluation computes once the chain of segments up to the point, whatever changes behind it.
    rng = random.Random(0)
    for name in ("choices", "conditional"):
        mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
        shared = []
        for _ in range(200):
            child = one_point(SPACES[name], mother, father, rng, rates(0.2, 0.4, 3.0))
            chains = zip(segments(mother), segments(child), strict=False)
            shared.append(sum(1 for _ in takewhile(lambda both: both[0] == both[1], chains)))
        assert sum(n > 0 for n in shared) > 150


def test_the_depth_of_a_stage_that_others_follow_is_kept_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [{"embed_dim": 8, "depth": [1, 2], "block": {"num_heads": [1, 2]}}, {"embed_dim": [8, 16], "depth": [1, 2]}]
    space, rng = SearchSpace.from_dict({"family": "meta_spikeformer", "stages": stages}), random.Random(0)
    mother, father = space.smallest(), space.largest()
    monkeypatch.setattr(rng, "choices", lambda *_args: [2])  # her second embedding: all of her first stage stands before it
    children = [one_point(space, mother, father, rng, rates(0.5, 0.5)) for _ in range(50)]
    assert {c.stages[0] for c in children} == {mother.stages[0]}
    assert {len(c.stages[1].blocks) for c in children} == {1, 2}
    monkeypatch.setattr(rng, "choices", lambda *_args: [1])  # her last block of it: there may be more behind
    children = [one_point(space, mother, father, rng, rates(0.5, 0.5)) for _ in range(50)]
    assert {len(c.stages[0].blocks) for c in children} == {1, 2}


def test_a_later_stage_s_embedding_is_a_place_of_its_own() -> None:
    stages = [{"embed_dim": [8, 16], "depth": 1, "block": {"num_heads": [1, 2]}} for _ in range(2)]
    space, rng = SearchSpace.from_dict({"family": "meta_spikeformer", "stages": stages}), random.Random(0)
    mother, father = space.smallest(), space.largest()
    (a, b), (c, d) = mother.stages, father.stages
    expected = {(c, d), (replace(a, blocks=c.blocks), d), (a, d), (a, replace(b, blocks=d.blocks))}
    assert {joined(space, mother, father, rng).stages for _ in range(100)} == expected


def test_blocks_that_only_the_father_has_are_his() -> None:
    rng = random.Random(0)
    mother, father = of_depth("choices", 1, rng=rng), of_depth("choices", 3, rng=rng)
    children = [joined(SPACES["choices"], mother, father, rng) for _ in range(60)]
    assert {c.stages[0].blocks for c in children} == {father.stages[0].blocks[:1], father.stages[0].blocks}


def test_blocks_that_only_the_mother_has_are_hers() -> None:
    rng = random.Random(0)
    mother, father = of_depth("choices", 3, rng=rng), of_depth("choices", 1, rng=rng)
    children = [joined(SPACES["choices"], mother, father, rng) for _ in range(60)]
    assert {c.stages[0].blocks[1:] for c in children} == {(), mother.stages[0].blocks[1:]}
    assert {c.stages[0].blocks[0] for c in children} == {mother.stages[0].blocks[0], father.stages[0].blocks[0]}


def test_a_father_s_block_under_the_mother_s_shortcut_has_new_neurons_drawn() -> None:
    space, rng = SearchSpace.from_dict(MIXED), random.Random(0)
    mother, father = mixed("sew", "none"), mixed("membrane", "sdsa_3", num_heads=4)
    drawn = {mixed("sew", "sdsa_3", num_heads=4, groups={"projection": {"tau": tau}}) for tau in (2, 3, 4)}
    assert {joined(space, mother, father, rng) for _ in range(100)} == {father, *drawn}


@few_examples
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
IN_BLOCKS = {"num_heads", "mlp_ratio", "neuron.v_threshold", "neuron.tau"}
IN_BLOCKS |= {f"groups.{name}.{gene}" for name in GROUPS for gene in ("v_threshold", "tau")}


@few_examples
@given(seeds)
def test_probability_one_changes_every_gene(seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES["choices"].sample(rng)
    child = mutate(SPACES["choices"], parent, rng, rates(1, 1))
    assert child.depth != parent.depth
    changed = changes(parent, child)
    common = min(parent.depth, child.depth)
    in_blocks = {f"stages.0.blocks.{i}.{gene}" for i in range(common) for gene in IN_BLOCKS}
    assert {path for path, is_changed in changed.items() if is_changed} == WHOLE | in_blocks


@few_examples
@given(seeds)
def test_probability_one_keeps_what_has_no_other_value(seed: int) -> None:
    rng = random.Random(seed)
    parent = SPACES["positions"].sample(rng)
    changed = changes(parent, mutate(SPACES["positions"], parent, rng, rates(1, 1)))
    free = {"stages.0.embed_dim", "stages.0.blocks.0.num_heads", "stages.0.blocks.1.num_heads", "stages.0.blocks.1.mlp_ratio"}
    assert {path for path, is_changed in changed.items() if is_changed} == free & set(changed)


@few_examples
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


@few_examples
@given(names, seeds, st.floats(1, 8))
def test_children_that_mutate_are_members_however_late(name: str, seed: int, late: float) -> None:
    rng = random.Random(seed)
    mother, father = SPACES[name].sample(rng), SPACES[name].sample(rng)
    for _ in range(3):
        mother, father = one_point(SPACES[name], mother, father, rng, rates(0.2, 0.4, late)), mother
        assert is_member(name, mother)


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
    children = [cross(SPACES[name], mother, father, rng) for cross in CROSSOVERS.values()]
    return [mother, father, mutate(SPACES[name], mother, rng, rates(0.5, 0.5)), *children]


@few_examples
@given(names, seeds)
def test_variation_depends_on_the_generator_alone(name: str, seed: int) -> None:
    first = variants(name, seed)
    random.seed(seed + 1)
    assert variants(name, seed) == first


def test_parents_are_not_changed() -> None:
    rng = random.Random(0)
    mother, father = (SearchSpace.from_dict(CHOICES).sample(rng) for _ in range(2))
    before = mother.to_json(), father.to_json()
    for cross in CROSSOVERS.values():
        cross(SPACES["choices"], mother, father, rng)
    mutate(SPACES["choices"], mother, rng, rates(1, 1))
    assert (mother.to_json(), father.to_json()) == before


def test_the_first_blocks_of_a_deep_network_do_not_freeze() -> None:
    # Thirteen places, the last 64 times as likely as the first: 64 ** (1 / 12) from one to the next, 1.1 percent for the first two.
    stage = {"embed_dim": [8, 16], "depth": 12, "block": {"num_heads": [1, 2]}}
    space, rng = SearchSpace.from_dict({"stages": [stage]}), random.Random(0)
    mother, father = space.smallest(), space.largest()
    children = [one_point(space, mother, father, rng, rates(0, 0, 4.0)) for _ in range(2000)]
    assert 5 < sum(c.stages[0].blocks[0] != mother.stages[0].blocks[0] for c in children) < 50
