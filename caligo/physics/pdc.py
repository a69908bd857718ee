"""A parametric down-conversion source between two lossy, noisy detector pairs, after Alice's click.

The source of Erven et al., Nat. Commun. 5:3418 (2014), Eq. 10: P_n = (n+1) x^n / (1+x)^(n+2) pairs,
x = mu/2, that is two independent thermal modes of mean x, shared by Alice's and Bob's detector pairs,
each of transmittance eta. Everything is conditioned on exactly one click at Alice (Wehner10 Appendix
C.2), whose sums over n close: a thermal mode shows no photon through transmittance t with probability
1/(1 + x t).
"""

from typing import NamedTuple


class HeraldedSource(NamedTuple):
    """Probabilities per round in which Alice saw one click."""

    vacuum: float
    """No pair was emitted: Alice's click was dark, and a perfect Bob sees nothing."""
    single: float
    """Exactly one pair was emitted."""
    no_click: float
    """Honest Bob sees nothing."""
    error: float
    """Honest Bob's bit is wrong, given that he clicked in Alice's basis."""


def heralded_source(mu: float, eta: float, e_det: float, p_dark: float) -> HeraldedSource:
    """Statistics of the source given one click at Alice (Wehner10 Eqs. C11-C14, C20-C27)."""
    x = 0.5 * mu
    quiet = 1.0 - p_dark
    dark_for_one = 1.0 / (1.0 + x * eta)
    dark_for_both = 1.0 / (1.0 + x * eta * (2.0 - eta))

    alice_silent = quiet * dark_for_one
    alice_clicks = 2.0 * alice_silent * (1.0 - alice_silent)
    vacuum = 2.0 * p_dark * quiet / (1.0 + x) ** 2 / alice_clicks
    single = quiet * (eta + 2.0 * p_dark * (1.0 - eta)) * 2.0 * x / (1.0 + x) ** 3 / alice_clicks

    right_silent = (dark_for_one - quiet * dark_for_both) / (1.0 - alice_silent)
    wrong_silent = dark_for_both / dark_for_one
    no_signal = right_silent * wrong_silent
    right_only = (1.0 - right_silent) * wrong_silent
    wrong_only = right_silent * (1.0 - wrong_silent)
    both = (1.0 - right_silent) * (1.0 - wrong_silent)
    no_click = quiet**2 * no_signal

    signal_error = e_det * right_only + (1.0 - e_det) * wrong_only + 0.5 * both
    signal_right = 1.0 - no_signal - signal_error
    dark_error = p_dark * (1.0 - 0.5 * p_dark)
    wrong = signal_error * (1.0 - 0.5 * p_dark) + signal_right * 0.5 * p_dark + no_signal * dark_error
    return HeraldedSource(vacuum, single, no_click, wrong / (1.0 - no_click))
