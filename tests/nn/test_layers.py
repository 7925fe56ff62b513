"""Linear layers and convolutions with normalisation, compared with the same layers built from torch modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, RepLinear, SeparableConvNorm, synapse
from autospike.nn.max_pool import TimewiseMaxPool

T, B, H, W = 3, 2, 5, 6

SYNAPSES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: LinearNorm(4, 7, bias=True),
    "linear without bias": lambda: LinearNorm(4, 7, bias=False),
    "conv 3x3": lambda: ConvNorm(4, 7),
    "conv 3x3 with bias, strided": lambda: ConvNorm(4, 7, stride=2, bias=True),
    "conv 7x7 with bias, strided": lambda: ConvNorm(4, 7, kernel_size=7, stride=2, bias=True),
    "conv 1x1 strided": lambda: ConvNorm(4, 7, kernel_size=1, stride=2),
    "separable 7x7": lambda: SeparableConvNorm(4, 7, kernel_size=7),
    "separable 3x3": lambda: SeparableConvNorm(4, 7, kernel_size=3),
    "repconv": lambda: RepConv(4),
    "replinear": lambda: RepLinear(4, 6, outer_norm=True),
    "replinear of a channel mixer": lambda: RepLinear(4, 4, outer_norm=False),
}


def initialised(name: str) -> nn.Module:
    """Return a layer with random parameters and statistics, unlike those of a new layer."""
    torch.manual_seed(1)
    layer = SYNAPSES[name]()
    for module in layer.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return layer


def inputs(steps: int = T) -> Tensor:
    """Return `[T, B, H, W, C]` with a different mean and standard deviation for each channel."""
    return torch.randn(steps, B, H, W, 4, generator=torch.Generator().manual_seed(2)) * torch.tensor([1.0, 2, 3, 4]) + torch.arange(
        4
    )


def channels_first(x: Tensor) -> Tensor:
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def channels_last(y: Tensor) -> Tensor:
    return y.permute(0, 2, 3, 1).unflatten(0, (-1, B))


def norm_of(bn: Any) -> nn.BatchNorm2d:
    torch_layer = nn.BatchNorm2d(bn.num_features)
    torch_layer.load_state_dict(bn.state_dict())
    return torch_layer


def conv_of(weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> nn.Conv2d:
    """Return a torch convolution with a copy of the weights; a matrix becomes a 1x1 kernel."""
    kernel = weight[:, :, None, None] if weight.dim() == 2 else weight
    conv = nn.Conv2d(kernel.shape[1] * groups, len(kernel), kernel.shape[-1], stride, padding, groups=groups, bias=bias is not None)
    conv.weight.data.copy_(kernel)
    if bias is not None:
        conv.bias.data.copy_(bias)
    return conv


class PadWithNormalisedZero(nn.Module):
    """Normalise an image and pad it with the normalised value of zero."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.bn = bn

    def forward(self, y: Tensor) -> Tensor:
        if self.training:  # with the statistics of the image without border, without gradient
            norm = nn.BatchNorm2d(self.bn.num_features)
            norm.load_state_dict(self.bn.state_dict())
            norm.running_mean.copy_(y.detach().mean(dim=(0, 2, 3)))
            norm.running_var.copy_(y.detach().var(dim=(0, 2, 3), correction=0))
        else:
            norm = copy.deepcopy(self.bn)
        border = norm.eval()(torch.zeros(len(y), y.shape[1], y.shape[2] + 2, y.shape[3] + 2)).detach()
        is_image = nn.functional.pad(torch.ones_like(y), (1, 1, 1, 1))
        return border * (1 - is_image) + nn.functional.pad(self.bn(y), (1, 1, 1, 1)) * is_image


