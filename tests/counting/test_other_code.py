"""Models of other code: neurons that are not known, signs, scales, normalisations, and T and B of the batch; counted by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from autospike.counting.coverage import UnknownOperationError
from autospike.counting.model import count_operations
from autospike.energy.operations import Operations
from autospike.errors import UserError

STEPS, BATCH = 4, 2


def counted(model: nn.Module, x: Tensor, **given: Any) -> Operations:
    """Count without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return count_operations(model, x, **given)


def by_hand(spikes: Tensor) -> float:
    """Accumulations of a 3x3 convolution into 8 channels, for one image: the sum of all outputs of ones."""
    return F.conv2d(spikes.flatten(0, 1).abs(), torch.ones(8, spikes.shape[2], 3, 3), padding=1).sum().item() / spikes.shape[1]


# Neurons of other code


class Leaky(nn.Module):
    """All steps of `[T, B, ...]` in one call."""

    spikes: Tensor

    def forward(self, x: Tensor) -> Tensor:
        v, out = torch.zeros_like(x[0]), []
        for now in x:
            v = v * 0.5 + now
            s = (v >= 0.3).float()
            v = v * (1 - s)
            out.append(s)
        self.spikes = torch.stack(out)
        return self.spikes


class Cell(nn.Module):
    """One step in each call; keeps its membrane potential, and returns it as snntorch does."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Any = 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.v = self.v * 0.5 + x
        s = (self.v >= 0.3).float()
        self.v = self.v * (1 - s)
        return s, self.v


class AllSteps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8 * 64, 10)
        self.l1, self.l2 = self.neurons(), self.neurons()

    def neurons(self) -> nn.Module:
        return Leaky()

    def forward(self, x: Tensor) -> Tensor:
        y = self.l1(self.c1(x.repeat(STEPS, 1, 1, 1)).unflatten(0, (STEPS, -1)))
        y = self.l2(self.c2(y.flatten(0, 1)).unflatten(0, (STEPS, -1)))
        return self.fc(y.flatten(2)).mean(0)


class Loop(AllSteps):
    def neurons(self) -> nn.Module:
        return Cell()

    def step(self, x: Tensor) -> Tensor:
        spikes, _ = self.l2(self.c2(self.l1(self.c1(x))[0]))
        return self.fc(spikes.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.step(x) for _ in range(STEPS)]).mean(0)


class OneStep(Loop):
    """The loop is outside."""

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)


class MergedLeaky(Leaky):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(0, (STEPS, -1))).flatten(0, 1)


class Merged(AllSteps):
    """Time is merged into the batch everywhere."""

    def neurons(self) -> nn.Module:
        return MergedLeaky()

    def forward(self, x: Tensor) -> Tensor:
        y = self.l2(self.c2(self.l1(self.c1(x.repeat(STEPS, 1, 1, 1)))))
        return self.fc(y.flatten(1)).unflatten(0, (STEPS, -1)).mean(0)


class LoopOfNeurons(AllSteps):
    """Only the neurons run in a loop; the layers run once for all steps."""

    def neurons(self) -> nn.Module:
        return Cell()

    def forward(self, x: Tensor) -> Tensor:
        y = self.c1(x.repeat(STEPS, 1, 1, 1)).unflatten(0, (STEPS, -1))
        y = torch.stack([self.l1(now)[0] for now in y])
        y = self.c2(y.flatten(0, 1)).unflatten(0, (STEPS, -1))
        return self.fc(torch.stack([self.l2(now)[0] for now in y]).flatten(2)).mean(0)


class LoopOfLayers(AllSteps):
    """Only the layers run in a loop; the neurons run once for all steps."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.l1(torch.stack([self.c1(x) for _ in range(STEPS)]))
        y = self.l2(torch.stack([self.c2(now) for now in y]))
        return torch.stack([self.fc(now.flatten(1)) for now in y]).mean(0)


