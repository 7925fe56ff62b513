"""Search by a predictor: Gaussian processes predict the objectives, and candidates maximise the expected improvement.

The population of this algorithm is its whole history, by-product candidates included. For each generation, `ask` fits one Gaussian
process (scikit-learn) for each objective, draws joint samples of all objectives for a pool of architectures, and yields the
architecture with the largest expected improvement of the hypervolume, the mean over the samples. Each sample then has this
architecture as if it were measured, and the next one is yielded. This is Bayesian optimisation with the noisy expected hypervolume
improvement and its sequential greedy batches (Daulton, Balandat and Bakshy, NeurIPS 2021), over a finite pool as in NSGANetV2 (Lu
et al., ECCV 2020) and BANANAS (White, Neiswanger and Savani, AAAI 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import moocore
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from autospike.searching.algorithms import GenerationContext, Individual
from autospike.searching.by_products import by_product_candidates
from autospike.searching.variation import crossover, mutate
from autospike.space.architecture import Architecture
from autospike.space.encoding import encode
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import enumerate_architectures

Matrix = NDArray[np.float64]

SMALL = 1000
"""Architectures of a space that is small enough to be the pool as a whole."""
SAMPLES = 16
"""Joint samples over which the improvement is averaged."""
FITTED_ROWS, ROWS = 200, 1000
"""Architectures that the kernel is fitted to, and that predictions are conditioned on; the time is cubic in both numbers."""
MARGIN = 0.1
"""Distance of the reference point from the worst values of the front, in lengths of the front."""


@dataclass(frozen=True, kw_only=True)
class KnownCosts:
    """Measured architectures, from which the others are predicted.

    Attributes:
        features: `[N, features]`.
        costs: `[N, objectives]`, negated values of maximised objectives.
        violation: `[N]`, by how much the limits are violated.
    """

    features: Matrix
    costs: Matrix
    violation: Matrix

    def rows(self, chosen: Sequence[int]) -> KnownCosts:
        """Return some of the rows.

        Args:
            chosen: Indices of the rows.
        """
        return KnownCosts(features=self.features[chosen], costs=self.costs[chosen], violation=self.violation[chosen])


@dataclass(frozen=True, kw_only=True)
class PredictorSearch:
    """Bayesian optimisation with Gaussian processes and the expected improvement of the hypervolume.

    Attributes:
        pool: Architectures that are predicted for each generation: a third each of random samples, mutants and children of the
            front. Of a space of at most `SMALL`, all are. Our choice.
    """

    pool: int = 600

    def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:
        """Yield the architectures of a pool, those with the largest expected improvement first."""
        known = {individual.architecture for individual in population}
        pool = [a for a in _pool(population, context, self.pool) if a not in known and context.is_allowed(a)]
        if not pool:
            return
        features = encode(context.space, [*(i.architecture for i in population), *pool]).features()
        costs, violation = _costs(population)
        data = KnownCosts(features=features[: len(population)], costs=costs, violation=violation)
        generator = np.random.default_rng(context.rng.getrandbits(64))
        with threadpool_limits(limits=1):  # sums in another order would have other last bits
            samples, violations = _samples(data, features[len(population) :], generator)
        for index in _greedy(pool, samples, violations, data, context.space):
            yield pool[index]

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:  # noqa: ARG002
        """Return all individuals so far."""
        return [*population, *offspring]


@lru_cache(maxsize=1)
def _everything(space: SearchSpace) -> tuple[Architecture, ...]:
    return tuple(enumerate_architectures(space))


def _pool(population: list[Individual], context: GenerationContext, size: int) -> list[Architecture]:
    """All architectures of a small space; otherwise random samples, mutants and children of the front, each once."""
    space, rng, third = context.space, context.rng, size // 3
    if space.size() <= SMALL:
        pool = list(_everything(space))
    else:
        parents = [i.architecture for i, flag in zip(population, _on_front(*_costs(population)), strict=True) if flag]

        def parent() -> Architecture:
            return rng.choice(parents)

        drawn = [space.sample(rng) for _ in range(third)]
        mutants = [mutate(space, parent(), rng, context.config) for _ in range(third)]
        children = [mutate(space, crossover(space, parent(), parent(), rng), rng, context.config) for _ in range(third)]
        pool = list(dict.fromkeys([*drawn, *mutants, *children]))
    rng.shuffle(pool)  # the order decides between equal improvements
    return pool


def _costs(population: Sequence[Individual]) -> tuple[Matrix, Matrix]:
    """Costs `[N, objectives]`, negated values of maximised objectives, and by how much limits are violated, `[N]`."""
    costs = np.array([[-value for value in individual.fitness.wvalues] for individual in population])
    return costs, np.array([individual.fitness.violation for individual in population])


def _on_front(costs: Matrix, violation: Matrix) -> NDArray[np.bool_]:
    """Whether a row is on the front of the feasible ones; of those that violate the limits least, if none is feasible."""
    flags = violation == violation.min()
    flags[flags] = moocore.is_nondominated(costs[flags])
    return flags


def _samples(data: KnownCosts, features: Matrix, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Samples of the costs `[SAMPLES, pool, objectives]` and of the violation of the limits `[SAMPLES, pool]`."""
    known = data.rows(chosen_rows(data, ROWS, generator))
    fitted = known.rows(chosen_rows(known, FITTED_ROWS, generator))
    costs = []
    for column in range(data.costs.shape[1]):
        logarithmic = bool((data.costs[:, column] > 0).all())  # genes multiply costs, for example energy
        values = [np.log(rows.costs[:, column]) if logarithmic else rows.costs[:, column] for rows in (fitted, known)]
        drawn = gaussian_process_samples(fitted.features, values[0], known.features, values[1], features, generator)
        costs.append(np.exp(drawn) if logarithmic else drawn)
    violation = np.zeros((SAMPLES, len(features)))
    if data.violation.any():  # most violations are 0, for which a Gaussian process is no model
        seed = int(generator.integers(2**31))
        forest = ExtraTreesRegressor(n_estimators=SAMPLES, random_state=seed).fit(known.features, known.violation)
        violation = np.stack([tree.predict(features.astype(np.float32)) for tree in forest.estimators_])
    return np.stack(costs, axis=-1), violation


