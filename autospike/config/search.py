"""The sections `evaluation`, `execution`, `search` and `export` of an experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictBool, field_validator, model_validator

from autospike.config.fields import MAX_BATCH, BatchSize, CountLimit, Fraction, Limit, ProcessCount, Section, Strength, Text
from autospike.energy.conventions import DEFAULT, Convention, convention_of
from autospike.errors import UserError, quoted
from autospike.import_path import is_import_path, name_or_import_path
from autospike.objectives import OBJECTIVES


class EvaluationConfig(Section):
    """Measurement of candidates."""

    calibration_images: Annotated[int, Field(ge=2, le=10_000_000)] = 512
    """Training images from which the BatchNorm statistics of a subnet are computed before it is scored."""
    calibration_batch_size: Annotated[int, Field(ge=2, le=MAX_BATCH)] = 128
    """Images per calibration batch. Statistics are averaged over batches, so unlike `batch_size` this affects results."""
    batch_size: BatchSize = 128
    """Images per forward pass. It affects speed and memory, not results."""
    kept_mb: Annotated[int, Field(ge=0, le=10_000_000)] = 1024
    """Cache size of each worker in MB, for decoded images, activations between blocks, and node results."""
    racing: Strength = 0.0
    """Successive halving: margin, in standard deviations, at which a dominated candidate is stopped early.

    A candidate that another one dominates by this margin in accuracy and energy is scored only on part of the search split; 3 is
    conservative. Which candidates stop depends on the other candidates measured at the same time. With 0 (the default) every
    candidate is measured on every image. Other objectives than accuracy and energy_mj require 0.
    """


class ExecutionConfig(Section):
    """Where candidates are measured. On processors of the same type, these fields do not affect results."""

    executor: Literal["serial", "processes", "ray"] = "serial"
    """`serial` uses the process of the search, `processes` worker processes on this machine, `ray` those of a Ray cluster."""
    workers: ProcessCount | None = None
    """Number of worker processes; not with `serial`.

    Default: the number of cores (of the cluster, with Ray) divided by `threads`, which is 1 unless given. Each worker needs the
    memory of a process plus `evaluation.kept_mb`.
    """
    address: Text | None = None
    """Ray only: address of the cluster, `auto` or HOST:PORT. Default: a local cluster for the duration of the command."""
    gpus_per_worker: Strength = 0.0
    """Ray only: GPUs per worker, for example 0.5 for two workers on one GPU. If positive, candidates are measured on GPUs."""


# Settings of `search` that later versions have added. They are not part of the identity of a search unless they are set.
ADDED_SETTINGS = ("constraints", "space", "latency_batch", "early_exit")
# Settings that may change while a search is the same one.
NOT_IDENTIFYING = ("generations", "optuna_storage")


ALGORITHM_NAMES = ("nsga2", "nsga3", "aeb", "random", "predictor", "optuna", "optuna-nsga3")


class FitnessConfig(Section):
    """Accuracy-energy-balanced fitness (F_AEB).

    The formula of the Auto-Spikformer paper was not available; both forms are our own.
    """

    form: Literal["power", "weighted"] = "power"
    """Formula; `power` uses `beta`, `weighted` uses `alpha`. The reference is the energy of the reference network."""
    beta: Strength = 0.07
    """Exponent of `power`: accuracy * (energy / reference) ** -beta."""
    alpha: Fraction = 0.5
    """Weight of accuracy in `weighted`: alpha * accuracy + (1 - alpha) * (1 - energy / reference)."""


class ConstraintsConfig(Section):
    """Hard limits of candidates. None is no limit.

    Parameters, T, MACs, memory and fan-in follow from an architecture: candidates beyond such a limit are not measured. Energy and
    accuracy are measured: candidates within all limits are selected first, then those that violate them least.

    A limit may be written without `max_` or `min_`: `params: 50000` is `max_params: 50000`.
    """

    max_energy_uj: Limit | None = None
    """Largest energy per image in uJ, under `search.convention`."""
    max_params: CountLimit | None = None
    """Largest number of parameters."""
    max_time_steps: CountLimit | None = None
    """Largest T."""
    max_macs: CountLimit | None = None
    """Largest number of dense multiply-accumulates of one image and time step, as `autospike describe` prints them."""
    max_weights_kb: Limit | None = None
    """Largest memory of the parameters in kB (1,000 bytes), 4 bytes each."""
    max_activations_kb: Limit | None = None
    """Largest memory of the activations of one image in kB: input, output and held tensors of a layer, 4 bytes for each value."""
    max_fan_in: CountLimit | None = None
    """Largest number of synapses of a neuron, the axon limit of neuromorphic cores."""
    min_accuracy: Fraction | None = None
    """Smallest accuracy on the search split."""

    @model_validator(mode="before")
    @classmethod
    def _read_short_names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        found = dict(given)
        for field in cls.model_fields:
            short = field.partition("_")[2]
            if short in found:
                if found.get(field) is not None:
                    raise ValueError(f"{short} and {field} are the same limit; give one of them")
                found[field] = found.pop(short)
        return found


class SearchConfig(Section):
    """Search algorithm and its operators."""

    algorithm: Annotated[str, AfterValidator(name_or_import_path(*ALGORITHM_NAMES))] = "nsga2"
    """`nsga2` is NSGA-II over `objectives`, `nsga3` is NSGA-III, which is meant for more than two.

    `aeb` is the evolution on F_AEB of Auto-Spikformer, `random` uniform sampling. `predictor` predicts the objectives by Gaussian
    processes and proposes the largest expected improvement (docs/search.md). `optuna` is TPE and `optuna-nsga3` NSGA-III of Optuna,
    which need `autospike[optuna]`.

    With `aeb`, by-product candidates compete as well. `package.module:Class` is the import path of an own algorithm: a class
    without arguments whose objects have `ask` and `tell` (`autospike.searching.algorithms.Algorithm`).
    """
    objectives: tuple[Text, ...] = ("accuracy", "energy_mj")
    """Objectives of NSGA-II and NSGA-III: one or more different keys of `autospike.objectives.OBJECTIVES`, or import paths.

    `package.module:function` is the import path of a function of an `autospike.Evaluation` that returns a number, which is
    minimised, or of an `autospike.Objective`, which says whether it is maximised.
    """
    latency_batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 32
    """Images in a batch of the objective `latency_batch_ms`."""
    population: Annotated[int, Field(ge=4, le=100_000)] = 50
    """Candidates per generation; Auto-Spikformer's value."""
    generations: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Number of generations; Auto-Spikformer's value."""
    parents: Annotated[int, Field(ge=2, le=100_000)] = 10
    """`aeb`: number of the best candidates that are parents of the next generation; Auto-Spikformer's value."""
    block_mutation: Fraction = 0.2
    """Mutation probability of a gene of a block. With one-point crossover it applies only to blocks from the crossover point on."""
    global_mutation: Fraction = 0.4
    """Mutation probability of depth, width, time steps, shortcut and embedding genes.

    With one-point crossover it applies to those from the crossover point on, and always to time steps and the last depth.
    """
    crossover: Literal["one-point", "uniform"] = "one-point"
    """Crossover of `nsga2`.

    `one-point` copies the first parent up to a random block and the second parent, mutated, from there on. Candidates then share
    prefixes, which are computed once. `uniform` takes each gene from either parent and mutates everywhere.
    """
    late_point: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 1.0
    """`one-point`: ratio between the probabilities of a block and of the one before it to be the crossover point.

    A late point shares longer prefixes and appears to reduce hypervolume (docs/evaluation.md). The ratio is reduced in deep
    networks so that the last block is at most 64 times as probable as the first.
    """
    convention: Text = DEFAULT.name
    """Energy convention, for example `spikformer` or `exact/int8`; `autospike.energy.conventions` lists them.

    The archive stores operation counts, so that a search with another convention reuses all measurements.
    """
    fitness: FitnessConfig = FitnessConfig()
    """Fitness of `aeb`, also reported for the other algorithms."""
    constraints: ConstraintsConfig = ConstraintsConfig()
    """Hard limits. They may change over an existing archive; nothing is measured again."""
    space: dict[str, Any] | None = None
    """Narrowed search space: genes with fewer choices than in the space that the supernet was trained on. Default: that space.

    `autospike search RUN --set space.time_steps=[1,2]` writes it. F_AEB stays relative to the largest subnet of the trained space.
    """
    early_exit: StrictBool = False
    """Whether the search varies the exit margin, above which an image stops before the last time step (docs/early_exit.md).

    Candidates with early exit are by-products. Their energy is an estimate. For classification only.
    """

    optuna_storage: Text | None = None
    """Storage of Optuna to which every candidate is written as a trial, for optuna-dashboard; needs `autospike[optuna]`.

    A URL, for example `sqlite:///runs/x/optuna.db`, or the path of a journal file, which is written faster. Default: `optuna.log`
    in the run for the algorithms `optuna` and `optuna-nsga3`, none for the others. It does not affect results. See docs/search.md.
    """

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that distinguish two searches, as JSON values.

        All except the number of generations and the storage of Optuna. Settings that a later version added are left out where
        they have their default, so that searches of older versions keep their ids.
        """
        settings = self.model_dump(mode="json", exclude=set(NOT_IDENTIFYING))
        default = SearchConfig().model_dump(mode="json")
        return {name: value for name, value in settings.items() if name not in ADDED_SETTINGS or value != default[name]}

    @property
    def energy_convention(self) -> Convention:
        """The energy convention that `convention` names."""
        return convention_of(self.convention)

    @field_validator("convention")
    @classmethod
    def _normalise_convention(cls, text: str) -> str:
        try:
            return convention_of(text).name
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("optuna_storage")
    @classmethod
    def _check_storage(cls, given: str | None) -> str | None:
        """Refuse a storage in memory, which no other process can read, and a password, which the run would store."""
        if given is None:
            return None
        if given in ("sqlite://", "sqlite:///:memory:"):
            raise ValueError("a database in memory, which no other program can read; give a file: sqlite:///FILE.db")
        try:
            password = urlsplit(given).password
        except ValueError:
            raise ValueError(f"neither a URL nor a path, got {quoted(given)}") from None
        if password is not None:
            raise ValueError(
                "a URL with a password, which would be written to experiment.yaml; leave it out, and give it as the client of the "
                "database reads it, for example in PGPASSWORD"
            )
        return given

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = all(name in OBJECTIVES or is_import_path(name) for name in names)
        if not names or len(set(names)) < len(names) or not known:
            listed = ", ".join(OBJECTIVES)
            raise ValueError(f"choose different ones from {listed}, or import paths; got {', '.join(names) or 'none'}")
        return names


class ExportConfig(Section):
    """Selection rule for the candidate that is exported."""

    pick: Text = "cheapest-within-noise"
    """`cheapest-within-noise`, `knee`, `best-accuracy`, `least-energy`, `best-faeb`, or the id of a candidate.

    `cheapest-within-noise` is the candidate of least energy whose accuracy on the search split is not significantly below the
    highest one (paired McNemar test at 95 %).
    """
    min_accuracy: Fraction = 0.0
    """Select among candidates with at least this accuracy on the search split."""
    tolerance: Fraction = 1.0
    """Select among candidates whose accuracy is at most this much below the highest. With 1 every candidate qualifies."""
    exit_margin: Fraction | None = None
    """Confidence margin above which an image stops before the last time step (docs/early_exit.md).

    Default: that of the candidate, which has one after a search with `search.early_exit`.
    """
