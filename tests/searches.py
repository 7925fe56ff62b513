"""Searches on synthetic measurements, for the tests of the search and of its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from builders import analytic

from autospike.config import SearchConfig
from autospike.events import CandidateEvent
from autospike.measurement import Evaluation, Measurement
from autospike.searching.archive import Archive
from autospike.searching.constraints import Constraints
from autospike.searching.evolution import Evaluate, Search
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

# 25 million architectures: 3 numbers of steps, 4 widths, and 128 blocks, up to three deep.
WIDE: dict[str, Any] = {
    "time_steps": [1, 2, 3],
    "stages": [
        {
            "embed_dim": [16, 32, 48, 64],
            "depth": [1, 2, 3],
            "block": {
                "num_heads": [1, 2, 4, 8],
                "mlp_ratio": [1, 2, 3, 4],
                "neuron": {"v_threshold": [0.6, 1.0, 1.4, 1.8], "tau": [1.25, 2]},
            },
        }
    ],
}


NO_LIMITS = Constraints()


class KilledError(Exception):
    """Stops a search as a signal would stop the process."""


def recording(
    measured: list[Architecture],
    *,
    kill_after: float = float("inf"),
    lazy: bool = True,
    measure: Callable[[Architecture], Measurement] = analytic,
) -> Evaluate:
    """Measure like `analytic` and record each architecture; raise after `kill_after` of them; lazily if `lazy`."""

    def one_by_one(architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        for architecture in architectures:
            if len(measured) >= kill_after:
                raise KilledError
            measured.append(architecture)
            yield measure(architecture)

    return one_by_one if lazy else lambda architectures: iter(list(one_by_one(architectures)))


def settings_of(algorithm: str, **changed: object) -> SearchConfig:
    return SearchConfig.model_validate({"algorithm": algorithm, "population": 6, "generations": 4, "parents": 3, **changed})


def make_search(
    archive: Archive,
    config: SearchConfig,
    run: Evaluate,
    *,
    space_dict: dict[str, Any] = WIDE,
    seed: int = 0,
    anchors: tuple[Architecture, ...] = (),
    on_evaluation: Callable[[Evaluation], None] = lambda _evaluation: None,
    on_resume: Callable[[int, float], None] = lambda _proposed, _best: None,
    constraints: Constraints = NO_LIMITS,
    reference: Architecture | None = None,
) -> Search:
    space = SearchSpace.from_dict(space_dict)
    return Search(
        space=space,
        anchors=anchors,
        evaluate=run,
        archive=archive,
        config=config,
        seed=seed,
        on_event=lambda event: on_evaluation(event.evaluation) if isinstance(event, CandidateEvent) else None,
        on_resume=on_resume,
        constraints=constraints,
        reference=reference,
    )
