"""The 9-dimensional parameter space: names, units, scales, bounds, presets, coordinates.

Three kinds of coordinates occur:

* *physical*: what a person writes (nu = 0.25, dt = 1e9 ns);
* *model*: the columns of every design matrix, float32, with log10 where the scale is logarithmic;
* *unit*: model coordinates scaled to [0, 1] by the bounds of a space; what the surrogate sees.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo.errors import InvalidArgument

Float32Array = NDArray[np.float32]


class Scale(enum.StrEnum):
    """How a parameter is spread over its bounds by a design."""

    LINEAR = "linear"
    LOG = "log"
    """Uniform in log10; the model coordinate is log10 of the physical value."""
    BETA21 = "beta21"
    """Beta(2, 1) over the bounds, dense near the upper one; the model coordinate is the physical value."""


class Strategy(enum.IntEnum):
    """Reconciliation, the categorical ninth column. How Bob's errors are corrected: by one message whose code is chosen
    from calibration slots, or frame by frame, with Bob asking for more until it succeeds. Chosen by the two; the second
    discloses less and protects the receiver's choice against an honest-but-curious Alice only."""

    BASELINE = 0
    BLIND = 1


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One continuous dimension. `lowest` and `highest` limit what any space may ask for (physical units)."""

    symbol: str
    title: str
    unit: str
    scale: Scale
    lowest: float
    highest: float
    in_laboratory: str
    """What it is of, and how one comes by a value: a sentence for an experimentalist."""

    @property
    def is_log(self) -> bool:
        return self.scale is Scale.LOG

    @property
    def column(self) -> str:
        """Name of the model coordinate, e.g. `log10_nu`."""
        return f"log10_{self.symbol}" if self.is_log else self.symbol


PARAMETERS: Final[tuple[Parameter, ...]] = (
    Parameter(
        "r", "storage retention probability", "1", Scale.LINEAR, 0.0, 1.0,
        "The adversary's memory: the probability that it gives a stored qubit back intact, after one second "
        "(`memory_model: markov`) or after the wait (`fixed`). An assumption: the best memory that one grants him.",
    ),
    Parameter(
        "nu", "storage rate", "1", Scale.LOG, 1e-4, 1.0,
        "The size of his memory: qubits that it takes a detected round; 1 is every one of them. An assumption as well.",
    ),
    Parameter(
        "dt_ns", "wait time", "ns", Scale.LOG, 1e5, 1e11,
        "How long both wait between Bob's reports and Alice's bases, so that his memory decays. Chosen by the two; it "
        "costs time and nothing else.",
    ),
    Parameter(
        "F", "pair fidelity", "1", Scale.BETA21, 0.5, 1.0,
        "Fidelity of a pair to the Bell state, as tomography or the visibilities V in both bases give it: of a Werner "
        "pair (1 + 3V)/4. What detectors and noise do besides is not in it.",
    ),
    Parameter(
        "eta", "total transmittance", "1", Scale.LOG, 1e-4, 1.0,
        "Probability that a photon that Alice has heralded is detected by Bob, dark counts apart: coupling, fibre, "
        "optics and the detectors' efficiency multiplied; coincidences over Alice's singles.",
    ),
    Parameter(
        "e_det", "detector error probability", "1", Scale.LINEAR, 0.0, 0.5,
        "Probability that a detected photon takes the wrong port: polarisers, alignment, compensation of the fibre. Of "
        "a perfect pair it is the error rate without dark counts.",
    ),
    Parameter(
        "P_dark", "dark count probability a gate", "1", Scale.LOG, 1e-9, 1e-2,
        "Probability that one detector clicks without a photon in the window of a round: its dark count rate times the "
        "window, stray light included.",
    ),
    Parameter(
        "N", "pairs", "1", Scale.LOG, 1e3, 1e9,
        "Pairs of one run of the protocol, calibration slots included: the rate of the source times the seconds that a "
        "run takes.",
    ),
)  # fmt: skip
"""The eight continuous parameters in column order; the strategy is the ninth column."""

SYMBOLS: Final[tuple[str, ...]] = tuple(p.symbol for p in PARAMETERS)
COLUMNS: Final[tuple[str, ...]] = (*(p.column for p in PARAMETERS), "strategy")
DIMENSIONS: Final[int] = len(COLUMNS)
STRATEGY_COLUMN: Final[int] = DIMENSIONS - 1
COLUMN_SYMBOLS: Final[tuple[str, ...]] = (*SYMBOLS, COLUMNS[STRATEGY_COLUMN])
"""What each column is about: the symbol of its parameter, or `strategy`."""
LOG_COLUMNS: Final[tuple[int, ...]] = tuple(j for j, p in enumerate(PARAMETERS) if p.is_log)


@dataclasses.dataclass(frozen=True)
class Space:
    """A box in physical units with the share of rows that use blind reconciliation.

    Attributes:
        bounds: (low, high) of each of the eight parameters, by symbol, in column order.
        blind_fraction: share of blind rows, 0 to 1.
    """

    bounds: Mapping[str, tuple[float, float]]
    blind_fraction: float = 0.5

    def model_bounds(self) -> NDArray[np.float64]:
        """Bounds in model coordinates: float64 [2, 9], lower row first; the strategy column is [0, 1]."""
        box = np.array([self.bounds[p.symbol] for p in PARAMETERS], dtype=np.float64)
        logs = list(LOG_COLUMNS)
        box[logs] = np.log10(box[logs])
        return np.vstack([box, [0.0, 1.0]]).T

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """Those that some rows use, in order."""
        shares = {Strategy.BASELINE: 1 - self.blind_fraction, Strategy.BLIND: self.blind_fraction}
        return tuple(strategy for strategy, share in shares.items() if share > 0)

    def outside(self, inputs: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which model coordinates [n, 9] lie outside the box by more than rounding, bool [n, 9].

        A strategy that no row uses is outside.
        """
        low, high = self.model_bounds()
        slack = _ROUNDING * np.maximum(1.0, np.abs([low, high]))
        found = ~((inputs >= low - slack[0]) & (inputs <= high + slack[1]))  # NaN is outside
        found[:, STRATEGY_COLUMN] = ~np.isin(inputs[:, STRATEGY_COLUMN].round(), self.strategies)
        return found

    def check(self, inputs: NDArray[np.floating], *, extrapolate: bool = False) -> None:
        """Refuse rows that a model of this space knows nothing of.

        Args:
            inputs: model coordinates [n, 9].
            extrapolate: outside the bounds a model may guess; nothing makes up for a strategy that no row uses.

        Raises:
            InvalidArgument: names the first parameter that is outside.
        """
        outside = self.outside(inputs)
        if extrapolate:
            outside[:, :STRATEGY_COLUMN] = False
        for i, j in np.argwhere(outside)[:1]:
            if j == STRATEGY_COLUMN:
                names = " or ".join(strategy.name.lower() for strategy in self.strategies)
                raise InvalidArgument("strategy", f"must be {names}: the campaign has no others")
            p = PARAMETERS[j]
            value = 10.0 ** inputs[i, j] if p.is_log else inputs[i, j]
            low, high = self.bounds[p.symbol]
            raise InvalidArgument(
                p.symbol,
                f"{value:.6g} is outside the campaign's space, [{low:g}, {high:g}]; `extrapolate` has it guessed",
            )

    def to_unit(self, inputs: NDArray[np.floating]) -> Float32Array:
        """Model coordinates [n, 9] to unit coordinates, float32 [n, 9]. A dimension of zero width maps to 0."""
        low, high = self.model_bounds()
        width = np.where(high > low, high - low, 1.0)
        return ((inputs - low) / width).astype(np.float32)

    def from_unit(self, unit: NDArray[np.floating]) -> Float32Array:
        """Unit coordinates [n, 9] to model coordinates, float32 [n, 9], inside the bounds."""
        low, high = self.model_bounds()
        return np.clip(low + np.asarray(unit, dtype=np.float64) * (high - low), low, high).astype(np.float32)


