"""Whole runs of segmentation and detection on small trees: training, search, export, and what follows from an export."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from cli_runner import autospike
from coco_trees import write_coco
from masked_trees import write_ade20k
from PIL import Image
from safetensors.torch import load_file
from slow_parameters import slow_except
from torch import Tensor, nn

from autospike.commands.export import export
from autospike.commands.pack import pack
from autospike.commands.plot import SearchReport, plot
from autospike.commands.search import search
from autospike.commands.train import train
from autospike.commands.verify import verify
from autospike.config import Experiment
from autospike.data.objects import objects_of_masks
from autospike.errors import UserError
from autospike.evaluation.setup import calibrated_subnet, fixed_batches, open_for_measurement
from autospike.evaluation.single import measure_stepwise
from autospike.events import Event, StepEvent
from autospike.exporting.formats import FORMATS
from autospike.model_folder import InputSpec, write_model
from autospike.models.registry import build_model
from autospike.randomness import keyed
from autospike.report import comparison, figures
from autospike.report.html.data import page_data
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.tasks.detection import DETECTION, matched_detections
from autospike.training.setup import load_trained_supernet

BACKBONE = {
    "family": "meta_spikeformer",
    "shortcut": "membrane",
    "time_steps": [1, 2],
    "stages": [
        {"embed_dim": 4, "embedding": {"stride": 2}, "depth": 1, "block": {"token_mixer": "none", "channel_mixer": "conv"}},
        {"embed_dim": [8, 12], "embedding": {"stride": 2}, "depth": 1, "block": {"num_heads": 2, "mlp_ratio": 1}},
    ],
}
WIDTHS = {"levels": [0, 1], "channels": [4, 6], "neuron": {"v_threshold": [0.5, 1.0]}}


def prepared(path: Path, side: int, height: int) -> Tensor:
    """An image as the network reads it: resized to `height` rows, padded to a square with grey, and normalised."""
    picture = Image.open(path).resize((side, height), Image.Resampling.BILINEAR)
    pixels = torch.full((3, side, side), 128.0)
    pixels[:, :height] = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
    return ((pixels / 255 - 0.5) / 0.5)[None]


def mean_iou_by_hand(root: Path, model: nn.Module) -> float:
    masks, predictions = [], []
    for path in sorted((root / "images" / "validation").iterdir()):
        logits = model(prepared(path, 16, 13))
        assert logits.shape == (1, 3, 16, 16)
        resized = nn.functional.interpolate(logits[:, :, :13], size=(16, 20), mode="bilinear", align_corners=False)
        predictions.append(resized[0].argmax(dim=0).numpy())
        masks.append(np.array(Image.open(root / "annotations" / "validation" / path.name)).astype(int) - 1)
    mask, predicted = np.stack(masks), np.stack(predictions)
    both = [((mask == c) & (predicted == c)).sum() for c in range(3)]
    either = [(((mask == c) | (predicted == c)) & (mask >= 0)).sum() for c in range(3)]
    return float(np.mean([b / e for b, e in zip(both, either, strict=True) if e]))


def average_precision_of_export(root: Path, model: nn.Module) -> float:
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    found, truth = [], []
    for image in content["images"]:
        found += model(prepared(root / "val2017" / image["file_name"], 32, 26))
        objects = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        masks = np.zeros((len(objects), 24, 30), dtype=np.uint8)
        for mask, (x, y, w, h) in zip(masks, (each["bbox"] for each in objects), strict=True):
            mask[y : y + h, x : x + w] = 1
        truth.append(objects_of_masks(masks, np.array([{3: 0, 7: 1}[each["category_id"]] for each in objects])))
    score = DETECTION.quality(matched_detections([found], truth)[0]).score
    assert score is not None
    return score.value


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task with a small experiment.

    Attributes:
        metric: Name of its metric.
        write: Writes its data.
        experiment: The experiment, without the folder of the data.
        score: Computes the metric of a model on the test images, from the files.
        formats: The formats besides timm in which its networks can be written.
        layers: Some layers of the decoder that are counted.
    """

    metric: str
    write: Callable[[Path], None]
    experiment: dict[str, Any]
    score: Callable[[Path, nn.Module], float]
    formats: tuple[str, ...]
    layers: tuple[str, ...]

    def load(self, folder: Path, **training: Any) -> Experiment:
        """The experiment on the data in a folder, with other settings of the training."""
        data, settings = {**self.experiment["data"], "root": str(folder / "data")}, {**self.experiment["training"], **training}
        return Experiment.from_dict({**self.experiment, "data": data, "training": settings})


