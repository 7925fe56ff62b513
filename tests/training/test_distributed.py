"""Training on several ranks equals training on one up to rounding. In double precision, so that rounding flips no spike."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_experiment import TINY_SPACE
from trainings import batches, forkserver, supernet

from autospike.config import TrainingConfig
from autospike.data.batches import Batch, TrainingBatches
from autospike.errors import Interrupted, UserError
from autospike.events import Event, StepEvent
from autospike.nn.norm import Norm
from autospike.nn.synchronised import SynchronisedNorm
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.distributed import ALONE, Ranks
from autospike.training.trainer import train

REPCONV_SPACE = {
    "family": "meta_spikeformer",
    "time_steps": 2,
    "stages": [
        {
            "embed_dim": [8, 16],
            "embedding": {"stride": 2},
            "depth": 1,
            "block": {"token_mixer": "sdsa_3", "qkv": "repconv", "num_heads": 2},
        }
    ],
}

# Layer scales, and a second head with neurons.
LAYER_SCALE_SPACE = {
    "family": "e_spikeformer",
    "shortcut": "membrane",
    "time_steps": 2,
    "distilled": True,
    "mean_head": True,
    "stages": [
        {
            "embed_dim": [8, 16],
            "embedding": {"stride": 2},
            "depth": 1,
            "block": {"qkv": "replinear", "num_heads": 2, "layer_scale": True},
        }
    ],
}

# One epoch of four batches of 32 images, or one batch of them all.
CONFIG = TrainingConfig(epochs=1, batch_size=32, learning_rate=0.01, warmup_epochs=0, ema=0.9)
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one step": (TINY_SPACE, {"batch_size": 128}),
    "single path": (TINY_SPACE, {}),
    "sandwich, accumulate": (TINY_SPACE, {"sampling": "sandwich", "accumulate": 2, "optimizer": "lamb", "batch_size": 64}),
    "in place": (TINY_SPACE, {"sampling": "sandwich", "targets": "in-place", "loss": "anytime", "batch_size": 128}),
    "RepConv": (REPCONV_SPACE, {}),
    "layer scale": (LAYER_SCALE_SPACE, {}),
}


class DoubleBatches(TrainingBatches):
    """Batches in double precision."""

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        for batch in super().__call__(start, stop):
            yield Batch(images=batch.images.double(), targets=batch.targets.double())


class BrokenBatches(TrainingBatches):
    """Batches of which the second has a NaN target on the second rank."""

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        for step, batch in zip(range(start, stop), super().__call__(start, stop), strict=True):
            if step == 1 and self.rank_slice.rank == 1:
                batch.targets[0, 0] = float("nan")
            yield batch


def train_in(folder: Path, way: str, ranks: Ranks) -> None:
    space, update = WAYS[way]
    config = CONFIG.model_copy(update=update)
    shares = batches(config, DoubleBatches, ranks)
    train(
        supernet(SearchSpace.from_dict(space)).double(),
        shares,
        config,
        Checkpoints(folder=folder),
        lambda _now: None,
        seed=0,
        ranks=ranks,
    )


def normalise(x: torch.Tensor, norm: Norm) -> dict[str, torch.Tensor]:
    """Output, and gradients of a loss in which the images have different weights."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (y.square() * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}


def stopped(folder: Path, ranks: Ranks, kind: type[TrainingBatches], report: Any) -> str:
    """Error message of a training of four steps that does not reach the fourth."""
    network, checkpoints = supernet(SearchSpace.from_dict(TINY_SPACE)), Checkpoints(folder=folder)
    try:
        train(network, batches(CONFIG, kind, ranks), CONFIG, checkpoints, report, seed=0, ranks=ranks)
    except (UserError, Interrupted) as error:
        return str(error)
    return "not stopped"


def signal_on_the_second_rank(ranks: Ranks) -> Any:
    def report(now: Event) -> None:
        if isinstance(now, StepEvent) and ranks.rank == 1 and now.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    return report


