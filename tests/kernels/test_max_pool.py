"""Max-pooling with kernels and with tensor operations, compared with torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from autospike.nn.max_pool import TimewiseMaxPool

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.mark.parametrize("spikes", [True, False])
@pytest.mark.parametrize(
    ("size", "channels"), [((8, 8), 16), ((7, 5), 3), ((2, 3), 300), ((1, 1), 4), ((5, 6), 88), ((4, 1), 16), ((1, 6), 64)]
)
def test_values_and_gradients_are_those_of_torch(size: tuple[int, int], channels: int, spikes: bool) -> None:
    """Most windows of spikes have several maxima: the first one receives the gradient."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, *size, channels)
    x = ((x < 0.3).float() if spikes else x).requires_grad_()
    actual = TimewiseMaxPool()(x)
    desired = F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), kernel_size=3, stride=2, padding=1)
    desired = desired.permute(0, 2, 3, 1).unflatten(0, (2, 3))
    assert torch.equal(actual, desired)
    cotangent = torch.randn_like(actual)
    (actual_grad,) = torch.autograd.grad(actual, x, cotangent)
    (desired_grad,) = torch.autograd.grad(desired, x, cotangent)
    torch.testing.assert_close(actual_grad, desired_grad)


def test_a_gradient_that_does_not_fit_into_the_cache() -> None:
    """It is written past the cache."""
    torch.manual_seed(0)
    x = (torch.rand(1, 4, 66, 64, 192) < 0.3).float().requires_grad_()
    desired = F.max_pool2d(x[0].permute(0, 3, 1, 2), kernel_size=3, stride=2, padding=1).permute(0, 2, 3, 1)
    actual = TimewiseMaxPool()(x)
    cotangent = torch.randint(-8, 8, actual.shape).float()  # sums of whole numbers are exact
    (actual_grad,) = torch.autograd.grad(actual, x, cotangent)
    (desired_grad,) = torch.autograd.grad(desired, x, cotangent[0])
    assert torch.equal(actual[0], desired)
    assert torch.equal(actual_grad, desired_grad)


def test_nan_is_propagated() -> None:
    x = torch.zeros(1, 1, 4, 4, 1)
    x[0, 0, 1, 1] = torch.nan
    assert TimewiseMaxPool()(x).isnan().all()
