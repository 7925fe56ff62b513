"""The large and event forms of E-SpikeFormer against another implementation (`tests/e_spikeformer_reference.py`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import one_line_error
from e_spikeformer_reference import BASE, FORM_83M, FORM_172M, GESTURE, HARDVS, Form, Reference, state_dict
from torch import Tensor

from autospike.counting.model import count_operations
from autospike.energy.conventions import EXACT
from autospike.models.checkpoint_import import load_reference
from autospike.models.contract import SpikingModel
from autospike.nn.fusion import fuse
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture
from autospike.space.costs import costs
from autospike.space.e_spikeformer import e_spikeformer, e_spikeformer_gesture, e_spikeformer_hardvs, e_spikeformer_large
from autospike.space.input_shape import InputShape

WIDTHS, LARGE_WIDTHS = (8, 16, 32, 32), (8, 16, 32)

# Each form, the option `levels`, and the architecture that follows from the shapes and the option.
FORMS: dict[str, tuple[Form, int | None, Architecture]] = {
    "base": (BASE, None, e_spikeformer(WIDTHS, (2, 1))),
    "base, 8 levels": (replace(BASE, levels=8, divisor=8), 8, e_spikeformer(WIDTHS, (2, 1), levels=8)),
    "HAR-DVS": (HARDVS, None, e_spikeformer_hardvs(WIDTHS, (2, 1))),
    "HAR-DVS, 8 levels": (replace(HARDVS, levels=8), 8, e_spikeformer_hardvs(WIDTHS, (2, 1), levels=8)),
    "gesture": (GESTURE, None, e_spikeformer_gesture(WIDTHS)),
    "gesture, 8 levels": (replace(GESTURE, levels=8), 8, e_spikeformer_gesture(WIDTHS, levels=8)),
    "HAR-DVS, integrating": (HARDVS, None, e_spikeformer_hardvs(WIDTHS, (2, 1), integrates=True)),
    "gesture, integrating": (GESTURE, None, e_spikeformer_gesture(WIDTHS, integrates=True)),
    "gesture, 8 levels, integrating": (replace(GESTURE, levels=8), 8, e_spikeformer_gesture(WIDTHS, levels=8, integrates=True)),
    "172M": (FORM_172M, None, e_spikeformer_large(LARGE_WIDTHS, 2, replinear=False, distilled=True)),
    "172M, one head": (replace(FORM_172M, second_head=False), None, e_spikeformer_large(LARGE_WIDTHS, 2, replinear=False)),
    "172M, other container": (
        replace(FORM_172M, container=""),
        None,
        e_spikeformer_large(LARGE_WIDTHS, 2, replinear=False, distilled=True),
    ),
    "172M, 8 levels": (
        replace(FORM_172M, levels=8, divisor=8),
        8,
        e_spikeformer_large(LARGE_WIDTHS, 2, replinear=False, distilled=True, levels=8),
    ),
    "83M": (FORM_83M, None, e_spikeformer_large(LARGE_WIDTHS, 2, replinear=True, distilled=True)),
}
every_form = pytest.mark.parametrize("name", FORMS)
INTEGRATING = tuple(name for name in FORMS if name.endswith("integrating"))


def load(name: str, state: dict[str, Tensor]) -> tuple[SpikingModel, Architecture]:
    return load_reference(state, levels=FORMS[name][1], integrates=name in INTEGRATING)


def frames_of(form: Form, steps: int, images: int = 2) -> Tensor:
    """Random frames. Double precision keeps sums of other orders from the ties of the neurons."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(steps, images, form.channels, 64, 48, generator=generator, dtype=torch.float64) * 3


def reference_of(name: str, state: dict[str, Tensor], steps: int) -> Reference:
    return Reference(form=FORMS[name][0], state=doubled(state), integrated=steps if name in INTEGRATING else 1)


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() for key, value in state.items()}


@every_form
def test_architecture_and_number_of_parameters(name: str) -> None:
    form, _, expected = FORMS[name]
    state = state_dict(form)
    model, architecture = load(name, state)
    assert architecture == expected
    published = (v for key, v in state.items() if not key.endswith(("running_mean", "running_var", "num_batches_tracked")))
    assert sum(p.numel() for p in model.parameters()) == sum(v.numel() for v in published)


@every_form
def test_logits(name: str) -> None:
    form, _, expected = FORMS[name]
    state = state_dict(form)
    model, _ = load(name, state)
    frames, reference = frames_of(form, expected.time_steps, images=8), reference_of(name, state, expected.time_steps)
    with torch.no_grad():
        logits = model.double()(frames)
        torch.testing.assert_close(logits, reference.logits(frames), rtol=1e-9, atol=1e-9)
    assert logits.std() > 0.01
    if form.large and form.levels == 4:  # the direction in which halves are rounded matters
        assert max(reference.ties) > 0, reference.ties