def on_rank(rank: int, port: int, folder: Path) -> None:
    """Run what the tests below check, as one of two ranks."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    ranks = Ranks.of_environment()
    with ranks.joined(torch.device("cpu")):
        for way in WAYS:
            train_in(folder / way, way, ranks)
        uninterrupted = torch.load(folder / "whole.pt", weights_only=True)
        norm = SynchronisedNorm(3, track_running_stats=False, dtype=uninterrupted.dtype)
        mine = uninterrupted.chunk(2)[rank].clone().requires_grad_()
        y = norm(mine)
        weights = torch.linspace(0, 1, uninterrupted.numel(), dtype=y.dtype).view(uninterrupted.shape).chunk(2)[rank]
        (y.square() * weights).sum().backward()
        torch.save(
            {"y": y.detach(), "x": mine.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}, folder / f"norm-{rank}.pt"
        )
        (folder / "file").touch()
        ends = {
            "signal": stopped(folder / "signalled", ranks, TrainingBatches, signal_on_the_second_rank(ranks)),
            "nonfinite": stopped(folder / "broken", ranks, BrokenBatches, lambda _now: None),
            "cannot write": stopped(folder / "file" / "inside", ranks, TrainingBatches, lambda _now: None),
        }
        (folder / f"ends-{rank}.json").write_text(json.dumps(ends))


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that two ranks have written."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.manual_seed(0)
    torch.save(
        torch.randn(8, 5, 3, dtype=torch.double) * torch.tensor([1, 5, 0.1]) + torch.tensor([0, 1e3, -7]), folder / "whole.pt"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [forkserver().Process(target=on_rank, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    exit_codes = [process.exitcode for process in processes]
    for process in processes:  # one that waits for the other would keep this process from ending
        process.kill()
    assert exit_codes == [0, 0]
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_train_the_same_parameters_as_one(ranked: Path, tmp_path: Path, way: str) -> None:
    """Parameters, optimizer state and moving average. Parameters that no step used have no optimizer state."""
    train_in(tmp_path, way, ALONE)
    (alone,), (together,) = (list(folder.glob("step-*.safetensors")) for folder in (tmp_path, ranked / way))
    expected, found = load_file(alone), load_file(together)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-9, msg=partial("{}: {}".format, name))


def test_synchronised_norm_is_the_norm_of_the_whole_batch(ranked: Path) -> None:
    """Expected: the layer without ranks, on the batch of both."""
    uninterrupted = torch.load(ranked / "whole.pt", weights_only=True)
    expected = normalise(uninterrupted, Norm(3, track_running_stats=False, dtype=uninterrupted.dtype))
    first, second = (torch.load(ranked / f"norm-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), expected[name])
    for name in ("weight", "bias"):
        torch.testing.assert_close(first[name] + second[name], expected[name])


def ends(folder: Path, what: str) -> list[str]:
    return [json.loads((folder / f"ends-{rank}.json").read_text())[what] for rank in (0, 1)]


def test_ranks_agree_on_the_step_at_which_they_stop(ranked: Path) -> None:
    """A signal that reached one of them after step 2 stops both after step 3."""
    assert ends(ranked, "signal") == ["interrupted at step 3; run the same command again to resume"] * 2
    record = Checkpoints(folder=ranked / "signalled").record
    assert record is not None
    assert (record.step, record.finished) == (3, False)


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(ranked: Path) -> None:
    first, second = ends(ranked, "nonfinite")
    assert first == second
    assert "the loss is nan and the gradient norm nan at step 1, subnet" in first
    kept = load_file(ranked / "broken" / "nonfinite" / "batch.safetensors")
    assert kept["images"].shape == (32, 1, 8, 8)
    assert kept["targets"].isnan().nonzero().tolist() == [[16, 0]]  # the first image of the second rank


def test_a_checkpoint_that_cannot_be_written_stops_both(ranked: Path) -> None:
    first, second = ends(ranked, "cannot write")
    assert "cannot be written" in first
    assert "the first rank failed" in second


def test_each_rank_has_its_own_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Ranks(rank=5, size=8, local=1).device("cuda") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="rank 6: this machine has 2 CUDA devices, but each rank needs one"):
        Ranks(rank=6, size=8, local=2).device("cuda")
