"""What a network does for one image, counted on real data: the numbers that every convention turns into energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

InputKind = Literal["binary", "integer", "real"]
KINDS: tuple[InputKind, ...] = ("binary", "integer", "real")  # from narrow to wide
Form = Literal["always", "separate", "fused"]
Reads = Literal["stream", "image", "mean"]


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """One layer, or one operation of attention, for one image.

    | field           | meaning                                                                     | unit                |
    |-----------------|-----------------------------------------------------------------------------|---------------------|
    | `input`         | what enters: spikes, small integers (sums of spikes), or real values        |                     |
    | `input_by_step` | the same at each step, where steps differ; `input` is the widest of them    |                     |
    | `form`          | consecutive linear maps without a neuron between are counted twice, as      |                     |
    |                 | `separate` maps and as the one that they are `fused` to                     |                     |
    | `reads`         | `image`: a still image, the same at every step; `mean`: a mean that the     |                     |
    |                 | network averages over time as well (a head); else the `stream`              |                     |
    | `time_steps`    | T of this layer                                                             | steps               |
    | `macs`          | dense multiply-accumulates, padding included                                | per step            |
    | `acs`           | accumulations: values times true fan-out, zero padding excluded             | at each step, `[T]` |
    | `rate`          | mean input value: the firing rate of spikes                                 | at each step, `[T]` |

    Counts are means over the images. `acs` and `rate` are empty where every step is real, and 0 at a step that is.
    """

    layer: str
    input: InputKind
    input_by_step: tuple[InputKind, ...] = ()
    form: Form = "always"
    reads: Reads = "stream"
    time_steps: int
    macs: int
    acs: tuple[float, ...]
    rate: tuple[float, ...]

    def first(self, steps: int) -> LayerCount:
        """The same at T = `steps`: a network is causal in time, so its first steps do not depend on how many follow."""
        kinds = self.input_by_step[:steps]
        real = set(kinds) == {"real"}
        return replace(
            self,
            input=max(kinds, key=KINDS.index, default=self.input),
            input_by_step=kinds if len(set(kinds)) > 1 else (),
            time_steps=min(steps, self.time_steps),
            acs=() if real else self.acs[:steps],
            rate=() if real else self.rate[:steps],
        )


def to_rows(counts: Sequence[LayerCount]) -> list[dict[str, Any]]:
    """As JSON for the archive, from which any convention can score a candidate again."""
    return [asdict(count) for count in counts]


def from_rows(rows: Sequence[dict[str, Any]]) -> tuple[LayerCount, ...]:
    return tuple(LayerCount(**_with_tuples(row)) for row in rows)


def _with_tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
