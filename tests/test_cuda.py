"""Every family on CUDA tensors, without a GPU: a tensor on another device than the others of its operation raises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from fake_cuda import CUDA, fake_cuda, on_cuda
from populations import WRITTEN, make_evaluator
from slow_parameters import slow_except
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_leaves

from autospike.data.batches import on_device
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.single import measure_stepwise
from autospike.evaluation.trie_evaluator import CalibratedStatistics, NodeResult, TrieEvaluator
from autospike.models import build_model
from autospike.nn.norm import Norm
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, TokenMixer
from autospike.space.families import FAMILIES, Shortcut
from autospike.space.mixers import WITH_HEADS, WITH_PROJECTION_TYPES
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.step import LabelledBatch, accumulate_gradients, in_place

SPACES = ("sew", "events", "spike_driven", "meta_spikeformer", "qkformer", "e_spikeformer", "max_former")
SPAN = (0, 4)  # a batch


def every_mixer(shortcut: Shortcut) -> Architecture:
    """One block of each token mixer, half of them with RepConv and the channel mixer of convolutions."""
    blocks = []
    for i, mixer in enumerate(get_args(TokenMixer)):
        synapses = ("linear", "repconv")[i % 2] if mixer in WITH_PROJECTION_TYPES else None
        blocks.append(
            Block(
                token_mixer=mixer,
                channel_mixer=("mlp", "conv")[i % 2],
                num_heads=2 if mixer in WITH_HEADS else None,
                qkv=synapses,  # type: ignore[arg-type]
                projection=synapses,  # type: ignore[arg-type]
                mlp_ratio=1,
            )
        )
    stage = Stage(embed_dim=8, embedding=Embedding(stride=2), blocks=tuple(blocks))
    return Architecture(family="meta_spikeformer", time_steps=2, shortcut=shortcut, stages=(stage,))


@contextmanager
def outputs_on_cuda() -> Iterator[None]:
    """Check that every module of the block returns tensors on CUDA."""

    def check(module: nn.Module, _args: Any, outputs: Any) -> None:
        devices = {x.device for x in tree_leaves(outputs) if isinstance(x, Tensor)}
        assert devices <= {CUDA}, f"{type(module).__name__} returned a tensor on {devices}"

    handle = register_module_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def evaluator_on_cuda(name: str) -> TrieEvaluator:
    """An evaluator whose images are decoded on the CPU and whose parameters and batches are on CUDA."""
    on_cpu = make_evaluator(name)
    on_cpu.calibration.batch(SPAN), on_cpu.search.batch(SPAN)
    return replace(on_cpu, calibration=replace(on_cpu.calibration, device=CUDA), search=replace(on_cpu.search, device=CUDA))


def two_relatives(space: SearchSpace) -> tuple[Architecture, Architecture]:
    """The smallest architecture, and one that shares a prefix with it: its last block has neurons of another threshold."""
    first = space.smallest()
    last = first.stages[-1]
    changed = replace(last.blocks[-1], neuron=replace(last.blocks[-1].neuron, v_threshold=0.75))
    return first, replace(first, stages=(*first.stages[:-1], replace(last, blocks=(*last.blocks[:-1], changed))))


def measured(evaluator: TrieEvaluator, population: Sequence[Architecture]) -> dict[str, NodeResult]:
    """Calibrate and score on a batch, the first architecture alone before all of them, so that the others continue its streams."""
    population = tuple(population)
    statistics = CalibratedStatistics.over([evaluator.calibrate(population, SPAN)])
    alone = evaluator.score(population[:1], statistics, SPAN)
    together = evaluator.score(population, statistics, SPAN)
    return {key: result + alone[key] if key in alone else result for key, result in together.items()}


def independent_of_values(results: dict[str, NodeResult]) -> dict[str, Any]:
    return {
        key: (r.params, r.images, len(r.metric_states), [(c.layer, c.macs, c.time_steps, c.form) for c in r.layers])
        for key, r in results.items()
    }


def test_all_families_are_tested() -> None:
    assert {WRITTEN[name]["family"] for name in SPACES} == set(FAMILIES)


def test_a_mix_of_devices_raises() -> None:
    with fake_cuda():
        norm = Norm(4, device=CUDA)
        assert norm(torch.zeros(3, 4, device=CUDA)).device == CUDA
        norm.bias = nn.Parameter(torch.zeros(4))
        with pytest.raises(RuntimeError, match="on the same device"):
            norm(torch.zeros(3, 4, device=CUDA))


@pytest.mark.parametrize("name", slow_except(["sew"], SPACES))
def test_trie_evaluation_runs_on_cuda(name: str) -> None:
    """Calibration, counting, the cache of streams and right answers. Expected: the layers that the CPU counts."""
    expected = measured(make_evaluator(name), two_relatives(make_evaluator(name).supernet.space))
    evaluator = evaluator_on_cuda(name)
    with fake_cuda(), outputs_on_cuda():
        on_cuda(evaluator.supernet)
        found = measured(evaluator, two_relatives(evaluator.supernet.space))
    assert independent_of_values(found) == independent_of_values(expected)


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", ["membrane", "sew"])
def test_every_token_mixer_is_calibrated_and_counted_on_cuda(shortcut: Shortcut) -> None:
    """A plain model, which the coverage check observes."""
    network, images = build_model(every_mixer(shortcut), num_classes=10, in_chans=1), make_evaluator("sew").calibration
    images.batch(SPAN)
    with fake_cuda(), outputs_on_cuda():
        model = on_cuda(network).eval()
        calibrate(model, [replace(images, device=CUDA).batch(SPAN).images], time_steps=2)
        assert {x.device for x in (*model.parameters(), *model.buffers())} == {CUDA}
        found = measure_stepwise(model, lambda _size: iter([replace(images, device=CUDA).batch(SPAN)]), batch_size=4)
    assert found.operations.images == 4


def no_backward(loss: Tensor) -> None:
    """Stand in for `Tensor.backward`."""
    assert (loss.shape, loss.device) == ((), CUDA)


def test_a_training_step_without_backward_runs_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward of views of the supernet, loss at several T, both heads, and soft targets of the first subnet."""
    space = SearchSpace.from_dict(WRITTEN["meta_spikeformer"])
    network = Supernet(space, num_classes=10, in_chans=1)
    with fake_cuda(), outputs_on_cuda():
        on_cuda(network)
        monkeypatch.setattr(Tensor, "backward", no_backward)
        images, targets = torch.empty(4, 1, 8, 8, device=CUDA), torch.empty(4, 10, device=CUDA)
        batch = LabelledBatch(images=images, targets=targets, teacher_targets=targets)
        sampled = (space.largest(), space.smallest())
        losses = accumulate_gradients(network, batch, sampled, at=space.time_steps.values, target_transform=in_place)
    assert (losses.shape, losses.device) == ((2, 1), CUDA)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 2, 8, 8)])
def test_batches_are_copied_to_the_device(shape: tuple[int, ...]) -> None:
    """Through timm's prefetcher, which copies without a stream where there is no GPU."""
    with fake_cuda():
        batches = [(torch.zeros(shape), torch.zeros(4, dtype=torch.long)) for _ in range(3)]
        found = list(on_device(batches, CUDA))
    assert [(tuple(images.shape), tuple(labels.shape)) for images, labels in found] == [(shape, (4,))] * 3
    assert {tensor.device for batch in found for tensor in batch} == {CUDA}
