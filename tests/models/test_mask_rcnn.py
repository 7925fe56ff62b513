"""Mask R-CNN against the published parts of Meta-SpikeFormer's detector, and its boxes against calculations by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autospike.models.decoder_layers import FeaturePyramid
from autospike.models.mask_rcnn import BoxHead, MaskHead, MaskRCNN, ProposalHead
from autospike.models.regions import Proposals, RegionFeatures, Regions, level_anchors
from autospike.nn.neuron import LIF
from autospike.space.block import Neuron
from autospike.space.decoder import Decoder

Vectors = dict[str, np.ndarray]


def read(vectors: Path, part: str) -> Vectors:
    with np.load(vectors / f"detection_sdt2_{part}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def renamed(key: str) -> str:
    """The name of a parameter of the published code in this package."""
    words = key.split(".")
    kind, leaf = words[0], words[-1]
    match kind:
        case "lateral_convs" | "fpn_convs":
            return f"{'laterals' if kind == 'lateral_convs' else 'outputs'}.{words[1]}.conv.conv.{leaf}"
        case "rpn_conv" | "rpn_cls" | "rpn_reg":
            return f"{ {'rpn_conv': 'conv', 'rpn_cls': 'objectness', 'rpn_reg': 'deltas'}[kind] }.conv.conv.{leaf}"
        case "shared_fcs":
            return f"shared.{words[1]}.{leaf}"
        case "fc_cls" | "fc_reg":
            return f"{'classes' if kind == 'fc_cls' else 'deltas'}.{leaf}"
        case "convs":
            return f"convolutions.{words[1]}.conv.conv.{leaf}"
        case "upsample":
            return f"upsampling.{leaf}"
    assert kind == "conv_logits"
    return f"classes.conv.conv.{leaf}"


def loaded(module: nn.Module, stored: Vectors) -> nn.Module:
    state = {renamed(key.removeprefix("sd/")): torch.from_numpy(x) for key, x in stored.items() if key.startswith("sd/")}
    module.load_state_dict(state)
    return module.eval()


def check(module: nn.Module, stored: Vectors, outputs: dict[str, Tensor], rates: list[Tensor]) -> None:
    """Compare outputs, firing rates of every step and gradients."""
    for name, found in outputs.items():
        torch.testing.assert_close(found, torch.from_numpy(stored[name]), rtol=1e-5, atol=1e-5)
    expected = sorted(stored["lif_rate_per_step"].flatten().tolist())
    assert sorted(torch.cat(rates).tolist()) == pytest.approx(expected, abs=1e-9)
    sum((found * torch.from_numpy(stored[f"cotangent/{name}"])).sum() for name, found in outputs.items()).backward()
    parameters = dict(module.named_parameters())
    gradients = {renamed(key.removeprefix("grad/")): x for key, x in stored.items() if key.startswith("grad/")}
    assert len(gradients) == 4
    for name, gradient in gradients.items():
        scale = float(np.abs(gradient).max())
        torch.testing.assert_close(parameters[name].grad, torch.from_numpy(gradient), rtol=1e-4, atol=1e-5 * scale)


def watched(module: nn.Module) -> list[Tensor]:
    """Firing rates of each call of a layer of neurons, filled when the module runs."""
    rates: list[Tensor] = []
    for lif in (part for part in module.modules() if isinstance(part, LIF)):
        lif.register_forward_hook(lambda _lif, _args, spikes: rates.append(spikes.detach().double().flatten(1).mean(dim=1)))
    return rates


def channels_last(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).permute(0, 1, 3, 4, 2).contiguous()


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 1, 4, 2, 3)


def test_the_pyramid_is_the_published_one(vectors: Path) -> None:
    stored = read(vectors, "fpn")
    decoder = MaskRCNN([8, 16, 32, 40], [4, 8, 16, 16], detector(channels=16), num_classes=5)
    neck = loaded(decoder.neck, stored)
    assert isinstance(neck, FeaturePyramid)
    rates = watched(neck)
    pyramid = decoder.pyramid([channels_last(stored[f"input_{i}"]) for i in range(4)], 4)
    check(neck, stored, {f"out_{i}": channels_first(level) for i, level in enumerate(pyramid)}, rates)


def test_the_proposal_head_is_the_published_one(vectors: Path) -> None:
    stored = read(vectors, "rpn")
    head = loaded(ProposalHead(16, Neuron()), stored)
    rates, outputs = watched(head), dict[str, Tensor]()
    for i in range(5):
        objectness, deltas = head(channels_last(stored[f"input_{i}"]))
        outputs |= {f"cls_{i}": channels_first(objectness), f"reg_{i}": channels_first(deltas)}
    check(head, stored, outputs, rates)


def test_the_box_head_is_the_published_one(vectors: Path) -> None:
    stored = read(vectors, "box")
    head = loaded(BoxHead(8, 32, 5, Neuron()), stored)
    rates = watched(head)
    stepwise = {}
    for name, layer in (("cls", head.classes), ("reg", head.deltas)):
        assert isinstance(layer, nn.Module)
        layer.register_forward_hook(lambda _layer, _args, out, name=name: stepwise.update({name: out}))
    logits, deltas = head(torch.from_numpy(stored["input"]))
    torch.testing.assert_close(logits, stepwise["cls"].mean(dim=0))
    torch.testing.assert_close(deltas, stepwise["reg"].mean(dim=0))
    check(head, stored, stepwise, rates)


def test_the_mask_head_is_the_published_one(vectors: Path) -> None:
    stored = read(vectors, "mask")
    head = loaded(MaskHead(8, 12, 5, Neuron()), stored)
    rates = watched(head)
    check(head, stored, {"out": head(torch.from_numpy(stored["input"]))}, rates)


def detector(**changes: object) -> Decoder:
    fields = {"kind": "mask-rcnn", "levels": (0, 1), "channels": 8, "head_channels": 12, "proposals": 20, **changes}
    return Decoder(**fields)  # type: ignore[arg-type]


def test_anchors_by_hand() -> None:
    """Area 32 x 32, ratios 0.5, 1 and 2, at 2 x 3 positions of distance 4."""
    anchors = level_anchors(32.0, 4, (2, 3), torch.device("cpu"))
    assert anchors.shape == (18, 4)
    root = 2**0.5
    expected = [[-16 * root, -8 * root, 16 * root, 8 * root], [-16, -16, 16, 16], [-8 * root, -16 * root, 8 * root, 16 * root]]
    torch.testing.assert_close(anchors[:3], torch.tensor(expected))
    torch.testing.assert_close(anchors[3:6], torch.tensor(expected) + torch.tensor([4.0, 0, 4, 0]))
    torch.testing.assert_close(anchors[9:12], torch.tensor(expected) + torch.tensor([0, 4.0, 0, 4]))


def test_level_strides_are_actual_or_published() -> None:
    """Of Meta-SpikeFormer the last two stages have the same stride."""
    widths, strides = [4, 4, 4, 4], [4, 8, 16, 16]
    true = MaskRCNN(widths, strides, detector(), num_classes=2)
    published = MaskRCNN(widths, strides, detector(level_strides="published"), num_classes=2)
    assert (true.proposals.strides, true.box_features.strides) == ((4, 8, 16, 16, 32), (4, 8, 16, 16))
    assert (published.proposals.strides, published.box_features.strides) == ((4, 8, 16, 32, 64), (4, 8, 16, 32))
    assert true.proposals.side == published.proposals.side == 32


def test_regions_are_read_from_the_level_of_their_size() -> None:
    """mmdetection: floor(log2(side / 56 + 1e-6)), at least 0 and at most 3."""
    features = RegionFeatures((4, 8, 16, 16), 32.0, 7)
    sides = torch.tensor([10.0, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert features.levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_features_of_a_region_are_taken_at_every_step() -> None:
    """A map that is linear in x and y, and differs by step: RoIAlign gives the values at the centres of the bins."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    image = torch.stack([columns, rows], dim=-1)
    level = torch.stack([torch.stack([image, image + 100]), torch.stack([2 * image, 2 * image + 100])])  # [T, B, H, W, 2]
    features = RegionFeatures((4,), 32.0, 2)
    found = features([level], [torch.zeros(0, 4), torch.tensor([[8.0, 16, 24, 32]])])
    assert found.shape == (2, 1, 2, 2, 2)
    # bins of 2 x 2 positions from (2, 4) on; a position is the centre of a pixel, so the middles of bins are at 2.5 and 4.5
    x, y = torch.tensor([[2.5, 4.5], [2.5, 4.5]]), torch.tensor([[4.5, 4.5], [6.5, 6.5]])
    torch.testing.assert_close(found[0, 0], torch.stack([x, y]) + 100)
    torch.testing.assert_close(found[1, 0], 2 * torch.stack([x, y]) + 100)


