"""The search spaces and experiments of the repository."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import yaml

from autospike.config import Experiment
from autospike.space.families import FAMILIES
from autospike.space.genes import Gene
from autospike.space.published import PUBLISHED
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, visit_genes

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))

# From the authors' table: widths x time steps x sum over depths of (ratios x heads x thresholds x time constants) ** depth.
AUTO_SPIKFORMER = {
    "small_1": 4 * sum(6**d for d in (2, 3, 4)),
    "small_2": 4 * 4 * sum(6**d for d in (2, 3, 4)),
    "small_3": 8**4,
    "small_4": 9**4,
    "small_5": 8_659_768_320,
    "more_layer_1": sum(6**d for d in (3, 4, 5, 6)),
    "more_layer_2": 4 * sum(6**d for d in (4, 5, 6, 7, 8)),
}

PUBLISHED_MEMBERS = {
    **{f"auto_spikformer_{name}": "spikformer_cifar_4_384" for name in AUTO_SPIKFORMER},
    "spikformer_imagenet": "spikformer_8_512",
    "spikformer_events": "spikformer_events_2_256",
    "spike_driven_imagenet": "spike_driven_8_512",
    "spike_driven_cifar": "spike_driven_cifar_2_512",
    "spike_driven_events": "spike_driven_events_2_256",
    "meta_spikeformer_15m": "meta_spikeformer_15m",
    "meta_spikeformer_31m": "meta_spikeformer_31m",
    "meta_spikeformer_55m": "meta_spikeformer_55m",
    "meta_spikeformer_15m_distilled": "meta_spikeformer_15m_distilled",
    "meta_spikeformer_15m_detection": "meta_spikeformer_15m_mask_rcnn",
    "meta_spikeformer_events": "meta_spikeformer_hardvs",
    "qkformer_imagenet": "qkformer_10_384",
    "qkformer_cifar": "qkformer_cifar_4_384",
    "qkformer_events": "qkformer_cifar10dvs",
    "e_spikeformer_imagenet": "e_spikeformer_s",
    "e_spikeformer_events": "e_spikeformer_hardvs",
    "max_former_imagenet": "max_former_10_384",
    "max_former_cifar": "max_former_cifar10",
    "max_former_events": "max_former_cifar10dvs",
}
# No network was published for their sizes.
WITHOUT_PUBLISHED_MEMBER = {
    "spikformer_small",
    "spikformer_digits",
    "spikformer_glyphs",
    "spikformer_motion",
    "spike_driven_digits",
    "meta_spikeformer_digits",
    "meta_spikeformer_scenes",
    "meta_spikeformer_scenes_detection",
    "qkformer_digits",
    "e_spikeformer_digits",
    "e_spikeformer_cifar",
    "max_former_digits",
    "any_mixer_32",
    "spikformer_32",
    "mixed_32",
}


@pytest.mark.parametrize(("name", "size"), AUTO_SPIKFORMER.items())
def test_sizes_of_the_spaces_of_auto_spikformer(name: str, size: int) -> None:
    assert SearchSpace.load(ROOT / "search_spaces" / f"auto_spikformer_{name}.yaml").size() == size


def test_every_space_has_a_published_network_or_is_listed_without_one() -> None:
    assert {path.stem for path in SPACES} == PUBLISHED_MEMBERS.keys() | WITHOUT_PUBLISHED_MEMBER


@pytest.mark.parametrize(("space", "network"), PUBLISHED_MEMBERS.items())
def test_a_space_contains_its_published_network(space: str, network: str) -> None:
    assert SearchSpace.load(ROOT / "search_spaces" / f"{space}.yaml").contains(PUBLISHED[network].architecture)


def test_every_family_has_a_space() -> None:
    assert {SearchSpace.load(path).family for path in SPACES} == set(FAMILIES)


def test_a_space_holds_four_steps_of_spikes_and_one_step_of_integers() -> None:
    """T = 4 with D = 1 everywhere, and T = 1 with D = 4 everywhere: the comparison of E-SpikeFormer's paper."""
    space = SearchSpace.load(ROOT / "search_spaces" / "e_spikeformer_digits.yaml")
    for time_steps, levels in ((4, 1), (1, 4)):

        def chosen(gene: Gene, path: GenePath, *_values: object, wanted: dict[str, int] | None = None) -> object:
            return (wanted or {}).get(str(path[-1]), gene.values[0])

        visitor = partial(chosen, wanted={"time_steps": time_steps, "levels": levels})
        architecture = visit_genes(space, visitor)
        assert space.contains(architecture)
        assert architecture.time_steps == time_steps
        assert architecture.head_neuron.levels == levels
        assert {block.neuron.levels for stage in architecture.stages for block in stage.blocks} == {levels}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_loads_and_its_reference_network_is_in_its_space(path: Path) -> None:
    experiment = Experiment.load(path)
    reference = experiment.baseline_architecture
    assert reference is not None
    assert experiment.search_space.contains(reference)


def test_every_family_has_recipes_for_images_and_for_digits() -> None:
    families = {path.stem: Experiment.load(path).search_space.family for path in EXPERIMENTS}
    data = {path.stem: Experiment.load(path).data.name for path in EXPERIMENTS}
    for family in FAMILIES:
        of_family = {data[name] for name, found in families.items() if found == family}
        assert {"digits", "folder"} <= of_family
        assert of_family & {"cifar10", "cifar100"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_names_the_source_of_its_recipe(path: Path) -> None:
    assert path.read_text().startswith("# ")
    assert isinstance(yaml.safe_load(path.read_text()), dict)