FEWEST_STEPS: Final = 256
"""Values of float32 between two bounds below which they count as one: unit coordinates would be steps of their own."""


def tell_apart(parameter: Parameter, low: float, high: float) -> bool:
    """Whether rows, float32 in model coordinates, can have enough values of a parameter between two bounds."""
    ends = np.array([low, high], dtype=np.float64)
    ends = np.log10(ends) if parameter.is_log else ends
    step = float(np.spacing(np.abs(ends).max().astype(np.float32)))
    return float(ends[1] - ends[0]) >= FEWEST_STEPS * step


_ROUNDING: Final = 1e-5
"""Relative. A float32 log10 loses up to 1e-6 of its value; a bound met exactly must not be refused for it."""

_TABLE1: Final = {
    "r": (0.0, 1.0),
    "nu": (1e-3, 1.0),
    "dt_ns": (1e5, 1e9),
    "F": (0.501, 1.0),
    "eta": (1e-3, 1.0),
    "e_det": (0.0, 0.1),
    "P_dark": (1e-8, 1e-3),
    "N": (1e4, 1e6),
}

PRESETS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    # physics.md section 7: space D, both sides of the cliff are populated.
    "cliff": {
        "r": (0.50, 0.99),
        "nu": (0.05, 1.0),
        "dt_ns": (1e7, 1e10),
        "F": (0.85, 1.0),
        "eta": (1e-2, 1.0),
        "e_det": (0.0, 0.05),
        "P_dark": (1e-8, 1e-3),
        "N": (10**4.5, 1e8),
    },
    # Space B: nearly everything is secure.
    "qia2025": {
        "r": (0.60, 0.95),
        "nu": (0.25, 1.0),
        "dt_ns": (1e9, 1e10),
        "F": (0.950, 0.995),
        "eta": (10**-0.52, 10**-0.02),
        "e_det": (0.001, 0.020),
        "P_dark": (1e-8, 1e-6),
        "N": (10**4.7, 1e6),
    },
    # Space A: nearly everything is insecure.
    "table1": _TABLE1,
}
"""Bounds in physical units of the named spaces."""


