"""The formats of an export, and the comparison of what was written with the model.

An export folder has one folder for each format and variant, such as `torch` or `onnx-int8`, and `export.json`, which lists the
files with their digests, the result of each comparison, and the versions. `probes.safetensors` has the images of the comparison
and the logits of each variant of the model.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor

from autospike import __version__, files
from autospike.errors import UserError
from autospike.exporting import nir_graph, onnx_model, plain, program, stateful
from autospike.exporting.variants import Variant, VariantName
from autospike.model_folder import MODEL_FILES
from autospike.tensors import write_tensors

MANIFEST, PROBES = "export.json", "probes.safetensors"
# Largest difference of an image's logits, as a fraction of its largest logit, that rounding explains where no potential crosses its
# threshold. At most this share of the images may differ by more: there another order of additions moved a spike.
TOLERANCE, MOVED_SHARE = 1e-3, 0.1
# Of a dense output, such as a map of classes: largest share of the positions whose class may differ.
OTHER_POSITIONS = 0.01

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format in which a model is written.

    Attributes:
        description: What it is, in a few words.
        write: Writes a variant to a folder; called with the variant, the folder and example images; returns the file names.
        load: Returns the logits of the written files as a function of images; called with the folder and T.
        folds: Whether the format needs BatchNorm folded; `exact` is then written as `fused`.
        dense: Whether networks with a decoder, which segment images, can be written.
    """

    description: str
    write: Callable[[Variant, Path, Tensor], Sequence[str]]
    load: Callable[[Path, int], Logits]
    folds: bool = False
    dense: bool = True


def _write_plain(variant: Variant, folder: Path, _images: Tensor) -> Sequence[str]:
    return plain.write(variant, folder, neurons="plain", title="A spiking network in plain PyTorch.")


def _write_spikingjelly(variant: Variant, folder: Path, _images: Tensor) -> Sequence[str]:
    return plain.write(variant, folder, neurons="spikingjelly", title="A spiking network with the neurons of spikingjelly.")


FORMATS = {
    "torch": Format(description="plain PyTorch", write=_write_plain, load=lambda folder, _steps: plain.load(folder), dense=False),
    "pt2": Format(description="torch.export program", write=program.write, load=lambda folder, _steps: program.load(folder)),
    "onnx": Format(
        description=f"ONNX, opset {onnx_model.OPSET}", write=onnx_model.write, load=lambda folder, _steps: onnx_model.load(folder)
    ),
    "stateful": Format(
        description="single step with membrane potentials",
        write=stateful.write,
        load=lambda folder, _steps: stateful.load(folder),
        dense=False,
    ),
    "spikingjelly": Format(
        description="PyTorch with spikingjelly's neurons",
        write=_write_spikingjelly,
        load=lambda folder, _steps: plain.load(folder),
        dense=False,
    ),
    "nir": Format(description="NIR graph", write=nir_graph.write, load=nir_graph.load, folds=True, dense=False),
}
"""Formats by name, besides `timm`, which every export has."""


VARIANTS: tuple[VariantName, ...] = ("exact", "fused", "int8")


def parse_variants(text: str) -> list[VariantName]:
    """Parse the option `--variant`.

    Args:
        text: Names, separated by commas.

    Returns:
        The names in the order of `VARIANTS`, each once.

    Raises:
        UserError: A name is unknown.
    """
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise UserError(f"--variant {text}: {unknown[0]!r} is unknown; choose from {', '.join(VARIANTS)}, separated by commas")
    return [name for name in VARIANTS if name in names]


