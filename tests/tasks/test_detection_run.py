"""A whole run of detection on a small tree: training, search, export, and the exported model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import yaml
from coco_trees import write_coco
from PIL import Image

from autospike.commands.export import export
from autospike.commands.search import search
from autospike.commands.train import train
from autospike.commands.verify import verify
from autospike.config import Experiment
from autospike.data.objects import objects_of_masks
from autospike.errors import UserError
from autospike.evaluation.setup import calibrated_subnet, fixed_batches, open_for_measurement
from autospike.evaluation.single import measure_stepwise
from autospike.randomness import keyed
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.tasks.detection import DETECTION, matched_detections
from autospike.training.setup import load_trained_supernet

SPACE = {
    "family": "meta_spikeformer",
    "shortcut": "membrane",
    "time_steps": [1, 2],
    "stages": [
        {"embed_dim": 4, "embedding": {"stride": 2}, "depth": 1, "block": {"token_mixer": "none", "channel_mixer": "conv"}},
        {"embed_dim": [8, 12], "embedding": {"stride": 2}, "depth": 1, "block": {"num_heads": 2, "mlp_ratio": 1}},
    ],
    "decoder": {
        "kind": "mask-rcnn",
        "levels": [0, 1],
        "channels": [4, 6],
        "head_channels": [8, 12],
        "anchor_scale": 4,
        "proposals": 8,
        "neuron": {"v_threshold": [0.5, 1.0]},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("detection")
    write_coco(folder / "data")
    experiment = {
        "task": "detection",
        "threads": 1,
        "space": SPACE,
        "data": {"name": "coco", "root": str(folder / "data"), "image_size": 32},
        "training": {"epochs": 2, "batch_size": 6, "warmup_epochs": 0, "augmentation": {"resize": [0.8, 1.2], "flip": 0.5}},
        "evaluation": {"calibration_images": 6, "calibration_batch_size": 6, "batch_size": 4},
        "search": {"population": 4, "generations": 2},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    started = RunDirectory.start(Experiment.load(folder / "experiment.yaml"), folder / "run")
    train(started)
    search(started)
    export(started, started.export)
    return started


def test_the_archive_has_what_each_candidate_scores_by_itself(run: RunDirectory) -> None:
    """Boxes, masks and operations of the trie evaluation are bit-identical to those of the extracted subnet."""
    archive = Archive.newest(run.archive)
    found = archive.all()
    archive.close()
    assert {e.measurement.architecture.time_steps for e in found} == {1, 2}
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
        layers = {count.layer for count in alone.counts}
        assert {"decoder.box_head.shared.0", "decoder.mask_head.upsampling", "decoder.proposal_head.conv.conv#3.conv"} <= layers


def test_the_exported_model_opens_in_one_line_and_gives_the_reported_score(run: RunDirectory) -> None:
    report = json.loads((run.export / "report.json").read_text())
    model = timm.create_model(f"local-dir:{run.export}", pretrained=True).eval()
    root = run.experiment.data.root
    assert root is not None
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    found, truth = [], []
    for image in content["images"]:
        picture = Image.open(root / "val2017" / image["file_name"]).resize((32, 26), Image.Resampling.BILINEAR)
        pixels = torch.full((3, 32, 32), 128.0)
        pixels[:, :26] = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
        with torch.no_grad():
            found += model(((pixels / 255 - 0.5) / 0.5)[None])
        objects = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        masks = np.zeros((len(objects), 24, 30), dtype=np.uint8)
        for mask, (x, y, w, h) in zip(masks, (each["bbox"] for each in objects), strict=True):
            mask[y : y + h, x : x + w] = 1
        truth.append(objects_of_masks(masks, np.array([{3: 0, 7: 1}[each["category_id"]] for each in objects])))
    score = DETECTION.quality(matched_detections([found], truth)[0]).score
    assert score is not None and report["test_accuracy"] == pytest.approx(score.value, abs=1e-6)
    assert {layer["layer"].split(".")[0] for layer in report["layers"]} == {"stages", "decoder"}
    assert set(report["energy_mj_by_convention"]) >= {"exact", "rate", "spikformer"}
    assert all(check.result == "equal" for check in verify(run.export))


def test_predictions_are_drawn(run: RunDirectory) -> None:
    with Image.open(run.export / "predictions.png") as picture:
        assert picture.size[0] * picture.size[1] >= 6 * 96 * 192
    with Image.open(run.folder / "data" / "batch.png") as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 3


def test_other_formats_are_refused_in_one_line(run: RunDirectory) -> None:
    with pytest.raises(UserError, match="a detector is written for timm only"):
        export(run, run.export, formats=["onnx"])


def test_training_mode_needs_targets(run: RunDirectory) -> None:
    model = timm.create_model(f"local-dir:{run.export}", pretrained=True).train()
    with pytest.raises(ValueError, match="needs targets"):
        model(torch.zeros(1, 3, 32, 32))
