"""Real devices between the pairs and the rounds: fibre, several pairs a gate, dead time, afterpulses, drift.

A device changes what a round is distributed like; the security statements see it through three numbers, the click
probability, the error rate and the share of rounds that hold more than one pair. Everything is per round: one gate in
which Bob's detectors are open, of a source of single pairs or, for parametric down-conversion, one that a click of
Alice's announced. Both of Bob's detectors are blocked together after a click (each for itself would tell the next bit,
Weier et al., New J. Phys. 13, 073024 (2011)).
"""

from dataclasses import dataclass, replace
from math import exp, expm1, inf, log, log1p, pi
from typing import Any, Literal, NamedTuple

import numpy as np

from . import detection
from .arrays import double
from .detection import Convention

TILE = 2**16
"""Rounds made together: over them the alignment stands still, and the detectors' past reaches back that far at most."""

Drift = Literal["none", "sine", "walk"]
"""How the alignment of the analysers moves: not at all, by a sinusoid of random phase, by a random walk from 0."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a link is made of, in units of rounds; the defaults are the ideal device, which adds nothing."""

    transmission: float = 1.0
    """Of the fibre and its connectors, (0, 1]; multiplies the efficiency of the parameter space."""
    dark: float = 0.0
    """Dark count probability of each of Bob's detectors a round, beside that of the parameter space, [0, 1)."""
    mean_pairs: float = 0.0
    """Pairs of a parametric source in a gate, at least 0; 0: single pairs, each of which is a round."""
    leaking_pairs: float = 0.0
    """Mean pairs within the time in which photons cannot be told apart: of these several are one adversary's gain."""
    modes: float = inf
    """Schmidt modes K: 1 thermal, inf Poisson."""
    alice_efficiency: float = 1.0
    """Of Alice's side with her detectors, (0, 1]."""
    alice_dark: float = 0.0
    """Dark count probability of each of Alice's detectors a gate, [0, 1)."""
    dead_rounds: int = 0
    """Rounds for which both of Bob's detectors are blocked after a click."""
    afterpulse: float = 0.0
    """Probability that a click leaves a carrier, [0, 1)."""
    afterpulse_decay: float = 0.0
    """Mean rounds for which a carrier stays after the dead time, at least 0."""
    x_error: float = 0.0
    """Probability of the wrong port in basis X beside that of both bases, [0, 1/2]."""
    drift: Drift = "none"
    """What the analysers' rotation theta does over a run."""
    drift_amplitude: float = 0.0
    """sine: its amplitude, rad; walk: its standard deviation after `drift_period`, rad."""
    drift_period: float = inf
    """Rounds: of a sinusoid its period."""

    def without_losses(self, efficiency: Any, dark_count_prob: Any) -> tuple["Device | None", Any, Any]:
        """The device without its fibre and its own dark counts, which go into the link's; None if nothing is left."""
        both = dark_count_prob + self.dark - dark_count_prob * self.dark
        rest = replace(self, transmission=1.0, dark=0.0)
        return None if rest == Device() else rest, efficiency * self.transmission, both

    @property
    def has_memory(self) -> bool:
        """A round depends on those before it."""
        return self.dead_rounds > 0 or self.afterpulse > 0.0


class Law(NamedTuple):
    """How rounds are distributed, arrays of float64 or numbers."""

    click: Any
    """Probability that Bob sees a click in a round."""
    qber: Any
    """Error probability of a clicked round with equal bases, on average over bases and drift."""
    qber_sd: Any
    """Standard deviation from run to run of a run's error rate, by drift."""
    still_qber: Any
    """`qber` without drift, the least that a run has."""
    several: Any
    """Probability that a round holds more than one pair."""
    live_click: Any
    """Probability of a click while the detectors are alive, but for afterpulses."""
    live_qber: tuple[Any, Any]
    """Of such a click: error probability in bases Z and X, before any drift."""


