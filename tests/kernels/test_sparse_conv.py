"""Zero-skipping convolutions: torch in double precision, the order of sums, and independence of the batch composition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slow_parameters import slow_except
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autospike.kernels.build import use_kernels
from autospike.kernels.sparse_conv import LIBRARY, Geometry, shape_struct, spiking_conv, supports
from autospike.nn.layers import Conv, ConvNorm, Linear, LinearNorm

# in, out, kernel, stride, padding, height, width: whole vectors and odd ends, blocks of inputs and of outputs, edges that overlap.
SHAPES = [
    (16, 16, 1, 1, 0, 4, 4),
    (64, 128, 1, 1, 0, 8, 8),
    (70, 20, 3, 1, 1, 7, 5),
    (130, 260, 1, 1, 0, 1, 3),
    (17, 130, 5, 1, 2, 6, 4),
    (32, 40, 3, 1, 1, 1, 1),
    (24, 33, 3, 2, 1, 9, 8),
    (24, 33, 2, 2, 0, 8, 6),
    (40, 24, 1, 2, 0, 5, 5),
    (16, 9, 7, 2, 3, 11, 11),
    (16, 48, 3, 1, 0, 5, 6),
    (16, 48, 3, 1, 2, 5, 6),
    (96, 150, 3, 1, 1, 16, 40),
    (32, 16, 1, 1, 1, 4, 1),
    (32, 3, 1, 1, 0, 4, 4),
    (80, 24, 1, 1, 0, 8, 8),
]
DENSITIES = [0.0, 0.05, 0.3, 1.0]


def sums(images: Tensor, density: float) -> Tensor:
    """Return sums of spikes as in a residual stream: integers with a fraction of zeros."""
    return (torch.rand_like(images) < density).float() * torch.randint(1, 4, images.shape)


def case(shape: tuple[int, ...], density: float) -> tuple[Tensor, Tensor, Tensor, Geometry]:
    in_, out, kernel, stride, padding, height, width = shape
    torch.manual_seed(0)
    x = sums(torch.empty(2, 3, height, width, in_), density)
    return x, torch.randn(out, in_, kernel, kernel), torch.randn(out), Geometry(stride, padding)


def by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    y = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight, bias, geometry.stride, geometry.padding)
    return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("density", slow_except([0.0, 0.3], DENSITIES))
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], density: float) -> None:
    x, weight, bias, geometry = case(shape, density)
    actual = [leaf.clone().requires_grad_() for leaf in (x, weight, bias)]
    desired = [leaf.double().requires_grad_() for leaf in (x, weight, bias)]
    y = spiking_conv(actual[0], actual[1], actual[2], geometry)
    expected = by_torch(desired[0], desired[1], desired[2], geometry)
    assert y.is_contiguous()
    terms = max(
        weight[0].numel(), weight[:, 0].numel(), y[..., 0].numel()
    )  # number of terms of the longest sum, for the rounding error
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5 * terms**0.5)
    cotangent = torch.randn_like(y)
    desired_grads = torch.autograd.grad(expected, desired, cotangent.double())
    for grad, desired_grad in zip(torch.autograd.grad(y, actual, cotangent), desired_grads, strict=True):
        torch.testing.assert_close(grad.double(), desired_grad, rtol=1e-5, atol=1e-5 * terms**0.5)


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8])
def test_the_weight_gradient_of_a_strided_pointwise_convolution_of_few_channels(channels: int) -> None:
    """That of oneDNN writes past its workspace: wrong gradients or an abort (uxlfoundation/oneDNN issue 6035)."""
    torch.manual_seed(0)
    x, cotangent = torch.randint(0, 2, (3, 16, 8, 8, channels)).float(), torch.randint(-2, 3, (3, 16, 4, 4, 8)).float()
    weight = torch.randn(8, channels, 1, 1, requires_grad=True)
    spiking_conv(x, weight, None, Geometry(stride=2)).backward(cotangent)
    assert weight.grad is not None
    assert torch.equal(weight.grad[:, :, 0, 0], torch.einsum("tbhwo,tbhwi->oi", cotangent, x[:, :, ::2, ::2]))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("density", slow_except([0.0, 0.3], DENSITIES))
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_integers_are_exact(shape: tuple[int, ...], density: float) -> None:
    """Sums of integers are exact in any order, so only the correct terms give the correct sum."""
    x, weight, bias, geometry = case(shape, density)
    weight, bias = (torch.round(w * 4).requires_grad_() for w in (weight, bias))
    y = spiking_conv(x, weight, bias, geometry)
    cotangent = torch.randint_like(y, -3, 4)
    grads = torch.autograd.grad(y, (weight, bias), cotangent)
    expected = by_torch(x.double(), weight.double(), bias.double(), geometry)
    desired_grads = torch.autograd.grad(expected, (weight, bias), cotangent.double())
    assert torch.equal(y.double(), expected)
    assert all(torch.equal(grad, desired_grad) for grad, desired_grad in zip(grads, desired_grads, strict=True))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("density", [0.02, 0.5])  # position by position, and tap by tap
def test_terms_are_summed_by_tap_and_then_by_input(density: float) -> None:
    """Compared with a loop that adds the terms in single precision to the bias."""
    torch.manual_seed(0)
    x = (torch.rand(1, 1, 6, 6, 40) < density).float()
    weight, bias = torch.randn(20, 40, 3, 3), torch.randn(20)
    y = spiking_conv(x, weight, bias, Geometry(1, 1))
    image, taps = np.pad(x[0, 0].numpy(), ((1, 1), (1, 1), (0, 0))), weight.numpy()
    for row, column in [(0, 0), (2, 3), (5, 5), (5, 0)]:
        total = bias.numpy().copy()
        for ky, kx, i in np.ndindex(3, 3, 40):
            if image[row + ky, column + kx, i]:
                total += taps[:, i, ky, kx]
        assert np.array_equal(y[0, 0, row, column].numpy(), total)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_independent_of_the_other_images_of_the_batch(shape: tuple[int, ...]) -> None:
    """Also if the other images have another density."""
    x, weight, bias, geometry = case(shape, 0.3)
    x[0, 1], x[1, 2] = 1, 0
    together = spiking_conv(x, weight, bias, geometry)
    for t, b in np.ndindex(2, 3):
        alone = spiking_conv(x[t, b][None, None], weight, bias, geometry)
        assert torch.equal(alone[0, 0], together[t, b])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_independent_of_the_number_of_threads(shape: tuple[int, ...]) -> None:
    x, weight, bias, geometry = case(shape, 0.2)
    weight.requires_grad_()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            y = spiking_conv(x, weight, bias, geometry)
            grad = torch.autograd.grad(y, weight, torch.cos(torch.arange(y.numel())).view_as(y))
            found.append((y, *(grad if geometry.stride == 1 else ())))  # strided gradients are computed by torch
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.usefixtures("isa")
def test_a_slice_of_a_larger_weight_is_read_in_place() -> None:
    torch.manual_seed(0)
    for uninterrupted in (torch.randn(64, 48, 3, 3), torch.randn(64, 48, 1, 1), torch.randn(48, 64, 3, 3).transpose(0, 1)):
        weight, x = uninterrupted[:40, :32], sums(torch.empty(1, 2, 6, 5, 32), 0.2)
        geometry = Geometry(1, uninterrupted.shape[2] // 2)
        y = spiking_conv(x, weight, None, geometry)
        assert torch.equal(y, spiking_conv(x, weight.clone(), None, geometry))
        torch.testing.assert_close(y, by_torch(x, weight, None, geometry), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("implementation")
def test_nan_is_propagated() -> None:
    x = torch.zeros(1, 1, 3, 3, 16)
    x[0, 0, 1, 1, 5] = torch.nan
    y = spiking_conv(x, torch.ones(16, 16, 3, 3), None, Geometry(1, 1))
    assert y.isnan().all()


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("kind", [LinearNorm, ConvNorm])
def test_a_bias_before_a_normalisation_by_the_batch_has_gradient_zero(kind: type[LinearNorm | ConvNorm]) -> None:
    """The mean that is subtracted contains the bias. In inference the bias has a gradient, as in torch."""
    torch.manual_seed(0)
    layer = kind(16, 8, bias=True)
    x = sums(torch.empty(2, 3, 4, 4, 16), 0.3)
    inner = layer.linear if isinstance(layer, LinearNorm) else layer.conv
    assert inner.bias is not None
    layer.train()(x).square().sum().backward()
    assert inner.bias.grad is not None
    assert not inner.bias.grad.any()
    exact = nn.BatchNorm1d(8, dtype=torch.float64)
    bias = torch.randn(8, dtype=torch.float64, requires_grad=True)
    (bias_grad,) = torch.autograd.grad(exact(torch.randn(50, 8, dtype=torch.float64) + bias).pow(3).sum(), bias)
    assert bias_grad.abs().max() < 1e-12
    inner.bias.grad = None
    layer.eval()(x).square().sum().backward()
    assert inner.bias.grad is not None
    assert inner.bias.grad.abs().min() > 0


def test_flop_counters_count_the_dense_operations() -> None:
    x = sums(torch.empty(1, 2, 8, 8, 32), 0.1)
    with FlopCounterMode(display=False) as counter:
        Linear(32, 16, bias=True)(x)
        Conv(32, 16, 3, padding=1)(x)
    assert counter.get_total_flops() == 2 * 2 * 8 * 8 * 32 * 16 * (1 + 9)


def test_few_channels_groups_and_other_types_are_computed_by_torch() -> None:
    x, weight = torch.ones(4, 4, 4, 32), torch.ones(8, 32, 3, 3)
    kernel = LIBRARY.functions is not None
    assert supports(x, weight, None, Geometry()) == kernel
    assert not supports(x[..., :15], weight[:, :15], None, Geometry())
    assert not supports(x, torch.ones(32, 1, 3, 3), None, Geometry(groups=32))
    assert not supports(x.double(), weight.double(), None, Geometry())
    assert not supports(x, weight, torch.ones(8, dtype=torch.bfloat16), Geometry())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not supports(x, weight, None, Geometry())
        assert Linear(32, 8, bias=False)(x[None]).dtype == torch.bfloat16
    with use_kernels("off"):
        assert not supports(x, weight, None, Geometry())


@pytest.mark.parametrize("layer", [Linear(32, 8, bias=True), Conv(32, 8, 3)])
def test_torch_reports_a_wrong_number_of_channels(layer: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        layer(torch.ones(1, 1, 4, 4, 31))


def test_an_empty_batch() -> None:
    assert Conv(32, 8, 3, padding=1)(torch.ones(2, 0, 4, 4, 32)).shape == (2, 0, 4, 4, 8)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("positions", [1, 2, 5, 2500])
@pytest.mark.parametrize("out", [1, 3, 8, 15, 16, 24, 72, 130])
def test_no_memory_outside_the_output_is_written(out: int, positions: int) -> None:
    """Where outputs are fewer than a vector, whole vectors are written over later outputs, never beyond the last one."""
    functions = LIBRARY.functions
    for in_, density in ((32, 0.3), (96, 0.3), (96, 0.05)):
        x, weight = sums(torch.empty(1, positions, 1, in_), density), torch.randn(out, in_, 1, 1)
        around = torch.full((256 + positions * out,), 7.0)
        y = around[128:-128].view(1, positions, 1, out)
        functions.convolve(x.data_ptr(), shape_struct(x, y, weight, Geometry()), weight.data_ptr(), None, y.data_ptr())
        assert torch.equal(around[:128], torch.full((128,), 7.0))
        assert torch.equal(around[-128:], torch.full((128,), 7.0))
        torch.testing.assert_close(y, torch.einsum("npqi,oi->npqo", x, weight[:, :, 0, 0]), rtol=1e-4, atol=1e-4)