def parse_formats(text: str) -> list[str]:
    """Parse the option `--format`.

    Args:
        text: Names, separated by commas.

    Returns:
        The names without `timm`, each once.

    Raises:
        UserError: A name is unknown.
    """
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in FORMATS and name != "timm"]
    if unknown:
        raise UserError(f"--format {text}: {unknown[0]!r} is unknown; choose from timm, {', '.join(FORMATS)}, separated by commas")
    return [name for name in dict.fromkeys(names) if name != "timm"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Logits of written files beside those of the model, on the probes.

    Attributes:
        images: Number of images.
        largest_difference: Largest difference of a logit.
        moved: Images whose logits differ by more than rounding (`TOLERANCE`).
        other_predictions: Images with another predicted class; of a dense output, at more than `OTHER_POSITIONS` of its positions.
    """

    images: int
    largest_difference: float
    moved: int
    other_predictions: int

    @classmethod
    def of(cls, found: Tensor, expected: Tensor) -> Comparison:
        """Compare logits.

        Args:
            found: Of the written files, `[B, classes]` or `[B, classes, H, W]`.
            expected: Of the model, of the same shape.

        Returns:
            The differences. All images differ if the shapes do.
        """
        if found.shape != expected.shape:
            return cls(images=len(expected), largest_difference=float("inf"), moved=len(expected), other_predictions=len(expected))
        difference = (found.double() - expected.double()).abs().flatten(1).amax(dim=1).nan_to_num(nan=float("inf"))
        scale = expected.double().abs().flatten(1).amax(dim=1).clamp(min=1e-6)
        other = (found.argmax(dim=1) != expected.argmax(dim=1)).flatten(1 if found.dim() > 2 else 0).double()
        share = other.mean(dim=1) if found.dim() > 2 else other
        return cls(
            images=len(expected),
            largest_difference=float(difference.max()),
            moved=int((difference > TOLERANCE * scale).sum()),
            other_predictions=int((share > (OTHER_POSITIONS if found.dim() > 2 else 0)).sum()),
        )

    @property
    def agrees(self) -> bool:
        """Whether the files compute the model, up to spikes that rounding moved."""
        return self.moved <= MOVED_SHARE * self.images and self.other_predictions <= self.moved

    @property
    def text(self) -> str:
        """The result in words."""
        moved = f", {self.moved} of them by a spike that rounding moved" if self.moved else ""
        return f"largest difference of a logit {self.largest_difference:.2g} on {self.images} images{moved}"


def folder_name(name: str, variant: VariantName) -> str:
    """Return the name of the folder of a format and variant.

    Args:
        name: Name of the format.
        variant: The variant.
    """
    return name if variant == "exact" else f"{name}-{variant}"


def write_probes(folder: Path, images: Tensor, logits: dict[str, Tensor]) -> None:
    """Write the images of the comparison and the logits of each variant.

    Args:
        folder: The folder of the export.
        images: The images, as the model reads them.
        logits: Logits by the name of the variant.
    """
    write_tensors(folder / PROBES, {"images": images, **{f"logits.{name}": values for name, values in logits.items()}})


def read_probes(folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what `write_probes` wrote.

    Args:
        folder: The folder of the export.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        tensors = load_file(folder / PROBES)
        images = tensors.pop("images")
    except Exception as error:
        raise UserError(f"{folder / PROBES}: missing or damaged ({type(error).__name__}); export again") from None
    return images, {name.removeprefix("logits."): values for name, values in tensors.items()}


def check_is_ours(folder: Path, name: str) -> None:
    """Check that the folder of a format, if it exists, was written by an earlier export.

    Args:
        folder: The folder of the export.
        name: Name of the folder of the format.

    Raises:
        UserError: It was not.
    """
    target = folder / name
    if target.exists() and not (target.is_dir() and _is_ours(folder, name)):
        raise UserError(f"{target}: exists, and autospike did not write it; move it away, or choose another folder with --out")


@torch.no_grad()
def write_format(folder: Path, name: str, variant: Variant, images: Tensor) -> tuple[str, dict[str, Any]]:
    """Write a format, run what was written, and compare it with the model. A format that differs is not kept.

    Args:
        folder: The folder of the export.
        name: Name of the format.
        variant: The model.
        images: The probes.

    Returns:
        Name of the folder, and its entry in `export.json`.

    Raises:
        UserError: The logits differ, a package is missing, or the format cannot express the model.
    """
    check_is_ours(folder, folder_name(name, variant.name))
    chosen, target = FORMATS[name], folder / folder_name(name, variant.name)
    if variant.model.architecture.decoder is not None and not chosen.dense:
        raise UserError(f"--format {name}: writes classifiers only; choose pt2 or onnx for a network that segments images")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        written = chosen.write(variant, part, images)
        steps = variant.model.architecture.time_steps
        compared = Comparison.of(chosen.load(part, steps)(images), variant.model(images))
        if not compared.agrees:
            raise UserError(
                f"--format {name}: refused, what was written does not compute the model: {compared.text}; please report it"
            )
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); nothing was changed") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    digests = {file: files.sha256(target / file) for file in written}
    return target.name, {
        "format": name,
        "variant": variant.name,
        "description": chosen.description,
        "files": digests,
        "comparison": asdict(compared),
    }


def _is_ours(folder: Path, name: str) -> bool:
    return name in sound_manifest(folder).get("formats", {})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of `export.json`; empty if there is none.

    Args:
        folder: The folder of the export.

    Raises:
        UserError: The file is damaged.
    """
    if not (folder / MANIFEST).exists():
        return {}
    found = files.read_json(folder / MANIFEST)
    if not _is_manifest(found):
        raise UserError(f"{folder / MANIFEST}: damaged; export again")
    return dict(found)


def _is_manifest(found: object) -> bool:
    if not isinstance(found, dict) or not all(isinstance(found.get(name, {}), dict) for name in ("files", "formats", "variants")):
        return False
    entries = found.get("formats", {}).values()
    variants = [*(entry.get("variant") if isinstance(entry, dict) else None for entry in entries), *found.get("variants", {})]
    return all(variant in get_args(VariantName) for variant in variants)


def sound_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of `export.json`; empty if there is none, or a damaged one, which an export replaces.

    Args:
        folder: The folder of the export.
    """
    try:
        return read_manifest(folder)
    except UserError:
        return {}


def versions() -> dict[str, str]:
    """Return the versions on which the last bits of a logit depend."""
    return {"autospike": __version__, "torch": torch.__version__}


def write_manifest(folder: Path, formats: dict[str, Any], variants: dict[str, Any]) -> None:
    """Write `export.json`. It is written last.

    Args:
        folder: The folder of the export.
        formats: The entries of `write_format` by the name of the folder.
        variants: The measurements of the variants besides `exact`, by name.
    """
    own = [name for name in (*MODEL_FILES, "report.json", "README.md", PROBES) if (folder / name).exists()]
    files.write_json(
        folder / MANIFEST,
        {
            "versions": versions(),
            "files": {name: files.sha256(folder / name) for name in own},
            "formats": formats,
            "variants": variants,
        },
    )
