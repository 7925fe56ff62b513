"""Sampled architectures, losses and gradients of a training step. Expected gradients are computed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autospike.evaluation.calibration import calibrate
from autospike.randomness import keyed
from autospike.space.architecture import Architecture, Stage
from autospike.space.block import Block
from autospike.space.search_space import SearchSpace
from autospike.supernet import Logits, Supernet
from autospike.training.step import LabelledBatch, Tet, accumulate_gradients, in_place, sandwich, single_path, small_first

# Three strides, of which the largest makes the smallest network; token mixers and neurons are not sizes.
THREE_SIZES = {
    "family": "qkformer",
    "time_steps": [1, 2, 3],
    "stages": [
        {
            "embed_dim": [8, 16, 24],
            "embedding": {"stride": [1, 2, 4]},
            "depth": 1,
            "block": {"token_mixer": ["sdsa_3", "token_qk"], "num_heads": 1, "neuron": {"tau": [1.5, 2.0, 3.0]}},
        }
    ],
}


def test_single_path_and_sandwich_sample_from_the_space(tiny_space: SearchSpace) -> None:
    for step in range(20):
        (single,) = single_path(tiny_space, keyed(0, step), 0.0)
        largest, smallest, *sampled = sandwich(tiny_space, keyed(0, step), 0.0)
        assert (largest, smallest) == (tiny_space.largest(), tiny_space.smallest())
        assert len(sampled) == 2
        assert all(tiny_space.contains(architecture) for architecture in (single, *sampled))


def test_sandwich_of_a_space_with_one_architecture_has_one_entry(tiny_space: SearchSpace) -> None:
    largest = tiny_space.largest()
    assert sandwich(SearchSpace.of(largest), keyed(0), 0.0) == (largest,)


def test_single_path_samples_each_value_equally_often(tiny_space: SearchSpace) -> None:
    sampled = [single_path(tiny_space, keyed(0, step), 0.0)[0] for step in range(400)]
    for choose in (lambda a: a.depth, lambda a: a.stages[0].embed_dim, lambda a: a.time_steps):
        values = [choose(architecture) for architecture in sampled]
        assert all(150 < values.count(value) < 250 for value in set(values))
        assert len(set(values)) == 2


def sampled_values(progress: float) -> dict[str, set[Any]]:
    """The values that small-first samples at a point of the training."""
    space = SearchSpace.from_dict(THREE_SIZES)
    sampled: list[Architecture] = [small_first(space, keyed(0, step), progress)[0] for step in range(100)]
    return {
        "time_steps": {a.time_steps for a in sampled},
        "embed_dim": {a.stages[0].embed_dim for a in sampled},
        "stride": {a.stages[0].embedding.stride for a in sampled},
        "token_mixer": {a.stages[0].blocks[0].token_mixer for a in sampled},
        "tau": {a.stages[0].blocks[0].neuron.tau for a in sampled},
    }


@pytest.mark.parametrize(
    ("progress", "sizes"),
    [  # one, two, then all three values, each for a third of the first half of the training
        (0.0, ({1}, {8}, {4})),
        (0.16, ({1}, {8}, {4})),
        (0.17, ({1, 2}, {8, 16}, {4, 2})),
        (0.33, ({1, 2}, {8, 16}, {4, 2})),
        (0.34, ({1, 2, 3}, {8, 16, 24}, {4, 2, 1})),
        (0.99, ({1, 2, 3}, {8, 16, 24}, {4, 2, 1})),
    ],
)
def test_small_first_adds_the_values_of_a_size_from_small_to_large(progress: float, sizes: tuple[set[int], ...]) -> None:
    found = sampled_values(progress)
    assert (found["time_steps"], found["embed_dim"], found["stride"]) == sizes
    assert (found["token_mixer"], found["tau"]) == ({"sdsa_3", "token_qk"}, {1.5, 2.0, 3.0})


def test_small_first_equals_single_path_from_half_of_the_training_on() -> None:
    space = SearchSpace.from_dict(THREE_SIZES)
    for step in range(20):
        assert small_first(space, keyed(0, step), 0.5) == single_path(space, keyed(0, step), 0.5)


LABELS = torch.tensor([2, 0])
BATCH = LabelledBatch(images=torch.zeros(2, 1, 8, 8), targets=LABELS, teacher_targets=LABELS)
ONE_HOT = F.one_hot(LABELS, 3).float()


@dataclass(frozen=True)
class FixedLogits:
    """A network that returns given logits for every batch."""

    logits: Mapping[Architecture, Logits]

    def __call__(self, _images: Tensor, architectures: Sequence[Architecture], /, *, at: Sequence[int]) -> list[Logits]:
        assert not at
        return [self.logits[architecture] for architecture in architectures]


def logits(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def cross_entropy_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy of a batch: (softmax - targets) / B."""
    return ((outputs.softmax(-1) - targets) / len(outputs)).detach()


