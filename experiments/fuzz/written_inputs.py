"""Mutated experiments, search spaces and architectures."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import yaml
from kind import Command
from mutation import UNEXPECTED, UNUSUAL_YAML, mutated_text, mutated_value, write_mutated_yaml
from valid import EXPERIMENT, architectures, spaces

cached_spaces, cached_architectures = cache(spaces), cache(architectures)


def experiment(rng: random.Random, base: Path, folder: Path) -> Command:
    """An experiment with every field written out, or as a user writes it; or overrides of a valid one."""
    if rng.random() < 0.2:
        return _overrides(rng, base, folder)
    written = yaml.safe_load((base / "resolved.yaml").read_text()) if rng.random() < 0.7 else EXPERIMENT
    write_mutated_yaml(folder / "experiment.yaml", written, rng)
    chance = rng.random()
    if chance < 0.03:
        return Command(arguments=("train", "experiment.yaml", "--run", "run"), outputs=("run",), stop_after=2.0)
    if chance < 0.85:  # a valid one stops after it was read
        return Command(arguments=("train", "experiment.yaml", "--run", "run", "--from", "nowhere"))
    out = ("--images", "2", "--batch-size", "2", "--out", "out")
    return Command(arguments=("energy", str(base / "run" / "export"), "--data", "experiment.yaml", *out), outputs=("out",))


def _overrides(rng: random.Random, base: Path, folder: Path) -> Command:
    """`--set` on an experiment, where `--from` names no file, so that a valid one stops after it was read."""
    (folder / "experiment.yaml").write_text((base / "resolved.yaml").read_text())
    resolved = yaml.safe_load((base / "resolved.yaml").read_text())
    names = [f"{section}.{name}" for section, fields in resolved.items() if isinstance(fields, dict) for name in fields]
    names += [
        "space.stages.0.embed_dim",
        "space.stages.0.depth",
        "space.stages.1",
        "space.stages.²",
        "seed",
        "threads",
        "",
        ".",
        "a=b",
        "seed.x",
    ]
    value = rng.choice(UNUSUAL_YAML) if rng.random() < 0.4 else json.dumps(rng.choice(UNEXPECTED), default=str)
    override = f"{rng.choice(names)}={value}".replace("\0", "")
    return Command(arguments=("train", "experiment.yaml", "--run", "run", "--set", override, "--from", "nowhere"))


def space(rng: random.Random, base: Path, folder: Path) -> Command:
    """A search space, described by itself or as part of an experiment."""
    del base
    write_mutated_yaml(folder / "space.yaml", rng.choice(cached_spaces()), rng)
    if rng.random() < 0.2:
        (folder / "experiment.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "space": "space.yaml"}))
        return Command(arguments=("train", "experiment.yaml", "--run", "run", "--from", "nowhere"))
    return Command(arguments=("describe", "space.yaml", *_shape(rng)))


def architecture(rng: random.Random, base: Path, folder: Path) -> Command:
    """An architecture as YAML or JSON, or in place of that of an exported model."""
    chosen = rng.choice(cached_architectures())
    if rng.random() < 0.4:
        write_mutated_yaml(folder / "architecture.yaml", chosen, rng)
        return Command(arguments=("describe", "architecture.yaml", *_shape(rng)))
    text = json.dumps(mutated_value(chosen, rng), default=str, skipkeys=True)
    if rng.random() < 0.2:
        text = mutated_text(text, rng)
    if rng.random() < 0.5:
        (folder / "architecture.json").write_bytes(text.encode(errors="surrogatepass"))
        return Command(arguments=("describe", "architecture.json", *_shape(rng)))
    for path in (base / "run" / "export").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    own = json.loads((folder / "architecture.json").read_text())
    text = text if rng.random() < 0.3 else json.dumps(mutated_value(own, rng), default=str, skipkeys=True)
    (folder / "architecture.json").write_bytes(text.encode(errors="surrogatepass"))
    return Command(arguments=("energy", ".", "--data", "digits", "--images", "2", "--out", "out"), outputs=("out",))


def _shape(rng: random.Random) -> tuple[str, ...]:
    """Options of `describe`: mostly small images, sometimes unexpected numbers."""
    if rng.random() < 0.9:
        return ("--image-size", rng.choice(("8", "16")))
    option = rng.choice(("--image-size", "--channels", "--classes"))
    return (option, rng.choice(("0", "-1", "1", "2", "2147483647", "1e3", "nan", "", "9" * 400, "x")))
