"""The model card of an export: `README.md`, with the metadata that Hugging Face reads in its header."""

from __future__ import annotations

import json
from typing import Any

import yaml

from autospike.energy.conventions import UJ_PER_MJ, convention_of
from autospike.report.comparison import against_reference, metric, points

FAMILY_NAMES = {
    "spikformer": "Spikformer",
    "spike_driven": "Spike-driven Transformer",
    "meta_spikeformer": "Meta-SpikeFormer",
    "qkformer": "QKFormer",
}
# Tasks other than classification, as Hugging Face calls them.
PIPELINES = {"segmentation": "image-segmentation", "detection": "object-detection"}


def model_card(report: dict[str, Any], *, data: str, version: str, formats: dict[str, Any], variants: dict[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        report: The content of `report.json`.
        data: The data as a reader knows them, such as the name of the data set.
        version: Version of this package.
        formats: The other formats of the export, as in `export.json`.
        variants: Measurements of the variants of the model, as in `export.json`.
    """
    architecture = report["architecture"]
    family = FAMILY_NAMES.get(architecture.get("family", "spikformer"), architecture.get("family", "spikformer"))
    parts = [
        _header(report, data),
        f"# A spiking {family} with T = {report['time_steps']}, found by architecture search\n",
        _summary(report, family, data),
        f"## {metric(report).capitalize() if metric(report) == 'accuracy' else metric(report)}\n\n" + _accuracy(report),
        "## Energy\n\n" + _energy(report),
        "## How it was found\n\n" + _search(report, version),
        "## How to load it\n\n" + _loading(report, formats),
        *(["## Variants\n\n" + _variants(variants, report)] if variants else []),
        "## Architecture\n\n" + _architecture(architecture),
    ]
    return "\n".join(parts)


def _task(report: dict[str, Any]) -> str:
    if "score" not in report:
        return "classification"
    return "detection" if report["architecture"].get("decoder", {}).get("kind") == "mask-rcnn" else "segmentation"


def _header(report: dict[str, Any], data: str) -> str:
    """YAML metadata; see the documentation of model cards on Hugging Face."""
    classifies = "score" not in report
    name = "Top-1 accuracy" if classifies else metric(report)
    kind = "accuracy" if classifies else metric(report).replace(" ", "_").lower()
    measured = {"type": kind, "value": round(report["test_accuracy"], 4), "name": f"{name} on the test split"}
    task = "image-classification" if classifies else PIPELINES[_task(report)]
    result = {"task": {"type": task}, "dataset": {"name": data, "type": "custom"}, "metrics": [measured]}
    values = {
        "library_name": "timm",
        "pipeline_tag": task,
        "tags": [task, "timm", "spiking-neural-network", "neural-architecture-search", "autospike"],
        "model-index": [{"name": f"autospike-{report['architecture_id']}", "results": [result]}],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"


def _summary(report: dict[str, Any], family: str, data: str) -> str:
    task = _task(report)
    return (
        f"A spiking vision transformer of the {family} family for image {task} on {data}. It has {report['params']:,} parameters "
        f"and runs for T = {report['time_steps']} time steps. All neurons are leaky integrate-and-fire neurons; the weights are "
        f"{report.get('weights', 'inherited')}"
        f"{' from the supernet' if report.get('weights', 'inherited') == 'inherited' else ''}. Id of the architecture: "
        f"`{report['architecture_id']}`.\n"
    )


def _accuracy(report: dict[str, Any]) -> str:
    low, high = report["test_accuracy_interval"]
    lines = [
        f"| network | {metric(report)} on the test split | 95 % interval | images |",
        "|---|---|---|---|",
        f"| this model | {report['test_accuracy']:.4f} | {low:.4f} to {high:.4f} | {report['test_images']} |",
    ]
    reference = report.get("baseline")
    if reference:
        low, high = reference["test_accuracy_interval"]
        lines.append(
            f"| reference network | {reference['test_accuracy']:.4f} | {low:.4f} to {high:.4f} | {reference['test_images']} |"
        )
        lines += ["", f"Against the reference network, on the same images: {points(against_reference(report))}."]
    lines += ["", "The test split was opened for this measurement only; the search read a split held out of the training data."]
    return "\n".join(lines) + "\n"


def _energy(report: dict[str, Any]) -> str:
    lines = [
        "Estimated from the operations that were counted on the test split, not measured on hardware. Each figure holds under its "
        "convention only.",
        "",
        "| convention | uJ per image | what it is |",
        "|---|---|---|",
    ]
    for name, value in report["energy_mj_by_convention"].items():
        mark = " (of the search)" if name == report["convention"] else ""
        lines.append(f"| `{name}`{mark} | {value * UJ_PER_MJ:.4g} | {convention_of(name).source} |")
    return "\n".join(lines) + "\n"


def _search(report: dict[str, Any], version: str) -> str:
    provenance = report.get("provenance", {})
    selected = provenance.get("pick", "a candidate")
    return (
        f"With autospike {version}: a supernet was trained once, its subnets were "
        f"measured with inherited weights, and `{selected}` selected this one, which the search first measured in generation "
        f"{report.get('generation', '?')}. Protocol of the measurements: `{provenance.get('protocol_id', '?')}`. The digests of "
        f"all files are in `export.json`; `autospike verify FOLDER` checks them, the outputs and the {metric(report)}.\n"
    )


def _loading(report: dict[str, Any], formats: dict[str, Any]) -> str:
    lines = [
        "```python",
        "import autospike  # registers the model with timm",
        "import timm",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:OWNER/NAME',
        "```",
    ]
    if formats:
        lines += ["", "| folder | what it is | files |", "|---|---|---|"]
        for name, entry in formats.items():
            lines.append(f"| `{name}` | {entry['description']} | {', '.join(f'`{file}`' for file in entry['files'])} |")
    del report
    return "\n".join(lines) + "\n"


def _variants(variants: dict[str, Any], report: dict[str, Any]) -> str:
    lines = [f"| variant | test {metric(report)} | uJ per image | convention |", "|---|---|---|---|"]
    rows = {"exact": {**report, "energy_mj": report["energy_mj"], "convention": report["convention"]}, **variants}
    for name, found in rows.items():
        low, high = found["test_accuracy_interval"]
        energy = f"{found['energy_mj'] * UJ_PER_MJ:.4g}"
        lines.append(f"| {name} | {found['test_accuracy']:.4f} ({low:.4f} to {high:.4f}) | {energy} | `{found['convention']}` |")
    return "\n".join(lines) + "\n"


def _architecture(architecture: dict[str, Any]) -> str:
    return f"```json\n{json.dumps(architecture, indent=2)}\n```\n"