def largest_and_smallest(space: SearchSpace) -> tuple[Architecture, Architecture]:
    return space.largest(), space.smallest()


def test_with_target_labels_each_subnet_has_the_gradient_of_its_cross_entropy(tiny_space: SearchSpace) -> None:
    large, small = largest_and_smallest(tiny_space)
    first, second = logits(2, 3, seed=0), logits(2, 3, seed=1)
    loss = accumulate_gradients(FixedLogits({large: first, small: second}), BATCH, [large, small])
    torch.testing.assert_close(first.grad, cross_entropy_gradient(first, ONE_HOT) / 2)
    torch.testing.assert_close(second.grad, cross_entropy_gradient(second, ONE_HOT) / 2)
    assert loss.sum().item() == pytest.approx(
        sum(-(ONE_HOT * x.log_softmax(-1)).sum(-1).mean().item() for x in (first, second)) / 2
    )


def test_in_place_targets_are_the_softmax_of_the_first_subnet(tiny_space: SearchSpace) -> None:
    large, small = largest_and_smallest(tiny_space)
    between = replace(small, time_steps=3)
    outputs = {architecture: logits(2, 3, seed=seed) for seed, architecture in enumerate((large, between, small))}
    loss = accumulate_gradients(FixedLogits(outputs), BATCH, list(outputs), target_transform=in_place)
    first, *others = outputs.values()
    soft = first.detach().softmax(-1)
    torch.testing.assert_close(first.grad, cross_entropy_gradient(first, ONE_HOT) / 3)  # no gradient through the targets
    for other in others:
        torch.testing.assert_close(other.grad, cross_entropy_gradient(other, soft) / 3)
    of_others = sum(-(soft * other.log_softmax(-1)).sum(-1).mean().item() for other in others)
    assert loss.sum().item() == pytest.approx((F.cross_entropy(first, LABELS).item() + of_others) / 3)


def test_in_place_targets_of_each_head_are_from_the_same_head(tiny_space: SearchSpace) -> None:
    large, small = largest_and_smallest(tiny_space)
    heads = [logits(2, 3, seed=seed) for seed in range(4)]
    outputs = FixedLogits({large: (heads[0], heads[1]), small: (heads[2], heads[3])})
    teacher_labels = torch.tensor([1, 1])
    accumulate_gradients(
        outputs,
        LabelledBatch(images=BATCH.images, targets=LABELS, teacher_targets=teacher_labels),
        [large, small],
        target_transform=in_place,
    )
    targets = [ONE_HOT, F.one_hot(teacher_labels, 3).float(), heads[0].softmax(-1), heads[1].softmax(-1)]
    for head, target in zip(heads, targets, strict=True):
        torch.testing.assert_close(head.grad, cross_entropy_gradient(head, target) / 4)  # two subnets, two heads


def test_loss_is_the_mean_over_t_and_in_place_targets_are_of_the_last_t(tiny_space: SearchSpace) -> None:
    large, small = largest_and_smallest(tiny_space)
    first, second = logits(4, 2, 3, seed=0), logits(4, 2, 3, seed=1)
    accumulate_gradients(FixedLogits({large: first, small: second}), BATCH, [large, small], target_transform=in_place)
    assert first.grad is not None
    assert second.grad is not None
    for t in range(4):
        torch.testing.assert_close(first.grad[t], cross_entropy_gradient(first[t], ONE_HOT) / 4 / 2)
        torch.testing.assert_close(second.grad[t], cross_entropy_gradient(second[t], first[-1].softmax(-1)) / 4 / 2)