def law(
    device: Device | None,
    fidelity: Any,
    efficiency: Any,
    detector_error: Any,
    dark_count_prob: Any,
    rounds: Any,
    convention: Convention,
    xp: Any = np,
) -> Law:
    """The rounds of a device, differentiable in PyTorch.

    fidelity, efficiency, detector_error, dark_count_prob: those of `detection.qber`, efficiency without the fibre;
    rounds: length of the run, over which drift is averaged; device: None for the ideal one. Arguments broadcast.
    Raises ValueError for an unknown convention or drift.
    """
    source_error = detection.source_error(fidelity, convention)
    if device is not None:
        device, efficiency, dark_count_prob = device.without_losses(efficiency, dark_count_prob)
    device = device or Device()
    wrong_z = _either(source_error, detector_error)
    wrong_x = _either(wrong_z, device.x_error)
    if device.mean_pairs > 0.0:
        both = parametric(device, efficiency, wrong_z, dark_count_prob, xp)
        live, several, in_z = both.click, both.several, both.error
        in_x = parametric(device, efficiency, wrong_x, dark_count_prob, xp).error if device.x_error else in_z
    else:
        live = detection.click_probability(efficiency, dark_count_prob)
        in_z, in_x = (_single_error(wrong, efficiency, dark_count_prob, live, xp) for wrong in (wrong_z, wrong_x))
        several = 0.0 * live
    mean, sd = rotation(device, rounds, xp)
    still = 0.5 * (in_z + in_x)
    moved = still + (1.0 - 2.0 * still) * mean
    click, of_carriers = _with_memory(device, live, xp)
    qber, least = (rate + (0.5 - rate) * of_carriers for rate in (moved, still))
    return Law(click, qber, (1.0 - 2.0 * still) * (1.0 - of_carriers) * sd, least, several, live, (in_z, in_x))


def known_rounds(device: Device | None, law: Law, detected: Any, rounds: Any, eps: float, xp: Any = np) -> Any:
    """Of the detected rounds, those that may hold several pairs, which a dishonest Bob knows and reports first.

    What he reports as lost are single pairs, so that at least m_1 = (P_click - P(n > 1) - 3 zeta) n of those that he
    reports as detected are (Erven et al., Nat. Commun. 5:3418 (2014), after Eq. 3); zeta = sqrt(ln(2/eps)/(2n)). None
    where every round holds a single pair.
    """
    if device is None or not device.leaking_pairs:
        return 0.0
    zeta = xp.sqrt(log(2.0 / eps) / (2.0 * double(rounds, xp)))
    single = xp.clip((law.click - law.several - 3.0 * zeta) * rounds, 0.0, None)
    return xp.clip(detected - single, 0.0, None)


def look_back(device: Device, click: float) -> float:
    """Rounds before which the detectors' state does not matter, on average.

    That they are alive is known after `dead_rounds` without a click, which takes ((1-p)^-D - 1)/p rounds; ten decay
    times of a carrier come beside it. click: probability of one while they are alive.
    """
    known = expm1(min(700.0, -device.dead_rounds * log1p(-click))) / click if 0.0 < click < 1.0 else inf
    return (known if device.dead_rounds and click else 0.0) + 10.0 * device.afterpulse_decay


def blind_design(law: Law) -> Any:
    """The error rate that a blind run's code is chosen for: two deviations above the mean, since nothing is measured
    and a code that is too weak has no frame to go on from."""
    return law.qber + 2.0 * law.qber_sd


def rates_of_runs(device: Device | None, law: Law) -> list[tuple[float, Any]]:
    """(weight, error rate) of runs as drift leaves them apart; one, of weight 1, where there is no drift.

    A run that is short against the sinusoid sees the arcsine law (Chebyshev nodes); a walk's mean square is nearly one
    square of a normal number, its first Karhunen-Loeve component, beside a constant (Hermite nodes).
    """
    if device is None or device.drift == "none":
        return [(1.0, law.qber)]
    if device.drift == "sine":
        nodes = 2.0**0.5 * np.cos((np.arange(_RUNS) + 0.5) * (pi / _RUNS))
        weights = np.full(_RUNS, 1.0 / _RUNS)
    else:
        points, weights = np.polynomial.hermite_e.hermegauss(2 * _RUNS)
        nodes, weights = (points[_RUNS:] ** 2 - 1.0) * 0.5**0.5, 2.0 * weights[_RUNS:] / weights.sum()
    return [(float(w), law.qber + float(node) * law.qber_sd) for node, w in zip(nodes, weights, strict=True)]