class BatchFirst(AllSteps):
    """The first dimension of the layers is batch x time."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.l1(self.c1(x.repeat_interleave(STEPS, 0)).unflatten(0, (-1, STEPS)).transpose(0, 1))
        y = self.l2(self.c2(y.transpose(0, 1).flatten(0, 1)).unflatten(0, (-1, STEPS)).transpose(0, 1))
        return self.fc(y.flatten(2)).mean(0)


IMAGES = torch.rand(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(1))
FORMS: dict[type[AllSteps], type[nn.Module]] = {
    AllSteps: Leaky,
    Loop: Cell,
    Merged: MergedLeaky,
    LoopOfNeurons: Cell,
    LoopOfLayers: Leaky,
    BatchFirst: Leaky,
}


def same_weights(kind: type[AllSteps]) -> tuple[AllSteps, float]:
    """A network of a form, and its accumulations: by the spikes of the first form."""
    torch.manual_seed(0)
    first = AllSteps().eval()
    with torch.no_grad():
        first(IMAGES)
    net = kind().eval()
    net.load_state_dict(first.state_dict())
    l1, l2 = first.l1.spikes, first.l2.spikes  # type: ignore[union-attr]
    return net, by_hand(l1) + l2.sum().item() * 10 / BATCH


@pytest.mark.parametrize("given", [{}, {"time_steps": STEPS}, {"time_steps": STEPS, "images": BATCH, "strict": True}])
@pytest.mark.parametrize("kind", FORMS)
def test_named_neurons_are_counted_as_neurons(kind: type[AllSteps], given: dict[str, Any]) -> None:
    """The still image once: 8 channels, 64 positions, 27 weights each; no reset is a mask."""
    net, acs = same_weights(kind)
    found = counted(net, IMAGES, neurons=[FORMS[kind]], **given)
    assert [(c.layer, c.time_steps) for c in found.counts] == [("c1", STEPS), ("c2", STEPS), ("fc", STEPS)]
    assert (found.energy().macs, found.energy().acs) == (8 * 64 * 27, acs)
    assert not found.unknown
    assert acs > 0


class SamplesFirst(Leaky):
    """`[B, T, ...]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class SamplesFirstEverywhere(AllSteps):
    """Reads images, or frames `[B, T, ...]`."""

    def neurons(self) -> nn.Module:
        return SamplesFirst()

    def forward(self, x: Tensor) -> Tensor:
        frames = x if x.dim() == 5 else x.unsqueeze(1).expand(-1, STEPS, -1, -1, -1)
        y = self.l1(self.c1(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))
        y = self.l2(self.c2(y.flatten(0, 1)).unflatten(0, frames.shape[:2]))
        return self.fc(y.flatten(2)).mean(1)


GIVEN: list[dict[str, Any]] = [{}, {"time_steps": STEPS}, {"images": BATCH}, {"time_steps": STEPS, "images": BATCH}]


@pytest.mark.parametrize("given", GIVEN)
def test_neurons_whose_first_dimension_is_the_batch(given: dict[str, Any]) -> None:
    net, acs = same_weights(SamplesFirstEverywhere)
    found = counted(net, IMAGES, neurons=[SamplesFirst], strict=True, **given)
    assert (found.energy().macs, found.energy().acs, found.images) == (8 * 64 * 27, acs, BATCH)


@pytest.mark.parametrize("given", GIVEN)
def test_frames_whose_first_dimension_is_the_batch(given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, events = SamplesFirstEverywhere().eval(), torch.randint(0, 2, (BATCH, STEPS, 3, 8, 8)).float()
    with torch.no_grad():
        net(events)
    l1, l2 = (x.spikes for x in (net.l1, net.l2))  # type: ignore[union-attr]
    found = counted(net, events, neurons=[SamplesFirst], strict=True, **given)
    assert found.images == BATCH
    assert found.energy().acs == by_hand(events.transpose(0, 1)) + by_hand(l1) + l2.sum().item() * 10 / BATCH


class MixesChannels(Cell):
    """One step in each call, with weights between the channels: these are no time."""

    def __init__(self) -> None:
        super().__init__()
        self.between = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.between(x))


def test_channels_that_neurons_mix_are_no_time() -> None:
    class Net(OneStep):
        def neurons(self) -> nn.Module:
            return MixesChannels()

    torch.manual_seed(0)
    found = counted(Net().eval(), IMAGES, neurons=[MixesChannels])
    assert {c.time_steps for c in found.counts} == {1}
    assert found.counts[0].macs == 8 * 64 * 27


def test_state_of_named_neurons_is_restored() -> None:
    net, _ = same_weights(Loop)
    net.l1.v = torch.full((BATCH, 8, 8, 8), 7.0)  # type: ignore[union-attr, assignment]
    counted(net, IMAGES, neurons=[Cell])
    assert torch.equal(net.l1.v, torch.full((BATCH, 8, 8, 8), 7.0))  # type: ignore[union-attr, arg-type]
    assert net.l2.v == 0.0  # type: ignore[union-attr]


@pytest.mark.parametrize("given", [{}, {"time_steps": STEPS}, {"time_steps": STEPS, "images": BATCH}])
def test_a_model_without_known_neurons_warns_and_is_an_error_in_strict_mode(given: dict[str, Any]) -> None:
    net, _ = same_weights(AllSteps)
    with pytest.warns(UserWarning, match=r"no layer of neurons that autospike knows.*neurons=\[MyLIF\]"):
        count_operations(net, IMAGES, **given)
    with pytest.raises(UserError, match="no layer of neurons that autospike knows"):
        count_operations(net, IMAGES, strict=True, **given)


def test_a_model_with_known_and_unknown_neurons_warns() -> None:
    net, _ = same_weights(AllSteps)
    net.l2 = neuron.LIFNode(step_mode="m")
    with pytest.warns(UserWarning, match=r"l1 \(Leaky\) compares values with a threshold outside neurons.*neurons=\[Leaky\]"):
        count_operations(net, IMAGES)
    with pytest.raises(UserError, match="l1"):
        count_operations(net, IMAGES, strict=True)


def test_named_neurons_that_the_model_does_not_hold_warn() -> None:
    net, _ = same_weights(AllSteps)
    with pytest.warns(UserWarning, match=r"no neurons of Cell|l1 \(Leaky\)"):
        count_operations(net, IMAGES, neurons=[Cell])


@pytest.mark.parametrize(
    "given", [{"neurons": ["Leaky"]}, {"neurons": 3}, {"time_steps": 0}, {"time_steps": True}, {"images": -1}, {"images": 2.0}]
)
def test_invalid_arguments_are_errors(given: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        count_operations(AllSteps(), IMAGES, **given)


# T and B


@pytest.mark.parametrize("own", [True, False], ids=["named", "spikingjelly"])
def test_a_loop_over_time_outside_the_model(own: bool) -> None:
    """It is called T times with the same input, with a warning; in strict mode that is an error."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(20, 30), neuron.LIFNode(v_threshold=0.3), nn.Linear(30, 10)), torch.rand(16, 20)
    with torch.no_grad():
        expected = sum(net[1](net[0](x)).sum().item() * 10 / 16 for _ in range(STEPS))
    macs, given = 20 * 30, {}
    if own:
        net, expected = same_weights(OneStep)
        x, macs, given = IMAGES, 8 * 64 * 27, {"neurons": [Cell]}
    with pytest.warns(UserWarning, match="runs one time step in each call"):
        found = count_operations(net, x, time_steps=STEPS, **given)
    assert found.energy().acs == pytest.approx(expected, rel=1e-6)
    assert found.energy().macs == macs
    with pytest.raises(UserError, match="runs one time step in each call"):
        count_operations(net, x, time_steps=STEPS, strict=True, **given)
    assert expected > 0


def multi_step() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(3, 4), neuron.IFNode(v_threshold=0.2), layer.Linear(4, 5))
    functional.set_step_mode(net, "m")
    return net


@pytest.mark.parametrize(("given", "message"), [({"time_steps": 8}, "receive 4"), ({"images": 3}, "does not hold that many")])
def test_contradictions_to_the_batch(given: dict[str, int], message: str) -> None:
    """Warnings, and T and B of the batch are used."""
    frames = torch.rand(STEPS, BATCH, 3)
    with pytest.warns(UserWarning, match=message):
        found = count_operations(multi_step(), frames, **given)
    assert found == counted(multi_step(), frames)
    with pytest.raises(UserError, match=message):
        count_operations(multi_step(), frames, strict=True, **given)


def test_an_image_batch_for_a_multi_step_network_is_a_contradiction() -> None:
    """Which takes the images for time steps, and features for images."""
    with pytest.warns(UserWarning, match="give images="):
        count_operations(multi_step(), torch.rand(7, 3))


class Patches(nn.Module):
    """Four patches of each image, folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lif, self.fc = nn.Conv2d(1, 2, 2), neuron.IFNode(v_threshold=0.1, step_mode="m"), nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # [B * 4, 1, 2, 2]
        y = self.conv(patches.repeat(STEPS, 1, 1, 1)).flatten(1).unflatten(0, (STEPS, -1))
        self.spikes = self.lif(y)
        return self.fc(self.spikes)


@pytest.mark.parametrize("given", [{}, {"images": BATCH}, {"time_steps": STEPS, "strict": True}])
def test_patches_folded_into_the_batch(given: dict[str, Any]) -> None:
    """Two images of four patches are two images: 4 patches x 2 channels x 4 weights, once."""
    torch.manual_seed(0)
    net, x = Patches().eval(), torch.rand(BATCH, 1, 4, 4)
    found = counted(net, x, **given)
    assert found.images == BATCH
    assert found.energy().macs == 4 * 2 * 4
    assert found.energy().acs == net.spikes.sum().item() * 5 / BATCH > 0


def test_time_steps_of_a_network_that_runs_each_layer_once() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    with pytest.warns(UserWarning, match="runs each layer once"):
        count_operations(net, torch.rand(6, 3), time_steps=STEPS, neurons=[])


# Signs and scales


class Reading(nn.Module):
    """Neurons, a function of what they fire, and a convolution that reads it."""

    def __init__(self, neurons: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.lif, self.last = nn.Conv2d(3, 8, 3, padding=1), neurons, nn.Conv2d(8, 8, 3, padding=1)
        self.function, self.scale = function, nn.Parameter(torch.tensor(0.7))
        self.same, self.different = nn.Parameter(torch.full((8, 1, 1), -0.3)), nn.Parameter(torch.rand(8, 1, 1) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        self.spikes = self.lif(self.conv(x.repeat(STEPS, 1, 1, 1)).unflatten(0, (STEPS, -1)))
        read = self.function(self, self.spikes)
        return self.last(read.flatten(0, 1))


def fires(**settings: Any) -> nn.Module:
    return neuron.LIFNode(v_threshold=0.1, step_mode="m", **settings)


def pooled(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])


def written_in_place(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for t, now in enumerate(x):
        out[t] = now * 0.7
    return out


Levels = Callable[[Tensor], Tensor]
SCALED: dict[str, tuple[Callable[[Any, Tensor], Tensor], Levels]] = {
    "number": (lambda _m, s: s * 0.7, lambda s: s),
    "larger whole number": (lambda _m, s: s * 3, lambda s: s),
    "negative number": (lambda _m, s: -0.7 * s, lambda s: s),
    "parameter": (lambda m, s: s * m.scale, lambda s: s),
    "equal numbers": (lambda m, s: s * m.same, lambda s: s),
    "divided by T": (lambda _m, s: s / STEPS, lambda s: s),
    "one after another": (lambda m, s: (s * m.scale / 3).flip(0).contiguous() * 0.1, lambda s: s.flip(0)),
    "in place": (lambda _m, s: s.clone().mul_(0.7), lambda s: s),
    "in place in part": (lambda _m, s: written_in_place(s), lambda s: s),
    "average pool": (lambda _m, s: pooled(s), lambda s: pooled(s) * 4),
    "sum of two": (lambda _m, s: s * 0.7 + s.roll(1, 0) * 0.7, lambda s: s + s.roll(1, 0)),
    "residual sum": (lambda _m, s: s + s.roll(1, 0) + s.roll(2, 0), lambda s: s + s.roll(1, 0) + s.roll(2, 0)),
    "signed difference": (lambda _m, s: s - s.roll(1, 0), lambda s: (s - s.roll(1, 0)).abs()),
    "signed levels": (lambda _m, s: 2 * s - 1, torch.ones_like),
    "scaled signs": (lambda m, s: (s - s.roll(1, 0)) * m.scale, lambda s: (s - s.roll(1, 0)).abs()),
    "concatenated": (lambda _m, s: torch.cat([s[..., :4] * 0.7, s[..., 4:] * 0.7], dim=-1), lambda s: s),
    "mirrored at the border": (
        lambda _m, s: F.pad(s.flatten(0, 1) * 0.7, (1, 1, 1, 1), mode="reflect").unflatten(0, s.shape[:2])[..., 1:-1, 1:-1],
        lambda s: s,
    ),
    "rearranged": (
        lambda _m, s: F.pixel_shuffle(F.pixel_unshuffle(s.flatten(0, 1) * 0.7, 2), 2).unflatten(0, s.shape[:2]),
        lambda s: s,
    ),
    "largest": (lambda _m, s: F.max_pool3d(s * 0.7, 3, 1, 1), lambda s: F.max_pool3d(s, 3, 1, 1)),
}


@pytest.mark.parametrize("name", SCALED)
def test_whole_numbers_times_one_scale_are_accumulations(name: str) -> None:
    function, levels = SCALED[name]
    torch.manual_seed(0)
    net = Reading(fires(), function).eval()
    found = counted(net, IMAGES)
    expected = by_hand(levels(net.spikes))
    assert found.counts[-1].layer == "last"
    assert sum(found.counts[-1].acs) == pytest.approx(expected, rel=1e-9)
    assert found.counts[-1].input != "real"
    assert expected > 0


REAL: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a scale for each channel": lambda m, s: s * m.different,
    "a scale of the input": lambda _m, s: s * s.mean(),
    "an offset": lambda _m, s: s * 0.7 + 0.1,
    "two scales": lambda _m, s: s * 0.7 + s.roll(1, 0) * 0.31,
}


@pytest.mark.parametrize("name", REAL)
def test_other_products_of_spikes_are_real(name: str) -> None:
    torch.manual_seed(0)
    found = count_operations(Reading(fires(), REAL[name]).eval(), IMAGES)
    assert (found.counts[-1].layer, found.counts[-1].input, found.counts[-1].acs) == ("last", "real", ())


@pytest.mark.parametrize("kind", [neuron.TernaryIFNode, neuron.TernaryLIFNode])
def test_ternary_spikes_are_accumulations(kind: type[nn.Module]) -> None:
    """The sign costs nothing: also under a convention for which other whole numbers are dense."""
    torch.manual_seed(0)
    net = Reading(kind(v_threshold=0.1, step_mode="m"), lambda _m, s: s).eval()
    found = counted(net, IMAGES)
    assert set(net.spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert sum(found.counts[-1].acs) == by_hand(net.spikes)
    assert found.counts[-1].input == "binary"
    assert found.energy("binary-only/image-once").macs == found.energy().macs == 8 * 64 * 27


class Amplitude(Leaky):
    """Fires multiples of a threshold."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + super().forward(x - 0.2)) * 0.3


def test_the_amplitude_of_neurons_is_a_scale() -> None:
    torch.manual_seed(0)
    net = Reading(Amplitude(), lambda _m, s: s).eval()
    found = counted(net, IMAGES, neurons=[Leaky])
    levels = (net.spikes / 0.3).round()
    assert set(levels.unique().tolist()) == {0.0, 1.0, 2.0}
    assert sum(found.counts[-1].acs) == by_hand(levels)


class Potential(nn.Module):
    """Leaky neurons that do not fire."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[: t + 1].sum(0) for t in range(len(x))])


def test_membrane_potentials_of_neurons_that_do_not_fire_are_real() -> None:
    net = Reading(Potential(), lambda _m, s: s).eval()
    assert counted(net, IMAGES, neurons=[Potential]).counts[-1].input == "real"


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_signed_events_are_accumulations(scale: float) -> None:
    """Two input channels of -1, 0 and 1."""
    torch.manual_seed(0)
    events = torch.randint(-1, 2, (STEPS, BATCH, 2, 6, 6)).float()
    net = nn.Sequential(layer.Conv2d(2, 8, 3, padding=1), neuron.IFNode())
    functional.set_step_mode(net, "m")
    found = counted(Scaled(net, scale), events)
    assert sum(found.counts[0].acs) == by_hand(events)
    assert found.energy().macs == 0


class Scaled(nn.Module):
    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.scale)


# Normalisations and weights inside neurons


class Normalised(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm, self.function = nn.Conv2d(3, 8, 3, padding=1), norm, function
        self.lif = fires()

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.function(self, self.conv(x.repeat(STEPS, 1, 1, 1))).unflatten(0, (STEPS, -1)))


def layer_of(m: Any, x: Tensor) -> Tensor:
    return m.norm(x)


BY_INPUT: dict[str, tuple[Callable[[Any, Tensor], Tensor], nn.Module | None]] = {
    "InstanceNorm": (layer_of, nn.InstanceNorm2d(8)),
    "BatchNorm without running statistics": (layer_of, nn.BatchNorm2d(8, track_running_stats=False)),
    "GroupNorm": (layer_of, nn.GroupNorm(2, 8)),
    "LayerNorm": (layer_of, nn.LayerNorm(8)),
    "RMSNorm": (layer_of, nn.RMSNorm(8)),
    "batch_norm in training": (lambda _m, x: F.batch_norm(x, None, None, training=True), None),
    "BatchNorm in training": (lambda m, x: m.norm.train()(x), nn.BatchNorm2d(8)),
    "divided by a mean": (lambda _m, x: x / x.mean(), None),
    "written out": (lambda _m, x: (x - x.mean((2, 3), True)) / x.std((2, 3), keepdim=True), None),
}


@pytest.mark.parametrize("name", BY_INPUT)
def test_statistics_of_the_input_do_not_fold(name: str) -> None:
    function, norm = BY_INPUT[name]
    net = Normalised(function, norm)
    if name in ("LayerNorm", "RMSNorm"):
        net.function = lambda m, x: m.norm(x.movedim(1, -1)).movedim(-1, 1)
    assert counted(net, IMAGES).unknown
    with pytest.raises(UnknownOperationError):
        count_operations(net, IMAGES, strict=True)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.InstanceNorm2d(8, track_running_stats=True)])
def test_running_statistics_fold(norm: nn.Module) -> None:
    found = counted(Normalised(layer_of, norm), IMAGES, strict=True)
    assert found.free["normalisation, which folds into weights"] == 1


class OverTime(nn.Module):
    """Neurons that see real currents `[T, B, 6]`."""

    def __init__(self, neurons: nn.Module) -> None:
        super().__init__()
        self.neurons = neurons

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(x)


@pytest.mark.parametrize(
    ("neurons", "reached"),
    [
        (neuron.PSN(T=STEPS), STEPS),
        (neuron.MaskedPSN(k=2, T=STEPS, lambda_init=1.0, step_mode="m"), 2),
        (neuron.MaskedPSN(k=2, T=STEPS, lambda_init=0.5, step_mode="m"), STEPS),
        (neuron.SlidingPSN(k=3, step_mode="m"), 3),
    ],
    ids=["parallel", "masked", "not yet masked", "sliding"],
)
def test_products_over_time_inside_neurons(neurons: nn.Module, reached: int) -> None:
    """Each of 6 currents at each of T steps meets as many weights as it reaches steps."""
    found = counted(OverTime(neurons), torch.rand(STEPS, BATCH, 6))
    assert [(c.layer, c.time_steps, c.macs) for c in found.counts] == [("neurons.weight", STEPS, 6 * reached)]
    assert (found.energy().macs, found.energy().acs) == (STEPS * 6 * reached, 0)


class Product(nn.Module):
    """A parallel neuron of other code."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(STEPS, STEPS).tril())

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight.tril() @ x.flatten(1) >= 0.5).float().view_as(x)


@pytest.mark.parametrize("batch", [1, BATCH, 3])
def test_products_over_time_inside_named_neurons(batch: int) -> None:
    found = counted(OverTime(Product()), torch.rand(STEPS, batch, 6), neurons=[Product], time_steps=STEPS)
    assert (found.energy().macs, found.energy().acs) == (STEPS * STEPS * 6, 0)


def test_time_steps_that_the_shapes_do_not_tell() -> None:
    with pytest.warns(UserWarning, match="give time_steps="):
        count_operations(OverTime(Product()), torch.rand(STEPS, BATCH, 6), neurons=[Product])


def test_weights_between_neurons_of_a_layer() -> None:
    """In a population of 3, a spike of any step but the last reaches 3 neurons."""
    torch.manual_seed(0)
    neurons = neuron.ILCLIFNode(act_dim=2, dec_pop_dim=3)
    x = torch.rand(STEPS, BATCH, 6) * 2
    with torch.no_grad():
        spikes = neurons(x.clone())
    found = counted(OverTime(neurons), x.clone())
    assert found.energy().acs == spikes[:-1].sum().item() * 3 / BATCH > 0
    assert found.energy().macs == 0


def test_copies_of_spikes_for_one_number_each_are_free() -> None:
    torch.manual_seed(0)
    net = Reading(fires(), lambda _m, s: (s * torch.full((2, 1, 1, 1, 1, 1), 0.7))[0]).eval()
    assert [c.layer for c in counted(net, IMAGES).counts] == ["conv", "last"]


def test_a_sparse_product_is_unknown() -> None:
    """A sparse tensor has no storage of its own."""
    torch.manual_seed(0)
    net = Reading(fires(), lambda _m, s: s.flatten(1).to_sparse().to_dense().view_as(s)).eval()
    with warnings.catch_warnings(action="ignore"):
        found = count_operations(net, IMAGES)
    assert "the model: _to_sparse" in found.unknown


@pytest.mark.parametrize("wrap", [lambda net: torch.compile(net, backend="eager"), nn.DataParallel, nn.Sequential])
def test_wrapped_models_have_the_counts_of_the_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net, acs = same_weights(AllSteps)
    with warnings.catch_warnings(action="ignore"):  # torch.compile warns of global hooks
        found = count_operations(wrap(net), IMAGES, neurons=[Leaky], strict=True)
    assert (found.energy().macs, found.energy().acs) == (8 * 64 * 27, acs)


SILENT_THRESHOLDS: dict[str, Callable[[Tensor], Tensor]] = {
    "not equal": lambda v: (torch.relu(v - 0.3) != 0).float(),
    "to integers": lambda v: v.clamp(0, 4).to(torch.int32).float(),
    "to truth values": lambda v: torch.relu(v - 0.3).bool().float(),
}


@pytest.mark.parametrize("given", [{}, {"neurons": []}])
@pytest.mark.parametrize("name", SILENT_THRESHOLDS)
def test_every_way_to_make_spikes_of_real_values_is_a_threshold(name: str, given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = Reading(fires(), lambda m, s: SILENT_THRESHOLDS[name](m.last(s.flatten(0, 1)).unflatten(0, s.shape[:2]))).eval()
    with pytest.warns(UserWarning, match=r"the model \(Reading\) compares values with a threshold outside neurons"):
        count_operations(net, IMAGES, **given)
    with pytest.raises(UserError, match="threshold"):
        count_operations(net, IMAGES, strict=True, **given)


def test_conversions_of_spikes_are_no_thresholds() -> None:
    torch.manual_seed(0)
    net = Reading(fires(), lambda _m, s: (s * 0.5).bool().float() * (s != 0) * s.int()).eval()
    assert counted(net, IMAGES).counts  # without a warning, which `counted` would raise


# Products with weights


class Spelled(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self.g, self.lif = nn.Parameter(torch.rand(5, 6)), nn.Parameter(torch.rand(2, 3, 4)), neuron.IFNode(step_mode="m")
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.function(self, x.expand(STEPS, *x.shape)))


STILL: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "einsum": (lambda m, x: torch.einsum("tbnc,dc->tbnd", x, m.w), 7 * 6 * 5),
    "einsum, batch first": (lambda m, x: torch.einsum("tbnc,dc->btnd", x, m.w).transpose(0, 1), 7 * 6 * 5),
    "einsum, weights first": (lambda m, x: torch.einsum("dc,tbnc->tbdn", m.w, x), 7 * 6 * 5),
    "einsum, channels first": (lambda m, x: torch.einsum("tbnc,dc->dtbn", x, m.w).movedim(0, -1), 7 * 6 * 5),
    "einsum, by heads": (lambda m, x: torch.einsum("tbnhc,hcd->tbnhd", x.unflatten(-1, (2, 3)), m.g), 7 * 6 * 4),
    "matmul": (lambda m, x: x @ m.w.t(), 7 * 6 * 5),
    "products and their sum": (lambda m, x: (x.unsqueeze(-2) * m.w).sum(-1), 7 * 6 * 5),
    "tensordot, weights first": (lambda m, x: torch.tensordot(m.w, x, dims=([1], [3])).movedim(0, -1), 7 * 6 * 5),
    "bmm by heads": (
        lambda m, x: (
            torch.bmm(x.flatten(0, 2).unflatten(-1, (2, 3)).transpose(0, 1), m.g).transpose(0, 1).unflatten(0, x.shape[:3])
        ),
        7 * 6 * 4,
    ),
    "baddbmm": (
        lambda m, x: torch.baddbmm(torch.zeros(1, 1, 5), x.flatten(0, 2)[None], m.w.t()[None])[0].unflatten(0, x.shape[:3]),
        7 * 6 * 5,
    ),
}


@pytest.mark.parametrize("name", STILL)
def test_every_spelling_of_a_product_with_weights_counts_a_still_image_once(name: str) -> None:
    function, macs = STILL[name]
    net, x = Spelled(function), torch.rand(BATCH, 7, 6)
    found = counted(net, x)
    assert [(c.reads, c.time_steps, c.macs) for c in found.counts] == [("image", STEPS, macs)]
    assert found.energy().macs == macs


@pytest.mark.parametrize("name", STILL)
def test_every_spelling_of_a_product_with_weights_counts_spikes_at_each_step(name: str) -> None:
    function, macs = STILL[name]
    net, x = Spelled(function), torch.randint(0, 2, (STEPS, BATCH, 7, 6), generator=torch.Generator().manual_seed(0)).float()
    net.forward = lambda x: net.lif(net.function(net, x))  # type: ignore[method-assign]
    (found,) = counted(net, x).counts
    assert found.acs == tuple(step.sum().item() * macs / 42 / BATCH for step in x)
    assert (found.macs, found.input) == (macs, "binary")
