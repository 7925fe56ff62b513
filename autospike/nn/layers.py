"""The synaptic layers: a linear map or convolution, its batch normalisation, and the neurons that it drives."""

from __future__ import annotations

from torch import Tensor, nn

from autospike.architecture import Neuron
from autospike.nn.neuron import LIF


class SpikingLinear(nn.Module):
    """`LIF(BN(W x + b))` on tokens.

    Shape: `[T, B, N, in_features]` to `[T, B, N, out_features]`; batch statistics run over T, B and N together.
    """

    def __init__(self, in_features: int, out_features: int, neuron: Neuron) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.bn = nn.BatchNorm1d(out_features)
        self.lif = LIF(neuron)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.lif(self.bn(y.flatten(0, -2)).view(y.shape))


class SpikingConv(nn.Module):
    """`LIF(BN(conv3x3(x)))` on images, padded to keep their size, without a bias (the normalisation has one).

    Shape: `[T, B, in_channels, H, W]` to `[T, B, out_channels, H, W]`. An input that is the same at every step may be given once,
    as `[1, B, ...]`, with `time_steps`: convolution and normalisation then run once, and the neurons see the result T times.
    """

    def __init__(self, in_channels: int, out_channels: int, neuron: Neuron) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.lif = LIF(neuron)

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        y = self.bn(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        return self.lif(y if time_steps is None else y.expand(time_steps, *y.shape[1:]))


class TimewiseMaxPool(nn.Module):
    """Max-pool 3x3 with stride 2, at every step: `[T, B, C, H, W]` to `[T, B, C, ceil(H / 2), ceil(W / 2)]`. Spikes stay spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(x.flatten(0, 1))
        return pooled.unflatten(0, x.shape[:2])