def _either(p: Any, q: Any) -> Any:
    """Probability that exactly one of two independent errors happens."""
    return p + q - 2.0 * p * q


def _single_error(wrong: Any, efficiency: Any, dark: Any, click: Any, xp: Any) -> Any:
    """detection.conditional_qber."""
    photon = efficiency * (wrong * (1.0 - dark) + 0.5 * dark)
    dark_only = (1.0 - efficiency) * dark * (2.0 - dark)
    rate = (photon + 0.5 * dark_only) / xp.clip(click, 1e-300, None)
    return xp.clip(xp.where(click > 0.0, rate, 0.5 + 0.0 * rate), 0.0, 1.0)


class Heralded(NamedTuple):
    """Rounds of a parametric source: gates in which exactly one of Alice's detectors clicked."""

    round: Any
    """Probability that a gate is a round."""
    click: Any
    """Of a round: that Bob sees a click."""
    error: Any
    """Of a clicked round with equal bases: that Bob's bit is wrong."""
    double: Any
    """Of a clicked round: that both of his detectors fired."""
    several: Any
    """Of a round: that more than one pair was emitted, with `leaking_pairs` in the place of `mean_pairs`."""


def parametric(device: Device, efficiency: Any, wrong_port: Any, dark_count_prob: Any, xp: Any = np) -> Heralded:
    """Statistics of a parametric source of K Schmidt modes in each of two polarisations, thermal each.

    The probability that none of a set of detectors fires closes (Erven et al., Nat. Commun. 5:3418 (2014), Eq. 10 and
    Wehner et al., Phys. Rev. A 81, 052336 (2010), Appendix C.2, have it for K = 1); patterns follow by inclusion and
    exclusion. Of all photons each takes the wrong port with `wrong_port` for itself; a double click is a fair coin.
    What is summed are probabilities that some detector fires, which keep their digits where pairs are rare.
    """
    eta_a, dark_a, modes = device.alice_efficiency, device.alice_dark, device.modes
    x = 0.5 * device.mean_pairs / (modes if modes < inf else 1.0)

    def fires(a: tuple[int, int], b: tuple[int, int]) -> Any:
        """Probability that one of a set of detectors fires: a of Alice's, b of Bob's."""
        silent = sum(a) * xp.log1p(double(-dark_a, xp)) + sum(b) * xp.log1p(-double(dark_count_prob, xp))
        for port in (0, 1):
            seen_a = eta_a * a[port]
            seen_b = efficiency * ((1.0 - wrong_port) * b[port] + wrong_port * b[1 - port])
            seen = seen_a + seen_b - seen_a * seen_b
            silent = silent - (modes * xp.log1p(x * seen) if modes < inf else x * seen)
        return -xp.expm1(silent)

    none, one = (0, 0), (0, 1)
    all_, zero = (1, 1), (1, 0)
    # Alice's detector 0 fires and 1 does not: half of all rounds. fires(S + {A0}) - fires(S) is the probability that A0
    # fires and none of S does.
    half = fires(all_, none) - fires(one, none)
    nothing = fires(all_, all_) - fires(one, all_)
    not_wrong = fires(all_, one) - fires(one, one)
    not_right = fires(all_, zero) - fires(one, zero)
    right, wrong = not_wrong - nothing, not_right - nothing
    clicked = half - nothing
    both = clicked - right - wrong
    shown = xp.clip(clicked, 1e-300, None)
    return Heralded(2.0 * half, clicked / half, (wrong + 0.5 * both) / shown, both / shown, _several(device, half))


def _several(device: Device, like: Any) -> Any:
    """Probability of more than one pair in a round, as an array like `like`."""
    mu, modes, eta, dark = device.leaking_pairs, device.modes, device.alice_efficiency, device.alice_dark
    if mu <= 0.0:
        return 0.0 * like
    if modes < inf:
        x = 0.5 * mu / modes
        vacuum, single = (1.0 + x) ** (-2.0 * modes), 2.0 * modes * x * (1.0 + x) ** (-2.0 * modes - 1.0)
        one = log1p(-dark) - modes * log1p(x * eta)
        two = 2.0 * log1p(-dark) - 2.0 * modes * log1p(x * eta)
    else:
        vacuum, single = exp(-mu), mu * exp(-mu)
        one = log1p(-dark) - 0.5 * mu * eta
        two = 2.0 * log1p(-dark) - mu * eta
    rounds = 2.0 * (expm1(one) - expm1(two))
    fired = 1.0 - (1.0 - eta) * (1.0 - dark)
    of_single = fired * (1.0 - dark) + (1.0 - eta) * (1.0 - dark) * dark
    few = vacuum * 2.0 * dark * (1.0 - dark) + single * of_single
    return 0.0 * like + max(0.0, 1.0 - few / rounds)


