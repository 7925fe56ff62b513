"""Checkpoints as training scripts, compilers and trackers save them give the plain state dict; other files are named."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import io
import json
import pathlib
import pickle
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import one_line_error
from published_states import spikformer_cifar
from safetensors.torch import save_file
from torch import Tensor

from autospike.models.checkpoint_import import load_reference
from autospike.models.checkpoint_reader import MAX_KEYS, open_checkpoint, read_checkpoint

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return spikformer_cifar()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def changed(state: State, factor: float = 2) -> State:
    """The same names with other values."""
    return {name: tensor * factor if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def assert_same(given: State, expected: State) -> None:
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def saved(tmp_path: Path, content: object, **options: Any) -> Path:
    torch.save(content, tmp_path / "a.pth", **options)
    return tmp_path / "a.pth"


WRAPPED: dict[str, Callable[[State], object]] = {
    "DistributedDataParallel": lambda s: prefixed("module.", s),
    "DistributedDataParallel twice": lambda s: prefixed("module.module.", s),
    "torch.compile": lambda s: prefixed("_orig_mod.", s),
    "torch.compile in DistributedDataParallel": lambda s: prefixed("module._orig_mod.", s),
    "DistributedDataParallel in torch.compile": lambda s: prefixed("_orig_mod.module.", s),
    "torch.compile of the blocks": lambda s: {n.replace("block.0.", "block.0._orig_mod."): t for n, t in s.items()},
    "activation checkpointing": lambda s: {n.replace("block.0.", "block.0._checkpoint_wrapped_module."): t for n, t in s.items()},
    "FSDP": lambda s: prefixed("_fsdp_wrapped_module.", s),
    "DistributedDataParallel of a part": lambda s: {(f"module.{n}" if n.startswith("block") else n): t for n, t in s.items()},
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "pytorch-lightning_version": "2.5", "callbacks": {}},
    "Lightning, compiled": lambda s: {"state_dict": prefixed("model._orig_mod.", s), "epoch": 1},
    "Lightning with a loss and a metric": lambda s: {
        "state_dict": {**prefixed("net.", s), "criterion.weight": torch.ones(10), "accuracy.total": torch.ones(1)}
    },
    "a backbone beside its head": lambda s: {(n if n.startswith("head") else f"backbone.{n}"): t for n, t in s.items()},
    "unusual attribute": lambda s: prefixed("snn_encoder.", s),
    "net": lambda s: {"net": s, "acc": 95.0, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "network": lambda s: {"network": s},
    "unusual entry": lambda s: {"spikformer": s, "epoch": 3},
    "nested entries": lambda s: {"checkpoint": {"model": {"state_dict": s}}},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(5), **prefixed("module.", s)},
    "thop": lambda s: {
        **s,
        "total_ops": torch.zeros(1),
        "block.0.total_ops": torch.zeros(1),
        "block.0.total_params": torch.zeros(1),
    },
    "numbers beside the weights": lambda s: {**s, "epoch": 3, "best_acc": 95.1},
    "names of parameters in the optimizer": lambda s: {"model": s, "optimizer": {"state": changed(s)}},
    "gradients": lambda s: {"model": s, "grads": changed(s)},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_weights_are_found(tmp_path: Path, state: State, name: str) -> None:
    found = read_checkpoint(saved(tmp_path, WRAPPED[name](state)))
    assert_same(found, state)
    load_reference(found)


BESIDE: dict[str, object] = {
    "numpy float64": np.float64(95.1),
    "numpy float32": np.float32(95.1),
    "numpy integer": np.int64(3),
    "numpy bool": np.bool_(True),
    "numpy string": np.str_("cifar10"),
    "numpy array": np.zeros((2, 2)),
    "numpy integers": np.arange(3),
    "numpy empty": np.zeros((0, 3), dtype=np.uint8),
    "numpy strings": np.array(["cat", "dog"]),
    "numpy type": np.float32,
    "numpy dtype": np.dtype("float64"),
    "numpy random state": np.random.RandomState(0).get_state(),
    "Namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("out"), best=np.float64(1)),
    "path": pathlib.PurePosixPath("out"),
    "Windows path": pathlib.PureWindowsPath("out"),
    "posix path": pathlib.PosixPath("out"),
    "OrderedDict": collections.OrderedDict(a=1),
    "defaultdict": collections.defaultdict(list, {"loss": [1.0]}),
    "deque": collections.deque([1.0, 2.0], maxlen=3),
    "Counter": collections.Counter("abc"),
    "set": {1, 2},
    "frozenset": frozenset({1}),
    "bytes": b"abc",
    "no bytes": b"",
    "complex": 1j,
    "slice": slice(1, 2),
    "range": range(3),
    "types": [int, float, str, list],
    "datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "torch": {"size": torch.Size([1, 2]), "dtype": torch.float16, "device": torch.device("cpu")},
    "generator state": torch.get_rng_state(),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", BESIDE)
def test_harmless_objects_beside_the_weights(tmp_path: Path, state: State, name: str, zipped: bool) -> None:
    path = saved(tmp_path, {"model": state, "other": BESIDE[name]}, _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(path), state)


def test_names_of_numpy_1(tmp_path: Path, state: State) -> None:
    """Before version 2, numpy has `numpy.core` in place of `numpy._core`."""
    path = saved(tmp_path, {"model": state, "metric": np.float64(1), "array": np.zeros(2)}, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))
    assert_same(read_checkpoint(path), state)


class Config(dict[str, object]):
    """As easydict's and mmengine's classes."""


class Recorder:
    """A harmless class that is not known to be so."""


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (Recorder(), "test_checkpoint_reader.Recorder"),
        (Config(a=1), "test_checkpoint_reader.Config"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (eval, "eval"),
        (np.array([Recorder()], dtype=object), "numpy.dtypes.ObjectDType"),
    ],
    ids=["object", "dictionary", "module", "function", "numpy objects"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_refused_class_is_named(tmp_path: Path, state: State, other: object, name: str, zipped: bool) -> None:
    path = saved(tmp_path, {"model": state, "other": other}, _use_new_zipfile_serialization=zipped)
    message = one_line_error(lambda: read_checkpoint(path))
    assert message.startswith(f"{path}: cannot be read safely as a checkpoint: it contains an object of ")
    assert name in message or (other.__class__ is np.ndarray and "Recorder" in message)
    assert_no_unsafe_advice(message)


def assert_no_unsafe_advice(message: str) -> None:
    assert not any(words in message for words in ("weights_only", "two options", "safe_globals", "\x1b", "trust"))


def zip_of(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("a.pth")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "HTML": (b"<!DOCTYPE html><html>quota exceeded</html>", "HTML page"),
    "HTML after white space": (b"\n\n  <html lang='en'>", "HTML page"),
    "HTML after a byte-order mark": (b"\xef\xbb\xbf<!doctype HTML>", "HTML page"),
    "HTML after a comment": (b"<!-- saved -->\n<html>", "HTML page"),
    "long HTML with letters of several bytes": (b"<!DOCTYPE html>" + "é".encode() * 5000, "HTML page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git-LFS pointer"),
    "annex pointer": (b"/annex/objects/SHA256E-s1--ab.pth\n", "git-annex pointer"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML document"),
    "JSON": (b'{"message": "Not Found"}', "JSON document"),
    "text": (b"404: Not Found", "text file ('404: Not Found')"),
    "gzip": (gzip.compress(b"a"), "gzip archive"),
    "tar": (tar_of(b"a"), "tar archive"),
    "zip": (zip_of(readme=b"a"), "zip archive"),
    "npy": (npy(), "array of numpy"),
    "npz": (zip_of(**{"a.npy": npy()}), "arrays of numpy"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "PNG image"),
    "PDF": (b"%PDF-1.7", "PDF document"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    "incomplete zip": (zip_of(a=b"a" * 100)[:60], "incomplete"),
    "empty": (b"", "empty"),
    "pickle": (pickle.dumps({"a": 1}), "not a file of torch.save or safetensors"),
    "other bytes": (bytes(range(256)) * 4, "not a file of torch.save or safetensors"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, suffix: str) -> None:
    content, kind = FILES[name]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    message = one_line_error(lambda: read_checkpoint(path))
    assert message.startswith(f"{path}: cannot be read safely as a checkpoint: ")
    assert kind in message
    assert_no_unsafe_advice(message)


def test_torchscript_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    message = one_line_error(lambda: read_checkpoint(tmp_path / "a.pt"))
    assert "TorchScript program" in message
    assert_no_unsafe_advice(message)


def test_another_pickle_protocol_is_named(tmp_path: Path, state: State) -> None:
    message = one_line_error(lambda: read_checkpoint(saved(tmp_path, state, pickle_protocol=4)))
    assert "pickle protocol other than 2" in message
    assert_no_unsafe_advice(message)


def test_the_content_decides_not_the_suffix(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "a.pth")
    assert_same(read_checkpoint(tmp_path / "a.pth"), state)
    torch.save(state, tmp_path / "a.safetensors")
    assert_same(read_checkpoint(tmp_path / "a.safetensors"), state)


# Averages beside raw weights, by their entries.
AVERAGED: dict[str, Callable[[State, State], object]] = {
    "state_dict_ema": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema, "epoch": 1},
    "model_ema": lambda raw, ema: {"model": raw, "model_ema": prefixed("module.", ema)},
    "ema": lambda raw, ema: {"net": raw, "ema": ema},
    "ema.module": lambda raw, ema: {"model": raw, "ema": {"module": ema, "decay": 0.999}},
    "swa_state_dict": lambda raw, ema: {"state_dict": raw, "swa_state_dict": {"n_averaged": torch.tensor(3), **ema}},
    "model_EMA": lambda raw, ema: {"model": raw, "model_EMA": ema},
    "netEma": lambda raw, ema: {"net": raw, "netEma": ema},
    "ema-0.9999": lambda raw, ema: {"model": raw, "ema-0.9999": ema},
    "state_dict.ema_model": lambda raw, ema: {"state_dict": {**prefixed("model.", raw), **prefixed("ema_model.", ema)}},
}


@pytest.mark.parametrize("entry", AVERAGED)
def test_the_average_is_taken_unless_raw_weights_are_requested(tmp_path: Path, state: State, entry: str) -> None:
    """As timm does."""
    average = changed(state)
    path = saved(tmp_path, AVERAGED[entry](state, average))
    for requested in (None, "ema"):
        taken = open_checkpoint(path, requested)
        assert_same(taken.state_dict, average)
        assert (taken.weights, taken.entry) == ("ema", entry)
        assert taken.choice == f"takes the average of the weights ({entry}); --weights raw takes the raw weights"
    raw = open_checkpoint(path, "raw")
    assert_same(raw.state_dict, state)
    assert raw.weights == "raw"
    assert "takes the raw weights" in str(raw.choice)
    assert "--weights ema takes the average" in str(raw.choice)


def test_raw_weights_alone_need_no_sentence(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path, {"state_dict": state, "state_dict_ema": None})
    assert open_checkpoint(path).choice is None
    assert "has raw weights only (state_dict); omit --weights" in one_line_error(lambda: open_checkpoint(path, "ema"))


def test_an_average_without_names_is_mentioned(tmp_path: Path, state: State) -> None:
    """As torch_ema saves it."""
    average = {"decay": 0.999, "num_updates": 7, "shadow_params": list(changed(state).values()), "collected_params": None}
    taken = open_checkpoint(saved(tmp_path, {"model": state, "ema": average}))
    assert_same(taken.state_dict, state)
    assert (
        taken.choice == "takes the raw weights; the average under ema.shadow_params is a list without names, which cannot be read"
    )


@pytest.mark.parametrize("checksum", [True, False])
def test_a_changed_bit_of_a_weight(tmp_path: Path, state: State, checksum: bool) -> None:
    """The reader of torch does not compare checksums. A file without them is read."""
    torch.serialization.set_crc32_options(checksum)
    try:
        path = saved(tmp_path, state)
    finally:
        torch.serialization.set_crc32_options(True)
    content = bytearray(path.read_bytes())
    content[content.index(state["head.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    if checksum:
        assert "is damaged: the checksum of an entry is wrong" in one_line_error(lambda: read_checkpoint(path))
    else:
        assert not torch.equal(read_checkpoint(path)["head.weight"], state["head.weight"])


def test_an_average_alone_is_taken(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path, {"state_dict_ema": state, "epoch": 1})
    assert open_checkpoint(path).choice == "takes the average of the weights (state_dict_ema)"
    assert "has an average of the weights only (state_dict_ema)" in one_line_error(lambda: open_checkpoint(path, "raw"))


def test_several_sets_of_weights_without_a_usual_entry(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path, {"first": state, "second": changed(state)})
    assert "several sets of weights, under first, second" in one_line_error(lambda: open_checkpoint(path))


def test_the_usual_entry_takes_precedence(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path, {"teacher": changed(state), "model": state})
    assert_same(read_checkpoint(path), state)


def test_a_part_of_a_sharded_checkpoint_is_named(tmp_path: Path, state: State) -> None:
    part = saved(tmp_path, state).rename(tmp_path / "pytorch_model-00002-of-00003.bin")
    assert "is part 2 of 3 of a sharded checkpoint" in one_line_error(lambda: read_checkpoint(part))
    assert_same(read_checkpoint(part.rename(tmp_path / "pytorch_model-00001-of-00001.bin")), state)


def test_two_weights_of_one_name(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path, {**state, "module.head.bias": torch.ones(10)})
    assert "two different weights called 'head.bias'" in one_line_error(lambda: read_checkpoint(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_many_keys_are_refused_without_reading_them(tmp_path: Path, name: str) -> None:
    """Within 5 s of processor time. The tensors of the torch file share one storage, so names are all that it has many of."""
    keys = [f"block.{i}.attn.q_conv.weight" for i in range(400_000)]
    if name == "a.pth":
        torch.save(dict.fromkeys(keys, torch.zeros(1)), tmp_path / name)
    else:
        entries = {key: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, key in enumerate(keys)}
        header = json.dumps(entries).encode()
        (tmp_path / name).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * len(keys)))
    start = time.process_time()
    message = one_line_error(lambda: read_checkpoint(tmp_path / name))
    assert time.process_time() - start < 5
    assert f"has 400,000 weights, but no supported network has more than {MAX_KEYS:,}" in message


@pytest.mark.slow
def test_many_tensors_are_counted_without_reading_them(tmp_path: Path) -> None:
    """A zip file of 100,001 empty entries stands in for one of as many tensors; above 65,534 the number has its own record."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for i in range(100_001):
            archive.writestr(f"a/data/{i}", b"")
    assert "has 100,001 weights" in one_line_error(lambda: read_checkpoint(tmp_path / "a.pth"))