SHARED: dict[str, Any] = {
    "threads": 1,
    "evaluation": {"calibration_images": 6, "calibration_batch_size": 6, "batch_size": 4},
    "search": {"population": 4, "generations": 2},
}
TRAINING = {"epochs": 2, "batch_size": 6, "warmup_epochs": 0, "checkpoint_epochs": 1}
CASES = {
    "segmentation": Case(
        metric="mean IoU",
        write=write_ade20k,
        experiment={
            **SHARED,
            "task": "segmentation",
            "space": {**BACKBONE, "decoder": {**WIDTHS, "head_channels": [4, 6]}},
            "data": {"name": "ade20k", "image_size": 16, "search_share": 0.25},
            "training": {
                **TRAINING,
                "schedule": "poly",
                "head_learning_rate": 2.0,
                "loss": "anytime",
                "augmentation": {"resize": [0.8, 1.5], "flip": 0.5, "color_jitter": 0.2, "category_max_ratio": 0.9},
            },
        },
        score=mean_iou_by_hand,
        formats=("pt2", "onnx"),
        layers=("decoder.neck.laterals.0.conv.conv",),
    ),
    "detection": Case(
        metric="box AP",
        write=write_coco,
        experiment={
            **SHARED,
            "task": "detection",
            "space": {
                **BACKBONE,
                "decoder": {**WIDTHS, "kind": "mask-rcnn", "head_channels": [8, 12], "anchor_scale": 4, "proposals": 8},
            },
            "data": {"name": "coco", "image_size": 32},
            "training": {**TRAINING, "augmentation": {"resize": [0.8, 1.2], "flip": 0.5}},
        },
        score=average_precision_of_export,
        formats=(),
        layers=("decoder.box_head.shared.0", "decoder.mask_head.upsampling", "decoder.proposal_head.conv.conv#3.conv"),
    ),
}


class KilledError(Exception):
    """Ends a training at a step as a kill would."""


def train_recording(run: RunDirectory) -> list[float]:
    """Train, and return the losses of all steps."""
    found: list[float] = []

    def record(event: Event) -> None:
        if isinstance(event, StepEvent):
            found.append(event.loss)

    train(run, callbacks=[record])
    return found


@pytest.fixture(scope="module", params=slow_except(["segmentation"], CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    case.write(folder / "data")
    return folder


@pytest.fixture(scope="module")
def losses(case: Case, folder: Path) -> list[float]:
    """The losses of the run, of all steps of both networks."""
    return train_recording(RunDirectory.start(case.load(folder), folder / "run"))


@pytest.fixture(scope="module")
def run(folder: Path, losses: list[float]) -> RunDirectory:
    del losses  # it has trained the networks
    started = RunDirectory.resume(folder / "run")
    search(started)
    export(started, started.export)
    plot(started)
    return started


def trained(run: RunDirectory, network: str) -> dict[str, Tensor]:
    record = json.loads((run.folder / network / "checkpoint.json").read_text())
    return load_file(run.folder / network / record["file"])


def report_of(run: RunDirectory) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run.export / "report.json").read_text())
    return report


def test_the_archive_has_what_each_candidate_scores_by_itself(run: RunDirectory, case: Case) -> None:
    """Scores and operations of the trie evaluation are bit-identical to those of the extracted subnet."""
    archive = Archive.newest(run.archive)
    found, table = archive.all(), archive.table()
    archive.close()
    assert {e.measurement.architecture.time_steps for e in found} == {1, 2}
    assert table["accuracy"].tolist() == [e.measurement.accuracy for e in found]
    setup = open_for_measurement(run)
    supernet = load_trained_supernet(setup, run.experiment.search_space, run.supernet)
    search_split = setup.images.splits["search"]  # shuffled as in the search: of equal scores, earlier images come first
    split = search_split.sample(len(search_split), keyed(run.experiment.seed, "order of the search split"))
    for evaluation in found[:4]:
        architecture = evaluation.measurement.architecture
        model = calibrated_subnet(setup, supernet, architecture)
        alone = measure_stepwise(model, fixed_batches(setup, split), batch_size=4).at(architecture.time_steps)
        assert alone.counts == evaluation.measurement.counts
        assert alone.score is not None and evaluation.measurement.score is not None
        assert alone.score.details == evaluation.measurement.score.details
        assert alone.metric == evaluation.measurement.metric == case.metric
        assert {count.layer for count in alone.counts} >= set(case.layers)


