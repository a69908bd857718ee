"""Closed forms of the simulated protocol: detection, security, finite-size key length, prediction.

They import nothing else of caligo; `claims` says what a key length claims. What one run is expected to give, and how
far it may be from it, `predict` says over arrays of NumPy or PyTorch; `entropy_arrays`, `leakage` and `blind` are its
parts. What a real run gives is judged by scalar functions of plain `math`. Those of LEAVES take and return floats only
(`frame_size` and `memory` are integers, a table is a tuple) and can be compiled by numba:

    for leaf in LEAVES:
        numba.extending.register_jitable(leaf)

`caligo.physics.vectorized` calls them once an element. docs/physics.md holds the derivations.
"""

from collections.abc import Callable

from . import detection, efficiency, entropy, finite_key, security
from .claims import CLAIMS, Claim, Counts, KeyBits, claim
from .feasibility import feasibility_margin, is_feasible
from .prediction import Prediction, predict

LEAVES: tuple[Callable[..., float], ...] = (
    entropy.binary_entropy,
    entropy.solve_entropy,
    entropy.inverse_binary_entropy,
    detection.click_probability,
    detection.source_error_fidelity,
    detection.source_error_weight,
    detection.conditional_qber,
    security.markov_retention,
    security.storage_capacity,
    security.gamma,
    security.strong_converse_exponent,
    security.rate_after_storage,
    security.min_entropy_rate_individual,
    security.min_entropy_rate_lupo2023,
    security.min_entropy_rate_stw09,
    security.min_entropy_rate_kww2012,
    security.min_entropy_rate_erven2014,
    security.entropy_surplus,
    finite_key.immediate_measurement_entropy,
    finite_key.balancing_cost,
    finite_key.round_entropy,
    finite_key.unknown_bits,
    finite_key.min_entropy_individual,
    finite_key.min_entropy_lupo2023,
    finite_key.min_entropy_stw09,
    finite_key.min_entropy_kww2012,
    finite_key.min_entropy_erven2014,
    finite_key.detection_tolerance,
    finite_key.wilson_upper,
    finite_key.serfling_margin,
    efficiency._log_interpolated,
    efficiency.baseline_efficiency,
    efficiency.blind_efficiency,
)

__all__ = [
    "CLAIMS",
    "LEAVES",
    "Claim",
    "Counts",
    "KeyBits",
    "Prediction",
    "claim",
    "feasibility_margin",
    "is_feasible",
    "predict",
]
