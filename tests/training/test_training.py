"""Training: resumed equals uninterrupted, bit for bit; checkpoints are complete or not there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from trainings import CONFIG, KilledError, batches, run, same_bits, supernet, weights

from autospike.errors import UserError
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints, State
from autospike.training.step import LabelledBatch, learn
from autospike.training.trainer import train

WAYS = {
    "single path": {"sampling": "single-path"},
    "sandwich": {"sampling": "sandwich"},
    "LAMB": {"optimizer": "lamb"},  # it counts its steps elsewhere than AdamW
    "in parts": {"accumulate": 4},
    "small first, anytime": {"sampling": "small-first", "loss": "anytime"},  # draws depend on the step's place in the training
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kill_at", [[1], [6], [4, 9, 13]])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path, tiny_space: SearchSpace, way: str, kill_at: list[int]) -> None:
    config = CONFIG.model_copy(update=WAYS[way])
    whole = run(tiny_space, tmp_path / "whole", config)
    for step in kill_at:
        with pytest.raises(KilledError):
            run(tiny_space, tmp_path / "killed", config, kill_at=step)
    rest = run(tiny_space, tmp_path / "killed", config)
    assert same_bits(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert [now.loss for now in rest] == [now.loss for now in whole[-len(rest) :]]
    assert rest[0].step == kill_at[-1] // 4 * 4 + 1  # four steps an epoch, a checkpoint each


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path, tiny_experiment: Path) -> None:
    def command(folder: str) -> list[str]:
        settings = ["--set", "training.epochs=12", "--set", "training.batch_size=128"]
        return [sys.executable, "-m", "autospike", "train", str(tiny_experiment), "--run", str(tmp_path / folder), *settings]

    subprocess.run(command("whole"), check=True, capture_output=True)
    rng = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(6, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command("killed"), check=True, capture_output=True)
    for network in ("supernet", "baseline"):
        assert same_bits(weights(tmp_path / "killed" / network), weights(tmp_path / "whole" / network))


def test_every_option_reaches_the_training(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """No two of these ways learn the same in an epoch."""
    ways = [
        {"sampling": "single-path"},
        {"sampling": "small-first"},
        {"sampling": "sandwich"},
        {"sampling": "sandwich", "targets": "in-place"},
        {"sampling": "sandwich", "loss": "anytime"},
        {"sampling": "sandwich", "targets": "in-place", "loss": "anytime"},
    ]
    for i, way in enumerate(ways):
        run(tiny_space, tmp_path / str(i), CONFIG.model_copy(update={"epochs": 1, "warmup_epochs": 0, **way}))
    learnt = [weights(tmp_path / str(i))["model.shared.head.weight"] for i in range(len(ways))]
    assert all(not torch.equal(one, other) for one, other in combinations(learnt, 2))


def test_small_first_knows_how_much_is_done(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """Of two widths the second comes after a quarter of the training: until then nothing moves outside the first one's corner."""
    config = CONFIG.model_copy(update={"sampling": "small-first", "weight_decay": 0.0})
    with pytest.raises(KilledError):
        run(tiny_space, tmp_path, config, kill_at=4)
    before = supernet(tiny_space).shared.get_parameter("head.weight")
    early = load_file(tmp_path / "step-00000004.safetensors")["model.shared.head.weight"]
    assert not torch.equal(early[:, :8], before[:, :8])
    assert torch.equal(early[:, 8:], before[:, 8:])
    run(tiny_space, tmp_path, config)
    assert not torch.equal(weights(tmp_path)["model.shared.head.weight"][:, 8:], before[:, 8:])


def test_a_finished_training_does_nothing(tmp_path: Path, tiny_space: SearchSpace) -> None:
    run(tiny_space, tmp_path)
    assert run(tiny_space, tmp_path) == []


