"""Valid inputs, from which the mutated ones are derived. They are made once, by the command line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]

# A run of seconds: the smallest space and few images.
EXPERIMENT = {
    "seed": 3,
    "threads": 1,
    "space": {
        "time_steps": [1, 2],
        "stages": [
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 4},
                "depth": [1, 2],
                "block": {"num_heads": [1, 2], "mlp_ratio": [1, 2], "neuron": {"v_threshold": [0.5, 1.0], "tau": [1.5, 2.0]}},
            }
        ],
    },
    "data": {"name": "digits", "image_size": 8, "search_share": 0.1, "test_share": 0.1},
    "training": {"epochs": 1, "batch_size": 256, "warmup_epochs": 0, "checkpoint_epochs": 1},
    "evaluation": {"calibration_images": 32, "calibration_batch_size": 32, "batch_size": 64},
    "search": {"population": 4, "generations": 1},
}
FORMATS = ("png", "jpeg", "gif", "tiff", "bmp", "webp")


def make_valid(base: Path, run: Callable[..., str]) -> None:
    """Write the valid inputs.

    Args:
        base: The folder to write to.
        run: Runs a command line in the folder, and returns what went wrong, or an empty text.

    Raises:
        RuntimeError: A command failed.
    """
    (base / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    _images(base / "images")
    _checkpoints(base)
    for arguments in (
        ("run", "experiment.yaml", "--run", "run"),
        ("energy", "run/export", "--data", "digits", "--images", "2", "--out", "energy"),
        ("energy", "run/export", "--data", "images", "--images", "2", "--out", "energy"),
        ("import", "spikformer.pth", "--out", "imported", "--num-heads", "2"),
    ):
        if problem := run(*arguments):
            raise RuntimeError(f"autospike {' '.join(arguments)}: {problem}")
    shutil.copy(base / "run" / "experiment.yaml", base / "resolved.yaml")


def spaces() -> list[object]:
    """Return the search spaces of the repository that have small networks."""
    names = ("spikformer_digits", "qkformer_digits", "meta_spikeformer_digits", "spike_driven_digits", "mixed_32")
    return [EXPERIMENT["space"], *(yaml.safe_load((ROOT / "search_spaces" / f"{name}.yaml").read_text()) for name in names)]


def architectures() -> list[object]:
    """Return architectures of these spaces."""
    from autospike.space.search_space import SearchSpace

    parsed = [SearchSpace.from_dict(space) for space in spaces()]
    return [space.sample(random.Random(i)).to_dict() for space in parsed for i in range(3)]


def _images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            pixels = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
            pixels.save(folder / name / f"{i}.{FORMATS[i]}", format=FORMATS[i])


def _checkpoints(base: Path) -> None:
    """Write a Spikformer with the parameter names of the published code, as torch and safetensors file."""
    import torch
    from safetensors.torch import save_file

    from autospike.models import build_model
    from autospike.models.checkpoint_formats import FORMATS as CHECKPOINTS
    from autospike.space.architecture import Architecture

    stage = {"embed_dim": 16, "embedding": {"stride": 4}, "blocks": [{"num_heads": 2}]}
    architecture = Architecture.from_dict({"qkv_bias": True, "stages": [stage]})
    model = build_model(architecture, num_classes=3, in_chans=3)
    (published,) = (f for f in CHECKPOINTS if f.name == "Spikformer")
    state = {_published_name(name, published.name_rules): value.clone() for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, base / "spikformer.pth")
    save_file(state, base / "spikformer.safetensors")
    (base / "keys.json").write_text(json.dumps(list(state)))


def _published_name(name: str, rules: object) -> str:
    import re

    stem, _, leaf = name.rpartition(".")
    for pattern, templates in rules:  # type: ignore[attr-defined]
        if match := re.fullmatch(pattern, stem):
            return f"{match.expand(templates[0])}.{leaf}"
    raise ValueError(f"no published name of {name}")
