"""Each family from its experiment to an export that timm opens; initial weights and teachers from other models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from cli_runner import autospike
from safetensors.torch import load_file, save_file
from torch import Tensor

from autospike.config import TeacherConfig
from autospike.errors import UserError
from autospike.files import read_json
from autospike.model_folder import InputSpec, write_model
from autospike.models import build_model
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.distillation import load_teacher

ROOT = Path(__file__).parents[2]

SHORT_SETTINGS = (
    "training.epochs=1",
    "training.warmup_epochs=0",
    "training.batch_size=256",
    "evaluation.calibration_images=32",
    "search.population=4",
    "search.generations=1",
)


def short_settings(*more: str) -> list[str]:
    return [part for override in (*SHORT_SETTINGS, *more) for part in ("--set", override)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("digits_meta_spikeformer", marks=pytest.mark.slow),
        pytest.param("digits_spike_driven", marks=pytest.mark.slow),
        pytest.param("digits_qkformer", marks=pytest.mark.slow),
        pytest.param("digits_e_spikeformer", marks=pytest.mark.slow),
        pytest.param("digits_max_former", marks=pytest.mark.slow),
    ],
)
def test_the_digits_experiment_of_a_family_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "run", ROOT / "experiments" / f"{name}.yaml", "--run", tmp_path, *short_settings())
    assert (outcome.code, outcome.err) == (0, "")
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}").eval()
    report = read_json(tmp_path / "export" / "report.json")
    assert report["architecture"] == model.architecture.to_dict()
    assert report["energy_mj"] > 0
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_a_mixed_space_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Convolutional and attention stages with a different mixer in each block; narrow, so that the test is fast."""
    space = yaml.safe_load((ROOT / "search_spaces" / "mixed_32.yaml").read_text())
    for stage in space["stages"]:
        stage["embed_dim"] = 8
    experiment = yaml.safe_load((ROOT / "experiments" / "digits.yaml").read_text()) | {"space": space}
    path = tmp_path / "mixed.yaml"
    path.write_text(yaml.safe_dump(experiment))
    outcome = autospike(capsys, "run", path, "--run", tmp_path / "run", *short_settings())
    assert (outcome.code, outcome.err) == (0, "")
    assert len(read_json(tmp_path / "run" / "export" / "architecture.json")["stages"]) == 4


def checkpoint(vectors: Path, name: str, tmp_path: Path) -> Path:
    stored = np.load(vectors / f"{name}.npz", allow_pickle=False)
    state = {key.removeprefix("sd/"): torch.from_numpy(stored[key]) for key in stored.files if key.startswith("sd/")}
    path = tmp_path / f"{name}.pth"
    torch.save({"state_dict": state, "epoch": 300}, path)
    return path