def test_training_learns(tmp_path: Path, tiny_space: SearchSpace) -> None:
    config = CONFIG.model_copy(update={"epochs": 30})
    steps = run(SearchSpace.of(tiny_space.largest()), tmp_path, config)
    first, last = (sum(now.loss for now in part) / 10 for part in (steps[:10], steps[-10:]))
    assert last < 0.85 * first


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(tmp_path: Path, tiny_space: SearchSpace) -> None:
    rates = [now.learning_rate for now in run(tiny_space, tmp_path)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[2] == pytest.approx((1e-5 + 0.01) / 2, rel=1e-3)  # half-way through the warm-up of four steps
    assert rates[8] == pytest.approx((1e-5 + 0.01) / 2, rel=1e-3)  # half-way through all sixteen
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path, tiny_space: SearchSpace) -> None:
    network = supernet(tiny_space)
    with torch.no_grad():
        network.shared.head.weight.fill_(float("inf"))
    before = {name: p.clone() for name, p in network.named_parameters()}
    with pytest.raises(UserError, match="at step 0, subnet"):
        train(network, batches(CONFIG), CONFIG, Checkpoints(folder=tmp_path), lambda _now: None, seed=0)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def saved(folder: Path, space: SearchSpace, *steps: int) -> tuple[Supernet, Checkpoints]:
    network, checkpoints = supernet(space), Checkpoints(folder=folder)
    optimizer = torch.optim.AdamW(network.parameters())
    for step in steps:
        network(torch.rand(4, 1, 8, 8), [space.largest()])[0].sum().backward()
        optimizer.step()
        checkpoints.save(step, State(model=network, optimizer=optimizer), finished=False)
    return network, checkpoints


def fresh(network: Supernet) -> State:
    return State(model=network, optimizer=torch.optim.AdamW(network.parameters()))


def test_the_last_two_checkpoints_are_kept(tmp_path: Path, tiny_space: SearchSpace) -> None:
    for left_by_a_kill in (".step-00000003.safetensors.1234.part", ".tmpAbC123"):  # ours, safetensors' own
        (tmp_path / left_by_a_kill).touch()
    saved(tmp_path, tiny_space, 3, 6, 9)
    kept = ["checkpoint.json", "step-00000006.safetensors", "step-00000009.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_a_kill_before_the_record_leaves_the_checkpoint_before(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, checkpoints = saved(tmp_path, tiny_space, 3)
    expected = {name: p.clone() for name, p in network.state_dict().items()}
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("autospike.training.checkpoint.write_json", raise_killed)
        with torch.no_grad():
            network.shared.head.bias.add_(1)
        checkpoints.save(6, fresh(network), finished=False)
    restored = supernet(tiny_space)
    assert checkpoints.restore(fresh(restored)) == 3
    assert all(torch.equal(p, expected[name]) for name, p in restored.state_dict().items())


def raise_killed(*_args: Any) -> None:
    raise KilledError


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:1000]), lambda path: path.unlink(), flip_a_bit]
)
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path, tiny_space: SearchSpace, damage: Any) -> None:
    _, checkpoints = saved(tmp_path, tiny_space, 3)
    damage(tmp_path / "step-00000003.safetensors")
    for read in (lambda: checkpoints.restore(fresh(supernet(tiny_space))), checkpoints.recover):
        with pytest.raises(UserError, match=r"step-00000003\.safetensors: damaged") as error:
            read()
        assert "\n" not in str(error.value)


def test_a_batch_in_parts_is_the_mean_of_its_parts(tiny_space: SearchSpace) -> None:
    """By hand: the gradient of each part's loss, weighed by its share of the batch; each part is normalised by itself."""
    supernet = Supernet(SearchSpace.of(tiny_space.largest()), num_classes=10, in_chans=1)
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    expected = torch.zeros_like(supernet.shared.get_parameter("head.weight"))
    for part in (slice(0, 4), slice(4, 8)):
        supernet.zero_grad()
        (logits,) = supernet(images[part], [tiny_space.largest()])
        F.cross_entropy(logits, labels[part]).backward()
        expected += supernet.shared.get_parameter("head.weight").grad / 2
    supernet.zero_grad()
    learn(supernet, LabelledBatch(images=images, targets=labels, taught=labels), [tiny_space.largest()], accumulate=2)
    torch.testing.assert_close(supernet.shared.get_parameter("head.weight").grad, expected)
