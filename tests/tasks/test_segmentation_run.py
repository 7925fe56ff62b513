"""A whole run of segmentation on a small tree: training, search, fine-tuning, export and the exported model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import yaml
from masked_trees import write_ade20k
from PIL import Image

from autospike.commands.export import export
from autospike.commands.plot import plot
from autospike.commands.search import search
from autospike.commands.train import train
from autospike.config import Experiment
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive

SPACE = {
    "family": "meta_spikeformer",
    "shortcut": "membrane",
    "time_steps": [1, 2],
    "stages": [
        {"embed_dim": 4, "embedding": {"stride": 2}, "depth": 1, "block": {"token_mixer": "none", "channel_mixer": "conv"}},
        {"embed_dim": [8, 12], "embedding": {"stride": 2}, "depth": [1, 2], "block": {"num_heads": 2, "mlp_ratio": 1}},
    ],
    "decoder": {"levels": [0, 1], "channels": [4, 6], "head_channels": [4, 6], "neuron": {"v_threshold": [0.5, 1.0]}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("segmentation")
    write_ade20k(folder / "data")
    experiment = {
        "task": "segmentation",
        "threads": 1,
        "space": SPACE,
        "data": {"name": "ade20k", "root": str(folder / "data"), "image_size": 16, "search_share": 0.25},
        "training": {
            "epochs": 2,
            "batch_size": 6,
            "warmup_epochs": 0,
            "schedule": "poly",
            "head_learning_rate": 2.0,
            "loss": "anytime",
            "augmentation": {"resize": [0.8, 1.5], "flip": 0.5, "color_jitter": 0.2, "category_max_ratio": 0.9},
        },
        "evaluation": {"calibration_images": 6, "calibration_batch_size": 6, "batch_size": 4},
        "search": {"population": 4, "generations": 2},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    started = RunDirectory.start(Experiment.load(folder / "experiment.yaml"), folder / "run")
    train(started)
    search(started)
    plot(started)
    export(started, started.export)
    return started


def test_the_archive_has_scores_from_which_the_mean_iou_follows(run: RunDirectory) -> None:
    archive = Archive.newest(run.archive)
    found, table = archive.all(), archive.table()
    archive.close()
    assert len(found) >= 4
    assert {e.measurement.architecture.time_steps for e in found} == {1, 2}
    for evaluation in found:
        measurement = evaluation.measurement
        assert measurement.score is not None and measurement.score.metric == "mean IoU"
        intersection, union = (np.array(measurement.score.details[name]) for name in ("intersection", "union"))
        assert measurement.accuracy == (intersection[union > 0] / union[union > 0]).mean()
        assert any(count.layer.startswith("decoder.") for count in measurement.counts)
        assert evaluation.energy.energy_mj > 0
    assert table["accuracy"].tolist() == [e.measurement.accuracy for e in found]


def test_the_exported_model_opens_in_one_line_and_gives_the_reported_score(run: RunDirectory) -> None:
    report = json.loads((run.export / "report.json").read_text())
    model = timm.create_model(f"local-dir:{run.export}", pretrained=True).eval()
    masks, predictions = [], []
    root = run.experiment.data.root
    assert root is not None
    for path in sorted((root / "images" / "validation").iterdir()):
        image = Image.open(path).resize((16, 13), Image.Resampling.BILINEAR)
        pixels = torch.full((3, 16, 16), 128.0)
        pixels[:, :13] = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        with torch.no_grad():
            logits = model(((pixels / 255 - 0.5) / 0.5)[None])
        assert logits.shape == (1, 3, 16, 16)
        resized = torch.nn.functional.interpolate(logits[:, :, :13], size=(16, 20), mode="bilinear", align_corners=False)
        predictions.append(resized[0].argmax(dim=0).numpy())
        masks.append(np.array(Image.open(root / "annotations" / "validation" / path.name)).astype(int) - 1)
    mask, predicted = np.stack(masks), np.stack(predictions)
    counted = mask >= 0
    ious = [
        ((mask == c) & (predicted == c) & counted).sum() / (((mask == c) | (predicted == c)) & counted).sum()
        for c in range(3)
        if (((mask == c) | (predicted == c)) & counted).any()
    ]
    assert report["test_accuracy"] == pytest.approx(np.mean(ious), abs=1e-6)
    assert {layer["layer"].split(".")[0] for layer in report["layers"]} == {"stages", "decoder"}
    assert set(report["energy_mj_by_convention"]) >= {"exact", "rate", "spikformer"}


def test_predictions_are_drawn(run: RunDirectory) -> None:
    """Eight test images of 16 x 16 pixels, each beside two masks, enlarged six times."""
    with Image.open(run.export / "predictions.png") as picture:
        assert picture.size[0] * picture.size[1] >= 8 * (16 * 6) * (48 * 6)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 3
