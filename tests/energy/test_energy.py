"""Energy and F_AEB: every convention by hand on one table of layers, names of conventions, break-even rates, fitness."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import permutations

import pytest
from builders import evaluation_of, few_examples, measurement, one_line_error, small
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autospike.config import FitnessConfig, SearchConfig
from autospike.energy.break_even import break_even
from autospike.energy.columns import CountColumns
from autospike.energy.conventions import (
    CONVENTIONS,
    COSTS,
    DEFAULT,
    EXACT,
    FP32,
    SRAM,
    Convention,
    convention_of,
    energies_mj,
    energy,
)
from autospike.energy.counts import InputKind, LayerCount, from_rows, to_rows
from autospike.energy.operations import Operations
from autospike.errors import UserError
from autospike.measurement import Evaluation
from autospike.objectives import LATENCIES, OBJECTIVES
from autospike.searching.fitness import f_aeb, refitted


def real(layer: str, macs: int, *, form: str = "always", reads: str = "stream", steps: int = 4) -> LayerCount:
    return LayerCount(layer=layer, input="real", form=form, reads=reads, time_steps=steps, macs=macs, acs=(), rate=())  # type: ignore[arg-type]


def spiking(kind: str, layer: str, macs: int, acs: tuple[float, ...], rate: tuple[float, ...], form: str = "always") -> LayerCount:
    return LayerCount(layer=layer, input=kind, form=form, time_steps=len(acs), macs=macs, acs=acs, rate=rate)  # type: ignore[arg-type]


IMAGE = real("image", 1000, reads="image")
BINARY = spiking("binary", "q", 800, (10.0, 20.5, 0.0, 4.5), (0.125, 0.25, 0.0, 0.0625))
INTEGER = spiking("integer", "fc1", 500, (400.0, 600.0, 0.0, 0.0), (1.0, 1.5, 0.0, 0.0))
MEAN = real("mean head", 60, reads="mean")

# RepConv and SepConv consist of several linear layers, of which all but the first read real values. They can be fused to one layer.
TABLE = (
    IMAGE,
    real("frames that were resized", 70),
    BINARY,
    INTEGER,
    spiking("binary", "rep.first", 50, (10.0, 5.0, 0.0, 0.0), (0.25, 0.125, 0.0, 0.0), "separate"),
    real("rep.last", 100, form="separate"),
    spiking("binary", "rep.fused", 450, (90.0, 45.0, 0.0, 0.0), (0.25, 0.125, 0.0, 0.0), "fused"),
    spiking("integer", "sep.depthwise", 64, (12.0, 6.0, 3.0, 0.0), (0.25, 0.125, 0.125, 0.0), "separate"),
    real("sep.pointwise", 80, form="separate"),
    spiking("integer", "sep.fused", 320, (64.0, 32.0, 16.0, 0.0), (0.25, 0.125, 0.125, 0.0), "fused"),
    real("fused after a mean", 30, form="fused"),
    MEAN,
    spiking("binary", "spiking head", 40, (8.0, 4.0, 0.0, 0.0), (0.25, 0.125, 0.0, 0.0)),
)

# By hand: MACs and ACs of each layer, over 4 steps. A layer that a convention excludes is not listed.
BY_HAND: dict[str, dict[str, tuple[float, float]]] = {
    "exact": {
        "image": (1000, 0),
        "frames that were resized": (280, 0),
        "q": (0, 35),
        "fc1": (0, 1000),
        "rep.fused": (0, 135),
        "sep.fused": (0, 112),
        "fused after a mean": (120, 0),
        "mean head": (60, 0),
        "spiking head": (0, 12),
    },
    "rate": {
        "image": (1000, 0),
        "frames that were resized": (280, 0),
        "q": (0, 350),
        "fc1": (0, 1250),
        "rep.fused": (0, 168.75),
        "sep.fused": (0, 160),
        "fused after a mean": (120, 0),
        "mean head": (60, 0),
        "spiking head": (0, 15),
    },
    "spikformer": {
        "image": (4000, 0),
        "frames that were resized": (280, 0),
        "q": (0, 350),
        "fc1": (0, 1250),
        "rep.first": (0, 18.75),
        "rep.last": (400, 0),
        "sep.depthwise": (0, 32),
        "sep.pointwise": (320, 0),
        "mean head": (60, 0),
        "spiking head": (0, 15),
    },
    "binary-only": {
        "image": (4000, 0),
        "frames that were resized": (280, 0),
        "q": (0, 350),
        "fc1": (2000, 0),
        "rep.first": (0, 18.75),
        "rep.last": (400, 0),
        "sep.depthwise": (256, 0),
        "sep.pointwise": (320, 0),
        "mean head": (60, 0),
        "spiking head": (0, 15),
    },
    "fused": {
        "image": (4000, 0),
        "frames that were resized": (280, 0),
        "q": (0, 350),
        "fc1": (0, 1250),
        "rep.fused": (0, 168.75),
        "sep.fused": (0, 160),
        "fused after a mean": (120, 0),
        "mean head": (60, 0),
        "spiking head": (0, 15),
    },
}
BY_HAND["integer"] = BY_HAND["rate"]
BY_HAND["memory"] = BY_HAND["exact"]

# The columns of the tables above, added up.
TOTALS = {
    "exact": (1460, 1294),
    "rate": (1460, 1943.75),
    "spikformer": (5060, 1665.75),
    "binary-only": (7316, 383.75),
    "fused": (4460, 1943.75),
    "integer": (1460, 1943.75),
    "memory": (1460, 1294),
}

# pJ of a MAC and of an accumulation. Memory: 2 words of 10 pJ a MAC, 3 an accumulation.
PJ = {"fp32": (4.6, 0.9), "fp16": (1.5, 0.4), "int8": (0.23, 0.03), "sram": (24.6, 30.9)}

each_convention = pytest.mark.parametrize("name", list(TOTALS))


def test_conventions_and_costs() -> None:
    assert list(CONVENTIONS) == list(TOTALS)
    assert list(COSTS) == list(PJ)
    for name, costs in COSTS.items():
        assert (costs.pj_per_mac, costs.pj_per_ac) == pytest.approx(PJ[name], rel=1e-12)
    assert all(convention.name == name and convention.source for name, convention in CONVENTIONS.items())
    assert DEFAULT is CONVENTIONS["exact"]


@each_convention
def test_each_layer_under_each_convention(name: str) -> None:
    convention = CONVENTIONS[name]
    assert {c.layer: (convention.macs(c), convention.acs(c)) for c in TABLE if convention.includes(c)} == BY_HAND[name]
    assert all((convention.macs(c), convention.acs(c)) == (0, 0) for c in TABLE if not convention.includes(c))


@each_convention
def test_totals_of_the_table(name: str) -> None:
    total = energy(TABLE, CONVENTIONS[name])
    pj_per_mac, pj_per_ac = PJ["sram" if name == "memory" else "fp32"]
    macs, acs = TOTALS[name]
    assert (total.convention, total.macs, total.acs) == (name, macs, acs)
    assert total.energy_mj == pytest.approx((pj_per_mac * macs + pj_per_ac * acs) * 1e-9, rel=1e-12)


@pytest.mark.parametrize("costs", PJ)
def test_costs_of_one_operation(costs: str) -> None:
    """10^9 MACs of p pJ each need p mJ."""
    convention, (pj_per_mac, pj_per_ac) = convention_of(f"exact/{costs}"), PJ[costs]
    dense, sparse = real("a", 10**9, steps=1), spiking("binary", "b", 10**10, (1e9,), (0.1,))
    assert convention.energy_mj(dense) == pytest.approx(pj_per_mac, rel=1e-12)
    assert convention.energy_mj(sparse) == pytest.approx(pj_per_ac, rel=1e-12)
    assert energy([dense, sparse], convention).energy_mj == pytest.approx(pj_per_mac + pj_per_ac, rel=1e-12)


@each_convention
@pytest.mark.parametrize(
    ("flag", "image", "head"), [("image-once", 1, 0), ("image-every-step", 4, 0), ("head-once", 0, 1), ("head-every-step", 0, 4)]
)
def test_modifiers_set_how_often_a_still_image_and_a_mean_are_computed(name: str, flag: str, image: int, head: int) -> None:
    flagged, default = convention_of(f"{name}/{flag}"), CONVENTIONS[name]
    assert flagged.macs(IMAGE) == (1000 * image or default.macs(IMAGE))
    assert flagged.macs(MEAN) == (60 * head or default.macs(MEAN))
    others = [count for count in TABLE if count not in (IMAGE, MEAN)]
    assert [flagged.energy_mj(count) for count in others] == [default.energy_mj(count) for count in others]


def test_a_layer_that_is_computed_once_does_not_depend_on_the_number_of_time_steps() -> None:
    for steps in (1, 2, 7):
        assert EXACT.macs(replace(IMAGE, time_steps=steps)) == 1000
        assert EXACT.macs(replace(MEAN, time_steps=steps)) == 60


def test_event_frames_are_multiplied_at_every_time_step() -> None:
    """Only an input that is the same at every time step is computed once."""
    frames = replace(IMAGE, reads="stream")
    assert [CONVENTIONS[name].macs(frames) for name in TOTALS] == [4000] * len(TOTALS)


def test_energy_without_layers_is_zero() -> None:
    assert energy([]).energy_mj == 0
    assert set(energies_mj([]).values()) == {0}


def test_energies_by_convention() -> None:
    found = energies_mj(TABLE)
    assert list(found) == list(TOTALS)
    expected = {name: (PJ["sram" if name == "memory" else "fp32"], TOTALS[name]) for name in TOTALS}
    for name, ((pj_per_mac, pj_per_ac), (macs, acs)) in expected.items():
        assert found[name] == pytest.approx((pj_per_mac * macs + pj_per_ac * acs) * 1e-9, rel=1e-12)


numbers = st.floats(0, 1e12)


@st.composite
def layer_counts(draw: st.DrawFn) -> LayerCount:
    """Any count: accumulations at each time step, none if the input is real."""
    kind, steps = draw(st.sampled_from(["real", "integer", "binary"])), draw(st.integers(1, 8))
    per_step = st.just(()) if kind == "real" else st.lists(numbers, min_size=steps, max_size=steps).map(tuple)
    return LayerCount(
        layer=draw(st.text(max_size=8)),
        input=kind,  # type: ignore[arg-type]
        form=draw(st.sampled_from(["always", "separate", "fused"])),
        reads=draw(st.sampled_from(["stream", "image", "mean"])) if kind == "real" else "stream",
        time_steps=steps,
        macs=draw(st.integers(0, 10**12)),
        acs=draw(per_step),
        rate=draw(per_step),
    )


many_counts = st.lists(layer_counts(), max_size=5)
any_convention = st.sampled_from(list(CONVENTIONS.values()))


@few_examples
@given(many_counts, any_convention)
def test_energies_of_layers_add_up(counts: list[LayerCount], convention: Convention) -> None:
    total = energy(counts, convention)
    assert total.energy_mj == pytest.approx(sum(convention.energy_mj(count) for count in counts), rel=1e-9)
    assert total.energy_mj == pytest.approx(
        (convention.costs.pj_per_mac * total.macs + convention.costs.pj_per_ac * total.acs) * 1e-9, rel=1e-9
    )


@few_examples
@given(st.lists(many_counts, max_size=4), any_convention, st.sampled_from(["", "/image-every-step", "/head-every-step"]))
def test_energies_of_several_networks_equal_those_of_each(
    networks: list[list[LayerCount]], base: Convention, modifier: str
) -> None:
    convention = convention_of(base.name + modifier)
    found = CountColumns.of(networks).energies(convention)
    for name in ("macs", "acs", "energy_mj"):
        expected = [getattr(energy(counts, convention), name) for counts in networks]
        assert getattr(found, name).tolist() == pytest.approx(expected, rel=1e-12)


@few_examples
@given(layer_counts(), any_convention)
def test_an_operation_is_either_multiplied_or_accumulated(count: LayerCount, convention: Convention) -> None:
    assert not (convention.macs(count) and convention.acs(count))


@few_examples
@given(layer_counts(), any_convention, st.integers(1, 10))
def test_the_first_time_steps_and_the_rest_add_up(count: LayerCount, convention: Convention, steps: int) -> None:
    """For layers that are computed at every time step."""
    first = count.first(steps)
    common = min(steps, int(count.time_steps))
    assert (first.time_steps, first.layer, first.macs) == (common, count.layer, count.macs)
    assert (first.acs, first.rate) == (count.acs[:common], count.rate[:common])
    every_step = replace(convention, image="every-step", head="every-step")
    rest = replace(count, time_steps=count.time_steps - common, acs=count.acs[common:], rate=count.rate[common:])
    for part in (every_step.macs, every_step.acs):
        assert part(first) + part(rest) == pytest.approx(part(count), rel=1e-9)


def test_energy_at_fewer_time_steps() -> None:
    early = energy([count.first(2) for count in TABLE], EXACT)
    assert early.acs == 30.5 + 1000 + 135 + 96 + 12
    assert early.macs == 1000 + 140 + 60 + 60


def test_the_input_kind_is_the_widest_of_the_first_time_steps() -> None:
    kinds: tuple[InputKind, ...] = ("binary", "integer", "binary")
    stream = replace(BINARY, input="integer", input_by_step=kinds, time_steps=3, acs=(1.0, 2.0, 3.0), rate=(0.1, 0.2, 0.3))
    assert [stream.first(t).input for t in (1, 2, 3)] == ["binary", "integer", "integer"]
    assert [stream.first(t).input_by_step for t in (1, 2, 3)] == [(), kinds[:2], kinds]


def test_kinds_by_step_round_trip_through_json() -> None:
    stream = replace(BINARY, input="integer", input_by_step=("binary", "integer", "binary", "binary"))
    (again,) = from_rows(json.loads(json.dumps(to_rows([stream]))))
    assert again == stream
    assert hash(again) == hash(stream)


def test_unknown_operations_give_a_warning() -> None:
    counted = Operations(images=1, counts=TABLE, unknown={"softmax": 2})
    with pytest.warns(UserWarning, match="the energy is a lower bound: no counting rule for softmax"):
        assert counted.energy("rate") == energy(TABLE, CONVENTIONS["rate"])


def test_energy_of_operations_by_the_name_of_a_convention() -> None:
    counted = Operations(images=3, counts=TABLE)
    assert counted.energy() == energy(TABLE, DEFAULT)
    assert counted.energy("binary-only") == energy(TABLE, CONVENTIONS["binary-only"])
    found = counted.energy("binary-only/int8")
    assert found.convention == "binary-only/int8"
    assert found.energy_mj == pytest.approx((0.23 * 7316 + 0.03 * 383.75) * 1e-9)
    assert "choose from exact" in one_line_error(lambda: counted.energy("joules"))


# How often a still image is computed under a name without modifiers.
DEFAULT_IMAGE = {"exact": "once", "rate": "once", "integer": "once", "memory": "once"} | dict.fromkeys(
    ("spikformer", "binary-only", "fused"), "every-step"
)
WHEN = ("once", "every-step")


@st.composite
def written_conventions(draw: st.DrawFn) -> tuple[str, str, str, str, str]:
    """A text with modifiers in any order, and its name, costs and two flags. Modifiers that equal the default may be omitted."""
    name = draw(st.sampled_from(list(TOTALS)))
    default = {"costs": "sram" if name == "memory" else "fp32", "image": DEFAULT_IMAGE[name], "head": "once"}
    costs = draw(st.sampled_from(["sram"] if name == "memory" else list(PJ)))
    image, head = draw(st.sampled_from(WHEN)), draw(st.sampled_from(WHEN))
    modifiers = {"costs": costs, "image": f"image-{image}", "head": f"head-{head}"}
    wanted = {"costs": costs, "image": image, "head": head}
    written = [word for part, word in modifiers.items() if wanted[part] != default[part] or draw(st.booleans())]
    return "/".join([name, *draw(st.permutations(written))]), name, costs, image, head


def canonical(name: str, costs: str, image: str, head: str) -> str:
    words = [name]
    words += [costs] if costs != ("sram" if name == "memory" else "fp32") else []
    words += [f"image-{image}"] if image != DEFAULT_IMAGE[name] else []
    words += [f"head-{head}"] if head != "once" else []
    return "/".join(words)


@given(written_conventions())
def test_a_convention_is_parsed_from_its_name(written: tuple[str, str, str, str, str]) -> None:
    text, name, costs, image, head = written
    found, default = convention_of(text), CONVENTIONS[name]
    assert found.name == canonical(name, costs, image, head)
    assert (found.costs, found.image, found.head) == (COSTS[costs], image, head)
    assert replace(found, name=name, costs=default.costs, image=default.image, head=default.head) == default
    assert convention_of(found.name) == found
    assert (found == default) == (found.name == name)


def test_modifiers_may_have_any_order() -> None:
    words = ("int8", "image-once", "head-every-step")
    found = {convention_of("/".join(["spikformer", *order])) for order in permutations(words)}
    assert {convention.name for convention in found} == {"spikformer/int8/image-once/head-every-step"}
    assert len(found) == 1


@pytest.mark.parametrize("text", ["exact/int8/fp16", "exact/image-every-step/image-once", "memory/int8", "memory/fp32"])
def test_contradicting_modifiers_are_rejected(text: str) -> None:
    assert repr(text) in one_line_error(lambda: convention_of(text))


@pytest.mark.parametrize("name", TOTALS)
def test_a_modifier_that_equals_the_default_is_not_in_the_name(name: str) -> None:
    default = CONVENTIONS[name]
    for word in (default.costs.name, f"image-{default.image}", f"head-{default.head}"):
        assert convention_of(f"{name}/{word}") == default


ALLOWED = [*TOTALS, *PJ, "image-once", "image-every-step", "head-once", "head-every-step"]


@few_examples
@given(
    st.text(max_size=20).filter(lambda text: text.split("/")[0] not in TOTALS) | st.sampled_from(["EXACT", "exact ", "int8", ""])
)
def test_an_unknown_name_is_a_one_line_error_with_all_names(text: str) -> None:
    message = one_line_error(lambda: convention_of(text))
    assert repr(text) in message
    assert all(word in message for word in ALLOWED)


@few_examples
@given(
    st.sampled_from(list(TOTALS)),
    st.text(alphabet=st.characters(exclude_characters="/"), max_size=12).filter(lambda word: word not in ALLOWED[6:]),
)
def test_an_unknown_modifier_is_a_one_line_error_with_all_names(name: str, word: str) -> None:
    for text in (f"{name}/{word}", f"{name}/int8/{word}", f"{name}/{word}/image-once"):
        message = one_line_error(lambda text=text: convention_of(text))  # type: ignore[misc]
        assert repr(text) in message
        assert all(allowed in message for allowed in ALLOWED)


@pytest.mark.parametrize(
    "text", ["exact/spikformer", "exact/", "exact//int8", "/exact", "exact/image", "exact/once", "spikformer/fused"]
)
def test_invalid_texts_are_rejected(text: str) -> None:
    with pytest.raises(UserError):
        convention_of(text)


def rates(*per_layer: tuple[int, tuple[float, ...]]) -> list[LayerCount]:
    """Spiking layers with given dense MACs per time step and firing rates. Their accumulations are not used."""
    return [spiking("binary", f"l{i}", macs, (0.0,) * len(rate), rate) for i, (macs, rate) in enumerate(per_layer)]


@pytest.mark.parametrize(
    ("steps", "bits"),
    [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 3), (7, 3), *((t, 4) for t in range(8, 16)), (16, 5)],
)
def test_bits_distinguish_as_many_levels_as_time_steps(steps: int, bits: int) -> None:
    found = break_even(rates((10, (0.5,) * steps)))
    assert found is not None
    assert (found.time_steps, found.bits) == (steps, bits)
    assert 2 ** (bits - 1) < steps + 1 <= 2**bits


@pytest.mark.parametrize("steps", range(1, 17))
def test_break_even_rate_of_computing_is_the_cost_ratio_over_the_time_steps(steps: int) -> None:
    found = break_even(rates((10, (0.5,) * steps)))
    assert found is not None
    assert found.computing_rate == pytest.approx(4.6 / 0.9 / steps, rel=1e-12)
    for costs in COSTS.values():
        with_costs = break_even(rates((10, (0.5,) * steps)), costs=costs)
        assert with_costs is not None
        pj_per_mac, pj_per_ac = PJ[costs.name]
        assert with_costs.computing_rate == pytest.approx(pj_per_mac / pj_per_ac / steps, rel=1e-12)
        assert with_costs.movement_rate == found.movement_rate


def test_break_even_with_data_movement_at_five_steps() -> None:
    """With b = 3: 3 x 0.30448 / (5 x 3.05448). The complete model of the paper gives 5.7 %."""
    found = break_even(rates((10, (0.5,) * 5)))
    assert found is not None
    assert found.movement_rate == pytest.approx(0.91344 / 15.2724, rel=1e-12)
    assert 0.057 < found.movement_rate < 0.061


def test_the_measured_rate_is_averaged_over_dense_operations() -> None:
    """Of layers with 100 and 300 dense MACs a step: (100 x 0.75 + 300 x 0.25) / (2 x 400)."""
    found = break_even([IMAGE, *rates((100, (0.5, 0.25)), (300, (0.25, 0.0))), MEAN])
    assert found is not None
    assert found.measured_rate == pytest.approx((75 + 75) / 800, rel=1e-12)


def test_break_even_includes_fused_layers_and_sums_of_spikes() -> None:
    """Of the table: q, fc1, rep.fused, sep.fused and the spiking head."""
    found = break_even(TABLE)
    assert found is not None
    dense = 4 * (800 + 500 + 450 + 320 + 40)
    assert found.measured_rate == pytest.approx((350 + 1250 + 168.75 + 160 + 15) / dense, rel=1e-12)


def test_without_spikes_there_is_no_break_even() -> None:
    separate = replace(BINARY, form="separate")
    assert break_even([]) is break_even([IMAGE, MEAN]) is break_even([IMAGE, separate]) is None


def test_costs_of_memory_traffic() -> None:
    assert pytest.approx(FP32.pj_per_mac + 20, rel=1e-12) == SRAM.pj_per_mac
    assert pytest.approx(FP32.pj_per_ac + 30, rel=1e-12) == SRAM.pj_per_ac


@few_examples
@given(many_counts, any_convention)
def test_rows_round_trip_through_json(found: list[LayerCount], convention: Convention) -> None:
    again = from_rows(json.loads(json.dumps(to_rows(found))))
    assert again == tuple(found)
    assert energy(again, convention) == energy(found, convention)


def test_a_row_has_the_attributes_of_a_count() -> None:
    assert to_rows([BINARY, MEAN]) == [
        {
            "layer": "q",
            "input": "binary",
            "input_by_step": (),
            "form": "always",
            "reads": "stream",
            "time_steps": 4,
            "macs": 800,
            "acs": (10.0, 20.5, 0.0, 4.5),
            "rate": (0.125, 0.25, 0.0, 0.0625),
        },
        {
            "layer": "mean head",
            "input": "real",
            "input_by_step": (),
            "form": "always",
            "reads": "mean",
            "time_steps": 4,
            "macs": 60,
            "acs": (),
            "rate": (),
        },
    ]


@pytest.mark.parametrize(
    ("accuracy", "energy_mj", "beta", "expected"),
    [
        (0.9, 2.0, 0.07, 0.9),  # the reference itself
        (0.9, 1.0, 1.0, 1.8),
        (0.9, 0.5, 0.5, 1.8),
        (0.6, 8.0, 0.5, 0.3),
        (0.9, 0.1, 0.0, 0.9),
        (0.9, 1.0, 0.07, 0.9 * math.exp(0.07 * math.log(2))),
        (0.0, 1.0, 0.07, 0.0),
    ],
)
def test_f_aeb_as_a_power(accuracy: float, energy_mj: float, beta: float, expected: float) -> None:
    config = FitnessConfig(form="power", beta=beta)
    assert f_aeb(accuracy, energy_mj, reference_mj=2.0, config=config) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("accuracy", "energy_mj", "alpha", "expected"),
    [
        (0.8, 0.8, 0.25, 0.25 * 0.8 + 0.75 * 0.6),
        (0.8, 2.0, 0.25, 0.2),  # the reference itself saves no energy
        (0.8, 0.8, 1.0, 0.8),
        (0.8, 0.8, 0.0, 0.6),
        (0.8, 3.0, 0.5, 0.4 - 0.25),
    ],
)
def test_f_aeb_as_a_weighted_sum(accuracy: float, energy_mj: float, alpha: float, expected: float) -> None:
    config = FitnessConfig(form="weighted", alpha=alpha)
    assert f_aeb(accuracy, energy_mj, reference_mj=2.0, config=config) == pytest.approx(expected, rel=1e-12)


def test_f_aeb_is_a_power_of_0_07_by_default() -> None:
    assert f_aeb(0.5, 1.0, reference_mj=4.0, config=FitnessConfig()) == pytest.approx(0.5 * 4**0.07, rel=1e-12)


@few_examples
@given(st.sampled_from(["power", "weighted"]), st.floats(0.1, 0.9), st.floats(0.1, 10))
def test_f_aeb_increases_with_accuracy_and_decreases_with_energy(form: str, accuracy: float, energy_mj: float) -> None:
    config = FitnessConfig(form=form)
    score = f_aeb(accuracy, energy_mj, reference_mj=3.0, config=config)
    assert f_aeb(accuracy + 0.05, energy_mj, reference_mj=3.0, config=config) > score
    assert f_aeb(accuracy, energy_mj / 2, reference_mj=3.0, config=config) > score


OF_A_RUN = {"activations_kb", "spikes", *LATENCIES}  # tests/searching/test_objectives.py


def test_objectives_of_an_evaluation() -> None:
    """Accumulations and energy are those under the convention of the search."""
    measured = measurement(small(time_steps=2), correct=80, macs=10, acs=30)
    rest = {"accuracy": (0.8, True), "params": (7, False), "time_steps": (2, False), "mean_time_steps": (2, False)}
    for name, macs, acs in (("exact", 20, 30), ("rate", 20, 4.5)):
        evaluation = evaluation_of(measured, f_aeb=0.5, generation=0, convention=CONVENTIONS[name])
        values = {name: (OBJECTIVES[name].value(evaluation), OBJECTIVES[name].maximise) for name in OBJECTIVES.keys() - OF_A_RUN}
        expected_mj = pytest.approx((4.6 * macs + 0.9 * acs) * 1e-9, rel=1e-12)
        energies = {"energy_mj": (expected_mj, False), "energy_uj": (pytest.approx(1000 * expected_mj.expected), False)}
        # 2 steps of 10 + 9 dense MACs; 7 parameters of 4 bytes
        operations = {"macs": (macs, False), "acs": (acs, False), "dense_macs": (38, False)}
        assert values == {**rest, **energies, **operations, "weights_kb": (7 * 4 / 1000, False)}


def evaluations() -> list[Evaluation]:
    """Three candidates with 40, 10 and 20 accumulations and a fitness from another convention. The last is the largest."""
    made = [(8, 50, 40.0), (16, 60, 10.0), (24, 80, 20.0)]
    return [evaluation_of(measurement(small(embed_dim=w), correct=c, acs=acs), f_aeb=-1, generation=3) for w, c, acs in made]


def test_fitness_is_recomputed_from_the_energy_under_the_new_convention() -> None:
    found = refitted(evaluations(), small(embed_dim=24), FitnessConfig(form="power", beta=0.5))
    assert [e.f_aeb for e in found] == pytest.approx([0.5 * 2**-0.5, 0.6 * 2**0.5, 0.8], rel=1e-12)
    assert [replace(e, f_aeb=-1) for e in found] == evaluations()


def test_weighted_fitness_is_recomputed_as_well() -> None:
    found = refitted(evaluations(), small(embed_dim=24), FitnessConfig(form="weighted", alpha=0.25))
    assert [e.f_aeb for e in found] == pytest.approx([0.125 - 0.75, 0.15 + 0.375, 0.2], rel=1e-12)


@pytest.mark.parametrize("names", [("accuracy", "joules"), ("accuracy", "accuracy"), ()])
def test_invalid_objectives_are_rejected(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as error:
        SearchConfig(objectives=names)
    assert all(name in str(error.value) for name in ("accuracy", "energy_mj", "params", "time_steps", "acs", *names))
