"""What to improve: the cheapest set of hardware improvements with which a key becomes likely.

The cost is that of the quantum-network blueprints (Coopmans et al., Commun. Phys. 4, 164 (2021), Methods 3; da Silva et
al., Quantum Sci. Technol. 6, 035007 (2021)): a parameter has a probability p of no imperfection, an improvement by the
factor k >= 1 takes it to p^(1/k), and a set of improvements costs the sum of its k, so that doing nothing to four
parameters costs 4.

With weights w and k_i = 1 + t d_i/w_i the cost is sum(w) + t: a search over directions d of a simplex, along each of
which the smallest t is read off where the probability of a key passes the level. The surrogate need not be monotone,
nor its valleys one: many directions are tried, then others near the best, ever nearer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from caligo.errors import InvalidArgument
from caligo.points import parameter_column
from caligo.space import PARAMETERS, STRATEGY_COLUMN, SYMBOLS, Space, Strategy
from caligo.thresholds import edges

IMPROVABLE: Final = ("F", "eta", "e_det", "P_dark")
"""Parameters that better hardware improves; the others are choices or the adversary's."""
_DIRECTIONS: Final = 256
_PLACES: Final = 48
"""Points along a direction."""
_ROUNDS: Final = (1.0, 0.6, 0.35, 0.2, 0.1, 0.05, 0.02)
"""How far from the best directions others are tried, round by round; the first is everywhere."""
_BEST: Final = 6
_SMALLEST: Final = 1e-3
"""Of t."""
_MOST: Final = 1e6
_SEED: Final = 20211


@dataclasses.dataclass(frozen=True)
class Requirement:
    """The cheapest improvements for one strategy.

    Attributes:
        factors: k >= 1 by symbol, of the parameters that may be improved.
        values: what they come to, physical units, by symbol.
        cost: sum of weights times factors; infinite, with empty factors, where no improvement in the space is enough.
        low, high: of the cost along the same direction, by the surrogate's own uncertainty (95 %); NaN where an end
            leaves the space.
        key, closed_form_key: probability of a key with the improvements, by the surrogate and by the closed form.
        closed_form_cost: of the closed form's own cheapest set; infinite where there is none.
    """

    strategy: Strategy
    factors: Mapping[str, float]
    values: Mapping[str, float]
    cost: float
    low: float
    high: float
    key: float
    closed_form_key: float
    closed_form_cost: float


def improved(symbol: str, value: NDArray[np.floating] | float, factor: NDArray[np.floating] | float) -> Any:
    """A parameter's value, physical units, improved by a factor k >= 1; arrays broadcast."""
    value, factor = np.asarray(value, np.float64), np.asarray(factor, np.float64)
    if symbol == "F":
        return (1.0 + 3.0 * np.maximum((4.0 * value - 1.0) / 3.0, 1e-12) ** (1.0 / factor)) / 4.0
    if symbol == "eta":
        return value ** (1.0 / factor)
    return -np.expm1(np.log1p(-value) / factor)  # e_det, P_dark: 1 - (1-x)^(1/k)


def most_factor(symbol: str, value: float, best: float) -> float:
    """The factor that takes a parameter from a value to `best`, physical units; at most 1e6."""
    if symbol == "F":
        worse, better = ((4.0 * x - 1.0) / 3.0 for x in (value, best))
    elif symbol == "eta":
        worse, better = value, best
    else:
        worse, better = 1.0 - value, 1.0 - best
    if not 0.0 < worse < 1.0:
        return 1.0
    return min(_MOST, max(1.0, math.log(worse) / math.log(better))) if better < 1.0 else _MOST


def check(free: Sequence[str], weights: Mapping[str, float], space: Space) -> tuple[str, ...]:
    """The parameters that may be improved, in the order of the space.

    Raises:
        InvalidArgument: one that hardware does not improve or that the campaign holds fixed, or a weight that is not
            positive or of another parameter.
    """
    for symbol in free:
        parameter_column(symbol, "free")
        if symbol not in IMPROVABLE:
            raise InvalidArgument(
                "free", f"must be among {', '.join(IMPROVABLE)}: {symbol} is no hardware's to improve"
            )
        low, high = space.bounds[symbol]
        if not low < high:
            raise InvalidArgument("free", f"{symbol} is fixed at {low:g} in the campaign")
    if not free:
        raise InvalidArgument("free", f"must name at least one of {', '.join(IMPROVABLE)}")
    for symbol, weight in weights.items():
        if symbol not in free:
            raise InvalidArgument("weights", f"{symbol} is not among the parameters that may be improved")
        if not (weight > 0.0 and math.isfinite(weight)):
            raise InvalidArgument("weights", f"{symbol}: must be above 0")
    return tuple(symbol for symbol in SYMBOLS if symbol in free)


def steps(
    space: Space,
    at: NDArray[np.floating],
    free: tuple[str, ...],
    weights: Mapping[str, float],
    level: float,
) -> Generator[NDArray[np.float32], NDArray[np.float32], tuple[Requirement, ...]]:
    """Requirements, one a strategy of the space: yields rows, and is sent what is predicted there.

    Args:
        at: [9], model coordinates, the baseline.
        free: as `check` gives them.
        level: probability of a key, 0 to 1.

    Yields:
        float32 [n, 9]; takes float32 [n, 6] as `CampaignClient.predict` gives it.
    """
    found = []
    for strategy in space.strategies:
        base = np.array(at, dtype=np.float32)
        base[STRATEGY_COLUMN] = strategy
        search = _Search(space, base, free, np.array([weights.get(symbol, 1.0) for symbol in free]), level)
        found.append((yield from search.requirement(strategy)))
    return tuple(found)


