"""The training loop: bit-identical resumption, options, signals, learning rates, moving average."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import one_line_error
from safetensors.torch import load_file
from slow_parameters import slow_except
from tiny_experiment import TINY_SPACE
from torch import Tensor
from trainings import CONFIG, SHORT, KilledError, bit_identical, forkserver, run, supernet, weights

from autospike.config import Experiment
from autospike.errors import Interrupted
from autospike.events import StepEvent
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.setup import open_experiment, training_batches
from autospike.training.trainer import create_optimizer, moving_average

WAYS: dict[str, dict[str, Any]] = {
    "single path": {"sampling": "single-path"},
    "sandwich": {"sampling": "sandwich"},
    "LAMB": {"optimizer": "lamb"},  # counts its steps for each parameter group
    "accumulate": {"accumulate": 4},
    "small first, anytime": {"sampling": "small-first", "loss": "anytime"},  # sampling depends on the progress of the training
    "single step first": {"single_step_share": 0.6},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Result of the short training without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    run(SearchSpace.from_dict(TINY_SPACE), folder, SHORT)
    return weights(folder)


@pytest.mark.parametrize("way", slow_except(["single path", "small first, anytime"], WAYS))
@pytest.mark.parametrize(
    "kill_at", [pytest.param([1], marks=pytest.mark.slow), pytest.param([6], marks=pytest.mark.slow), [4, 9, 13]]
)
def test_a_killed_training_resumes_bit_identically(tmp_path: Path, tiny_space: SearchSpace, way: str, kill_at: list[int]) -> None:
    config = CONFIG.model_copy(update=WAYS[way])
    uninterrupted = run(tiny_space, tmp_path / "whole", config)
    for step in kill_at:
        with pytest.raises(KilledError):
            run(tiny_space, tmp_path / "killed", config, kill_at=step)
    rest = run(tiny_space, tmp_path / "killed", config)
    assert bit_identical(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert [now.loss for now in rest] == [now.loss for now in uninterrupted[-len(rest) :]]
    assert rest[0].step == kill_at[-1] // 4 * 4 + 1  # four steps an epoch, a checkpoint each


@pytest.mark.slow
def test_the_command_resumes_bit_identically_after_sigkill(tmp_path: Path, tiny_experiment: Path) -> None:
    def command(folder: str) -> list[str]:
        settings = ["--set", "training.epochs=12", "--set", "training.batch_size=128"]
        return [sys.executable, "-m", "autospike", "train", str(tiny_experiment), "--run", str(tmp_path / folder), *settings]

    subprocess.run(command("whole"), check=True, capture_output=True, timeout=600)
    rng = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(6, 12))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    subprocess.run(command("killed"), check=True, capture_output=True, timeout=600)
    for network in ("supernet", "baseline"):
        assert bit_identical(weights(tmp_path / "killed" / network), weights(tmp_path / "whole" / network))


@pytest.mark.slow
def test_each_option_changes_the_result(tmp_path: Path, tiny_space: SearchSpace) -> None:
    ways: list[dict[str, Any]] = [
        {"sampling": "single-path"},
        {"sampling": "small-first"},
        {"sampling": "sandwich"},
        {"sampling": "sandwich", "targets": "in-place"},
        {"sampling": "sandwich", "loss": "anytime"},
        {"sampling": "sandwich", "targets": "in-place", "loss": "anytime"},
        {"sampling": "sandwich", "loss": "tet"},
        {"sampling": "sandwich", "clip": 0.01, "weight_decay": 0.0, "optimizer": "lamb"},
        {"sampling": "sandwich", "weight_decay": 0.0, "optimizer": "lamb"},
    ]
    for i, way in enumerate(ways):
        run(tiny_space, tmp_path / str(i), CONFIG.model_copy(update={"epochs": 1, "warmup_epochs": 0, **way}))
    results = [weights(tmp_path / str(i))["model.shared.head.weight"] for i in range(len(ways))]
    assert all(not torch.equal(one, other) for one, other in combinations(results, 2))


def test_small_first_widens_with_the_progress_of_the_training(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """The larger of two widths is sampled from a quarter of the training; before, only the corner of the smaller one changes."""
    config = CONFIG.model_copy(update={"sampling": "small-first", "weight_decay": 0.0})
    with pytest.raises(KilledError):
        run(tiny_space, tmp_path, config, kill_at=4)
    before = supernet(tiny_space).shared.get_parameter("head.weight")
    early = load_file(tmp_path / "step-00000004.safetensors")["model.shared.head.weight"]
    assert not torch.equal(early[:, :8], before[:, :8])
    assert torch.equal(early[:, 8:], before[:, 8:])
    run(tiny_space, tmp_path, config)
    assert not torch.equal(weights(tmp_path)["model.shared.head.weight"][:, 8:], before[:, 8:])


def test_a_training_starts_with_a_single_time_step(tmp_path: Path) -> None:
    """Expected: until that step, the training of the same network with T = 1."""
    three = SearchSpace.from_dict(TINY_SPACE).largest()
    one, config = replace(three, time_steps=1), CONFIG.model_copy(update={"single_step_share": 0.5})
    for architecture, folder in ((one, tmp_path / "one"), (three, tmp_path / "three")):
        with pytest.raises(KilledError):
            run(SearchSpace.of(architecture), folder, config, kill_at=8)
    files = [load_file(tmp_path / name / "step-00000008.safetensors") for name in ("one", "three")]
    assert bit_identical(*files)
    for architecture, folder in ((one, tmp_path / "one"), (three, tmp_path / "three")):
        run(SearchSpace.of(architecture), folder, config)
    assert not bit_identical(weights(tmp_path / "one"), weights(tmp_path / "three"))


def test_frames_of_events_refuse_a_single_time_step(tiny_experiment: Path) -> None:
    setup = open_experiment(Experiment.load(tiny_experiment, ["training.single_step_share=0.5"]))
    frames = replace(setup, images=replace(setup.images, time_steps=3))
    assert "training.single_step_share: only for still images" in one_line_error(lambda: training_batches(frames))


def test_a_finished_training_runs_no_step(tmp_path: Path, tiny_space: SearchSpace) -> None:
    run(tiny_space, tmp_path)
    assert run(tiny_space, tmp_path) == []


def test_training_lowers_the_loss(tmp_path: Path, tiny_space: SearchSpace) -> None:
    config = CONFIG.model_copy(update={"epochs": 30})
    steps = run(SearchSpace.of(tiny_space.largest()), tmp_path, config)
    first, last = (sum(now.loss for now in part) / 10 for part in (steps[:10], steps[-10:]))
    assert last < 0.85 * first


def test_learning_rate_warms_up_linearly_and_decays_as_a_cosine(tmp_path: Path, tiny_space: SearchSpace) -> None:
    rates = [now.learning_rate for now in run(tiny_space, tmp_path)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[2] == pytest.approx((1e-5 + 0.01) / 2, rel=1e-3)  # halfway through the warm-up of four steps
    assert rates[8] == pytest.approx((1e-5 + 0.01) / 2, rel=1e-3)  # halfway through all sixteen
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_cooldown_keeps_the_smallest_learning_rate_and_the_warm_up_has_its_own_start(
    tmp_path: Path, tiny_space: SearchSpace
) -> None:
    """Of four epochs of four steps, one of warm-up and one of cooldown: the cosine ends after step 12."""
    config = CONFIG.model_copy(update={"cooldown_epochs": 1, "warmup_learning_rate": 0.002})
    rates = [now.learning_rate for now in run(tiny_space, tmp_path, config)]
    assert rates[0] == pytest.approx(0.002)
    assert rates[6] == pytest.approx((1e-5 + 0.01) / 2, rel=1e-3)  # halfway through the twelve
    assert rates[11] > 1.5e-5
    assert rates[12:] == pytest.approx([1e-5] * 4)


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_a_gradient_is_clipped_to_a_norm(tmp_path: Path, tiny_space: SearchSpace, clip: float) -> None:
    """The first step of gradient descent moves the parameters by the learning rate times the gradient."""
    changes = {"optimizer": "momentum", "weight_decay": 0.0, "batch_size": 128, "epochs": 1, "warmup_epochs": 0}
    run(tiny_space, tmp_path, CONFIG.model_copy(update={**changes, "clip": clip}))
    trained, before = weights(tmp_path), supernet(tiny_space).state_dict()
    moved = torch.cat([(trained[f"model.{name}"] - value).flatten() for name, value in before.items()]).norm() / 0.01
    assert float(moved) == pytest.approx(clip, rel=0.01) if clip < 1 else 0.01 < float(moved) < 1e3


def signal_at(step: int, number: signal.Signals) -> Callable[[StepEvent], None]:
    def report(now: StepEvent) -> None:
        if now.step == step:
            os.kill(os.getpid(), number)

    return report


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_ends_a_training_after_a_checkpoint(
    tmp_path: Path, tiny_space: SearchSpace, number: signal.Signals, code: int, uninterrupted: dict[str, Tensor]
) -> None:
    before = signal.signal(number, handler := lambda *_: None)  # SIGINT is ignored if the tests run in the background
    try:
        with pytest.raises(Interrupted, match="interrupted at step 6") as interruption:
            run(tiny_space, tmp_path, SHORT, report=signal_at(5, number))  # received after step 5, so step 6 is finished
        assert signal.getsignal(number) == handler
    finally:
        signal.signal(number, before)
    assert interruption.value.exit_code == code
    assert [now.step for now in run(tiny_space, tmp_path, SHORT)] == [7, 8]
    assert bit_identical(weights(tmp_path), uninterrupted)


def test_a_second_signal_interrupts_at_once(tmp_path: Path, tiny_space: SearchSpace) -> None:
    def report(now: StepEvent) -> None:
        if now.step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if the tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tiny_space, tmp_path, report=report)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_fused_optimizer_updates_as_adamw_by_hand(tiny_space: SearchSpace) -> None:
    """Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, in double precision."""
    network, rate, decay, beta, beta2, epsilon = supernet(tiny_space), 0.01, 0.1, 0.9, 0.999, 1e-8
    optimizer = create_optimizer(network, CONFIG.model_copy(update={"learning_rate": rate, "weight_decay": decay}))
    assert all(group["fused"] for group in optimizer.param_groups)
    parameters, generator = list(network.parameters()), torch.Generator().manual_seed(0)
    expected = [p.detach().double() for p in parameters]
    first, second = [torch.zeros_like(p) for p in expected], [torch.zeros_like(p) for p in expected]
    for step in (1, 2, 3):
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            gradient = parameter.grad.double()
            first[i], second[i] = beta * first[i] + (1 - beta) * gradient, beta2 * second[i] + (1 - beta2) * gradient**2
            mean, square = first[i] / (1 - beta**step), second[i] / (1 - beta2**step)
            shrunk = expected[i] * (1 - rate * (decay if parameter.dim() > 1 else 0.0))
            expected[i] = shrunk - rate * mean / (square.sqrt() + epsilon)
        optimizer.step()
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-5, atol=1e-6)


def test_moving_average_has_a_warm_up(tiny_space: SearchSpace) -> None:
    """The decay at step 1, 2, 3, ... is 1 - step ** (-2 / 3), at most the configured one."""
    network = supernet(tiny_space)
    weight, average = network.shared.get_parameter("head.weight"), moving_average(network, 0.5)
    expected = torch.zeros_like(weight)
    for step in range(1, 6):
        with torch.no_grad():
            weight.fill_(step)
        average.update(network, step)
        decay = min(0.5, 1 - step ** (-2 / 3))
        expected = decay * expected + (1 - decay) * step
        torch.testing.assert_close(average.module.shared.get_parameter("head.weight").detach(), expected)


def test_moving_average_resumes_bit_identically_and_is_the_result(
    tmp_path: Path, tiny_space: SearchSpace, uninterrupted: dict[str, Tensor]
) -> None:
    config = SHORT.model_copy(update={"ema": 0.8})
    run(tiny_space, tmp_path / "whole", config)
    with pytest.raises(KilledError):
        run(tiny_space, tmp_path / "killed", config, kill_at=6)
    run(tiny_space, tmp_path / "killed", config)
    found = weights(tmp_path / "killed")
    assert bit_identical(found, weights(tmp_path / "whole"))
    trained = supernet(tiny_space)
    Checkpoints(folder=tmp_path / "killed").load_trained(trained)
    name = "shared.head.weight"
    assert torch.equal(trained.state_dict()[name], found[f"averaged.{name}"])
    assert not torch.equal(found[f"averaged.{name}"], found[f"model.{name}"])
    assert all(
        torch.equal(found[name], tensor) for name, tensor in uninterrupted.items()
    )  # the average does not change the training


def test_bfloat16_gives_a_similar_loss_and_float32_parameters(tmp_path: Path, tiny_space: SearchSpace) -> None:
    largest = SearchSpace.of(tiny_space.largest())
    reduced = run(largest, tmp_path / "reduced", SHORT.model_copy(update={"precision": "bfloat16"}))
    full = run(largest, tmp_path / "full", SHORT)
    assert reduced[0].loss != full[0].loss
    assert [now.loss for now in reduced] == pytest.approx([now.loss for now in full], rel=0.1)
    assert {tensor.dtype for name, tensor in weights(tmp_path / "reduced").items() if name.startswith("model.")} == {torch.float32}


LONG = CONFIG.model_copy(update={"epochs": 20})  # eighty steps, a checkpoint after every four


def train_until_killed(space: SearchSpace, folder: Path, started: Event) -> None:
    torch.set_num_threads(1)
    run(space, folder, LONG, report=lambda _now: started.set())


@pytest.mark.slow
def test_training_resumes_bit_identically_after_twenty_kills(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """SIGKILL at random moments, some of them while a checkpoint is written. The newest checkpoint is never damaged."""
    context, rng = forkserver(), random.Random(0)
    run(tiny_space, tmp_path / "whole", LONG)
    expected, checkpoints = weights(tmp_path / "whole"), Checkpoints(folder=tmp_path / "killed")
    steps: list[int] = []
    while len(steps) < 20:
        started = context.Event()
        process = context.Process(target=train_until_killed, args=(tiny_space, checkpoints.folder, started))
        process.start()
        assert started.wait(timeout=120)
        time.sleep(rng.uniform(0, 0.7))
        process.kill()
        process.join(timeout=60)
        message = checkpoints.recover(80)  # a kill between the first file and its record is no damage
        assert message is None or message.endswith("rebuilt from step-00000004.safetensors")
        steps.append(checkpoints.record.step if checkpoints.record else 0)
        if steps[-1] == 80:  # finished: start again
            assert bit_identical(weights(checkpoints.folder), expected)
            shutil.rmtree(checkpoints.folder)
    assert len(set(steps)) > 5
    run(tiny_space, checkpoints.folder, LONG)
    assert bit_identical(weights(checkpoints.folder), expected)