def chosen_rows(data: KnownCosts, most: int, generator: np.random.Generator) -> list[int]:
    """Choose at most so many rows: those of the front, then random ones.

    Args:
        data: All rows.
        most: The largest number.
        generator: Of the random rows.

    Returns:
        The rows in ascending order.
    """
    if len(data.costs) <= most:
        return list(range(len(data.costs)))
    flags = _on_front(data.costs, data.violation)
    order = generator.permutation(len(flags))
    return sorted(order[np.argsort(~flags[order], kind="stable")][:most].tolist())


def gaussian_process_samples(
    fitted: Matrix, fitted_values: Matrix, known: Matrix, values: Matrix, features: Matrix, generator: np.random.Generator
) -> Matrix:
    """Draw joint samples of a Gaussian process without its noise.

    The kernel is Matern 5/2 with a length scale for each feature, and its parameters maximise the likelihood of `fitted_values`.

    Args:
        fitted: Features that the parameters of the kernel are fitted to, `[n, features]`.
        fitted_values: Their values, `[n]`.
        known: Features that the process is conditioned on, `[N, features]`.
        values: Their values, `[N]`.
        features: Features of the pool, `[pool, features]`.
        generator: Of the samples.

    Returns:
        `[SAMPLES, pool]`.
    """
    mean, scale = values.mean(), values.std() or 1.0
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.ones(known.shape[1]), (0.1, 100.0), nu=2.5)
    noisy = kernel + WhiteKernel(0.05, (1e-4, 1.0))
    with warnings.catch_warnings():  # a parameter at its bound, for example of a gene without effect, is as meant
        warnings.simplefilter("ignore", ConvergenceWarning)
        learned = GaussianProcessRegressor(noisy).fit(fitted, (fitted_values - mean) / scale).kernel_
    process = GaussianProcessRegressor(learned.k1, alpha=learned.k2.noise_level, optimizer=None).fit(known, (values - mean) / scale)
    expected, covariance = process.predict(features, return_cov=True)
    variances, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.clip(variances, 0, None))
    drawn = expected + generator.standard_normal((SAMPLES, len(features))) @ factor.T
    return np.asarray(drawn * scale + mean)


