"""Layers of exported code in plain PyTorch. Their source is copied into the generated file, so they use nothing but torch.

All tensors are `[T, B, H, W, C]`, channels last: T time steps, B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons: `h = v + (x - v) / tau`, a spike where `h >= v_threshold`, then `v = 0` there."""

    def __init__(self, v_threshold: float, tau: float) -> None:
        super().__init__()
        self.v_threshold, self.tau = v_threshold, tau

    def forward(self, x: Tensor) -> Tensor:
        """Compute the spikes.

        Args:
            x: Input current, `[T, ...]`.

        Returns:
            Spikes, of the same shape.
        """
        v, spikes = torch.zeros_like(x[0]), []
        for current in x.unbind(0):
            h = v + (current - v) / self.tau
            s = (h >= self.v_threshold).to(h.dtype)
            v = (1 - s) * h
            spikes.append(s)
        return torch.stack(spikes)


class IntegerLIF(nn.Module):
    """Integer neurons: `h = v - v / tau + x`, output `s = round(clip(h / v_threshold, 0, levels))`, then `v = h - s * v_threshold`.

    Halves are rounded to even. Without a leak (tau is None), `h = v + x`.
    """

    def __init__(self, v_threshold: float, levels: int, tau: float | None) -> None:
        super().__init__()
        self.v_threshold, self.levels, self.tau = v_threshold, levels, tau

    def forward(self, x: Tensor) -> Tensor:
        """Compute the integers.

        Args:
            x: Input current, `[T, ...]`.

        Returns:
            Whole numbers from 0 to `levels`, of the same shape.
        """
        v, outputs = torch.zeros_like(x[0]), []
        for current in x.unbind(0):
            h = (v if self.tau is None else v - v / self.tau) + current
            s = (h / self.v_threshold).clamp(0, self.levels).round()
            v = h - s * self.v_threshold
            outputs.append(s)
        return torch.stack(outputs)


class Conv(nn.Conv2d):
    """A convolution of channels-last images; a still image is computed once and repeated `time_steps` times."""

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Convolve images.

        Args:
            x: `[T, B, H, W, in_channels]`.
            time_steps: T of the result, if `x` is `[1, B, H, W, in_channels]`. Default: that of `x`.

        Returns:
            `[T, B, H', W', out_channels]`.
        """
        y = super().forward(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
        return y if time_steps is None else y.expand(time_steps, *y.shape[1:])


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels.

        Args:
            x: `[..., C]`.

        Returns:
            Of the same shape.
        """
        return super().forward(x.flatten(0, -2)).view(x.shape)


class ConvNorm(nn.Module):
    """A convolution and its normalisation."""

    def __init__(self, conv: Conv, bn: BatchNorm) -> None:
        super().__init__()
        self.conv, self.bn = conv, bn

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Convolve and normalise images.

        Args:
            x: `[T, B, H, W, in_channels]`.
            time_steps: T of the result, if `x` is `[1, B, H, W, in_channels]`. Default: that of `x`.

        Returns:
            `[T, B, H', W', out_channels]`.
        """
        y = self.bn(self.conv(x))
        return y if time_steps is None else y.expand(time_steps, *y.shape[1:])


class RepConv(nn.Module):
    """1x1, BN, border of BN(0), depthwise 3x3 without padding, 1x1, BN, BN: one zero-padded 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.first_bn = nn.Linear(channels, channels, bias=False), BatchNorm(channels)
        self.depthwise = Conv(channels, channels, 3, groups=channels, bias=False)
        self.last, self.last_bn, self.outer_bn = nn.Linear(channels, channels, bias=False), BatchNorm(channels), BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers.

        Args:
            x: `[T, B, H, W, channels]`.

        Returns:
            `[T, B, H, W, channels]`.
        """
        bn = self.first_bn
        border = bn(torch.zeros(1, bn.num_features, device=x.device))[0]
        padded = F.pad(self.first_bn(self.first(x)) - border, (0, 0, 1, 1, 1, 1)) + border
        return self.outer_bn(self.last_bn(self.last(self.depthwise(padded))))


class MaxPool(nn.Module):
    """Max-pool 3x3 with stride 2 and padding 1 at every time step."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool images.

        Args:
            x: `[T, B, H, W, C]`.

        Returns:
            `[T, B, ceil(H / 2), ceil(W / 2), C]`.
        """
        pooled = F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), kernel_size=3, stride=2, padding=1)
        return pooled.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).contiguous()


class AttentionProduct(nn.Module):
    """`q (k^T v) * scale` of each head; all are `[T, B, heads, tokens, head_dim]`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, heads: Sequence[Tensor]) -> Tensor:
        """Multiply q, k and v.

        Args:
            heads: q, k and v, `[T, B, heads, tokens, head_dim]` each.

        Returns:
            Of the same shape.
        """
        q, k, v = heads
        return q @ (k.transpose(-1, -2) @ v) * self.scale


def as_stream(x: Tensor, time_steps: int) -> tuple[Tensor, int | None]:
    """Convert a batch to channels-last.

    Args:
        x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
        time_steps: T of the network; later frames are left out.

    Returns:
        `[1, B, H, W, C]` and T for images, which are repeated at every time step; `[T, B, H, W, C]` and None for frames.
    """
    still = x.dim() == 4
    stream = (x.unsqueeze(0) if still else x[:time_steps]).permute(0, 1, 3, 4, 2).contiguous()
    return stream, time_steps if still else None


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a safetensors file.

    Args:
        model: The network of this module.
        path: The file. A weight of 8-bit integers has one scale for each output channel, in `NAME.scale`.

    Returns:
        The network, in eval mode.
    """
    stored = load_file(path)
    tensors = {name: tensor for name, tensor in stored.items() if not name.endswith(".scale")}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            scale = stored[f"{name}.scale"]
            tensors[name] = tensor.float() * scale.view(-1, *(1 for _ in tensor.shape[1:]))
    model.load_state_dict(tensors)
    return model.eval()
