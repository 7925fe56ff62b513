"""Energy of integers: the published spreadsheet of SpikeYOLO, and models with spikingjelly's I-LIF neurons."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from autospike.counting.model import count_operations
from autospike.energy.conventions import INTEGER, RATE, energy
from autospike.energy.counts import LayerCount

# SpikeYOLO 23M at 640 x 640 pixels, power_cal.xlsx of BICLab/SpikeYOLO@309ef5e: for each map its name, the mean integer (0 to 4) of
# the neurons before it, channels, kernel, side of the output, and groups. The sheet enters the first map, which reads pixels, with
# a "rate" of 4.6.
SHEET = """
first 4.6 3>64 k7 160 | 2.Conv.lif1 1.1872 64>128 k1 160 | 2.Conv.lif2 1.1496 128>128 k7 160 g128 |
2.Conv.lif3 0.9281 128>64 k3 160 | 2.conv1.lif 1.4604 64>256 k3 160 | 2.conv2.lif 0.2468 256>64 k3 160 |
3.encode_lif 1.0302 64>128 k3 80 | 4.0.Conv.lif1 0.742 128>256 k1 80 | 4.0.Conv.lif2 0.7202 256>256 k7 80 g256 |
4.0.Conv.lif3 0.4002 256>128 k3 80 | 4.0.conv1.lif 0.8431 128>512 k3 80 | 4.0.conv2.lif 0.0976 512>128 k3 80 |
4.1.Conv.lif1 0.7333 128>256 k1 80 | 4.1.Conv.lif2 0.4106 256>256 k7 80 g256 | 4.1.Conv.lif3 0.2564 256>128 k3 80 |
4.1.conv1.lif 0.6367 128>512 k3 80 | 4.1.conv2.lif 0.0495 512>128 k3 80 | 5.encode_lif 0.8545 128>256 k3 40 |
6.0.Conv.lif1 0.3 256>512 k1 40 | 6.0.Conv.lif2 0.3479 512>512 k7 40 g512 | 6.0.Conv.lif3 0.2153 512>256 k3 40 |
6.0.lif1 0.3108 256>768 k3 40 | 6.0.lif2 0.1159 768>256 k3 40 | 6.1.Conv.lif1 0.2372 256>512 k1 40 |
6.1.Conv.lif2 0.2255 512>512 k7 40 g512 | 6.1.Conv.lif3 0.183 512>256 k3 40 | 6.1.lif1 0.2488 256>768 k3 40 |
6.1.lif2 0.1033 768>256 k3 40 | 6.2.Conv.lif1 0.2242 256>512 k1 40 | 6.2.Conv.lif2 0.2233 512>512 k7 40 g512 |
6.2.Conv.lif3 0.1901 512>256 k3 40 | 6.2.lif1 0.2555 256>768 k3 40 | 6.2.lif2 0.1512 768>256 k3 40 |
7.encode_lif 0.3155 256>512 k3 20 | 8.Conv.lif1 0.1015 512>1024 k1 20 | 8.Conv.lif2 0.2441 1024>1024 k7 20 g1024 |
8.Conv.lif3 0.2726 1024>512 k3 20 | 8.lif1 0.1591 512>1024 k3 20 | 8.lif2 0.335 1024>512 k3 20 |
9.cv1.lif 0.1419 512>256 k1 20 | 9.cv2.lif 1.6909 1024>512 k1 20 | 10.lif 0.2992 512>256 k1 20 |
12.Conv.lif1 0.2248 256>512 k1 40 | 12.Conv.lif2 0.3897 512>512 k7 40 g512 | 12.Conv.lif3 0.2713 512>256 k3 20 |
12.lif1 0.3117 256>768 k3 40 | 12.lif2 0.3054 768>256 k3 40 | 14.lif 0.3096 512>128 k1 40 |
16.Conv.lif1 0.4535 128>256 k1 80 | 16.Conv.lif2 0.4827 256>256 k7 80 g256 | 16.Conv.lif3 0.2481 256>128 k3 80 |
16.conv1.lif 0.4912 128>512 k3 80 | 16.conv2.lif 0.0728 512>128 k3 80 | 18.lif 0.7579 256>128 k1 80 |
19.Conv.lif1 0.5353 128>256 k1 80 | 19.Conv.lif2 0.4246 256>256 k7 80 g256 | 19.Conv.lif3 0.3166 256>128 k3 80 |
19.conv1.lif 0.6301 128>512 k3 80 | 19.conv2.lif 0.0611 512>128 k3 80 | 20.lif 0.819 128>128 k3 40 |
22.Conv.lif1 0.389 256>512 k1 40 | 22.Conv.lif2 0.2637 512>512 k7 40 g512 | 22.Conv.lif3 0.2373 512>256 k3 40 |
22.lif1 0.3466 256>512 k3 40 | 22.lif2 0.1607 512>256 k3 40 | 23.lif 0.393 256>256 k3 20 |
25.Conv.lif1 0.2098 512>1024 k1 20 | 25.Conv.lif2 0.2639 1024>1024 k7 20 g1024 | 25.Conv.lif3 0.2175 1024>512 k3 20 |
25.lif1 0.2035 512>512 k3 20 | 25.lif2 0.2818 512>512 k3 20 | 26.cv2.0.0.lif 0.819 128>64 k3 80 |
26.cv2.0.1.lif 0.762 64>64 k3 80 | 26.cv2.0.2.lif 1.38 64>64 k1 80 | 26.cv3.0.0.lif 0.819 128>128 k3 80 |
26.cv3.0.1.lif 0.3376 128>128 k3 80 | 26.cv3.0.2.lif 1.2316 128>80 k1 80 | 26.cv2.1.0.lif 0.393 256>64 k3 40 |
26.cv2.1.1.lif 0.7907 64>64 k3 40 | 26.cv2.1.2.lif 1.6714 64>64 k1 40 | 26.cv3.1.0.lif 0.393 256>128 k3 40 |
26.cv3.1.1.lif 0.3375 128>128 k3 40 | 26.cv3.1.2.lif 1.2069 128>80 k1 40 | 26.cv2.2.0.lif 0.2563 512>64 k3 20 |
26.cv2.2.1.lif 0.739 64>64 k3 20 | 26.cv2.2.2.lif 1.8419 64>64 k1 20 | 26.cv3.2.0.lif 0.2563 512>128 k3 20 |
26.cv3.2.1.lif 0.3591 128>128 k3 20 | 26.cv3.2.2.lif 1.188 128>80 k1 20
"""


def sheet(*, pixels_as_rate: bool) -> list[LayerCount]:
    """The layers of the spreadsheet; the first one as it is written there, or as a layer that multiplies pixels."""
    counts = []
    for row in SHEET.split("|"):
        name, rate, channels, kernel, side, *groups = row.split()
        in_channels, out_channels = map(int, channels.split(">"))
        macs = in_channels * out_channels * int(kernel[1:]) ** 2 * int(side) ** 2 // int(groups[0][1:] if groups else 1)
        if name == "first" and not pixels_as_rate:
            counts.append(LayerCount(layer=name, input="real", reads="image", time_steps=1, macs=macs, acs=(), rate=()))
            continue
        mean = float(rate)
        counts.append(LayerCount(layer=name, input="integer", time_steps=1, macs=macs, acs=(mean * macs,), rate=(mean,)))
    return counts


@pytest.mark.parametrize(("pixels_as_rate", "published"), [(True, "34.489"), (False, "34.600")])
def test_the_spreadsheet_gives_the_published_energy(pixels_as_rate: bool, published: str) -> None:
    counts = sheet(pixels_as_rate=pixels_as_rate)
    assert len(counts) == 89
    assert f"{sum(count.macs for count in counts) / 1e9:.4f}" == "101.2113"
    assert f"{energy(counts, INTEGER).energy_mj:.3f}" == published


class Net(nn.Module):
    """A spiking network of other code with I-LIF neurons, `[T, B, 3, 6, 6]` to `[T, B, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(3, 4, 3, padding=1, bias=False, step_mode="m")
        self.first = neuron.ILIFNode(surrogate_function=surrogate.MultiLevelSpikeCount(4), step_mode="m")
        self.conv2 = layer.Conv2d(4, 6, 1, bias=False, step_mode="m")
        self.second = neuron.ILIFNode(surrogate_function=surrogate.MultiLevelSpikeCount(8), step_mode="m")
        self.fc = nn.Linear(6 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.conv2(self.first(self.conv1(x)))).flatten(2))


def test_an_integer_of_spikingjelly_is_as_many_accumulations() -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.rand(2, 3, 3, 6, 6) * 6
    counted = {count.layer: count for count in count_operations(net, x, time_steps=2, strict=True).counts}
    with torch.no_grad():
        functional.reset_net(net)
        first = net.first(net.conv1(x))
        second = net.second(net.conv2(first))
    assert first.max() > 1
    assert second.max() > 1
    for name, spikes, outputs in (("conv2", first, 6), ("fc", second, 5)):
        count = next(count for layer_name, count in counted.items() if layer_name.startswith(name))
        assert count.input == "integer"
        sums = spikes.flatten(1).sum(dim=1, dtype=torch.float64) / 3
        assert count.acs == pytest.approx((sums * outputs).tolist())
        assert INTEGER.acs(count) == pytest.approx(float(sums.sum()) * outputs)
    assert energy(tuple(counted.values()), INTEGER).energy_mj == energy(tuple(counted.values()), RATE).energy_mj
