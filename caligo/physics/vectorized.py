"""The functions of caligo.physics over NumPy arrays, under the same names.

Arguments broadcast and results are float64: the scalar functions called once an element, for tables,
figures and tests. feasibility_margin_float32 is the one closed form written for speed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import detection, efficiency, entropy, feasibility, finite_key, security
from .security import REFERENCE_WAIT_NS

Float32Array = NDArray[np.float32]


def _over_arrays(function: Any) -> np.vectorize:
    return np.vectorize(function, otypes=[np.float64])


binary_entropy = _over_arrays(entropy.binary_entropy)
inverse_binary_entropy = _over_arrays(entropy.inverse_binary_entropy)
click_probability = _over_arrays(detection.click_probability)
qber = _over_arrays(detection.qber)
effective_retention = _over_arrays(security.effective_retention)
storage_capacity = _over_arrays(security.storage_capacity)
gamma = _over_arrays(security.gamma)
strong_converse_exponent = _over_arrays(security.strong_converse_exponent)
min_entropy_rate = _over_arrays(security.min_entropy_rate)
immediate_measurement_entropy = _over_arrays(finite_key.immediate_measurement_entropy)
min_entropy_individual = _over_arrays(finite_key.min_entropy_individual)
baseline_efficiency = _over_arrays(efficiency.baseline_efficiency)
blind_efficiency = _over_arrays(efficiency.blind_efficiency)
feasibility_margin = _over_arrays(feasibility.feasibility_margin)


def feasibility_margin_float32(
    r: Float32Array,
    nu: Float32Array,
    wait_time_ns: Float32Array,
    fidelity: Float32Array,
    efficiency: Float32Array,
    detector_error: Float32Array,
    dark_count_prob: Float32Array,
) -> Float32Array:
    """feasibility.feasibility_margin in its default options, in float32 throughout, shape (n,) each.

    Physical units as there; needs efficiency or dark_count_prob above 0.
    """
    r_eff = r ** (wait_time_ns / np.float32(REFERENCE_WAIT_NS))
    entropy_rate = 0.5 * (1.0 - nu) + nu * np.minimum(np.float32(0.5), 1.0 - r_eff)

    source_error = (2.0 / 3.0) * (1.0 - fidelity)
    wrong_port = source_error + detector_error - 2.0 * source_error * detector_error
    photon = efficiency * (wrong_port * (1.0 - dark_count_prob) + 0.5 * dark_count_prob)
    dark_only = (1.0 - efficiency) * dark_count_prob * (2.0 - dark_count_prob)
    error_rate = (photon + 0.5 * dark_only) / (efficiency + dark_only)

    p = np.clip(error_rate, np.finfo(np.float32).tiny, np.float32(0.5))
    margin: Float32Array = entropy_rate + p * np.log2(p) + (1.0 - p) * np.log2(1.0 - p)
    return margin
