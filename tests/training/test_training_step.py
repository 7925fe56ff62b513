"""What a lesson teaches: losses and gradients by hand, of networks whose logits are their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autospike.evaluation.calibration import calibrate
from autospike.space.architecture import Architecture, Block, Stage
from autospike.space.search_space import SearchSpace
from autospike.supernet import Logits, Supernet
from autospike.training.step import LabelledBatch, in_place, learn

LABELS = torch.tensor([2, 0])
LESSON = LabelledBatch(images=torch.zeros(2, 1, 8, 8), targets=LABELS, taught=LABELS)
ONE_HOT = F.one_hot(LABELS, 3).float()


@dataclass(frozen=True)
class Table:
    """A network that says what it was given, whatever it is shown."""

    logits: dict[Architecture, Logits]

    def __call__(self, images: Tensor, architectures: Sequence[Architecture]) -> list[Logits]:
        del images
        return [self.logits[architecture] for architecture in architectures]


def logits(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def pulled(said: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy of a batch: (softmax - targets) / B."""
    return ((said.softmax(-1) - targets) / len(said)).detach()


def largest_and_smallest(space: SearchSpace) -> tuple[Architecture, Architecture]:
    return space.largest(), space.smallest()


def test_without_distillation_every_subnet_learns_the_labels(tiny_space: SearchSpace) -> None:
    large, small = largest_and_smallest(tiny_space)
    first, second = logits(2, 3, seed=0), logits(2, 3, seed=1)
    loss = learn(Table({large: first, small: second}), LESSON, [large, small])
    torch.testing.assert_close(first.grad, pulled(first, ONE_HOT) / 2)
    torch.testing.assert_close(second.grad, pulled(second, ONE_HOT) / 2)
    assert loss.sum().item() == pytest.approx(
        sum(-(ONE_HOT * x.log_softmax(-1)).sum(-1).mean().item() for x in (first, second)) / 2
    )


def test_in_place_the_others_learn_what_the_first_says(tiny_space: SearchSpace) -> None:
    large, small = largest_and_smallest(tiny_space)
    between = replace(small, time_steps=3)
    said = {architecture: logits(2, 3, seed=seed) for seed, architecture in enumerate((large, between, small))}
    loss = learn(Table(said), LESSON, list(said), target_transform=in_place)
    first, *others = said.values()
    soft = first.detach().softmax(-1)
    torch.testing.assert_close(first.grad, pulled(first, ONE_HOT) / 3)  # nothing comes back from those that it teaches
    for other in others:
        torch.testing.assert_close(other.grad, pulled(other, soft) / 3)
    of_others = sum(-(soft * other.log_softmax(-1)).sum(-1).mean().item() for other in others)
    assert loss.sum().item() == pytest.approx((F.cross_entropy(first, LABELS).item() + of_others) / 3)


def test_in_place_each_head_learns_from_its_own(tiny_space: SearchSpace) -> None:
    large, small = largest_and_smallest(tiny_space)
    heads = [logits(2, 3, seed=seed) for seed in range(4)]
    said = Table({large: (heads[0], heads[1]), small: (heads[2], heads[3])})
    taught = torch.tensor([1, 1])
    learn(said, LabelledBatch(images=LESSON.images, targets=LABELS, taught=taught), [large, small], target_transform=in_place)
    targets = [ONE_HOT, F.one_hot(taught, 3).float(), heads[0].softmax(-1), heads[1].softmax(-1)]
    for head, target in zip(heads, targets, strict=True):
        torch.testing.assert_close(head.grad, pulled(head, target) / 4)  # two subnets, two heads


def test_every_t_counts_alike_and_the_last_one_teaches(tiny_space: SearchSpace) -> None:
    large, small = largest_and_smallest(tiny_space)
    first, second = logits(4, 2, 3, seed=0), logits(4, 2, 3, seed=1)
    learn(Table({large: first, small: second}), LESSON, [large, small], target_transform=in_place)
    assert first.grad is not None
    assert second.grad is not None
    for t in range(4):
        torch.testing.assert_close(first.grad[t], pulled(first[t], ONE_HOT) / 4 / 2)
        torch.testing.assert_close(second.grad[t], pulled(second[t], first[-1].softmax(-1)) / 4 / 2)


