"""What a training survives: damage, a full disk, signals, kills; and what it leaves of a step that cannot be gone on from."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from cli_runner import autospike
from conftest import TINY_SPACE
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from trainings import CONFIG, KilledError, batches, forked, run, same_bits, supernet, weights

from autospike.errors import Interrupted, UserError
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.averaging import Average
from autospike.training.checkpoint import Checkpoints
from autospike.training.progress import Pace, Progress
from autospike.training.scalars import Scalars
from autospike.training.trainer import train

SHORT = CONFIG.model_copy(update={"epochs": 2})  # eight steps, checkpoints after four and eight

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the short training comes to if nothing happens to it."""
    folder = tmp_path_factory.mktemp("whole")
    run(SearchSpace.from_dict(TINY_SPACE), folder, SHORT)
    return weights(folder)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


DAMAGES: dict[str, Damage] = {"truncated": truncate, "gone": Path.unlink, "a bit flipped": flip_a_bit}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, tiny_space: SearchSpace, damage: str, whole: dict[str, Tensor]
) -> None:
    """Of a finished training: its last epoch is trained again, to the same bits."""
    run(tiny_space, tmp_path, SHORT)
    DAMAGES[damage](tmp_path / "step-00000008.safetensors")
    with pytest.raises(UserError, match=r"step-00000008\.safetensors: damaged, .*; autospike train goes back to step 4$"):
        Checkpoints(folder=tmp_path).load_trained(supernet(tiny_space))
    assert [now.step for now in run(tiny_space, tmp_path, SHORT)] == [5, 6, 7, 8]
    assert same_bits(weights(tmp_path), whole)


def test_going_back_is_told_once(tmp_path: Path, tiny_space: SearchSpace) -> None:
    run(tiny_space, tmp_path, SHORT)
    checkpoints = Checkpoints(folder=tmp_path)
    assert checkpoints.recover() is None
    truncate(tmp_path / "step-00000008.safetensors")
    told = checkpoints.recover()
    assert told is not None
    assert told.endswith("its content is not what was written; going on from the checkpoint before it, of step 4")
    assert "\n" not in told
    assert checkpoints.recover() is None
    truncate(tmp_path / "step-00000004.safetensors")
    with pytest.raises(UserError, match="no checkpoint before it is whole; delete"):
        checkpoints.recover()