def test_an_imported_checkpoint_gives_the_published_logits(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = checkpoint(vectors, "sdt2_short_2p1", tmp_path)
    outcome = autospike(capsys, "import", published, "--out", tmp_path / "imported", "--time-steps", 2)
    assert (outcome.code, outcome.err) == (0, "")
    model = timm.create_model(f"local-dir:{tmp_path / 'imported'}").eval()
    stored = np.load(vectors / "sdt2_short_2p1.npz", allow_pickle=False)
    with torch.no_grad():
        logits = model(torch.from_numpy(stored["input"])).numpy()
    np.testing.assert_allclose(logits, stored["out_T2"], rtol=1e-5, atol=1e-5)
    assert model.pretrained_cfg["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("written", "said"),
    [(b"no weights at all", "cannot be read safely"), (None, "no such file")],
)
def test_importing_an_invalid_checkpoint_writes_nothing(
    written: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    if written is not None:
        path.write_bytes(written)
    outcome = autospike(capsys, "import", path, "--out", tmp_path / "imported")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert any(part in outcome.err for part in said.split("|"))
    assert not (tmp_path / "imported").exists()


def test_import_does_not_write_to_a_folder_with_other_files(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = checkpoint(vectors, "sdt2_short_2p1", tmp_path)
    outcome = autospike(capsys, "import", published, "--out", tmp_path)
    assert (outcome.code, "holds something other than an imported model" in outcome.err) == (2, True)


def meta(width: int, *, classes: int = 3, distilled: bool = False) -> Architecture:
    del classes
    conv, attention = Block(token_mixer="sepconv", channel_mixer="conv"), Block(num_heads=2, qkv="repconv")
    stages = (
        Stage(embed_dim=width, blocks=(conv,)),
        Stage(embed_dim=2 * width, embedding=Embedding(stride=2), blocks=(attention,)),
    )
    return Architecture(family="meta_spikeformer", shortcut="membrane", distilled=distilled, stages=stages)


@pytest.mark.parametrize("width", [4, 8, 16])
def test_a_supernet_copies_the_shared_corner_of_other_weights(width: int) -> None:
    source = build_model(meta(8), num_classes=3, in_chans=1)
    supernet = Supernet(SearchSpace.of(meta(width)), num_classes=3, in_chans=1)
    parameters = {name: p.detach() for name, p in source.named_parameters()}
    supernet.copy_from(parameters)
    for name, copied_model in supernet.shared.named_parameters():
        common = tuple(slice(min(sizes)) for sizes in zip(copied_model.shape, parameters[name].shape, strict=True))
        assert torch.equal(copied_model[common], parameters[name][common])


@pytest.mark.slow
def test_training_starts_from_an_export_with_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The learning rate is 0, so the first checkpoint holds the initial weights."""
    source = build_model(meta(8), num_classes=3, in_chans=1)
    write_model(tmp_path / "source", source, meta(8), classes=("a", "b", "c"), input_spec=InputSpec.of_training(1, 8))
    experiment = yaml.safe_load((ROOT / "experiments" / "digits_meta_spikeformer.yaml").read_text())
    space = yaml.safe_load((ROOT / "search_spaces" / "meta_spikeformer_digits.yaml").read_text())
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({**experiment, "space": space}))
    still = short_settings("training.learning_rate=1.0e-30", "training.min_learning_rate=0", "training.weight_decay=0")
    outcome = autospike(capsys, "train", path, "--run", tmp_path / "run", "--from", tmp_path / "source", *still)
    assert (outcome.code, outcome.err) == (0, "")
    assert "starts from" in outcome.out
    record = read_json(tmp_path / "run" / "supernet" / "checkpoint.json")
    trained = load_file(tmp_path / "run" / "supernet" / record["file"])
    given = dict(source.named_parameters())
    name = "stages.0.blocks.0.channel.mixer.conv1.conv.weight"
    assert torch.equal(trained[f"model.shared.{name}"][:16, :8], given[name][:16])
    assert trained["model.shared.head.weight"].shape[0] == 10


def test_starting_from_another_family_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = build_model(meta(8), num_classes=3, in_chans=1)
    write_model(tmp_path / "source", source, meta(8), classes=("a", "b", "c"), input_spec=InputSpec.of_training(1, 8))
    experiment = ROOT / "experiments" / "digits.yaml"
    outcome = autospike(capsys, "train", experiment, "--run", tmp_path / "run", "--from", tmp_path / "source", *short_settings())
    assert outcome.code == 2
    assert "contains a network of the meta_spikeformer family, but the search space is of the spikformer family" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("source", ["missing", "empty"])
def test_starting_from_a_path_without_a_network_is_an_error(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    experiment = ROOT / "experiments" / "digits.yaml"
    outcome = autospike(capsys, "train", experiment, "--run", tmp_path / "run", "--from", tmp_path / source, *short_settings())
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert str(tmp_path / source) in outcome.err


def test_a_distilled_supernet_returns_the_logits_of_both_heads() -> None:
    supernet = Supernet(SearchSpace.of(meta(8, distilled=True)), num_classes=3, in_chans=1)
    torch.nn.init.ones_(supernet.shared.get_parameter("head_dist.bias"))  # new networks have no spikes before the head
    ((first, second),) = supernet(torch.rand(4, 1, 8, 8), [meta(8, distilled=True)])
    torch.testing.assert_close(second - first, torch.ones(4, 3))


def saved_teacher(tmp_path: Path) -> tuple[TeacherConfig, Tensor]:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10).eval()
    save_file(model.state_dict(), tmp_path / "teacher.safetensors")
    pixels = torch.rand(4, 3, 32, 32)
    mean, std = (torch.tensor(model.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        labels = model((pixels - mean) / std).argmax(dim=1)
    config = TeacherConfig(model="resnet10t", weights=tmp_path / "teacher.safetensors")
    teacher = load_teacher(config, num_classes=10, image_size=32, device=torch.device("cpu"))
    assert torch.equal(teacher(pixels * 2 - 1), labels)  # images are normalised by 0.5, 0.5; the teacher has another normalisation
    return config, labels


def test_a_teacher_gets_images_with_its_own_normalisation(tmp_path: Path) -> None:
    _, labels = saved_teacher(tmp_path)
    assert labels.shape == (4,)


def test_a_teacher_of_other_classes_is_an_error(tmp_path: Path) -> None:
    saved_teacher(tmp_path)
    config = TeacherConfig(model="resnet10t", weights=tmp_path / "teacher.safetensors")
    with pytest.raises(UserError, match="size mismatch for fc"):
        load_teacher(config, num_classes=3, image_size=32, device=torch.device("cpu"))


def test_an_exported_teacher_of_other_classes_is_an_error(tmp_path: Path) -> None:
    """A model that timm would load with a random head."""
    architecture = replace(meta(8), stages=meta(8).stages[:1])
    model = build_model(architecture, num_classes=3, in_chans=3)
    write_model(tmp_path, model, architecture, classes=("a", "b", "c"), input_spec=InputSpec.of_training(3, 8))
    with pytest.raises(UserError, match="has 3 classes, the data have 10"):
        load_teacher(TeacherConfig(model=f"local-dir:{tmp_path}"), num_classes=10, image_size=8, device=torch.device("cpu"))


def test_import_does_not_overwrite_an_export(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report would be that of another network."""
    published = checkpoint(vectors, "sdt2_short_2p1", tmp_path)
    out = tmp_path / "export"
    write_model(
        out,
        build_model(meta(8), num_classes=3, in_chans=1),
        meta(8),
        classes=("a", "b", "c"),
        input_spec=InputSpec.of_training(1, 8),
    )
    (out / "report.json").write_text("{}")
    outcome = autospike(capsys, "import", published, "--out", out)
    assert outcome.code == 2
    assert read_json(out / "architecture.json") == meta(8).to_dict()


@pytest.mark.slow
def test_a_new_run_starts_both_networks_from_those_of_the_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference network is trained separately."""
    experiment = ROOT / "experiments" / "digits_spike_driven.yaml"
    autospike(capsys, "train", experiment, "--run", tmp_path / "one", *short_settings())
    still = short_settings("training.learning_rate=1.0e-30", "training.min_learning_rate=0", "training.weight_decay=0")
    outcome = autospike(capsys, "train", experiment, "--run", tmp_path / "two", "--from", tmp_path / "one", *still)
    assert (outcome.code, outcome.err) == (0, "")
    for part in ("supernet", "baseline"):
        one, two = (weights(tmp_path / run / part) for run in ("one", "two"))
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items() if name.startswith("model."))
    assert autospike(capsys, "train", experiment, "--run", tmp_path / "two", *still).code == 0  # the source is part of the run


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / read_json(folder / "checkpoint.json")["file"])


@pytest.mark.parametrize("config", [{"model": "no_such_network"}, {"model": "resnet10t", "weights": "missing.safetensors"}])
def test_a_teacher_that_cannot_be_opened_is_an_error(config: dict[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        load_teacher(TeacherConfig.model_validate(config), num_classes=10, image_size=32, device=torch.device("cpu"))
    assert len(str(caught.value).splitlines()) == 1