def test_in_place_each_part_of_a_batch_has_its_own_answers(tiny_space: SearchSpace) -> None:
    """Independently: two lessons of half the size, one after the other, on networks that normalise by what they see."""
    supernet = lively_supernet(tiny_space)
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    architectures = largest_and_smallest(tiny_space)
    expected = torch.zeros_like(supernet.shared.get_parameter("head.weight"))
    for part in (slice(0, 4), slice(4, 8)):
        supernet.zero_grad()
        large, small = supernet(images[part], architectures)
        soft = large.detach().softmax(-1)
        (F.cross_entropy(large, labels[part]) - (soft * small.log_softmax(-1)).sum(-1).mean()).backward()
        expected += supernet.shared.get_parameter("head.weight").grad / 4
    supernet.zero_grad()
    learn(
        supernet,
        LabelledBatch(images=images, targets=labels, taught=labels),
        architectures,
        accumulate=2,
        target_transform=in_place,
    )
    torch.testing.assert_close(supernet.shared.get_parameter("head.weight").grad, expected)


def test_every_pass_but_the_last_is_made_alone(tiny_space: SearchSpace) -> None:
    """Two subnets, two parts: three passes whose gradients need not be exchanged yet."""
    said, alone = [logits(1, 3, seed=seed) for seed in range(2)], []

    @contextmanager
    def noted() -> Iterator[None]:
        alone.append("begun")
        yield
        alone.append("ended")

    network = Table(dict(zip(largest_and_smallest(tiny_space), said, strict=True)))
    losses = learn(network, LESSON, largest_and_smallest(tiny_space), accumulate=2, alone=noted)
    assert alone == ["begun", "ended"] * 3
    expected = [[F.cross_entropy(x, LABELS[i : i + 1]).item() / 4 for i in range(2)] for x in said]
    torch.testing.assert_close(losses, torch.tensor(expected))


def lively_supernet(space: SearchSpace) -> Supernet:
    """Fresh networks are silent; of this one's neurons many fire."""
    torch.manual_seed(0)
    supernet = Supernet(space, num_classes=10, in_chans=1)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if "bn" in name and name.endswith("bias"):
                parameter.uniform_(0.0, 1.0)
    return supernet


TWO_HEADS = Architecture(
    family="meta_spikeformer",
    shortcut="membrane",
    distilled=True,
    time_steps=4,
    stages=(Stage(embed_dim=8, blocks=(Block(token_mixer="sepconv"),)), Stage(embed_dim=16, blocks=(Block(num_heads=2),))),
)


@pytest.mark.parametrize("frames", [False, True], ids=["image", "frames"])
def test_one_run_answers_at_every_t(tiny_space: SearchSpace, frames: bool) -> None:
    """By a plain model of the same parameters, which normalises by the whole run and gives the logits of every step."""
    supernet, architecture = lively_supernet(tiny_space), tiny_space.smallest()
    x = torch.rand(3, 4, 1, 8, 8) if frames else torch.rand(4, 1, 8, 8)
    (answers,) = supernet(x, [architecture], at=(2, 3))
    steps = supernet.extract(architecture).train().forward_steps(x, 3)
    torch.testing.assert_close(answers, torch.stack([(steps[0] + steps[1]) / 2, steps.sum(dim=0) / 3]))
    assert not torch.equal(answers[0], answers[1])


def test_one_run_answers_at_every_t_for_both_heads() -> None:
    supernet = lively_supernet(SearchSpace.of(TWO_HEADS))
    torch.nn.init.normal_(supernet.shared.get_parameter("head_dist.weight"))
    x = torch.rand(4, 1, 8, 8)
    ((first, second),) = supernet(x, [TWO_HEADS], at=(1, 3))
    steps = supernet.extract(TWO_HEADS).train().forward_steps(x, 3)  # the mean of both heads
    torch.testing.assert_close((first + second) / 2, torch.stack([steps[0], steps.mean(dim=0)]))
    assert not torch.allclose(first, second)


def test_with_fixed_statistics_the_anytime_loss_is_that_of_shorter_runs(tiny_space: SearchSpace) -> None:
    """A spiking network is causal in time: loss and gradients are the means of those of runs of 2 steps and of 3.

    Not in training: there every layer normalises by all steps of the run.
    """
    supernet, architecture = lively_supernet(tiny_space), tiny_space.smallest()
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    model, shorter = supernet.extract(architecture), supernet.extract(architecture)
    for each in (model, shorter):
        calibrate(each, [images], time_steps=3)
    lesson = LabelledBatch(images=images, targets=labels, taught=labels)
    loss = learn(lambda x, _architectures: [model(x, at=(2, 3))], lesson, [architecture])
    at_two, at_three = (F.cross_entropy(shorter.forward_steps(images, steps).mean(dim=0), labels) for steps in (2, 3))
    ((at_two + at_three) / 2).backward()
    assert loss.sum().item() == pytest.approx((at_two.item() + at_three.item()) / 2)
    assert at_two.item() != at_three.item()
    for own, other in zip(model.parameters(), shorter.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