def test_the_mean_iou_follows_from_the_archived_intersections_and_unions(run: RunDirectory, case: Case) -> None:
    if case.metric != "mean IoU":
        pytest.skip("only of segmentation")
    archive = Archive.newest(run.archive)
    for evaluation in archive.all():
        score = evaluation.measurement.score
        assert score is not None
        intersection, union = (np.array(score.details[name]) for name in ("intersection", "union"))
        assert score.value == (intersection[union > 0] / union[union > 0]).mean()
    archive.close()


def test_the_exported_model_opens_in_one_line_and_gives_the_reported_score(run: RunDirectory, case: Case) -> None:
    model = timm.create_model(f"local-dir:{run.export}", pretrained=True).eval()
    root = run.experiment.data.root
    assert root is not None
    with torch.no_grad():
        expected = case.score(root, model)
    assert report_of(run)["test_accuracy"] == pytest.approx(expected, abs=1e-6)


def test_the_energy_is_that_of_the_whole_network(run: RunDirectory, case: Case) -> None:
    report = report_of(run)
    assert {layer["layer"].split(".")[0] for layer in report["layers"]} == {"stages", "decoder"}
    assert set(report["energy_mj_by_convention"]) >= {"exact", "rate", "spikformer"}
    energies = [layer["energy_mj"] for layer in report["layers"] if "energy_mj" in layer]
    assert not energies or sum(energies) == pytest.approx(report["energy_mj"])
    assert {layer["layer"] for layer in report["layers"]} >= set(case.layers)


def test_verify_and_pack(run: RunDirectory, tmp_path: Path, case: Case) -> None:
    checks = {check.what: check.result for check in verify(run.export)}
    assert set(checks.values()) == {"equal"}
    assert case.metric in checks and "accuracy" not in checks
    with zipfile.ZipFile(pack(run, tmp_path / "run.zip")) as archive:
        assert {"archive.sqlite", "export/model.safetensors", "export/predictions.png"} <= set(archive.namelist())


def test_the_metric_has_its_name_in_tables_figures_and_page(run: RunDirectory, case: Case) -> None:
    assert comparison.columns(report_of(run))[1] == f"test {case.metric} (95 %)"
    assert f"| candidate | {case.metric} (%) |" in (run.report / "front.md").read_text()
    assert "jackknife intervals" in (run.report / "front.md").read_text()
    assert f"candidate & {case.metric} (\\%) &" in (run.report / "front.tex").read_text()
    page = page_data(run)
    assert page["metric"] == case.metric
    archive = Archive.newest(run.archive)
    measured = {e.measurement.architecture.id: e.measurement for e in archive.all()}
    archive.close()
    for name, value, interval in zip(*(page["candidates"][key] for key in ("id", "accuracy", "interval")), strict=True):
        assert (value, tuple(interval)) == (measured[name].accuracy, measured[name].accuracy_interval)
    shown = SearchReport.of(run, run.experiment.search.energy_convention)
    figure = figures.pareto(shown.candidates, shown.curves, title="", convention="exact", objectives=shown.objectives)
    assert figure.axes[0].get_ylabel() == f"{case.metric} on the search split"


def test_early_exit_is_refused_in_one_line(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "early-exit", run.export)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "classifiers only" in outcome.err


def test_predictions_are_drawn(run: RunDirectory) -> None:
    """Each test image is beside its targets and predictions, enlarged to a height of 96 pixels."""
    images = len(open_for_measurement(run).images.splits["test"])
    with Image.open(run.export / "predictions.png") as picture:
        assert picture.size[0] * picture.size[1] >= images * 96 * 192
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 3
    with Image.open(run.folder / "data" / "batch.png") as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 3


def test_formats_that_cannot_express_a_network_are_refused_in_one_line(run: RunDirectory, case: Case) -> None:
    for name in FORMATS.keys() - set(case.formats):
        refused = (
            "a detector is written for timm only" if case.metric == "box AP" else "writes classifiers only; choose pt2 or onnx"
        )
        with pytest.raises(UserError, match=refused):
            export(run, run.export, formats=[name])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["segmentation"], indirect=True)