def test_a_perfect_proposal_network_proposes_the_object() -> None:
    proposals = Proposals(16.0, (4, 8), 5).eval()
    objectness = [torch.full((1, 8, 8, 3), -9.0), torch.full((1, 4, 4, 3), -9.0)]
    deltas = [torch.zeros(1, 8, 8, 12), torch.zeros(1, 4, 4, 12)]
    objectness[0][0, 3, 4, 1] = 9
    deltas[0][0, 3, 4, 4:8] = torch.tensor([0.25, 0, np.log(0.5), 0])  # a quarter of the width to the right, half as wide
    (found,), losses = proposals(objectness, deltas, (32, 32))
    torch.testing.assert_close(found[0], torch.tensor([16 + 4 - 4.0, 12 - 8.0, 16 + 4 + 4, 12 + 8]))
    assert len(found) <= 5 and losses == []


def test_detections_have_the_class_and_the_box_of_the_highest_logit() -> None:
    regions = Regions(10).eval()
    logits = torch.tensor([[0.0, 9, 0, 0], [0, 0, 0, 9.0]])  # class 1, background
    deltas = torch.zeros(2, 12)
    deltas[0, 4:8] = torch.tensor([1.0, 0, 0, 0])  # a tenth of the width, of class 1 only
    boxes, scores, labels = regions(logits, deltas, [torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 9]])], (32, 32))
    assert labels[0].tolist() == [1]
    torch.testing.assert_close(boxes[0], torch.tensor([[1.0, 0, 11, 20]]))
    torch.testing.assert_close(scores[0], logits[0].softmax(0)[1:2])


