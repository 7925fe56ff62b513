"""`autospike firing`: how a model fires: rates by layer and time step, silent and saturated neurons, attention maps of a sample."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from autospike import files
from autospike.console import note, table, working
from autospike.counting.activity import Activity, LayerActivity
from autospike.data.batches import FixedBatches
from autospike.data.partition import SplitName
from autospike.data.source import open_images
from autospike.errors import UserError
from autospike.model_folder import ExportedModel, read_model
from autospike.randomness import keyed
from autospike.report import figures, firing_figures

SAMPLES = 4  # images whose attention is drawn


def firing(model: Path, data: str | None, *, split: SplitName = "search", images: int = 256, out: Path | None = None) -> None:
    """Measure and write the activity of a model.

    Args:
        model: An exported or imported folder, or a run, which stands for its export.
        data: A source of images; the run of the export unless given.
        split: The split.
        images: Number of images, drawn at random.
        out: The folder to write to; MODEL/firing unless given.

    Raises:
        UserError: There is no such model or data, or a file cannot be written.
    """
    folder = model / "export" if (model / "export" / "architecture.json").exists() else model
    exported, target = read_model(folder), out or folder / "firing"
    decoder = exported.model.architecture.decoder
    if decoder is not None and decoder.kind == "mask-rcnn":
        raise UserError(f"{folder}: firing has no tables of detectors, whose images have different numbers of regions")
    source = data or _run_of(folder)
    files.check_writable(target, "--out")
    batches = _batches(exported, source, split, images)
    activity = Activity()
    with working(f"run {images} images through {folder}"), torch.no_grad(), activity.watch(exported.model):
        for batch in batches(64):
            exported.model(batch.images)
    sample = next(iter(batches(SAMPLES))).images
    shown = Activity()
    with torch.no_grad(), shown.watch(exported.model):
        exported.model(sample)
    by_layer = layers_table(activity)
    rates = {name: layer.rates for name, layer in activity.layers.items()}
    with files.replacing_all(target) as temporary:
        files.write_text(temporary / "layers.csv", by_layer.to_csv(index=False))
        files.write_text(temporary / "neurons.csv", neurons_table(activity).to_csv(index=False))
        figures.save(firing_figures.rates(rates, title=f"{folder}: firing rates"), temporary / "rates.png")
        if shown.attention:
            pictures = sample if sample.dim() == 4 else sample.mean(dim=0)
            maps = {name: attention.numpy() for name, attention in shown.attention.items()}
            drawn = firing_figures.attention(pictures.mean(dim=1).numpy(), maps, title=f"{folder}: attention")
            figures.save(drawn, temporary / "attention.png")
    _show(by_layer, folder, target)


def _run_of(folder: Path) -> str:
    """The run beside an export."""
    if not (folder.resolve().parent / "experiment.yaml").exists():
        raise UserError(f"{folder}: the run that made it is not beside it; give the data: --data FOLDER, EXPERIMENT or digits")
    return str(folder.resolve().parent)


def _batches(exported: ExportedModel, source: str, split: SplitName, count: int) -> FixedBatches:
    spec = exported.input_spec
    images = open_images(source, image_size=spec.image_size)
    channels = images.channels if images.time_steps is not None else spec.channels
    if channels != spec.channels:
        raise UserError(f"--data {source}: {channels} channels, but the model takes {spec.channels}; give data that fit")
    images.check_time_steps(exported.model.architecture.time_steps)
    sample = images.splits[split].sample(min(count, len(images.splits[split])), keyed(0, "firing"))
    return FixedBatches(split=sample, channels=spec.channels, image_size=spec.image_size, preparation=spec.preparation)


def layers_table(activity: Activity) -> pd.DataFrame:
    """Return one row for each LIF layer: neurons, firing rate over all steps and at each, silent and saturated neurons.

    Args:
        activity: The activity.
    """
    rows = []
    for name, layer in activity.layers.items():
        rates = layer.rates
        row = {
            "layer": name,
            "neurons": layer.spikes_by_neuron.numel(),
            "rate": sum(rates) / len(rates),
            "silent": int(layer.silent.sum()),
            "saturated": int(layer.saturated.sum()),
        }
        rows.append({**row, **{f"rate_t{t}": rate for t, rate in enumerate(rates, 1)}})
    return pd.DataFrame(rows)


def neurons_table(activity: Activity) -> pd.DataFrame:
    """Return one row for each channel whose neurons are silent, or saturated, at every position.

    Args:
        activity: The activity.
    """
    rows = [
        {"layer": name, "channel": channel, "state": state}
        for name, layer in activity.layers.items()
        for state in ("silent", "saturated")
        for channel in _channels(layer, state)
    ]
    return pd.DataFrame(rows, columns=["layer", "channel", "state"])


def _channels(layer: LayerActivity, state: str) -> list[int]:
    """Channels all of whose neurons are in a state."""
    flags = layer.silent if state == "silent" else layer.saturated
    found: list[int] = flags.reshape(-1, flags.shape[-1]).all(dim=0).nonzero().flatten().tolist()
    return found


def _show(by_layer: pd.DataFrame, folder: Path, target: Path) -> None:
    rows = [
        [row["layer"], f"{row['neurons']:,}", f"{row['rate']:.4f}", f"{row['silent']:,}", f"{row['saturated']:,}"]
        for row in by_layer.to_dict("records")
    ]
    caption = "silent: never fired; saturated: fired at every step of every image; channels are named in neurons.csv"
    table(f"{folder}: firing", ["layer", "neurons", "rate", "silent", "saturated"], rows, caption)
    note(f"firing: see {target}")