def test_the_command_tells_of_a_damaged_checkpoint(
    tmp_path: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And goes on after it, though the training had finished."""
    arguments = ["train", tiny_experiment, "--run", tmp_path, "--set", "training.batch_size=512"]
    assert autospike(capsys, *arguments).code == 0
    truncate(tmp_path / "supernet" / "step-00000004.safetensors")
    outcome = autospike(capsys, *arguments)
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if "damaged" in line]
    assert line.startswith("supernet: ")
    assert line.endswith("going on from the checkpoint before it, of step 2")
    events = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    (damaged,) = [event for event in events if event["event"] == "checkpoint damaged"]
    assert line == f"supernet: {damaged['what']}"
    assert [event["from_step"] for event in events if event["event"] == "train started"] == [0, 0, 2]
    measured = next(event for event in events if event["event"] == "train")
    assert measured["images_per_second"] > 0
    assert measured["memory_mb"] > 50  # torch alone takes more


@contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """No file grows beyond that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room_bytes", [10, 30_000])  # not the record; the record, but no tensors
def test_a_full_disk_is_one_line_and_spoils_nothing(
    tmp_path: Path, tiny_space: SearchSpace, room_bytes: int, whole: dict[str, Tensor]
) -> None:
    with pytest.raises(KilledError):
        run(tiny_space, tmp_path, SHORT, kill_at=5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(room_bytes), pytest.raises(UserError, match=r"cannot be written \(.*File too large.*\); nothing was changed"):
        run(tiny_space, tmp_path, SHORT)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(tiny_space, tmp_path, SHORT)
    assert same_bits(weights(tmp_path), whole)


def raise_at(step: int, number: signal.Signals) -> Callable[[Progress], None]:
    def also(now: Progress) -> None:
        if now.step == step:
            os.kill(os.getpid(), number)

    return also


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_training_with_a_checkpoint_of_its_step(
    tmp_path: Path, tiny_space: SearchSpace, number: signal.Signals, code: int, whole: dict[str, Tensor]
) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match="interrupted at step 6; run the same command again to go on") as interruption:
        run(tiny_space, tmp_path, SHORT, also=raise_at(5, number))  # after step 5: step 6 is finished first
    assert interruption.value.exit_code == code
    assert signal.getsignal(number) == handler
    assert [now.step for now in run(tiny_space, tmp_path, SHORT)] == [7, 8]
    assert same_bits(weights(tmp_path), whole)


def test_a_second_signal_does_not_wait(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """Ctrl-C twice in one step."""

    def also(now: Progress) -> None:
        if now.step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tiny_space, tmp_path, also=also)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupted_command_says_how_to_go_on(
    tmp_path: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_scalars: Scalars, now: Progress) -> None:
        raise_at(4, signal.SIGTERM)(now)

    monkeypatch.setattr(Scalars, "write", write)
    outcome = autospike(capsys, "train", tiny_experiment, "--run", tmp_path, "--set", "training.batch_size=512")
    # after the last step of the supernet, before the first one of the hand-made network
    assert (outcome.code, outcome.err) == (143, "error: interrupted at step 4; run the same command again to go on\n")
    assert not (tmp_path / "baseline").exists()
    events = [json.loads(text)["event"] for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events == ["train started", "train", "train interrupted"]


def test_a_gradient_that_is_not_finite_moves_no_weight(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """The loss may be finite still: a weight that is no number fires no spikes."""
    network = supernet(tiny_space)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network.shared.get_parameter("head.bias").register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=r"the gradient's norm (inf|nan) at step 0"):
        train(network, batches(CONFIG), CONFIG, Checkpoints(folder=tmp_path), lambda _now: None, seed=0)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_a_step_that_is_not_finite_is_kept(tmp_path: Path, tiny_space: SearchSpace) -> None:
    network = supernet(tiny_space)
    with torch.no_grad():
        network.shared.head.weight.fill_(float("inf"))
    with pytest.raises(UserError, match="at step 0, subnet") as error:
        train(network, batches(CONFIG), CONFIG, Checkpoints(folder=tmp_path), lambda _now: None, seed=0)
    kept = tmp_path / "nonfinite"
    assert str(kept) in str(error.value)
    architecture = Architecture.from_json((kept / "architecture.json").read_text())
    assert json.loads((kept / "step.json").read_text()) == {
        "step": 0,
        "subnet": architecture.id,
        "loss": "nan",
        "gradient": "nan",
    }
    assert tiny_space.contains(architecture)
    (batch,) = batches(CONFIG)(0, 1)
    assert same_bits(
        load_file(kept / "batch.safetensors"), {"images": batch.images, "targets": batch.targets, "taught": batch.targets}
    )
    assert Checkpoints(folder=tmp_path).record is None


def test_the_average_forgets_its_beginning(tiny_space: SearchSpace) -> None:
    """By hand: of steps 1, 2, 3, ... it keeps 1 - step ** (-2 / 3), and no more than its decay."""
    network = supernet(tiny_space)
    weight, average = network.shared.get_parameter("head.weight"), Average(network, 0.5)
    expected = torch.zeros_like(weight)
    for step in range(1, 6):
        with torch.no_grad():
            weight.fill_(step)
        average.update(network, step)
        kept = min(0.5, 1 - step ** (-2 / 3))
        expected = kept * expected + (1 - kept) * step
        torch.testing.assert_close(average.module.shared.get_parameter("head.weight").detach(), expected)


def test_an_averaged_training_resumes_to_the_same_bits_and_gives_its_average(
    tmp_path: Path, tiny_space: SearchSpace, whole: dict[str, Tensor]
) -> None:
    config = SHORT.model_copy(update={"ema": 0.8})
    run(tiny_space, tmp_path / "whole", config)
    with pytest.raises(KilledError):
        run(tiny_space, tmp_path / "killed", config, kill_at=6)
    run(tiny_space, tmp_path / "killed", config)
    found = weights(tmp_path / "killed")
    assert same_bits(found, weights(tmp_path / "whole"))
    trained = supernet(tiny_space)
    Checkpoints(folder=tmp_path / "killed").load_trained(trained)
    name = "shared.head.weight"
    assert torch.equal(trained.state_dict()[name], found[f"averaged.{name}"])
    assert not torch.equal(found[f"averaged.{name}"], found[f"model.{name}"])
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())  # averaging only watches


def test_in_bfloat16_the_loss_is_near_and_parameters_stay_wide(tmp_path: Path, tiny_space: SearchSpace) -> None:
    largest = SearchSpace.of(tiny_space.largest())
    rough = run(largest, tmp_path / "rough", SHORT.model_copy(update={"precision": "bfloat16"}))
    fine = run(largest, tmp_path / "fine", SHORT)
    assert rough[0].loss != fine[0].loss
    assert [now.loss for now in rough] == pytest.approx([now.loss for now in fine], rel=0.1)
    assert {tensor.dtype for name, tensor in weights(tmp_path / "rough").items() if name.startswith("model.")} == {torch.float32}


def test_scalars_of_a_resumed_training_come_once(tmp_path: Path) -> None:
    """Read by TensorBoard's own reader. Killed after step 5, gone on with from step 3."""
    for start, stop in [(0, 5), (3, 8)]:
        with Scalars(tmp_path, start=start) as scalars:
            for step in range(start + 1, stop + 1):
                scalars.write(progress(step, loss=start + step / 100))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate", "images_per_second", "memory_mb"}
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == list(range(1, 9))
    assert [event.value for event in losses] == pytest.approx([0.01, 0.02, 0.03, 3.04, 3.05, 3.06, 3.07, 3.08])


def progress(step: int, loss: float) -> Progress:
    return Progress(
        step=step, steps=8, loss=loss, learning_rate=0.1, seconds=1.0, images_per_second=2.0, seconds_left=8.0 - step, memory_mb=3.0
    )


def test_pace_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 1, 3 and 2 seconds with 64 images each: 32 a second, and two seconds for each of the 7 to come."""
    moments = iter([10.0, 11.0, 14.0, 16.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    pace = Pace(images=64, steps=10, device=torch.device("cpu"))
    *_, last = [pace.after(step, loss=1.0, learning_rate=0.1) for step in (1, 2, 3)]
    assert (last.seconds, last.images_per_second, last.seconds_left) == (2.0, 32.0, 14.0)


LONG = CONFIG.model_copy(update={"epochs": 20})  # eighty steps, a checkpoint after every four


def train_until_killed(space: SearchSpace, folder: Path, begun: Event) -> None:
    torch.set_num_threads(1)
    run(space, folder, LONG, also=lambda _now: begun.set())


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """SIGKILL, wherever it comes: while a checkpoint is written, too. Each time the last checkpoint is whole."""
    context, rng = forked(), random.Random(0)
    run(tiny_space, tmp_path / "whole", LONG)
    expected, checkpoints, steps = weights(tmp_path / "whole"), Checkpoints(folder=tmp_path / "killed"), []
    while len(steps) < 20:
        begun = context.Event()
        process = context.Process(target=train_until_killed, args=(tiny_space, checkpoints.folder, begun))
        process.start()
        assert begun.wait(timeout=120)
        time.sleep(rng.uniform(0, 0.7))
        process.kill()
        process.join()
        assert checkpoints.recover() is None
        steps.append(checkpoints.record.step if checkpoints.record else 0)
        if steps[-1] == 80:  # begin another one
            assert same_bits(weights(checkpoints.folder), expected)
            shutil.rmtree(checkpoints.folder)
    assert len(set(steps)) > 5  # they came at different places
    run(tiny_space, checkpoints.folder, LONG)
    assert same_bits(weights(checkpoints.folder), expected)