class _Search:
    """For one strategy."""

    def __init__(
        self, space: Space, base: NDArray[np.float32], free: tuple[str, ...], weights: NDArray[np.float64], level: float
    ) -> None:
        self.base, self.free, self.weights, self.level = base, free, weights, level
        self.columns = [SYMBOLS.index(symbol) for symbol in free]
        self.start = [float(10.0 ** base[c] if PARAMETERS[c].is_log else base[c]) for c in self.columns]
        best = [space.bounds[symbol][1 if symbol in ("F", "eta") else 0] for symbol in free]
        self.most = np.array([most_factor(s, v, b) for s, v, b in zip(free, self.start, best, strict=True)]) - 1.0

    def requirement(self, strategy: Strategy) -> Generator[NDArray[np.float32], NDArray[np.float32], Requirement]:
        surrogate = yield from self._cheapest(2)
        theory = yield from self._cheapest(5)
        theory_cost = math.inf if theory is None else float(self.weights.sum() + theory[0])
        if surrogate is None:
            nan = math.nan
            return Requirement(strategy, {}, {}, math.inf, nan, nan, nan, nan, theory_cost)
        t, direction = surrogate
        here = yield self._rows(np.array([t]), direction)
        low, high = yield from self._band(t, direction)
        factors = 1.0 + t * direction / self.weights
        values = {s: float(improved(s, v, k)) for s, v, k in zip(self.free, self.start, factors, strict=True)}
        return Requirement(
            strategy,
            dict(zip(self.free, factors.tolist(), strict=True)),
            values,
            float(self.weights.sum() + t),
            float(self.weights.sum() + low),
            float(self.weights.sum() + high),
            float(here[0, 2]),
            float(here[0, 5]),
            theory_cost,
        )

    def _cheapest(
        self, column: int
    ) -> Generator[NDArray[np.float32], NDArray[np.float32], tuple[float, NDArray[np.float64]] | None]:
        """The smallest t and its direction, by the probabilities in a column of the predictions; None without any."""
        random = np.random.default_rng(_SEED)
        if float((yield self._rows(np.zeros(1), self._axes()[0]))[0, column]) >= self.level:
            return 0.0, self._axes()[0]
        known: list[tuple[float, NDArray[np.float64]]] = []
        for spread in _ROUNDS:
            directions = self._directions(known, spread, random)
            reach = np.array([self._reach(d) for d in directions])
            if known:  # nothing beyond what is known is of interest, and little far below it
                reach = np.minimum(reach, 1.02 * known[0][0])
                t = reach[:, np.newaxis] * np.linspace(1.0 - min(0.5, 2.0 * spread), 1.0, _PLACES)
            else:
                t = np.geomspace(np.minimum(_SMALLEST, reach), reach, _PLACES, axis=-1)
            rows = np.concatenate([self._rows(line, d) for line, d in zip(t, directions, strict=True)])
            key = (yield rows)[:, column].astype(np.float64).reshape(t.shape)
            for line, probabilities, direction in zip(t, key, directions, strict=True):
                if (crossed := self._first(line, probabilities)) is not None:
                    known.append((crossed, direction))
            known = sorted(known, key=lambda pair: pair[0])[:_BEST]
            if not known:
                return None
        return known[0]

    def _first(self, t: NDArray[np.float64], key: NDArray[np.float64]) -> float | None:
        """The first of a line's points at which the level is reached, which is never too little."""
        above = np.flatnonzero(key >= self.level)
        return float(t[above[0]]) if above.size else None

    def _band(
        self, t: float, direction: NDArray[np.float64]
    ) -> Generator[NDArray[np.float32], NDArray[np.float32], tuple[float, float]]:
        """The t of both edges of the surrogate's uncertainty, along a direction."""
        along = np.linspace(0.0, min(self._reach(direction), max(3.0 * t, 1.0)), 4 * _PLACES)
        surer, less_sure = edges((yield self._rows(along, direction)).astype(np.float64))
        low, high = self._first(along, surer), self._first(along, less_sure)
        return (math.nan if low is None else low), (math.nan if high is None else high)

    def _reach(self, direction: NDArray[np.float64]) -> float:
        """The t at which the first parameter comes to the end of the space."""
        used = direction > 0.0
        return float(np.min(self.most[used] * self.weights[used] / direction[used]))

    def _axes(self) -> NDArray[np.float64]:
        return np.eye(len(self.free))

    def _directions(
        self, known: list[tuple[float, NDArray[np.float64]]], spread: float, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """Of parameters that can be improved at all, float64 [n, free], each of sum 1."""
        able = self.most > 0.0
        if not known:
            drawn = random.dirichlet(np.full(len(self.free), 0.6), _DIRECTIONS)
            made = np.concatenate([self._axes(), np.full((1, len(self.free)), 1.0), drawn])
        else:
            near = np.array([known[i % len(known)][1] for i in range(_DIRECTIONS)])
            made = near * np.exp(spread * random.standard_normal(near.shape))
            made += 0.1 * spread * random.random(near.shape) * (random.random(near.shape) < 0.3)
            made[random.random(near.shape) < 0.1] = 0.0
        made = made * able
        made = made[made.sum(axis=1) > 0.0]
        made[made < 1e-4 * made.sum(axis=1, keepdims=True)] = 0.0
        return made / made.sum(axis=1, keepdims=True)

    def _rows(self, t: NDArray[np.float64], direction: NDArray[np.float64]) -> NDArray[np.float32]:
        rows = np.tile(self.base, (len(t), 1))
        for j, (symbol, column) in enumerate(zip(self.free, self.columns, strict=True)):
            value = improved(symbol, self.start[j], 1.0 + np.minimum(t * direction[j] / self.weights[j], self.most[j]))
            rows[:, column] = np.log10(value) if PARAMETERS[column].is_log else value
        return rows