def test_losses_of_samples_by_hand() -> None:
    regions = Regions(100)
    target = {
        "boxes": torch.tensor([[0.0, 0, 8, 8]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 16, 16, dtype=torch.uint8),
    }
    sampled = regions.sample([torch.tensor([[0.0, 0, 8, 4], [8.0, 8, 12, 12]])], [target])
    assert sorted(sampled.labels[0].tolist()) == [0, 2, 2]  # an IoU of 0.5 is an object; the object itself is a region, too
    order = torch.argsort(sampled.boxes[0][:, 3])  # heights 4, 8, 12
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    deltas = torch.zeros(3, 12)
    classes, boxes = sampled.box_losses(logits, deltas)
    labels = sampled.labels[0]
    expected = [-float(logits[i].log_softmax(0)[{0: 3, 2: 1}[int(label)]]) for i, label in enumerate(labels)]
    assert float(classes) == pytest.approx(np.mean(expected))
    # the box of half the height: its centre moves by 2 of 4 pixels times 10, its height doubles times 5
    assert float(boxes) == pytest.approx((0.5 * 10 + np.log(2) * 5) / 3, rel=1e-5)
    assert labels[order].tolist() == [2, 2, 0]
    logits_of_masks = torch.zeros(2, 3, 28, 28)
    assert float(sampled.mask_loss(logits_of_masks, [target])) == pytest.approx(np.log(2), rel=1e-6)


def test_images_without_objects_have_losses() -> None:
    torch.manual_seed(0)
    decoder = MaskRCNN([4, 6], [4, 8], detector(), num_classes=3)
    levels = [torch.randn(2, 1, 8, 8, 4), torch.randn(2, 1, 4, 4, 6)]
    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 32, 32)}]
    losses = decoder.losses(levels, 2, (32, 32), empty)
    assert losses.shape == (5,) and losses.isfinite().all()
    assert losses[[1, 3, 4]].tolist() == [0, 0, 0] and (losses[[0, 2]] > 0).all()
    losses.sum().backward()


def test_neurons_fire_before_training_and_most_regions_are_background() -> None:
    """Every layer of neurons of an untrained decoder fires, and a region is background with a probability of about 0.9."""
    torch.manual_seed(0)
    decoder = MaskRCNN([16, 24], [4, 8], detector(channels=32, head_channels=64), num_classes=3)
    rates = watched(decoder)
    targets = [{"boxes": torch.tensor([[0.0, 0, 16, 16]]), "labels": torch.tensor([0]), "masks": torch.ones(1, 64, 64)}]
    levels = [2 * torch.randn(1, 1, 16, 16, 16), 2 * torch.randn(1, 1, 8, 8, 24)]
    with torch.no_grad():
        decoder.train().losses(levels, 1, (64, 64), targets)
    assert len(rates) == 4 + 3 * 3 + 2 + 6
    assert all(0.05 < float(rate) < 0.6 for rate in rates), [float(rate) for rate in rates]
    pyramid = decoder.pyramid(levels, 1)
    logits, _ = decoder.box_head(decoder.box_features(pyramid, [torch.tensor([[0.0, 0, 16, 16]])]))
    assert float(logits.softmax(-1)[0, -1]) == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize("spiking", [True, False])
def test_the_decoder_detects_at_every_number_of_steps(spiking: bool) -> None:
    torch.manual_seed(0)
    decoder = MaskRCNN([4, 6], [4, 8], detector(spiking=spiking), num_classes=3).eval()
    torch.nn.init.zeros_(decoder.box_head.classes.bias)
    levels = [torch.randn(2, 2, 8, 8, 4), torch.randn(2, 2, 4, 4, 6)]
    with torch.no_grad():
        found = decoder(levels, 2, (32, 32))
        first = decoder([level[:1] for level in levels], 1, (32, 32))
        again = decoder(levels, 1, (32, 32))
    assert len(found) == 2 and len(found[0].boxes) > 0, "the bias of the background would leave none"
    assert found[0].masks.shape == (len(found[0].boxes), 28, 28)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores) and torch.equal(one.masks, other.masks)