def test_temporal_efficient_training_by_hand(tiny_space: SearchSpace) -> None:
    """Each subnet runs for its own T; the outputs of single steps are the differences of the sums."""
    outputs = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    asked: list[list[int]] = []

    def network(_images: Tensor, architectures: Sequence[Architecture], /, *, at: Sequence[int]) -> list[Logits]:
        asked.append(list(at))
        return [torch.stack([outputs[:steps].mean(dim=0) for steps in at]).requires_grad_() for _ in architectures]

    architecture = replace(tiny_space.largest(), time_steps=3)
    loss = accumulate_gradients(network, BATCH, [architecture], tet=Tet(weight=0.25, mean=1.0))
    entropies = [-(ONE_HOT * output.log_softmax(-1)).sum(-1).mean() for output in outputs]
    expected = 0.75 * sum(entropies) / 3 + 0.25 * sum((output - 1).pow(2).mean() for output in outputs) / 3
    torch.testing.assert_close(loss.sum(), expected)
    assert asked == [[1, 2, 3]]


def test_temporal_efficient_training_of_two_heads_is_the_mean_over_heads() -> None:
    first, second = (torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    tet, targets, other = Tet(weight=0.1, mean=0.0), BATCH.targets, torch.tensor([1, 1])
    expected = (tet(first, targets, targets) + tet(second, other, other)) / 2
    torch.testing.assert_close(tet((first, second), targets, other), expected)


def test_in_place_targets_of_each_part_are_from_the_same_part(tiny_space: SearchSpace) -> None:
    """Expected: two batches of half the size, one after the other; each is normalised by its own statistics."""
    supernet = active_supernet(tiny_space)
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    architectures = largest_and_smallest(tiny_space)
    expected = torch.zeros_like(supernet.shared.get_parameter("head.weight"))
    for part in (slice(0, 4), slice(4, 8)):
        supernet.zero_grad()
        large, small = supernet(images[part], architectures)
        soft = large.detach().softmax(-1)
        (F.cross_entropy(large, labels[part]) - (soft * small.log_softmax(-1)).sum(-1).mean()).backward()
        gradient = supernet.shared.get_parameter("head.weight").grad
        assert gradient is not None
        expected += gradient / 4
    supernet.zero_grad()
    accumulate_gradients(
        supernet,
        LabelledBatch(images=images, targets=labels, teacher_targets=labels),
        architectures,
        parts=2,
        target_transform=in_place,
    )
    torch.testing.assert_close(supernet.shared.get_parameter("head.weight").grad, expected)


def test_all_passes_but_the_last_are_in_no_sync(tiny_space: SearchSpace) -> None:
    """Two subnets and two parts: the gradients of three passes need not be averaged over ranks yet."""
    outputs, events = [logits(1, 3, seed=seed) for seed in range(2)], []

    @contextmanager
    def no_sync() -> Iterator[None]:
        events.append("entered")
        yield
        events.append("left")

    network = FixedLogits(dict(zip(largest_and_smallest(tiny_space), outputs, strict=True)))
    losses = accumulate_gradients(network, BATCH, largest_and_smallest(tiny_space), parts=2, no_sync=no_sync)
    assert events == ["entered", "left"] * 3
    expected = [[F.cross_entropy(x, LABELS[i : i + 1]).item() / 4 for i in range(2)] for x in outputs]
    torch.testing.assert_close(losses, torch.tensor(expected))


TWO_HEADS = Architecture(
    family="meta_spikeformer",
    shortcut="membrane",
    distilled=True,
    time_steps=4,
    stages=(Stage(embed_dim=8, blocks=(Block(token_mixer="sepconv"),)), Stage(embed_dim=16, blocks=(Block(num_heads=2),))),
)


def active_supernet(space: SearchSpace) -> Supernet:
    """Return a supernet in which many neurons spike; with initial parameters none does."""
    torch.manual_seed(0)
    supernet = Supernet(space, num_classes=10, in_chans=1)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if "bn" in name and name.endswith("bias"):
                parameter.uniform_(0.0, 1.0)
    return supernet


@pytest.mark.parametrize("frames", [False, True], ids=["image", "frames"])
def test_logits_at_several_t_equal_those_of_a_plain_model(tiny_space: SearchSpace, frames: bool) -> None:
    """Expected: the mean of the first logits of each step, from a plain model in training mode with the same parameters."""
    supernet, architecture = active_supernet(tiny_space), tiny_space.smallest()
    x = torch.rand(3, 4, 1, 8, 8) if frames else torch.rand(4, 1, 8, 8)
    (answers,) = supernet(x, [architecture], at=(2, 3))
    steps = supernet.extract(architecture).train().forward_steps(x, 3)
    torch.testing.assert_close(answers, torch.stack([(steps[0] + steps[1]) / 2, steps.sum(dim=0) / 3]))
    assert not torch.equal(answers[0], answers[1])


def test_logits_of_two_heads_at_several_t_equal_those_of_a_plain_model() -> None:
    supernet = active_supernet(SearchSpace.of(TWO_HEADS))
    torch.nn.init.normal_(supernet.shared.get_parameter("head_dist.weight"))
    x = torch.rand(4, 1, 8, 8)
    ((first, second),) = supernet(x, [TWO_HEADS], at=(1, 3))
    steps = supernet.extract(TWO_HEADS).train().forward_steps(x, 3)  # mean of both heads
    torch.testing.assert_close((first + second) / 2, torch.stack([steps[0], steps.mean(dim=0)]))
    assert not torch.allclose(first, second)


def test_with_fixed_statistics_the_anytime_loss_is_the_mean_over_shorter_runs(tiny_space: SearchSpace) -> None:
    """A spiking network is causal in time: loss and gradients are the means of those of runs with T = 2 and with T = 3.

    This does not hold with batch statistics, which depend on all steps of a run.
    """
    supernet, architecture = active_supernet(tiny_space), tiny_space.smallest()
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    model, shorter = supernet.extract(architecture), supernet.extract(architecture)
    for each in (model, shorter):
        calibrate(each, [images], time_steps=3)
    batch = LabelledBatch(images=images, targets=labels, teacher_targets=labels)
    loss = accumulate_gradients(lambda x, _architectures, /, *, at: [model(x, at=at)], batch, [architecture], at=(2, 3))
    at_two, at_three = (F.cross_entropy(shorter.forward_steps(images, steps).mean(dim=0), labels) for steps in (2, 3))
    ((at_two + at_three) / 2).backward()
    assert loss.sum().item() == pytest.approx((at_two.item() + at_three.item()) / 2)
    assert at_two.item() != at_three.item()
    for own, other in zip(model.parameters(), shorter.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_gradient_of_a_batch_in_parts_is_the_weighted_mean_over_parts(tiny_space: SearchSpace) -> None:
    """Expected: half the gradient of each part's loss; each part is normalised by its own statistics."""
    supernet = Supernet(SearchSpace.of(tiny_space.largest()), num_classes=10, in_chans=1)
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    expected = torch.zeros_like(supernet.shared.get_parameter("head.weight"))
    for part in (slice(0, 4), slice(4, 8)):
        supernet.zero_grad()
        (logits,) = supernet(images[part], [tiny_space.largest()])
        F.cross_entropy(logits, labels[part]).backward()
        gradient = supernet.shared.get_parameter("head.weight").grad
        assert gradient is not None
        expected += gradient / 2
    supernet.zero_grad()
    accumulate_gradients(
        supernet, LabelledBatch(images=images, targets=labels, teacher_targets=labels), [tiny_space.largest()], parts=2
    )
    torch.testing.assert_close(supernet.shared.get_parameter("head.weight").grad, expected)