_LIMITS: Final = Space({p.symbol: (p.lowest, p.highest) for p in PARAMETERS}).model_bounds()
_FOLDED: Final = 64
_SLACK: Final = _ROUNDING * np.maximum(1.0, np.abs(_LIMITS))


def check_limits(inputs: NDArray[np.floating], field: str = "inputs") -> None:
    """Refuse rows outside what the parameters allow: there no formula means anything.

    Args:
        inputs: model coordinates [n, 9].
        field: path of the rows in their request, for the error.

    Raises:
        InvalidArgument: names the column and its limits.
    """
    if not len(inputs):
        return
    lowest, highest = _down_columns(np.minimum, inputs), _down_columns(np.maximum, inputs)
    inside = (lowest >= _LIMITS[0] - _SLACK[0]) & (highest <= _LIMITS[1] + _SLACK[1])
    for j in np.flatnonzero(~inside):  # NaN is not inside
        low, high = _LIMITS[:, j]
        raise InvalidArgument(f"{field}[{COLUMNS[j]}]", f"must lie in [{low:g}, {high:g}], model coordinates")


def _down_columns(function: np.ufunc, inputs: NDArray[np.floating]) -> NDArray[np.floating]:
    """Reduce rows [n, 9], n > 0, to one. NumPy is 40 times quicker where rows are long: many are taken as one first."""
    whole = len(inputs) // _FOLDED * _FOLDED
    if whole:
        folded = function.reduce(inputs[:whole].reshape(-1, _FOLDED * DIMENSIONS), axis=0)
        inputs = np.concatenate([folded.reshape(_FOLDED, DIMENSIONS), inputs[whole:]])
    return function.reduce(inputs, axis=0)


@dataclasses.dataclass(frozen=True, slots=True)
class ExplorationSample:
    """One design row in physical units. Made just before it is simulated and dropped right after."""

    index: int
    r: float
    nu: float
    dt_ns: float
    F: float
    eta: float
    e_det: float
    P_dark: float
    N: int
    strategy: Strategy

    @classmethod
    def inflate(cls, index: int, row: Float32Array) -> ExplorationSample:
        """Make a sample from a row in model coordinates.

        Args:
            index: number of the sample within its phase.
            row: float32 [9], model coordinates.

        Raises:
            InvalidArgument: a coordinate is not finite or outside what its parameter allows.
        """
        values = [float(x) for x in row]
        for j in LOG_COLUMNS:
            values[j] = 10.0 ** values[j]
        for parameter, value in zip(PARAMETERS, values, strict=False):
            if not parameter.lowest * (1 - _ROUNDING) <= value <= parameter.highest * (1 + _ROUNDING):
                raise InvalidArgument(
                    f"inputs[{parameter.symbol}]",
                    f"{value:g} is outside {parameter.lowest:g} to {parameter.highest:g}",
                )
        r, nu, dt_ns, fidelity, eta, e_det, dark, pairs = (
            min(max(v, p.lowest), p.highest) for p, v in zip(PARAMETERS, values, strict=False)
        )
        strategy = Strategy(round(values[STRATEGY_COLUMN]))
        return cls(index, r, nu, dt_ns, fidelity, eta, e_det, dark, round(pairs), strategy)
