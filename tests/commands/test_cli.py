"""Invalid input on the command line: one line on standard error, exit code 2, nothing written; `describe` and `--help`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cli_runner import autospike
from tiny_experiment import TINY_EXPERIMENT, TINY_SPACE

from autospike.process import ENDING_SIGNALS

Capsys = pytest.CaptureFixture[str]


def write_file(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["training.epoch=3"], "training.epoch: unknown key"),
        (["training.epochs=many"], "training.epochs: input should be a valid integer"),
        (["training.epochs=0"], "training.epochs: input should be greater than or equal to 1"),
        (["search.algorithm=nsga4"], "search.algorithm"),
        (["data.name=imagenet"], "data.name"),
        (["data.name=folder"], "data.root: required"),
        (["data.name=folder", "data.root=/nowhere"], "/nowhere is not a folder"),
        (["data.image_size=3"], "data.image_size: 3 pixels are too few for embeddings that downsample 4 times"),
        (["space.family=resnet"], "family must be one of spikformer, spike_driven, meta_spikeformer, qkformer"),
        (["space.shortcut=membrane"], "the spikformer family has sew or vanilla shortcuts"),
        (["space.stages.0.embedding.stride=3"], "stages[0].embedding.stride: choose from 1, 2, 4, 8, 16"),
        (["space.stages.0.block.token_mixer=[sdsa_5]"], "choose from sdsa_1"),
        (["space.stages.0.block.token_mixer=sepconv"], "num_heads has no effect with token_mixer sepconv"),
        (["space.stages.0.block.num_heads=[3]"], "num_heads 3 does not divide embed_dim 8"),
        (["space.stages.0.depth=0"], "depth must be at least 1"),
        (["space.stages.7.depth=1"], "7 is not an index"),
        (["seed=true"], "booleans are not accepted here"),
        (["seed=2020-13-45"], "is not YAML"),
        (["space.stages.0.block.num_heads=[0, 1]"], "num_heads must be at least 1"),
        (["space.stages.0.block.neuron.tau=.nan"], "neuron.tau: expected a finite number"),
        (["training.warmup_epochs=2"], "warm up for fewer"),
        (["training.min_learning_rate=1"], "is more than learning_rate"),
        (["training.batch_size=31"], "multiple of 2"),
        (["nonsense"], "write it as a.b=c"),
        (["search.objectives=[accuracy, beauty]"], "search.objectives"),
        (["baseline={stages: [{embed_dim: 12, blocks: [{num_heads: 4}]}]}"], "multiple of 8"),
        (["training.augmentation.auto_augment=rand-q9"], "auto_augment"),
    ],
)
def test_an_invalid_setting_is_a_one_line_error(
    tmp_path: Path, tiny_experiment: Path, capsys: Capsys, settings: list[str], words: str
) -> None:
    flags = [part for setting in settings for part in ("--set", setting)]
    outcome = autospike(capsys, "run", tiny_experiment, "--run", tmp_path / "run", *flags)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "missing.yaml", "--run", "r"], "missing.yaml: cannot be read (No such file or directory)"),
        (["search", "nowhere"], "nowhere: no run here"),
        (["export", "nowhere"], "nowhere: no run here"),
        (["plot", "nowhere"], "nowhere: no run here"),
        (["describe", "missing.yaml"], "missing.yaml: no such file"),
        (["plot", "[/x] [red]y"], "[/x] [red]y: no run here"),
        (["train"], "Missing argument 'EXPERIMENT'"),
        (["fly"], "No such command 'fly'"),
        (["plot", "caf\udce9"], r"caf\udce9: not UTF-8, which names of files and values of options must be; rename the file"),
        (["plot", "nowhere", "--fast"], "No such option"),
    ],
)
def test_an_invalid_call_is_a_one_line_error(capsys: Capsys, args: list[str], words: str) -> None:
    outcome = autospike(capsys, *args)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 1, "")
    assert words in outcome.err


@pytest.mark.parametrize("text", ["- a\n- list\n", "seed: 1\nseed: 2\n", "seed: 2020-13-45\n", "just words", "a: [1\n", "", "\x00"])
def test_an_invalid_experiment_file_is_a_one_line_error(tmp_path: Path, capsys: Capsys, text: str) -> None:
    path = write_file(tmp_path / "experiment.yaml", text)
    outcome = autospike(capsys, "train", path, "--run", tmp_path / "run")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "experiment.yaml" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_experiment_is_not_changed(tmp_path: Path, tiny_experiment: Path, capsys: Capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    other = write_file(run / "experiment.yaml", {**TINY_EXPERIMENT, "seed": 99})
    (run / "supernet").mkdir()
    write_file(run / "supernet" / "checkpoint.json", "{}")
    before = other.read_text()
    outcome = autospike(capsys, "train", tiny_experiment, "--run", run)
    assert outcome.code == 2
    assert "seed differs" in outcome.err
    assert other.read_text() == before


def test_an_experiment_can_change_before_training(tmp_path: Path, tiny_experiment: Path, capsys: Capsys) -> None:
    flags = ["--run", tmp_path, "--set", "data.name=folder", "--set"]
    for root in ("/nowhere", "/elsewhere"):
        outcome = autospike(capsys, "train", tiny_experiment, *flags, f"data.root={root}")
        assert f"{root} is not a folder" in outcome.err


def test_search_before_training_names_the_command_to_run(tmp_path: Path, capsys: Capsys) -> None:
    write_file(tmp_path / "experiment.yaml", TINY_EXPERIMENT)
    outcome = autospike(capsys, "search", tmp_path)
    assert outcome.code == 2
    assert "autospike train" in outcome.err


@pytest.mark.parametrize("command", ["export", "plot"])
def test_export_and_plot_before_search_name_the_command_to_run(tmp_path: Path, capsys: Capsys, command: str) -> None:
    write_file(tmp_path / "experiment.yaml", TINY_EXPERIMENT)
    outcome = autospike(capsys, command, tmp_path)
    assert outcome.code == 2
    assert "run: autospike" in outcome.err
    assert not (tmp_path / "archive.sqlite").exists()


@pytest.fixture
def interrupt_after_a_second() -> Iterator[None]:
    """Send SIGINT to this process after a second, as Ctrl-C does. A command ignores signals once it was interrupted: undo that."""
    before = {number: signal.getsignal(number) for number in (*ENDING_SIGNALS, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("interrupt_after_a_second")
def test_an_interrupt_is_a_one_line_error_that_says_how_to_resume(tmp_path: Path, tiny_experiment: Path, capsys: Capsys) -> None:
    outcome = autospike(capsys, "train", tiny_experiment, "--run", tmp_path / "run", "--set", "training.epochs=2000")
    assert outcome.code == 130
    assert re.fullmatch(r"interrupted( at step \d+)?; run the same command again to resume\n", outcome.err)


@pytest.mark.parametrize("stages", [[1], 3, [], [{"blocks": 2}], [{"embed_dim": 16, "blocks": []}]])
def test_describing_an_invalid_file_is_a_one_line_error(tmp_path: Path, capsys: Capsys, stages: object) -> None:
    outcome = autospike(capsys, "describe", write_file(tmp_path / "x.yaml", {"stages": stages}))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_describe_a_space(tmp_path: Path, capsys: Capsys) -> None:
    """The size of the tiny space is 2 T x 2 widths x (16 + 16^2) blocks = 1088."""
    path = write_file(tmp_path / "space.yaml", TINY_SPACE)
    outcome = autospike(capsys, "describe", path, "--image-size", 8, "--channels", 1)
    assert outcome.code == 0
    assert "1088 architectures" in outcome.out
    assert "smallest" in outcome.out
    assert "largest" in outcome.out


def test_describe_an_architecture(capsys: Capsys, tmp_path: Path) -> None:
    """Spikformer-2-384 on CIFAR-10 has 5,765,050 parameters as published."""
    stage = {"embed_dim": 384, "embedding": {"stride": 4}, "blocks": [{"num_heads": 12}, {"num_heads": 12}]}
    path = write_file(tmp_path / "architecture.yaml", {"time_steps": 4, "qkv_bias": True, "stages": [stage]})
    outcome = autospike(capsys, "describe", path)
    assert outcome.code == 0
    assert "5,765,050" in outcome.out


@pytest.mark.parametrize(
    ("name", "params", "images"),
    [
        ("spikformer_cifar_2_384", "5,765,050", "3 x 32 x 32 images, 10 classes"),
        ("meta_spikeformer_15m", "15,112,208", "3 x 224 x 224 images, 1000 classes"),
    ],
)
def test_describe_a_published_architecture_by_name(capsys: Capsys, name: str, params: str, images: str) -> None:
    outcome = autospike(capsys, "describe", name)
    assert outcome.code == 0
    assert params in outcome.out
    assert images in outcome.out


def test_help_names_every_option(capsys: Capsys) -> None:
    for command in ("train", "search", "export", "retrain", "plot", "run", "import", "describe"):
        outcome = autospike(capsys, command, "--help")
        assert outcome.code == 0
        options = [line for line in outcome.out.splitlines() if "--" in line]
        assert options
        assert all(len(line.split()) > 3 for line in options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_imports_is_one_line(tmp_path: Path, number: signal.Signals) -> None:
    """A module that the command line imports first sends the signal."""
    (tmp_path / "typer.py").write_text(f"import os, time\nos.kill(os.getpid(), {number:d})\ntime.sleep(60)\n")
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    ended = subprocess.run(
        [sys.executable, "-m", "autospike", "--version"], env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False
    )
    assert ended.returncode == 128 + number
    assert ended.stderr.decode() == "interrupted; run the same command again to resume\n"


def exit_code_of(folder: Path) -> int:
    """Run `ended.py` of a folder as `python -m ended`."""
    path = os.pathsep.join((str(folder), *sys.path))
    return subprocess.run([sys.executable, "-m", "ended"], env={**os.environ, "PYTHONPATH": path}, check=False).returncode


def test_a_signal_during_a_destructor_is_not_lost(tmp_path: Path) -> None:
    """Python ignores exceptions of destructors, so the signal is sent again."""
    (tmp_path / "ended.py").write_text(
        "import os, signal, sys, time\n"
        "from autospike.process import interruptible\n"
        "class Interrupting:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.01)\n"
        "with interruptible() as received:\n"
        "    try:\n"
        "        Interrupting()\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(received.exit_code)\n"
    )
    assert exit_code_of(tmp_path) == 128 + signal.SIGTERM


def test_the_exit_code_of_a_signal_in_a_text_run_by_exec(tmp_path: Path) -> None:
    """As `python -m autospike` while dataclasses are made."""
    (tmp_path / "ended.py").write_text(
        "import os, signal, sys, time\n"
        "from autospike.process import interruptible\n"
        "with interruptible() as received:\n"
        "    try:\n"
        "        exec('os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)')\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "sys.exit(received.exit_code)\n"
    )
    assert exit_code_of(tmp_path) == 128 + signal.SIGTERM
