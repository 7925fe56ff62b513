"""Mutated folders of images, checkpoints and run folders."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import yaml
from kind import Command
from mutation import UNEXPECTED, mutated_bytes, mutated_text, mutated_value
from valid import EXPERIMENT

IMAGES = {"name": "folder", "root": "images", "image_size": 8}
MEASURE = ("--images", "12", "--batch-size", "4", "--out", "out")


def image_folder(rng: random.Random, base: Path, folder: Path) -> Command:
    """A folder of images with damaged files, or with other things in place of files."""
    images = folder / "images"
    shutil.copytree(base / "images", images)
    for _ in range(rng.choice((1, 1, 2, 6))):
        path = rng.choice(
            [p for p in sorted(images.rglob("*")) if p.is_file() and not p.is_symlink()] or [images / "one" / "x.png"]
        )
        if rng.random() < 0.75 and path.is_file():
            path.write_bytes(mutated_bytes(path.read_bytes(), rng))
        else:
            _replace(path, rng)
    if rng.random() < 0.1:
        _replace(images / rng.choice(("one", "two")), rng)
    if rng.random() < 0.1:
        (images / rng.choice(("empty", "train", "test", "val", "x" * 200, "a\nb"))).mkdir()
    if rng.random() < 0.75:  # reads every file, and costs a quarter of a measurement with its figures
        (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT | {"data": IMAGES}))
        return Command(arguments=("check-data", "experiment.yaml", "--out", "out.png"), outputs=("out.png",), report=("out.png",))
    return Command(arguments=("energy", str(base / "run" / "export"), "--data", "images", *MEASURE), outputs=("out",))


def checkpoint(rng: random.Random, base: Path, folder: Path) -> Command:
    """A checkpoint with damaged bytes or of another structure, imported; or the weights of an exported model, measured."""
    kind = rng.randrange(3)
    if kind == 2:
        shutil.copytree(base / "run" / "export", folder / "export")
        path = folder / "export" / rng.choice(("model.safetensors", "config.json"))
        content = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.7:
            content = json.dumps(mutated_value(json.loads(content), rng), default=str, skipkeys=True).encode(errors="surrogatepass")
        else:
            content = mutated_bytes(content, rng)
        path.write_bytes(content)
        return Command(arguments=("energy", "export", "--data", "digits", "--images", "2", "--out", "out"), outputs=("out",))
    if kind == 0:
        path = folder / rng.choice(("spikformer.pth", "spikformer.safetensors"))
        path.write_bytes(mutated_bytes((base / path.name).read_bytes(), rng))
    else:
        path = folder / "spikformer.pth"
        _write_other_structure(path, base / "spikformer.pth", rng)
    options = rng.choice((("--num-heads", "2"), (), ("--stride", "4"), ("--time-steps", "1"), ("--image-size", "16")))
    return Command(arguments=("import", path.name, "--out", "out", *options), outputs=("out",))


LARGE = 10**7  # elements; a larger tensor is an expanded one, of which a copy needs too much memory


def _write_other_structure(path: Path, valid: Path, rng: random.Random) -> None:
    import torch

    content = torch.load(valid, weights_only=True)
    state = content["state_dict"]
    for _ in range(rng.choice((1, 1, 3))):
        dense = {key: value for key, value in state.items() if isinstance(value, torch.Tensor) and not value.is_sparse}
        key = rng.choice([key for key, value in dense.items() if value.numel() < LARGE])
        tensor = state[key]
        others = (
            tensor.flatten(),
            tensor[None],
            tensor.flatten()[:1],
            tensor.double(),
            tensor.half(),
            tensor.to(torch.int8),
            tensor.bool(),
            tensor.to(torch.complex64),
            tensor * float("nan"),
            tensor.to_sparse() if tensor.dim() else tensor,
            torch.zeros(()),
            torch.zeros(0),
            torch.nn.Parameter(tensor.float()),
            torch.empty(1, 1).expand(10**6, 10**6),
            rng.choice(UNEXPECTED),
            {"weight": tensor},
        )
        match rng.randrange(4):
            case 0:
                state[key] = rng.choice(others)
            case 1:
                del state[key]
            case 2:
                state[rng.choice((f"module.{key}", f"{key}.x", "", "x" * 5000, 7, "block.999999999.attn.q_conv.weight"))] = (
                    state.pop(key)
                )
            case _:
                state = {k: rng.choice(others) if k == key else v for k, v in state.items()}
    shapes: tuple[Any, ...] = (
        state,
        {"model": state},
        {"state_dict": {"model": state}},
        {"model": state, "epoch": 3},
        [state],
        {"model": None},
    )
    torch.save(rng.choice(shapes), path)


# Commands that read a run folder, with their weights. `plot` draws for seconds if it succeeds.
RUN_COMMANDS = {
    ("plot", "run"): 1,
    ("search", "run"): 8,
    ("export", "run"): 5,
    ("export", "run", "--out", "out"): 3,
    ("train", "EXPERIMENT", "--run", "run"): 8,
    ("energy", "run", "--images", "2", "--out", "out"): 2,
    ("energy", "run", "--data", "digits", "--images", "2", "--out", "out"): 2,
    ("pack", "run", "--out", "out"): 2,
}


def run_folder(rng: random.Random, base: Path, folder: Path) -> Command:
    """A run folder with one mutated file, most often one that commands read."""
    run = folder / "run"
    shutil.copytree(base / "run", run)
    found = [p for p in sorted(run.rglob("*")) if p.is_file() and "tensorboard" not in p.parts]
    read = [p for p in found if p.suffix in (".json", ".yaml", ".sqlite", ".safetensors")]
    path = rng.choice(read if rng.random() < 0.8 else found)
    kind = rng.random()
    if kind < 0.2:
        _replace(path, rng)
    elif kind < 0.75 and path.suffix in (".json", ".yaml"):
        _write_mutated_record(path, rng)
    elif kind < 0.75 and path.suffix == ".sqlite":
        _change_cell(path, rng)
    else:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    (command,) = rng.choices(list(RUN_COMMANDS), list(RUN_COMMANDS.values()))
    arguments = tuple(str(base / "experiment.yaml") if argument == "EXPERIMENT" else argument for argument in command)
    return Command(arguments=arguments, outputs=("run", "out"))


def _write_mutated_record(path: Path, rng: random.Random) -> None:
    text = path.read_text()
    if rng.random() < 0.75:
        value = mutated_value(yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text), rng)
        as_json = json.dumps(value, default=str, skipkeys=True)
        text = yaml.safe_dump(value, sort_keys=False) if path.suffix == ".yaml" else as_json
    else:
        text = mutated_text(text, rng)
    path.write_bytes(text.encode(errors="surrogatepass"))


def _change_cell(path: Path, rng: random.Random) -> None:
    """Change one cell, or drop a table, of a SQLite file."""
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table' order by name")]
        table = rng.choice(tables)
        columns = [row[1] for row in database.execute(f'pragma table_info("{table}")')]
        value = rng.choice(
            [v for v in UNEXPECTED if isinstance(v, str | float | bytes | None) or (isinstance(v, int) and abs(v) < 2**63)]
        )
        if rng.random() < 0.15:
            database.execute(f'drop table "{table}"')
        else:
            where = "" if rng.random() < 0.3 else f' where rowid = (select rowid from "{table}" limit 1)'
            try:
                database.execute(f'update "{table}" set "{rng.choice(columns)}" = ?{where}', (value,))
            except sqlite3.Error:
                database.execute(f'delete from "{table}"')
    database.close()


def _replace(path: Path, rng: random.Random) -> None:
    """Remove a file or folder, or put something else in its place."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    match rng.randrange(7):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(path.name)
        case 3:
            path.symlink_to(rng.choice(("/dev/zero", "/proc/self/mem", "/proc", "nowhere")))
        case 4:
            path.write_bytes(b"")
        case 5:
            path.write_text("text\n")
        case _:
            pass
