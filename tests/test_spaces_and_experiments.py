"""The search spaces and experiments of the repository."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from cli_runner import autospike
from event_recordings import gesture_tree, random_events, write_aedat2

from autospike.config import Experiment
from autospike.space.families import FAMILIES
from autospike.space.genes import Gene
from autospike.space.published import PUBLISHED
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, visit_genes
from autospike.training.trainer import learning_rate_schedule

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
    "spike_driven_small",
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

# From the published files, one line each, in this order: epochs without cooldown, cooldown, batch size, optimizer, learning rate,
# smallest one, first one of the warm-up, epochs of warm-up, weight decay, label smoothing, frames, pixels, split.
EVENT_RECIPES: dict[str, tuple[object, ...]] = {
    "spikformer_events": (96, 10, 16, "adamw", 1e-3, 1e-5, 1e-5, 10, 0.06, 0.1, 16, 128, "first"),  # cifar10dvs/train.py
    "qkformer_events": (96, 10, 16, "adamw", 5e-3, 1e-5, 1e-5, 10, 0.06, 0.1, 16, 128, "first"),  # cifar10-dvs/train.py
    "qkformer_gesture": (192, 10, 16, "adamw", 1e-3, 2e-5, 1e-5, 10, 0.06, 0.1, 16, 128, "subject"),  # dvs128-gesture/train.py
    "max_former_events": (96, 10, 16, "adamw", 5e-3, 1e-5, 1e-5, 10, 0.06, 0.1, 16, 128, "first"),  # event/cifar10dvs.yaml
    "max_former_gesture": (150, 10, 16, "adamw", 5e-3, 1e-5, 1e-5, 10, 0.06, 0.1, 16, 128, "subject"),  # event/dvsgesture.yaml
    "spike_driven_events": (200, 10, 16, "lamb", 3e-4, 1e-5, 1e-5, 10, 0.06, 0.1, 16, 128, "subject"),  # 2_256_200E_t16.yml
    # DVS/Hardvs: AdamW at 4e-5 per 256 images of a batch, of which there are 72.
    "meta_spikeformer_events": (100, 0, 72, "adamw", 4e-5 * 72 / 256, 0.0, 0.0, 10, 0.01, 0.1, 8, 224, "lists"),
    "e_spikeformer_events": (100, 0, 72, "adamw", 4e-5 * 72 / 256, 0.0, 0.0, 10, 0.01, 0.1, 8, 224, "lists"),
}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MIXUP = {"flip": 0.5, "event_policy": "snn", "mixup": 0.5, "mix_probability": 0.5, "mix_epochs": 75}
# What augments the samples; everything else is off. The log of `max_former_gesture` shows that mixup ended after 90 epochs.
EVENT_AUGMENTATIONS: dict[str, dict[str, object]] = {
    "spikformer_events": MIXUP,
    "qkformer_events": MIXUP,
    "qkformer_gesture": MIXUP,
    "max_former_events": {**MIXUP, "cutmix": 0.1},
    "max_former_gesture": {**MIXUP, "cutmix": 0.1, "mix_epochs": 90},
    "spike_driven_events": {},
    "meta_spikeformer_events": {"flip": 0.5},
    "e_spikeformer_events": {"flip": 0.5},
}
EVENT_BASELINES = {
    "spikformer_events": "spikformer_events_2_256",
    "qkformer_events": "qkformer_cifar10dvs",
    "qkformer_gesture": "qkformer_gesture",
    "max_former_events": "max_former_cifar10dvs",
    "max_former_gesture": "max_former_gesture",
    "spike_driven_events": "spike_driven_events_2_256",
    "meta_spikeformer_events": "meta_spikeformer_hardvs",
    "e_spikeformer_events": "e_spikeformer_hardvs",
}
# Learning rates at the first step of some epochs, from the log that comes with QKFormer's code (cifar10-dvs_origin_log.txt).
QKFORMER_LOG = {
    0: 1e-05,
    1: 0.0005090000000000001,
    8: 0.004002,
    73: 0.0006839891386189008,
    75: 0.0005763389188599713,
    81: 0.0003046064454508545,
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


def test_the_event_space_of_e_spikeformer_becomes_one_of_integrating_neurons() -> None:
    """By the replacement that docs/models.md names."""
    written = (ROOT / "search_spaces" / "e_spikeformer_events.yaml").read_text().replace("integrates: false", "leak: false")
    space = SearchSpace.from_dict(yaml.safe_load(written))
    assert space.contains(PUBLISHED["e_spikeformer_hardvs_integrating"].architecture) is True
    assert space.contains(PUBLISHED["e_spikeformer_hardvs"].architecture) is False


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


@pytest.mark.parametrize("name", EVENT_RECIPES)
def test_an_event_recipe_has_the_published_values(name: str) -> None:
    experiment = Experiment.load(ROOT / "experiments" / f"{name}.yaml")
    training, data = experiment.training, experiment.data
    first_rate = training.min_learning_rate if training.warmup_learning_rate is None else training.warmup_learning_rate
    assert EVENT_RECIPES[name] == (
        *(training.epochs - training.cooldown_epochs, training.cooldown_epochs, training.batch_size, training.optimizer),
        *(training.learning_rate, training.min_learning_rate, first_rate, training.warmup, training.weight_decay),
        *(training.smoothing, data.frames, data.image_size, data.split),
    )
    assert training.augmentation.model_dump(exclude_defaults=True) == EVENT_AUGMENTATIONS[name]
    assert (training.loss, training.schedule, training.accumulate, data.frames_by) == ("final", "cosine", 1, "number")
    published = PUBLISHED[EVENT_BASELINES[name]]
    assert experiment.baseline_architecture == published.architecture
    assert (published.architecture.time_steps, published.image_size) == (data.frames, data.image_size)
    if data.split == "first":
        assert data.test_share == 0.1


def test_every_recipe_for_recordings_is_compared_with_its_publication() -> None:
    recorded = {path.stem for path in EXPERIMENTS if Experiment.load(path).data.frames is not None}
    assert recorded == EVENT_RECIPES.keys() == EVENT_AUGMENTATIONS.keys() == EVENT_BASELINES.keys()


def recordings(name: str, root: Path) -> Path:
    """Recordings in the files of the published archives: 22 of each class of CIFAR10-DVS, or three subjects and one of gestures."""
    if name == "dvs_gesture":
        return gesture_tree(root, users=(3, 1), events=4000)
    for label, name_of_class in enumerate(CIFAR10):
        for i in range(22):
            path = root / name_of_class / f"cifar10_{name_of_class}_{i}.aedat"
            write_aedat2(path, random_events(200, seed=100 * label + i))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qkformer_events", "max_former_events", "qkformer_gesture", "max_former_gesture"])
def test_an_event_recipe_trains_on_recordings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the files of the data set to a trained supernet; smaller frames, and an epoch of each part of the schedule."""
    monkeypatch.chdir(tmp_path)  # check-data draws the samples there
    path = ROOT / "experiments" / f"{name}.yaml"
    root = recordings(Experiment.load(path).data.name, tmp_path / "data")
    where = ["--set", f"data.root={root}", "--set", f"data.cache={tmp_path / 'cache'}", "--set", "data.image_size=16"]
    checked = autospike(capsys, "check-data", path, *where)
    assert (checked.code, checked.err) == (0, "")
    short = [f"training.{field}" for field in ("epochs=3", "warmup_epochs=1", "cooldown_epochs=1", "augmentation.mix_epochs=1")]
    settings = [part for value in (*short, "training.workers=0", "baseline=none") for part in ("--set", value)]
    trained = autospike(capsys, "train", path, "--run", tmp_path / "run", *where, *settings)
    assert (trained.code, trained.err) == (0, "")
    assert (tmp_path / "run" / "supernet" / "checkpoint.json").exists()


def test_the_learning_rate_of_qkformer_events_is_that_of_the_published_log() -> None:
    training = Experiment.load(ROOT / "experiments" / "qkformer_events.yaml").training
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    steps_per_epoch = 562  # 9000 samples in batches of 16
    schedule = learning_rate_schedule(optimizer, training, steps_per_epoch, training.epochs * steps_per_epoch)
    for epoch, expected in {**QKFORMER_LOG, 96: 1e-5, 105: 1e-5}.items():
        schedule.step_update(epoch * steps_per_epoch)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9), epoch


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_names_the_source_of_its_recipe(path: Path) -> None:
    assert path.read_text().startswith("# ")
    assert isinstance(yaml.safe_load(path.read_text()), dict)
