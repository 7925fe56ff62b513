"""Experiments: defaults, overrides, invalid values, and settings that a trained run may change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from builders import edited, one_line_error
from pydantic import BaseModel

from autospike.config import Experiment, continued
from autospike.config.loading import PATHS
from autospike.energy.conventions import EXACT, INT8, RATE
from autospike.errors import UserError
from autospike.run_directory import RunDirectory
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block
from autospike.space.search_space import SearchSpace

SPACE: dict[str, Any] = {
    "time_steps": [2, 3],
    "stages": [
        {
            "embed_dim": [8, 16],
            "embedding": {"stride": [2, 4]},
            "depth": [1, 2],
            "block": {"num_heads": [1, 2], "neuron": {"tau": [1.5, 2]}},
        }
    ],
}
BASELINE: dict[str, Any] = {"time_steps": 4, "stages": [{"embed_dim": 24, "blocks": [{"num_heads": 3}]}]}
EXPERIMENT: dict[str, Any] = {"space": SPACE, "data": {"name": "digits", "image_size": 8}, "training": {"epochs": 5}}


def write_yaml(path: Path, experiment_dict: object = EXPERIMENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(experiment_dict))
    return path


def load(tmp_path: Path, *overrides: str, experiment_dict: object = EXPERIMENT) -> Experiment:
    return Experiment.load(write_yaml(tmp_path / "experiment.yaml", experiment_dict), overrides)


def test_defaults(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert experiment.seed == 0
    assert experiment.baseline is None
    search, training = experiment.search, experiment.training
    assert (search.population, search.generations, search.parents) == (50, 20, 10)
    assert (search.block_mutation, search.global_mutation) == (0.2, 0.4)
    assert (search.algorithm, search.objectives) == ("nsga2", ("accuracy", "energy_mj"))
    assert (search.fitness.form, search.fitness.beta) == ("power", 0.07)
    assert (search.convention, search.energy_convention) == ("exact", EXACT)
    assert (training.sampling, training.batch_size, training.model_copy(update={"epochs": 1000}).warmup) == ("single-path", 32, 20)
    assert (training.learning_rate, training.min_learning_rate, training.weight_decay) == (0.01, 1e-5, 0.06)
    assert training.smoothing == 0.1


@pytest.mark.parametrize(("widths", "rate"), [([16, 128], 0.01), ([128, 256], 0.005), (512, 0.0025)])
def test_the_default_learning_rate_decreases_with_the_largest_width(tmp_path: Path, widths: object, rate: float) -> None:
    stage = {**SPACE["stages"][0], "embed_dim": widths}
    fields = {**EXPERIMENT, "space": {**SPACE, "stages": [stage]}}
    assert load(tmp_path, experiment_dict=fields).training.learning_rate == rate
    assert load(tmp_path, "training.learning_rate=0.5", experiment_dict=fields).training.learning_rate == 0.5


def test_values_of_the_file_are_read(tmp_path: Path) -> None:
    experiment_dict = {**EXPERIMENT, "seed": 4, "search": {"algorithm": "aeb", "fitness": {"form": "weighted", "alpha": 0.3}}}
    experiment = load(tmp_path, experiment_dict=experiment_dict)
    assert (experiment.seed, experiment.training.epochs, experiment.data.image_size) == (4, 5, 8)
    assert (experiment.search.algorithm, experiment.search.fitness.alpha) == ("aeb", 0.3)
    assert experiment.search_space == SearchSpace.from_dict(SPACE)


def test_the_default_baseline_is_the_largest_architecture(tmp_path: Path) -> None:
    largest = Block(num_heads=2)
    stage = Stage(embed_dim=16, embedding=Embedding(stride=2), blocks=(largest, largest))
    assert load(tmp_path).baseline_architecture == Architecture(time_steps=3, stages=(stage,))
    given = load(tmp_path, experiment_dict={**EXPERIMENT, "baseline": BASELINE}).baseline_architecture
    assert given == Architecture(stages=(Stage(embed_dim=24, blocks=(Block(num_heads=3),)),))


def test_a_baseline_by_its_published_name(tmp_path: Path) -> None:
    # Spikformer-2-384 on CIFAR (Zhou et al., 2023): two blocks of width 384, twelve heads, stride 4.
    stage = Stage(embed_dim=384, embedding=Embedding(stride=4), blocks=(Block(num_heads=12),) * 2)
    published = Architecture(qkv_bias=True, stages=(stage,))
    experiment = load(tmp_path, "baseline=spikformer_cifar_2_384")
    assert experiment.baseline_architecture == published
    assert experiment.baseline == published.to_dict()


def test_a_teacher_needs_a_head_in_the_space_and_in_the_baseline(tmp_path: Path) -> None:
    overrides = ["training.teacher.model=resnet18", "space.distilled=true"]
    assert load(tmp_path, *overrides).training.teacher is not None
    experiment_dict = {**EXPERIMENT, "baseline": BASELINE}
    assert "training.teacher: " in one_line_error(lambda: load(tmp_path, *overrides, experiment_dict=experiment_dict))
    assert load(tmp_path, *overrides, "baseline.distilled=true", experiment_dict=experiment_dict).baseline_architecture.distilled


@pytest.mark.parametrize("name", ["events", "motion", "cifar10_dvs"])
def test_events_have_no_teacher(name: str, tmp_path: Path) -> None:
    overrides = [
        "training.teacher.model=resnet18",
        "space.distilled=true",
        f"data.name={name}",
        "data.root=/data",
        "data.image_size=32",
    ]
    overrides += ["data.root=null"] if name == "motion" else []
    assert "training.teacher: a teacher cannot be used with events" in one_line_error(lambda: load(tmp_path, *overrides))


def test_paths_of_spaces_are_relative_to_the_experiment(tmp_path: Path) -> None:
    write_yaml(tmp_path / "spaces" / "small.yaml", SPACE)
    path = write_yaml(tmp_path / "experiments" / "one.yaml", {**EXPERIMENT, "space": "../spaces/small.yaml"})
    experiment = Experiment.load(path)
    assert experiment.search_space == SearchSpace.from_dict(SPACE)
    assert experiment.space == SPACE
    changed = Experiment.load(path, ["seed=2", "space.stages.0.depth=1", "space.time_steps.1=5"])
    assert (changed.seed, changed.space) == (2, edited(edited(SPACE, "stages.0.depth", 1), "time_steps", [2, 5]))


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("training.epochs=9", "training.epochs", 9),
        ("training.learning_rate=1e-3", "training.learning_rate", 0.001),
        ("training.augmentation.flip=0.5", "training.augmentation.flip", 0.5),
        ("training.augmentation={flip: 0.25, mixup: 1}", "training.augmentation.flip", 0.25),
        ("search.fitness.form=weighted", "search.fitness.form", "weighted"),
        ("search.objectives=[accuracy, params]", "search.objectives", ["accuracy", "params"]),
        ("search.convention=binary-only", "search.convention", "binary-only"),
        ("search.convention=spikformer/image-once/int8", "search.convention", "spikformer/int8/image-once"),
        ("search.convention=exact/fp32/head-once", "search.convention", "exact"),
        ("data.root=some/folder", "data.root", str(Path.cwd() / "some/folder")),
        ("data.root=null", "data.root", None),
        ("space.time_steps=[1, 4]", "space.time_steps", [1, 4]),
        ("space.stages.0.depth=3", "space.stages.0.depth", 3),
        ("space.stages.0.embed_dim.1=32", "space.stages.0.embed_dim", [8, 32]),
        (
            "space.stages.0.block.neuron.v_threshold={low: 0.5, high: 2, sigma: 0.1}",
            "space.stages.0.block.neuron.v_threshold.high",
            2,
        ),
        ("export.pick=best-faeb", "export.pick", "best-faeb"),
        ("export.pick=a=b", "export.pick", "a=b"),
    ],
)
def test_overrides(override: str, path: str, value: object, tmp_path: Path) -> None:
    found: Any = load(tmp_path, override).model_dump(mode="json")
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    assert found == value


def test_all_spellings_of_a_convention_give_equal_experiments(tmp_path: Path) -> None:
    """Equal settings identify the same search, which is then resumed."""
    one, other = (
        load(tmp_path, f"search.convention={text}") for text in ("rate/int8/image-every-step", "rate/image-every-step/int8")
    )
    assert one == other
    assert one.search.energy_convention == replace(RATE, name="rate/int8/image-every-step", costs=INT8, image="every-step")


def test_an_override_changes_only_its_field(tmp_path: Path) -> None:
    plain, changed = (load(tmp_path, *overrides).model_dump(mode="json") for overrides in ((), ("training.epochs=9",)))
    assert changed == edited(plain, "training.epochs", 9)


def test_limits_without_max_and_min(tmp_path: Path) -> None:
    experiment = load(tmp_path, "search.constraints={params: 50000, accuracy: 0.9, energy_uj: 0.4}")
    limits = experiment.search.constraints
    assert (limits.max_params, limits.min_accuracy, limits.max_energy_uj, limits.max_macs) == (50_000, 0.9, 0.4, None)
    changed = experiment.changed({"search": {"constraints": {"macs": 7}}}, source="a test")
    assert (changed.search.constraints.max_macs, changed.search.constraints.max_params) == (7, 50_000)
    with pytest.raises(UserError, match="params and max_params are the same limit; give one of them"):
        load(tmp_path, "search.constraints={params: 1, max_params: 2}")


def test_the_last_override_wins(tmp_path: Path) -> None:
    assert load(tmp_path, "seed=1", "training.epochs=2", "seed=3").seed == 3


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("sead=1", "sead"),
        ("training.epoch=1", "training.epoch"),
        ("training.augmentation.flips=1", "training.augmentation.flips"),
        ("search.fitness.gamma=1", "search.fitness.gamma"),
        ("training.epochs=many", "training.epochs"),
        ("training.epochs=2.5", "training.epochs"),
        ("training.epochs=0", "training.epochs"),
        ("training.epochs=", "training.epochs"),
        ("training.batch_size=1", "training.batch_size"),
        ("training.learning_rate=0", "training.learning_rate"),
        ("training.smoothing=1.5", "training.smoothing"),
        ("training.sampling=all", "training.sampling"),
        ("training.loss=every", "training.loss"),
        (
            "training.targets=in-place",
            "training.targets: in-place needs the largest subnet in every step",
        ),
        ("training.augmentation.min_scale=0", "training.augmentation.min_scale"),
        ("training.single_step_share=1.1", "training.single_step_share"),
        ("training=3", "training"),
        ("seed=-1", "seed"),
        ("seed.a=1", "seed"),
        ("data.name=imagenet", "data.name"),
        ("data.image_size=0", "data.image_size"),
        ("data.search_share=1", "data.search_share"),
        ("data.test_share=0.8", "test_share"),
        ("data.image_size=3", "data.image_size"),
        ("search.algorithm=tpe", "search.algorithm"),
        ("search.population=3", "search.population"),
        ("search.block_mutation=1.1", "search.block_mutation"),
        ("search.objectives=[accuracy, joules]", "search.objectives"),
        ("search.objectives=[]", "search.objectives"),
        ("search.objectives=[accuracy, accuracy]", "search.objectives"),
        ("search.convention=joules", "search.convention: no energy convention 'joules'; choose from exact, rate, spikformer"),
        ("search.convention=exact/int4", "/fp32, /fp16, /int8, /sram"),
        ("search.convention=exact/int8/fp16", "optionally followed by one cost"),
        ("search.convention=memory/int8", "memory has its own"),
        ("search.convention=", "search.convention"),
        ("search.convention=[exact]", "search.convention"),
        ("export.min_accuracy=2", "export.min_accuracy"),
        ("space=3", "space"),
        ("space.time_stepz=3", "space: time_stepz"),
        ("space.stages.0.block.num_heads=3", "space: stages[0]: num_heads 3"),
        ("training.teacher={model: resnet18}", "training.teacher: only a network with distilled: true"),
        ("training.teacher={name: resnet18}", "training.teacher.name"),
        ("training.optimizer=sgd", "training.optimizer"),
        ("training.augmentation.cutmix=-1", "training.augmentation.cutmix"),
        ("training.augmentation.mix_probability=2", "training.augmentation.mix_probability"),
        ("baseline=3", "baseline"),
        ("baseline=spikformer_3_14", "baseline: no published architecture is called 'spikformer_3_14'"),
        ("baseline.family=resnet", "baseline: family"),
        ("baseline.stages=[]", "baseline: "),
        ("baseline.stages.0.blocks=[{num_heads: 5}]", "baseline: stages[0]: num_heads 5"),
        ("baseline.shortcut=membrane", "baseline: shortcut"),
        ("baseline.stages.0.embedding={stride: 3}", "baseline: stages[0].embedding.stride"),
        ("baseline.stages.0.embedding={stride: 16}", "data.image_size: 8 pixels are too few"),
        ("space.stages.0.embedding.stride=[2, 16]", "data.image_size: 8 pixels are too few"),
        ("space.shortcut=membrane", "space: shortcut"),
        ("space.stages.0.block.token_mixer=ssa", "space: stages[0].block.token_mixer"),
    ],
)
def test_an_invalid_value_is_a_one_line_error_naming_the_field(override: str, field: str, tmp_path: Path) -> None:
    assert field in one_line_error(lambda: load(tmp_path, override, experiment_dict={**EXPERIMENT, "baseline": BASELINE}))


def test_an_image_has_at_least_the_total_stride_in_pixels(tmp_path: Path) -> None:
    stages = [{"embed_dim": 8, "embedding": {"stride": stride}, "depth": 1} for stride in (2, [1, 2], 2)]
    experiment_dict = edited(EXPERIMENT, "space", {"family": "meta_spikeformer", "stages": stages})
    assert load(tmp_path, experiment_dict=experiment_dict).data.image_size == 8
    message = one_line_error(lambda: load(tmp_path, "data.image_size=7", experiment_dict=experiment_dict))
    assert "7 pixels" in message
    assert "8 times" in message


def test_a_baseline_of_another_family_is_rejected(tmp_path: Path) -> None:
    experiment_dict = {**EXPERIMENT, "baseline": {**BASELINE, "family": "meta_spikeformer"}}
    message = one_line_error(lambda: load(tmp_path, experiment_dict=experiment_dict))
    assert "baseline: its family meta_spikeformer" in message


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs",
        "=3",
        "training..epochs=3",
        ".seed=3",
        "",
        "seed=[1",
        "seed=2020-13-45",
        "training.epochs.x=1",
        "space.stages.1.depth=2",
        "space.stages.first.depth=2",
        "space.stages.-1.depth=2",
        "space.stages.0.embed_dim.2=8",
    ],
)
def test_an_invalid_override_is_a_one_line_error_that_quotes_it(override: str, tmp_path: Path) -> None:
    assert f"--set {override}:" in one_line_error(lambda: load(tmp_path, override))


def test_the_error_of_an_invalid_file_names_the_file(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "one.yaml", {**EXPERIMENT, "trainig": {}})
    assert one_line_error(lambda: Experiment.load(path)).startswith(f"{path}: trainig: ")


@pytest.mark.parametrize("missing", ["space", "data", "training"])
def test_missing_sections_are_named(missing: str, tmp_path: Path) -> None:
    experiment_dict = {name: section for name, section in EXPERIMENT.items() if name != missing}
    assert f"{missing}: required" in one_line_error(lambda: load(tmp_path, experiment_dict=experiment_dict))


@pytest.mark.parametrize("content", ["", "- 1", "word", "a: [1", "\t- a"])
def test_a_file_without_an_experiment_is_a_one_line_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(content)
    assert one_line_error(lambda: Experiment.load(path)).startswith(f"{path}: ")


def test_missing_files_are_named_in_the_error(tmp_path: Path) -> None:
    assert one_line_error(lambda: Experiment.load(tmp_path / "gone.yaml")).startswith(f"{tmp_path / 'gone.yaml'}: ")
    message = one_line_error(lambda: load(tmp_path, experiment_dict={**EXPERIMENT, "space": "gone.yaml"}))
    assert message.startswith(f"{tmp_path / 'gone.yaml'}: ")
    assert f"relative to {tmp_path}" in message


def test_the_error_of_an_invalid_space_names_the_file_of_the_space(tmp_path: Path) -> None:
    space = write_yaml(tmp_path / "space.yaml", edited(SPACE, "stages.0.depth", 0))
    message = one_line_error(lambda: load(tmp_path, experiment_dict={**EXPERIMENT, "space": "space.yaml"}))
    assert message.startswith(f"{space}: ")
    assert "depth" in message


@pytest.mark.parametrize(
    "overrides", [(), ("seed=3", "data.root=here", "training.learning_rate=1e-5", "search.convention=fused/int8")]
)
def test_the_resolved_experiment_round_trips(overrides: tuple[str, ...], tmp_path: Path) -> None:
    write_yaml(tmp_path / "space.yaml", SPACE)
    experiment = load(tmp_path, *overrides, experiment_dict={**EXPERIMENT, "space": "space.yaml", "baseline": BASELINE})
    resolved = tmp_path / "other" / "resolved.yaml"
    resolved.parent.mkdir()
    resolved.write_text(experiment.to_yaml())
    assert Experiment.load(resolved) == experiment
    assert Experiment.load(resolved).to_yaml() == experiment.to_yaml()
    assert yaml.safe_load(experiment.to_yaml())["space"] == SPACE


FIXED_AFTER_TRAINING = [
    "seed=1",
    "space.time_steps=2",
    "data.search_share=0.3",
    "training.epochs=6",
    "training.augmentation.flip=0.5",
    "baseline={}",
]
CHANGEABLE_AFTER_TRAINING = [
    "search.generations=3",
    "search.algorithm=aeb",
    "search.convention=binary-only",
    "evaluation.batch_size=7",
    "export.pick=best-faeb",
]


def changed_by(override: str, tmp_path: Path) -> tuple[Experiment, Experiment]:
    """Return an experiment without and with an override."""
    override = override.replace("baseline={}", f"baseline={json.dumps(BASELINE)}")
    return load(tmp_path), load(tmp_path, override)


@pytest.mark.parametrize("override", FIXED_AFTER_TRAINING)
def test_settings_of_the_training_cannot_change_after_training(override: str, tmp_path: Path) -> None:
    original, changed = changed_by(override, tmp_path)
    message = one_line_error(lambda: continued(original, changed, source="runs/a"))
    named = ".".join(override.split("=")[0].split(".")[:2])  # the field, not what is inside it
    assert message.startswith(f"runs/a: {named} differs")


@pytest.mark.parametrize("override", CHANGEABLE_AFTER_TRAINING)
def test_other_settings_can_change_after_training(override: str, tmp_path: Path) -> None:
    original, changed = changed_by(override, tmp_path)
    assert changed != original
    assert continued(original, changed, source="runs/a") == changed


def test_a_run_stores_its_experiment(tmp_path: Path) -> None:
    path, folder = write_yaml(tmp_path / "one.yaml"), tmp_path / "runs" / "a"
    started = RunDirectory.start(Experiment.load(path, ["seed=5"]), folder)
    assert not folder.exists()
    started.save()
    assert started.experiment.seed == 5
    assert Experiment.load(folder / "experiment.yaml") == started.experiment
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 5
    assert {"torch", "timm", "spikingjelly", "autospike"} <= set(environment["packages"])


def mark_as_trained(folder: Path) -> None:
    """Create the file that marks a trained run."""
    (folder / "supernet").mkdir()
    (folder / "supernet" / "checkpoint.json").write_text("{}")


def test_a_trained_run_continues_only_with_its_experiment(tmp_path: Path) -> None:
    path, folder = write_yaml(tmp_path / "one.yaml"), tmp_path / "runs" / "a"
    RunDirectory.start(Experiment.load(path, []), folder).save()
    environment = (folder / "environment.json").read_text()
    mark_as_trained(folder)
    assert RunDirectory.start(Experiment.load(path, ["search.generations=3"]), folder).experiment.search.generations == 3
    assert "training.epochs differs" in one_line_error(
        lambda: RunDirectory.start(Experiment.load(path, ["training.epochs=6"]), folder)
    )
    assert Experiment.load(folder / "experiment.yaml").training.epochs == 5
    assert (folder / "environment.json").read_text() == environment


def test_an_untrained_run_can_start_with_another_experiment(tmp_path: Path) -> None:
    path, folder = write_yaml(tmp_path / "one.yaml"), tmp_path / "runs" / "a"
    RunDirectory.start(Experiment.load(path, []), folder).save()
    RunDirectory.start(Experiment.load(path, ["training.epochs=6"]), folder).save()
    assert Experiment.load(folder / "experiment.yaml").training.epochs == 6


def test_a_run_is_resumed_without_the_original_file(tmp_path: Path) -> None:
    path, folder = write_yaml(tmp_path / "one.yaml"), tmp_path / "runs" / "a"
    RunDirectory.start(Experiment.load(path, ["seed=5"]), folder).save()
    path.unlink()
    assert RunDirectory.resume(folder).experiment.seed == 5
    assert RunDirectory.resume(folder, ["search.algorithm=random"]).experiment.search.algorithm == "random"
    assert "seed differs" in one_line_error(lambda: RunDirectory.resume(folder, ["seed=6"]))


def test_a_folder_without_a_run_is_named_in_the_error(tmp_path: Path) -> None:
    message = one_line_error(lambda: RunDirectory.resume(tmp_path))
    assert message.startswith(f"{tmp_path}: ")
    assert "autospike train" in message


def test_the_log_has_one_event_per_line(tmp_path: Path) -> None:
    run = RunDirectory.start(Experiment.load(write_yaml(tmp_path / "one.yaml")), tmp_path / "a")
    run.save()
    run.log("began", step=1)
    run.log("ended")
    events = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["began", "ended"]
    assert events[0]["step"] == 1
    assert all(event["time"].endswith("+00:00") for event in events)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("experiments/*.yaml")), ids=lambda path: path.stem)
def test_the_experiments_of_the_repository_are_valid(path: Path) -> None:
    experiment = Experiment.load(path)
    assert experiment.search_space.contains(experiment.search_space.largest())


def test_an_experiment_from_keyword_arguments_equals_one_from_a_dict_and_from_a_file(tmp_path: Path) -> None:
    from_file = load(tmp_path)
    assert Experiment(**EXPERIMENT) == from_file
    assert Experiment.from_dict(EXPERIMENT) == from_file
    message = one_line_error(lambda: Experiment.from_dict({**EXPERIMENT, "data": {"name": "digits", "image_size": 1}}))
    assert message.startswith("experiment: data.image_size: 1 pixels are too few")


def test_a_space_by_its_name() -> None:
    experiment = Experiment.from_dict({**EXPERIMENT, "space": "spikformer_digits"})
    expected = SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "spikformer_digits.yaml")
    assert experiment.search_space == expected
    message = one_line_error(lambda: Experiment.from_dict({**EXPERIMENT, "space": "spikformer_digit"}))
    assert "experiment: space: spikformer_digit: no file of this name in " in message
    assert "similar names: spikformer_digits" in message


def test_a_file_has_precedence_over_a_name(tmp_path: Path) -> None:
    write_yaml(tmp_path / "spikformer_digits", SPACE)
    assert load(tmp_path, experiment_dict={**EXPERIMENT, "space": "spikformer_digits"}).space == SPACE


def test_an_experiment_by_its_name_has_paths_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Experiment.load("digits").data.name == "digits"
    assert Experiment.load("folder").data.root == tmp_path / "data" / "my_images"
    assert "no file of this name in " in one_line_error(lambda: Experiment.load("digitz"))


def test_paths_in_a_file_are_relative_to_it_and_those_of_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = {"model": "local-dir:../teacher", "weights": "t.pth"}
    training = {"epochs": 5, "start_from": "runs/first", "teacher": teacher}
    written = {**EXPERIMENT, "data": {"name": "folder", "root": "../images", "image_size": 8}, "training": training}
    path = write_yaml(tmp_path / "a" / "one.yaml", edited(written, "space.distilled", True))
    found = Experiment.load(path)
    assert found.data.root == tmp_path / "images"
    assert found.training.start_from == tmp_path / "a" / "runs" / "first"
    assert found.training.teacher is not None
    assert found.training.teacher.weights == tmp_path / "a" / "t.pth"
    assert found.training.teacher.model == f"local-dir:{tmp_path / 'teacher'}"
    assert Experiment.load(path, ["data.root=images", "training.teacher.model=resnet18"]).data.root == tmp_path / "images"


def test_a_relative_path_in_a_run_of_an_older_version_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = {**EXPERIMENT, "data": {"name": "folder", "root": "images", "image_size": 8}}
    write_yaml(tmp_path / "runs" / "a" / "experiment.yaml", written)
    assert RunDirectory.resume(Path("runs/a")).experiment.data.root == tmp_path / "images"


def test_every_path_of_an_experiment_is_made_absolute() -> None:
    """A field whose type is `FilePath` or `DataFolder` is in `PATHS`, besides two that may also be a name or a URL."""

    def found(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, field in model.model_fields.items():
            types = [field.annotation, *get_args(field.annotation)]
            if any(kind is Path or Path in get_args(kind) for kind in types):
                yield (*above, name)
            for inner in types:
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from found(inner, (*above, name))

    assert set(found(Experiment, ())) == set(PATHS) - {("training", "teacher", "model"), ("search", "optuna_storage")}


def test_single_steps_first_do_not_apply_to_fine_tuning_and_the_anytime_loss(tmp_path: Path) -> None:
    assert load(tmp_path, "training.single_step_share=0.5").fine_tuning.single_step_share == 0
    message = one_line_error(lambda: load(tmp_path, "training.single_step_share=0.5", "training.loss=anytime"))
    assert "training.single_step_share: loss anytime" in message