@every_form
def test_every_layer_of_neurons_emits_several_values(name: str) -> None:
    """Otherwise equal logits would say little."""
    form, _, expected = FORMS[name]
    model, _ = load(name, state_dict(form))
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, LIF):
            module.register_forward_hook(lambda _module, _inputs, spikes: seen.append(len(spikes.unique())))
    with torch.no_grad():
        model(frames_of(form, expected.time_steps).float())
    assert len(seen) == sum(isinstance(module, LIF) for module in model.modules())
    assert min(seen) > 1


@every_form
def test_fused_models_give_the_same_logits(name: str) -> None:
    form, _, expected = FORMS[name]
    model, _ = load(name, state_dict(form))
    frames = frames_of(form, expected.time_steps)
    with torch.no_grad():
        logits = model.double()(frames)
        torch.testing.assert_close(fuse(model)(frames), logits, rtol=1e-9, atol=1e-9)


@every_form
def test_every_operation_is_counted(name: str) -> None:
    """The strict counter finds no operator without a rule, and as many multiply-accumulates as follow from the architecture."""
    form, _, expected = FORMS[name]
    model, architecture = load(name, state_dict(form))
    frames = frames_of(form, expected.time_steps, images=1)[..., :48, :].float()
    counts = count_operations(model, frames, time_steps=expected.time_steps, strict=True).counts
    shape = InputShape(image_size=48, channels=form.channels, classes=model.num_classes)
    assert sum(count.macs for count in counts if EXACT.includes(count)) == costs(architecture, shape).macs


@pytest.mark.parametrize("name", ["HAR-DVS", "gesture"])
def test_frames_are_computed_alone(name: str) -> None:
    """The logits of a sequence are the mean of those of its frames, in any order."""
    form, _, expected = FORMS[name]
    model = load_reference(state_dict(form))[0].double()
    frames = frames_of(form, expected.time_steps)
    with torch.no_grad():
        alone = torch.stack([model(frames[t : t + 1]) for t in range(len(frames))])
        torch.testing.assert_close(model(frames), alone.mean(0))
        torch.testing.assert_close(model(frames.flip(0)), alone.mean(0))


@pytest.mark.parametrize("name", INTEGRATING)
def test_integrating_neurons_remember_the_frames_before(name: str) -> None:
    """The first of two frames changes what the second one gives; the reference computes the same."""
    form, _, expected = FORMS[name]
    assert {block.neuron.leak for stage in expected.stages for block in stage.blocks} == {False}
    state = state_dict(form)
    model, frames = load(name, state)[0].double(), frames_of(form, 2)
    with torch.no_grad():
        alone = torch.stack([model(frames[t : t + 1]) for t in range(2)])
        together = model(frames)
        assert (together - alone.mean(0)).abs().max() > 0.01
        torch.testing.assert_close(together, reference_of(name, state, 2).logits(frames), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", INTEGRATING)
def test_one_frame_gives_the_same_with_and_without_integration(name: str) -> None:
    """Both forms have the same parameters under the same names."""
    form, levels, _ = FORMS[name]
    state = state_dict(form)
    integrating, alone = load(name, state)[0], load_reference(state, levels=levels)[0]
    torch.testing.assert_close(integrating.state_dict(), alone.state_dict(), rtol=0, atol=0)
    frames = frames_of(form, 1).float()
    with torch.no_grad():
        assert torch.equal(integrating(frames), alone(frames))


@pytest.mark.parametrize(
    ("form", "part"),
    [(BASE, "event forms only, and this network reads images"), (FORM_83M, "event forms only, and this network reads images")],
)
def test_forms_for_images_do_not_integrate(form: Form, part: str) -> None:
    message = one_line_error(lambda: load_reference(state_dict(form), integrates=True))
    assert message.startswith("state dict of E-SpikeFormer: integrating neurons can be chosen for ")
    assert part in message


@every_form
@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_key_that_does_not_fit_is_named(name: str, change: str) -> None:
    form, _, _ = FORMS[name]
    state = state_dict(form)
    key = "block3.0.mlp.fc2_bn.bias"
    if change == "missing":
        del state[key]
    elif change == "unexpected":
        key = "block3.0.attn.extra.weight"
        state[key] = torch.ones(3)
    else:
        state[key] = torch.ones(5)
    message = one_line_error(lambda: load(name, state))
    assert message.startswith("state dict of E-SpikeFormer: ")
    assert repr(key) in message


def test_heads_of_attention_can_be_given() -> None:
    _, architecture = load_reference(state_dict(FORM_83M), num_heads=4)
    assert {block.num_heads for stage in architecture.stages for block in stage.blocks} == {None, 4}


@pytest.mark.parametrize(("levels", "part"), [(1, "levels must be from 2"), (65, "levels must be from 2")])
def test_levels_out_of_range_are_rejected(levels: int, part: str) -> None:
    assert part in one_line_error(lambda: load_reference(state_dict(BASE), levels=levels))
