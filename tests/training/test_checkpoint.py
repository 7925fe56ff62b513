"""Checkpoints: complete or absent, recovered if damaged, kept when the disk is full."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from builders import one_line_error
from slow_parameters import slow_except
from trainings import SHORT, KilledError, bit_identical, run, supernet, truncate, weights

from autospike.errors import UserError
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints, Record, TrainingState

Damage = Callable[[Path], object]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Damage] = {"truncated": truncate, "deleted": Path.unlink, "bit flipped": flip_a_bit}


def saved(folder: Path, space: SearchSpace, *steps: int) -> tuple[Supernet, Checkpoints]:
    network, checkpoints = supernet(space), Checkpoints(folder=folder)
    optimizer = torch.optim.AdamW(network.parameters())
    for step in steps:
        network(torch.rand(4, 1, 8, 8), [space.largest()])[0].sum().backward()
        optimizer.step()
        checkpoints.save(step, TrainingState(model=network, optimizer=optimizer), finished=False)
    return network, checkpoints


def new_state(network: Supernet) -> TrainingState:
    return TrainingState(model=network, optimizer=torch.optim.AdamW(network.parameters()))


def test_the_last_two_checkpoints_are_kept_and_temporary_files_deleted(tmp_path: Path, tiny_space: SearchSpace) -> None:
    for temporary in (".step-00000003.safetensors.1234.part", ".tmpAbC123"):
        (tmp_path / temporary).touch()
    saved(tmp_path, tiny_space, 3, 6, 9)
    expected = ["checkpoint.json", "step-00000006.safetensors", "step-00000009.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


def test_a_kill_before_the_record_is_written_leaves_the_previous_checkpoint(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """On disk, such a kill leaves the new file with tensors and the old record."""
    network, checkpoints = saved(tmp_path, tiny_space, 3)
    expected = {name: p.clone() for name, p in network.state_dict().items()}
    record = (tmp_path / "checkpoint.json").read_bytes()
    with torch.no_grad():
        network.shared.get_parameter("head.bias").add_(1)
    checkpoints.save(6, new_state(network), finished=False)
    (tmp_path / "checkpoint.json").write_bytes(record)
    restored = supernet(tiny_space)
    assert checkpoints.restore(new_state(restored)) == 3
    assert bit_identical(restored.state_dict(), expected)


@pytest.mark.parametrize("damage", DAMAGES)
def test_reading_a_damaged_checkpoint_is_a_one_line_error(tmp_path: Path, tiny_space: SearchSpace, damage: str) -> None:
    _, checkpoints = saved(tmp_path, tiny_space, 3)
    DAMAGES[damage](tmp_path / "step-00000003.safetensors")
    for read in (lambda: checkpoints.restore(new_state(supernet(tiny_space))), lambda: checkpoints.recover(8)):
        with pytest.raises(UserError, match=r"step-00000003\.safetensors: damaged") as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", slow_except(["truncated"], DAMAGES))
def test_a_damaged_checkpoint_of_a_finished_training_is_trained_again_bit_identically(
    tmp_path: Path, tiny_space: SearchSpace, damage: str
) -> None:
    run(tiny_space, tmp_path, SHORT)
    expected = weights(tmp_path)
    DAMAGES[damage](tmp_path / "step-00000008.safetensors")
    with pytest.raises(UserError, match=r"step-00000008\.safetensors: damaged, .*; autospike train goes back to step 4$"):
        Checkpoints(folder=tmp_path).load_trained(supernet(tiny_space))
    Checkpoints(folder=tmp_path).recover(8)
    assert [now.step for now in run(tiny_space, tmp_path, SHORT)] == [5, 6, 7, 8]
    assert bit_identical(weights(tmp_path), expected)


def test_recover_reports_a_damage_once(tmp_path: Path, tiny_space: SearchSpace) -> None:
    run(tiny_space, tmp_path, SHORT)
    checkpoints = Checkpoints(folder=tmp_path)
    assert checkpoints.recover(8) is None
    truncate(tmp_path / "step-00000008.safetensors")
    message = checkpoints.recover(8)
    assert message is not None
    assert message.endswith("its content differs from what was written; resuming from the previous checkpoint, of step 4")
    assert "\n" not in message
    assert checkpoints.recover(8) is None
    truncate(tmp_path / "step-00000004.safetensors")
    with pytest.raises(UserError, match="there is no intact checkpoint before it; delete"):
        checkpoints.recover(8)


def lose(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def of_other_types(path: Path) -> None:
    path.write_text('{"step": "8", "file": 3, "sha256": null, "finished": 1, "previous": null}')


@pytest.mark.parametrize("damage", [lose, empty, zeros, cut, of_other_types])
def test_a_lost_record_is_rebuilt_from_the_files(tmp_path: Path, tiny_space: SearchSpace, damage: Damage) -> None:
    run(tiny_space, tmp_path, SHORT)
    checkpoints, before = Checkpoints(folder=tmp_path), (tmp_path / "checkpoint.json").read_bytes()
    tensors = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    damage(tmp_path / "checkpoint.json")
    found = checkpoints.record
    assert found is not None
    assert (found.step, found.finished, found.previous and found.previous.step) == (8, False, 4)
    message = checkpoints.recover(8)
    assert message == f"{tmp_path / 'checkpoint.json'}: lost or damaged, rebuilt from step-00000008.safetensors"
    assert (tmp_path / "checkpoint.json").read_bytes() == before
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == tensors
    assert checkpoints.recover(8) is None


def test_a_training_whose_record_is_lost_resumes_bit_identically(tmp_path: Path, tiny_space: SearchSpace) -> None:
    with pytest.raises(KilledError):
        run(tiny_space, tmp_path, SHORT, kill_at=5)
    lose(tmp_path / "checkpoint.json")
    assert [now.step for now in run(tiny_space, tmp_path, SHORT)] == [5, 6, 7, 8]
    run(tiny_space, tmp_path / "whole", SHORT)
    assert bit_identical(weights(tmp_path), weights(tmp_path / "whole"))


def test_a_rebuilt_record_skips_a_truncated_file(tmp_path: Path, tiny_space: SearchSpace) -> None:
    run(tiny_space, tmp_path, SHORT)
    checkpoints = Checkpoints(folder=tmp_path)
    truncate(tmp_path / "step-00000008.safetensors")
    empty(tmp_path / "checkpoint.json")
    assert "rebuilt from step-00000004.safetensors" in (checkpoints.recover(8) or "")
    truncate(tmp_path / "step-00000004.safetensors")
    lose(tmp_path / "checkpoint.json")
    for read in (lambda: checkpoints.record, lambda: checkpoints.recover(8), lambda: run(tiny_space, tmp_path, SHORT)):
        assert "is missing, and no intact checkpoint is beside it" in one_line_error(read)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("file", ["/dev/zero", "../step-00000003.safetensors", "step-3.safetensors/x", "checkpoint.json", ".", ""])
def test_the_file_of_a_record_is_the_name_of_a_checkpoint(tmp_path: Path, tiny_space: SearchSpace, file: str) -> None:
    """Another record is not used: it is rebuilt."""
    _, checkpoints = saved(tmp_path, tiny_space, 3)
    record = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps({**record, "file": file}))
    assert checkpoints.record == Record.from_dict(record)


@pytest.mark.parametrize("device", [True, False])
def test_a_checkpoint_that_is_no_regular_file_is_damaged(tmp_path: Path, tiny_space: SearchSpace, device: bool) -> None:
    """Reading a named pipe or /dev/zero would not end."""
    _, checkpoints = saved(tmp_path, tiny_space, 3)
    path = tmp_path / "step-00000003.safetensors"
    path.unlink()
    path.symlink_to("/dev/zero") if device else os.mkfifo(path)
    assert "it cannot be read (not a regular file)" in one_line_error(lambda: checkpoints.recover(8))
    lose(tmp_path / "checkpoint.json")
    assert "no intact checkpoint" in one_line_error(lambda: checkpoints.recover(8))


@contextmanager
def full_disk(file_bytes: int) -> Iterator[None]:
    """Limit the size of every file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("file_bytes", [10, 30_000])  # smaller than the record; smaller than the tensors
def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path: Path, tiny_space: SearchSpace, file_bytes: int) -> None:
    with pytest.raises(KilledError):
        run(tiny_space, tmp_path, SHORT, kill_at=5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(file_bytes), pytest.raises(UserError, match=r"cannot be written \(.*File too large.*\); nothing was changed"):
        run(tiny_space, tmp_path, SHORT)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(tiny_space, tmp_path, SHORT)
    run(tiny_space, tmp_path / "whole", SHORT)
    assert bit_identical(weights(tmp_path), weights(tmp_path / "whole"))
