"""What honest Bob's detectors show: click probability and error rate of one pair.

Werner pairs from a source in Alice's laboratory, all loss and noise on Bob's side, two threshold
detectors behind an active basis choice, a double click read as a fair coin. The click statistics are
those of Wehner, Curty, Schaffner, Lo, Phys. Rev. A 81, 052336 (2010), Eqs. C9 and C11-C14, with the
wrong-port probability of a photon in the place of e_det.
"""

from typing import Any, Literal

Convention = Literal["fidelity", "weight"]


def click_probability(efficiency: float, dark_count_prob: float) -> float:
    """Probability that at least one of Bob's two detectors fires in a round (Wehner10 Eq. C9).

    efficiency: Bob's total transmittance, [0, 1]; dark_count_prob: per detector and gate, [0, 1].
    """
    return efficiency + (1.0 - efficiency) * dark_count_prob * (2.0 - dark_count_prob)


def source_error_fidelity(fidelity: float) -> float:
    """Equal-basis disagreement 2(1-F)/3 of a Werner pair of fidelity F = <Phi+|rho|Phi+>, [1/4, 1]."""
    return 2.0 * (1.0 - fidelity) / 3.0


def source_error_weight(weight: float) -> float:
    """Equal-basis disagreement (1-w)/2 of the Werner pair w Phi+ + (1-w) I/4, w in [0, 1]."""
    return 0.5 * (1.0 - weight)


def source_error(fidelity: Any, convention: Convention) -> Any:
    """Equal-basis disagreement of the pair itself, of numbers or arrays.

    convention says what `fidelity` is: "fidelity" the state fidelity F, "weight" the weight w of Phi+
    in the Werner mixture (F = (1+3w)/4). Raises ValueError for another name.
    """
    if convention == "fidelity":
        return source_error_fidelity(fidelity)
    if convention == "weight":
        return source_error_weight(fidelity)
    raise ValueError(f"convention must be 'fidelity' or 'weight', not {convention!r}")


def conditional_qber(source_error: float, efficiency: float, detector_error: float, dark_count_prob: float) -> float:
    """Error probability of a clicked round with equal bases (Wehner10 Eqs. C11-C14 over C9).

    source_error: disagreement of the pair itself, [0, 1/2]; detector_error: probability that a photon
    fires the wrong detector, [0, 1/2]. 1/2 where nothing ever clicks. Unequal bases always give 1/2.
    """
    click = click_probability(efficiency, dark_count_prob)
    if click <= 0.0:
        return 0.5
    wrong_port = source_error + detector_error - 2.0 * source_error * detector_error
    photon = efficiency * (wrong_port * (1.0 - dark_count_prob) + 0.5 * dark_count_prob)
    dark_only = (1.0 - efficiency) * dark_count_prob * (2.0 - dark_count_prob)
    return (photon + 0.5 * dark_only) / click


def qber(
    fidelity: float,
    efficiency: float,
    detector_error: float,
    dark_count_prob: float,
    convention: Convention = "fidelity",
) -> float:
    """Equal-basis error rate, [0, 1/2] within the parameter space; `convention` as in source_error."""
    return conditional_qber(source_error(fidelity, convention), efficiency, detector_error, dark_count_prob)