def _greedy(
    pool: Sequence[Architecture], samples: Matrix, violation: Matrix, data: KnownCosts, space: SearchSpace
) -> Iterator[int]:
    """Yield indices of the pool by expected improvement, given those before and their by-product candidates.

    An improvement only decreases with what is known before, so those that are below the largest one need not be computed again.
    Equal ones are ordered by the expected violation of the limits.
    """
    indices = {architecture: i for i, architecture in enumerate(pool)}
    scaled, fronts = _scaled(samples, data)
    feasible, violations = violation <= 0, violation.mean(axis=0)
    improvements = np.array([improvement(i, scaled, feasible, fronts) for i in range(len(pool))])
    waiting = np.ones(len(pool), dtype=bool)
    while waiting.any():
        current: set[int] = set()
        while True:
            order = np.lexsort((violations, -improvements, ~waiting))
            best = int(order[0])
            if best in current:
                break
            improvements[best] = improvement(best, scaled, feasible, fronts)
            current.add(best)
        yield best
        together = [indices[a] for a in by_product_candidates(space, pool[best]) if a in indices]
        waiting[together] = False
        fronts = [
            _nondominated(np.concatenate([front, points[[i for i in together if allowed[i]]]]))
            for front, points, allowed in zip(fronts, scaled, feasible, strict=True)
        ]


def _scaled(samples: Matrix, data: KnownCosts) -> tuple[Matrix, list[Matrix]]:
    """Samples, and the front of the feasible rows for each sample, scaled to [0, 1] between the ends of the front.

    The reference point is then `1 + MARGIN` in each objective.
    """
    feasible = data.costs[data.violation == 0]
    front = _nondominated(feasible)
    ends = front if len(front) else data.costs
    low, length = ends.min(axis=0), np.ptp(ends, axis=0)
    length = np.where(length > 0, length, np.ptp(data.costs, axis=0))  # a front of one point
    length = np.where(length > 0, length, 1.0)
    return (samples - low) / length, [(front - low) / length for _ in samples]


def improvement(index: int, scaled: Matrix, feasible: NDArray[np.bool_], fronts: Sequence[Matrix]) -> float:
    """Return the mean over the samples of the hypervolume that a point adds to the front, 0 where it violates limits.

    Of the volume of the point, the part that the front dominates too is that of the front, clipped to the point.

    Args:
        index: Of the point.
        scaled: Points of each sample, `[samples, pool, objectives]`, to be minimised; the reference point is `1 + MARGIN`.
        feasible: Whether a point is within the limits, `[samples, pool]`.
        fronts: The front of each sample, `[n, objectives]`.
    """
    reference, total = np.full(scaled.shape[2], 1 + MARGIN), 0.0
    for front, points, allowed in zip(fronts, scaled, feasible, strict=True):
        point = points[index]
        if allowed[index] and (point < reference).all() and not (front <= point).all(axis=1).any():
            clipped = np.maximum(front, point)
            total += np.prod(reference - point) - (moocore.hypervolume(clipped, ref=reference) if len(front) else 0.0)
    return float(total / len(fronts))


def _nondominated(points: Matrix) -> Matrix:
    return points[moocore.is_nondominated(points)] if len(points) else points