def _with_memory(device: Device, live: Any, xp: Any) -> tuple[Any, Any]:
    """Click probability of a round, and the share of clicks whose bit a carrier decided.

    With both detectors dead together for D rounds the clicks alone are a renewal process, of p/(1 + p D) a round. A
    carrier is released 1 + D + delta rounds after its click, delta geometric with ratio q, and is lost where another
    click's dead time has begun: the chance that the detectors are alive then is the generating function of the
    renewals, (1-q)/(1 - (1-p) q - p q^(D+1)). Of two that fire in one round one click is left.
    """
    p, dead = live, float(device.dead_rounds)
    if device.afterpulse <= 0.0:
        return p / (1.0 + p * dead), 0.0 * p
    q = exp(-1.0 / device.afterpulse_decay) if device.afterpulse_decay > 0.0 else 0.0
    fired = p
    for _ in range(3):  # carriers of other clicks kill as well
        alive = (1.0 - q) / (1.0 - (1.0 - fired) * q - fired * q ** (dead + 1.0))
        click = p / (1.0 + p * dead - device.afterpulse * alive * (1.0 - p))
        fired = click / (1.0 - click * dead)
    released = click * device.afterpulse * alive
    # Alone it decides the bit; beside another click it does where the coin takes it, which is half of half the time.
    return click, released * ((1.0 - p) + 0.5 * p) / xp.clip(click, 1e-300, None)


def rotation(device: Device, rounds: Any, xp: Any = np) -> tuple[Any, Any]:
    """Mean and standard deviation, from run to run, of sin^2(theta) averaged over a run of so many rounds.

    sine: (1 - J0(2a))/2 over all phases; what a run averages out is the sinc of its length. walk from 0 to a variance
    V: 1/2 - (1 - e^(-2V))/(4V), and the second moment by E cos 2s cos 2t = (e^(-2(t-s)) + e^(-2(t+3s)))/2. Raises
    ValueError for an unknown drift.
    """
    rounds = double(rounds, xp)
    if device.drift == "none":
        return 0.0 * rounds, 0.0 * rounds
    if device.drift == "sine":
        phase = np.arange(_PHASES) * (2.0 * pi / _PHASES)
        swing = np.cos(2.0 * device.drift_amplitude * np.sin(phase))
        level, harmonic = float(swing.mean()), float((swing * np.cos(2.0 * phase)).mean())
        mean = 0.5 * (1.0 - level)
        return mean + 0.0 * rounds, abs(harmonic) * 0.5**0.5 * xp.abs(xp.sinc(2.0 * rounds / device.drift_period))
    if device.drift != "walk":
        raise ValueError(f"drift must be 'none', 'sine' or 'walk', not {device.drift!r}")
    end = device.drift_amplitude**2 / device.drift_period * rounds
    v = xp.clip(end, _SMALL_WALK, None)
    kept = -xp.expm1(-2.0 * v) / (2.0 * v)
    second = 0.5 * v - 0.25 * -xp.expm1(-2.0 * v) - xp.expm1(-8.0 * v) / 16.0
    second = (second + xp.exp(-2.0 * v) * xp.expm1(-6.0 * v) / 12.0) / v**2
    spread = 0.5 * xp.sqrt(xp.clip(second - kept**2, 0.0, None))
    is_small = end < _SMALL_WALK  # where the differences cancel
    return xp.where(is_small, 0.5 * end, 0.5 * (1.0 - kept)), xp.where(is_small, end / 3.0**0.5, spread)


_RUNS = 4
"""Nodes that stand for runs."""
_PHASES = 256
_SMALL_WALK = 1e-3