def torch_layer(layer: nn.Module) -> nn.Sequential:
    """Return the layer built from torch modules."""
    match layer:
        case LinearNorm():
            return nn.Sequential(conv_of(layer.linear.weight, layer.linear.bias), norm_of(layer.bn))
        case ConvNorm():
            size, stride = layer.conv.weight.shape[-1], layer.conv.stride[0]
            return nn.Sequential(conv_of(layer.conv.weight, layer.conv.bias, stride=stride, padding=size // 2), norm_of(layer.bn))
        case SeparableConvNorm():
            weight = layer.depthwise.weight
            depthwise = conv_of(weight, padding=weight.shape[-1] // 2, groups=len(weight))
            return nn.Sequential(depthwise, conv_of(layer.pointwise.weight), norm_of(layer.bn))
        case RepLinear():
            norms = [norm_of(norm) for norm in (layer.last_bn, layer.bn) if norm is not None]
            return nn.Sequential(conv_of(layer.first.weight), norm_of(layer.first_bn), conv_of(layer.last.weight), *norms)
        case RepConv():
            return nn.Sequential(
                conv_of(layer.first.weight),
                PadWithNormalisedZero(norm_of(layer.first_bn)),
                conv_of(layer.depthwise.weight, groups=len(layer.depthwise.weight)),
                conv_of(layer.last.weight),
                norm_of(layer.last_bn),
                norm_of(layer.outer_bn),
            )
    raise AssertionError(layer)


def statistics(layer: nn.Module) -> list[Tensor]:
    """Return running means and variances in the order of use."""
    found = []
    for module in layer.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            found += [module.running_mean, module.running_var]
    return found


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", SYNAPSES)
def test_outputs_and_statistics_equal_those_of_torch_layers(name: str, training: bool) -> None:
    layer = initialised(name).train(training)
    reference, x = torch_layer(layer).train(training), inputs()
    expected = channels_last(reference(channels_first(x)))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    for found, wanted in zip(statistics(layer), statistics(reference), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", SYNAPSES)
def test_gradients_equal_those_of_torch_layers(name: str, training: bool) -> None:
    layer = initialised(name).train(training)
    reference, x = torch_layer(layer).train(training), inputs().requires_grad_()
    reference_output = channels_last(reference(channels_first(x)))
    weights = torch.randn(reference_output.shape, generator=torch.Generator().manual_seed(3))
    (expected,) = torch.autograd.grad((reference_output * weights).sum(), x)
    (found,) = torch.autograd.grad((layer(x) * weights).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SYNAPSES)
def test_gradients_reach_every_parameter(name: str) -> None:
    layer = initialised(name).eval()  # in training mode, normalisation cancels the biases and scales before it
    layer(inputs()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-3 for p in layer.parameters())


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", [name for name in SYNAPSES if name.startswith("conv")])
def test_a_still_image_equals_the_image_repeated_at_every_step(name: str, training: bool) -> None:
    """Only convolutions read images."""
    layer, image = initialised(name).train(training), inputs(1)
    once = layer(image, T)
    assert once.shape[0] == T
    torch.testing.assert_close(once, layer(image.expand(T, -1, -1, -1, -1)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(once, layer(image).expand(T, -1, -1, -1, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SYNAPSES)
def test_time_steps_and_images_are_independent_in_inference(name: str) -> None:
    layer, x = initialised(name).eval(), inputs()
    for t in range(T):
        for b in range(B):
            torch.testing.assert_close(layer(x[t : t + 1, b : b + 1]), layer(x)[t : t + 1, b : b + 1])


def test_max_pool_ignores_padding() -> None:
    x = -1 - inputs().abs()  # all potentials are negative, so zero padding would be the maximum
    found = TimewiseMaxPool()(x).numpy()
    expected = np.empty((T, B, 3, 3, 4), dtype=np.float32)  # 5 x 6 halved
    for i, j in np.ndindex(3, 3):
        rows, columns = (slice(max(0, 2 * p - 1), 2 * p + 2) for p in (i, j))
        expected[:, :, i, j] = x[:, :, rows, columns].numpy().max(axis=(2, 3))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_and_repconv_layers_of_attention(bias: bool) -> None:
    linear, repconv = synapse("linear", 6, bias=bias), synapse("repconv", 6, bias=bias)
    assert isinstance(linear, LinearNorm)
    assert (linear.linear.bias is not None) == bias
    assert isinstance(repconv, RepConv)
    assert sum(p.numel() for p in linear.parameters()) == 6 * 6 + 2 * 6 + 6 * bias
    assert sum(p.numel() for p in repconv.parameters()) == 2 * 6 * 6 + 9 * 6 + 3 * 2 * 6  # never a bias


def test_a_new_layer_scale_is_small_and_multiplies_the_output() -> None:
    layer, scaled = (LinearNorm(4, 7, bias=True).eval() for _ in range(2))
    scaled.load_state_dict(layer.state_dict())
    scaled.add_layer_scale()
    (factors,) = (p for name, p in scaled.named_parameters() if name == "bn.layer_scale")
    assert torch.equal(factors, torch.full((7,), 1e-6))
    nn.init.uniform_(factors, 0.5, 2)
    x = torch.randn(T, B, H, W, 4)
    torch.testing.assert_close(scaled.eval()(x), layer(x) * factors)


def test_the_layer_scale_of_a_repconv_is_behind_its_last_normalisation() -> None:
    layer = RepConv(4)
    layer.add_layer_scale()
    assert [name for name, _ in layer.named_parameters() if name.endswith("layer_scale")] == ["outer_bn.layer_scale"]