def test_many_keys_of_a_state_dict_are_refused(state: State) -> None:
    many = {**state, **dict.fromkeys((f"block.{i}.attn.q_conv.weight" for i in range(400_000)), torch.zeros(1))}
    start = time.process_time()
    assert "weights, but no supported network has more than" in one_line_error(lambda: load_reference(many))
    assert time.process_time() - start < 5


def test_a_block_far_behind_the_others_is_refused(state: State) -> None:
    """The number of blocks is not the largest number of a block."""
    start = time.process_time()
    message = one_line_error(lambda: load_reference({**state, "block.399999.attn.q_linear.weight": torch.zeros(4, 4)}))
    assert time.process_time() - start < 5
    assert "key 'block.1' is missing" in message


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_dense_values_are_refused(tmp_path: Path, kind: str) -> None:
    dense = torch.ones(2, 2)
    torch.save({"weight": dense.to_sparse() if kind == "sparse" else dense.to("meta"), "bias": dense}, tmp_path / "a.pth")
    message = one_line_error(lambda: read_checkpoint(tmp_path / "a.pth"))
    assert "key 'weight' is a sparse, quantised or empty tensor" in message


def test_a_zip_file_with_damaged_names_is_one_line(tmp_path: Path) -> None:
    """The flag that names are UTF-8 is set in the list of files, and a name is not."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("\u00e9.pkl", b"x")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content.replace("\u00e9".encode(), b"\xa5\xa5"))
    assert "incomplete or damaged zip file" in one_line_error(lambda: read_checkpoint(tmp_path / "a.pth"))
