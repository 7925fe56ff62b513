"""Training on several ranks is training on one, up to rounding. In double precision, where rounding flips no spike."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import autospike
from conftest import TINY_SPACE
from safetensors.torch import load_file
from trainings import batches, forked, supernet

from autospike.config import TrainingConfig
from autospike.data.batches import Batch, TrainingBatches
from autospike.data.rank_slice import WHOLE, RankSlice
from autospike.errors import Interrupted, UserError
from autospike.nn.layers import Norm
from autospike.nn.synchronised import SynchronisedNorm
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.distributed import ALONE, Ranks
from autospike.training.progress import Progress
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

# One epoch of four batches of 32 images, or one batch of them all.
CONFIG = TrainingConfig(epochs=1, batch_size=32, learning_rate=0.01, warmup_epochs=0, ema=0.9)
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one step": (TINY_SPACE, {"batch_size": 128}),
    "single path": (TINY_SPACE, {}),
    "sandwich in parts": (TINY_SPACE, {"sampling": "sandwich", "accumulate": 2, "optimizer": "lamb", "batch_size": 64}),
    "in place": (TINY_SPACE, {"sampling": "sandwich", "targets": "in-place", "loss": "anytime", "batch_size": 128}),
    "RepConv": (REPCONV_SPACE, {}),
}


class DoubleBatches(TrainingBatches):
    """The same in double precision."""

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        for batch in super().__call__(start, stop):
            yield Batch(images=batch.images.double(), targets=batch.targets.double())


class BrokenBatches(TrainingBatches):
    """The second rank's share of the second batch wants what is no number."""

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        for step, batch in zip(range(start, stop), super().__call__(start, stop), strict=True):
            if step == 1 and self.share.rank == 1:
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
    """What comes out, and the gradients of a loss that is not symmetric in the images."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (y.square() * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}


def stopped(folder: Path, ranks: Ranks, kind: type[TrainingBatches], report: Any) -> str:
    """How a training of four steps ends that does not reach the fourth."""
    network, checkpoints = supernet(SearchSpace.from_dict(TINY_SPACE)), Checkpoints(folder=folder)
    try:
        train(network, batches(CONFIG, kind, ranks), CONFIG, checkpoints, report, seed=0, ranks=ranks)
    except (UserError, Interrupted) as error:
        return str(error)
    return "it was not stopped"


def second_rank_is_told_to_stop(ranks: Ranks) -> Any:
    def report(now: Progress) -> None:
        if ranks.rank == 1 and now.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    return report


def on_rank(rank: int, port: int, folder: Path) -> None:
    """All that the tests below look at, as one of two ranks."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    ranks = Ranks.of_environment()
    with ranks.joined(torch.device("cpu")):
        for way in WAYS:
            train_in(folder / way, way, ranks)
        whole = torch.load(folder / "whole.pt", weights_only=True)
        norm = SynchronisedNorm(3, track_running_stats=False, dtype=whole.dtype)
        mine = whole.chunk(2)[rank].clone().requires_grad_()
        y = norm(mine)
        weights = torch.linspace(0, 1, whole.numel(), dtype=y.dtype).view(whole.shape).chunk(2)[rank]
        (y.square() * weights).sum().backward()
        torch.save(
            {"y": y.detach(), "x": mine.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}, folder / f"norm-{rank}.pt"
        )
        (folder / "file").touch()
        ends = {
            "told to stop": stopped(folder / "told", ranks, TrainingBatches, second_rank_is_told_to_stop(ranks)),
            "nonfinite": stopped(folder / "broken", ranks, BrokenBatches, lambda _now: None),
            "cannot write": stopped(folder / "file" / "inside", ranks, TrainingBatches, lambda _now: None),
        }
        (folder / f"ends-{rank}.json").write_text(json.dumps(ends))


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave behind."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.manual_seed(0)
    torch.save(
        torch.randn(8, 5, 3, dtype=torch.double) * torch.tensor([1, 5, 0.1]) + torch.tensor([0, 1e3, -7]), folder / "whole.pt"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [forked().Process(target=on_rank, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_train_the_weights_of_one(ranked: Path, tmp_path: Path, way: str) -> None:
    """And of the optimizer, and their average; what no step touched has no state of the optimizer, on two ranks as on one."""
    train_in(tmp_path, way, ALONE)
    (alone,), (together,) = (list(folder.glob("step-*.safetensors")) for folder in (tmp_path, ranked / way))
    expected, found = load_file(alone), load_file(together)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_synchronised_norm_is_the_norm_of_the_whole_batch(ranked: Path) -> None:
    """Torch's own, on what both ranks hold."""
    whole = torch.load(ranked / "whole.pt", weights_only=True)
    expected = normalise(whole, Norm(3, track_running_stats=False, dtype=whole.dtype))
    first, second = (torch.load(ranked / f"norm-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), expected[name])
    for name in ("weight", "bias"):
        torch.testing.assert_close(first[name] + second[name], expected[name])


def ends(folder: Path, what: str) -> list[str]:
    return [json.loads((folder / f"ends-{rank}.json").read_text())[what] for rank in (0, 1)]


def test_ranks_agree_on_the_step_at_which_they_stop(ranked: Path) -> None:
    """A signal that reached one of them after step 2 stops both after step 3."""
    assert ends(ranked, "told to stop") == ["interrupted at step 3; run the same command again to go on"] * 2
    record = Checkpoints(folder=ranked / "told").record
    assert record is not None
    assert (record.step, record.finished) == (3, False)


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(ranked: Path) -> None:
    first, second = ends(ranked, "nonfinite")
    assert first == second
    assert "the loss is nan, the gradient's norm nan at step 1, subnet" in first
    kept = load_file(ranked / "broken" / "nonfinite" / "batch.safetensors")
    assert kept["images"].shape == (32, 1, 8, 8)
    assert kept["targets"].isnan().nonzero().tolist() == [[16, 0]]  # the first image of the second rank


def test_a_checkpoint_that_cannot_be_written_stops_both(ranked: Path) -> None:
    first, second = ends(ranked, "cannot write")
    assert "cannot be written" in first
    assert "the first rank could not go on" in second


@pytest.mark.parametrize(("ranks", "parts"), [(2, 1), (2, 2), (4, 2), (1, 3)])
def test_shares_of_a_mixed_batch_are_the_batch(ranks: int, parts: int) -> None:
    """To the last bit. By hand: part p of a batch is made of every rank's part p, whatever the order."""
    config = CONFIG.model_copy(update={"batch_size": 48, "accumulate": parts})
    (whole,) = batches(config)(0, 1)
    shares = [next(batches(config, ranks=Ranks(rank=rank, size=ranks))(0, 1)) for rank in range(ranks)]
    for part in range(parts):
        place, size = slice(part * 48 // parts, (part + 1) * 48 // parts), 48 // parts // ranks
        own = slice(part * size, (part + 1) * size)
        for name in ("images", "targets"):
            expected = [tensor.tolist() for tensor in getattr(whole, name)[place]]
            found = [tensor.tolist() for share in shares for tensor in getattr(share, name)[own]]
            assert sorted(found) == sorted(expected)


def test_a_share_takes_both_ends_of_each_part() -> None:
    assert [RankSlice(rank=rank, ranks=2, parts=1).of(range(8)) for rank in (0, 1)] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert [RankSlice(rank=rank, ranks=2, parts=2).of(range(8)) for rank in (0, 1)] == [[0, 3, 4, 7], [1, 2, 5, 6]]
    assert WHOLE.of(range(5)) == [0, 1, 2, 3, 4]


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    config = CONFIG.model_copy(update={"batch_size": 36, "accumulate": 2})
    with pytest.raises(UserError, match="batches of 36 images cannot be shared by 2 ranks in 2 parts each; choose a multiple of 8"):
        batches(config, ranks=Ranks(rank=0, size=2))


def test_each_rank_has_a_cuda_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Ranks(rank=5, size=8, local=1).device("cuda") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="rank 6: this machine has 2 CUDA devices, one for each rank is needed"):
        Ranks(rank=6, size=8, local=2).device("cuda")


def test_only_training_is_for_torchrun(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    outcome = autospike(capsys, "search", tmp_path)
    assert outcome.code == 2
    assert outcome.err.startswith("error: autospike search: 2 ranks were started")
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
def test_the_command_under_torchrun_trains_what_it_trains_alone(tmp_path: Path, tiny_experiment: Path) -> None:
    """In float32: losses of the first steps alike, later ones apart by what a flipped spike makes."""
    settings = ["--set", "training.batch_size=128", "--set", "device=cpu"]
    python, arguments = [sys.executable, "-m"], ["autospike", "train", str(tiny_experiment)]
    torchrun = [*python, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    losses = {}
    for name, launcher in {"alone": python, "together": torchrun}.items():
        command = [*launcher, *arguments, "--run", str(tmp_path / name), *settings]
        subprocess.run(command, check=True, capture_output=True)
        events = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses[name] = [event["loss"] for event in events if event["event"] == "train"]
        assert [event["event"] for event in events if event["event"] != "train"] == ["train started", "train finished"] * 2
    assert len(losses["alone"]) > 2
    assert losses["together"] == pytest.approx(losses["alone"], rel=0.02)