def test_formats_compute_the_classes_of_pixels(run: RunDirectory, case: Case, tmp_path: Path) -> None:
    """Each was read again and compared with the model on images of the search split."""
    export(run, tmp_path / "export", formats=case.formats)
    formats = json.loads((tmp_path / "export" / "export.json").read_text())["formats"]
    assert set(formats) == set(case.formats)
    assert all(entry["comparison"]["images"] == 6 and entry["comparison"]["moved"] == 0 for entry in formats.values())


def test_a_killed_training_resumes_bit_identically(
    run: RunDirectory, losses: list[float], case: Case, folder: Path, tmp_path: Path
) -> None:
    """Killed in the second epoch of the reference network, then in the second of the supernet."""
    per_epoch = len(losses) // 4
    killed_at: dict[str, int] = {}

    def kill(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step > per_epoch and event.network not in killed_at:
            killed_at[event.network] = event.step
            raise KilledError

    killed = RunDirectory.start(case.load(folder), tmp_path / "run")
    for _ in range(2):
        with pytest.raises(KilledError):
            train(killed, callbacks=[kill])
    train(killed)
    assert set(killed_at.values()) == {per_epoch + 1}
    assert len(killed_at) == 2
    for network in ("baseline", "supernet"):
        expected, found = trained(run, network), trained(killed, network)
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_training_starts_from_a_classification_backbone(case: Case, folder: Path, tmp_path: Path) -> None:
    """With a learning rate of almost 0, the stages of the trained networks are those of the classifier."""
    experiment = case.load(folder)
    classifier = replace(experiment.search_space.largest(), decoder=None)
    source = build_model(classifier, num_classes=5, in_chans=3)
    write_model(tmp_path / "source", source, classifier, classes=tuple("abcde"), input_spec=InputSpec.of_training(3, 32))
    still = {"epochs": 1, "learning_rate": 1e-30, "min_learning_rate": 0, "weight_decay": 0}
    started = RunDirectory.start(case.load(folder, start_from=str(tmp_path / "source"), **still), tmp_path / "run")
    train(started)
    given = {name: p.detach() for name, p in source.named_parameters() if name.startswith("stages.")}
    for network in ("baseline", "supernet"):
        found = trained(started, network)
        for name, tensor in given.items():
            torch.testing.assert_close(found[f"model.shared.{name}"], tensor, rtol=0, atol=1e-20)
        assert any(name.startswith("model.shared.decoder.") for name in found)


@pytest.mark.slow
def test_bfloat16_gives_a_similar_loss_and_float32_parameters(
    losses: list[float], case: Case, folder: Path, tmp_path: Path
) -> None:
    reduced = RunDirectory.start(case.load(folder, precision="bfloat16"), tmp_path / "run")
    found = train_recording(reduced)
    assert found[0] != losses[0]
    assert found[0] == pytest.approx(losses[0], rel=0.05)
    assert np.mean(found) == pytest.approx(np.mean(losses), rel=0.1)  # single steps of a detector sample other regions
    assert {t.dtype for name, t in trained(reduced, "supernet").items() if name.startswith("model.")} == {torch.float32}


@pytest.mark.slow
def test_two_ranks_train_it(case: Case, folder: Path, tmp_path: Path) -> None:
    """The loss of the first step is that of one process, up to the pixels or the sampled regions by which each rank divides."""
    experiment = case.load(folder, epochs=1, batch_size=12)
    path, python = tmp_path / "experiment.yaml", [sys.executable, "-m"]
    path.write_text(experiment.to_yaml())
    torchrun = [*python, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    subprocess.run(
        [*torchrun, "autospike", "train", str(path), "--run", str(tmp_path / "run")], check=True, capture_output=True, timeout=300
    )
    together = RunDirectory.resume(tmp_path / "run")
    expected = train_recording(RunDirectory.start(experiment, tmp_path / "alone"))
    events = map(json.loads, (together.folder / "log.jsonl").read_text().splitlines())
    found = [event["loss"] for event in events if event["event"] == "train"]
    assert len(expected) == len(found) == 2  # one step of each network
    assert found == pytest.approx(expected, rel=0.1)
    assert all(tensor.isfinite().all() for tensor in trained(together, "supernet").values() if tensor.is_floating_point())


def test_training_mode_of_a_detector_needs_targets(run: RunDirectory, case: Case) -> None:
    if case.metric != "box AP":
        pytest.skip("only of detection")
    model = timm.create_model(f"local-dir:{run.export}", pretrained=True).train()
    with pytest.raises(ValueError, match="needs targets"):
        model(torch.zeros(1, 3, 32, 32))
