"""Expected reconciliation efficiency f = leak / (bits h(Q)), without the tag.

What the plans of the shipped codes disclose: in the baseline by the error rate and by how rarely a frame may fail, in
the blind protocol at their own error rate on average (`plans` of the simulator, from its measured frame error rates).
Measured with frames by `python -m benchmarks.reconciliation_efficiency`, which also holds it against the
observed-channel approximation of Martinez-Mateo et al., "Blind reconciliation" (2012), Appendix A, for ideal codes;
docs/performance.md has both.
"""

from math import exp, log

BASELINE = 0
BLIND = 1
FRAME_SIZES = (4096, 65536)
PAYLOADS = (3686, 58982)
"""Bits of a frame of each size that carry the string."""

# fmt: off
QBER = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.010,
    0.015, 0.020, 0.025, 0.030, 0.040, 0.050, 0.060, 0.080, 0.100,
)
DEVIATIONS = (2.0, 3.0, 4.0, 5.0, 6.0)
"""z of the probability Phi(-z) that a frame of the baseline fails: from 2.3 % to 1e-9."""
BASELINE_EFFICIENCY = (
    (
        (25.232, 11.088, 5.991, 3.258, 2.242, 2.016, 1.889, 1.774, 1.551,
         1.437, 1.375, 1.338, 1.308, 1.271, 1.235, 1.218, 1.173, 1.148),
        (25.232, 11.088, 5.991, 3.781, 2.855, 2.449, 2.185, 2.061, 1.743,
         1.567, 1.502, 1.441, 1.396, 1.334, 1.302, 1.274, 1.219, 1.178),
        (25.6, 12.545, 7.74, 5.208, 3.506, 2.854, 2.762, 2.449, 1.941,
         1.777, 1.64, 1.546, 1.517, 1.422, 1.354, 1.333, 1.286, 1.185),
        (40.334, 17.725, 9.577, 6.445, 4.158, 3.775, 3.122, 2.808, 2.142,
         1.934, 1.761, 1.692, 1.613, 1.506, 1.44, 1.394, 1.322, 1.185),
        (52.49, 23.633, 16.748, 9.751, 5.514, 4.226, 3.706, 3.321, 2.555,
         2.122, 1.92, 1.834, 1.686, 1.588, 1.533, 1.433, 1.355, 1.185),
    ),
    (
        (25.149, 11.051, 5.971, 3.247, 1.78, 1.398, 1.335, 1.354, 1.266,
         1.197, 1.158, 1.157, 1.141, 1.127, 1.119, 1.11, 1.114, 1.112),
        (25.149, 11.051, 5.971, 3.247, 1.78, 1.487, 1.396, 1.421, 1.309,
         1.231, 1.203, 1.178, 1.182, 1.144, 1.137, 1.129, 1.125, 1.12),
        (25.149, 11.051, 5.971, 3.247, 1.78, 1.574, 1.575, 1.493, 1.356,
         1.26, 1.228, 1.201, 1.205, 1.184, 1.157, 1.148, 1.136, 1.128),
        (25.149, 11.051, 5.971, 3.247, 1.87, 1.646, 1.628, 1.559, 1.401,
         1.285, 1.254, 1.225, 1.228, 1.202, 1.176, 1.168, 1.148, 1.139),
        (25.149, 11.051, 5.971, 3.247, 2.026, 1.715, 1.73, 1.625, 1.447,
         1.308, 1.283, 1.249, 1.252, 1.221, 1.194, 1.188, 1.16, 1.152),
    ),
)
"""By frame size, z of DEVIATIONS and point of QBER. Where no code serves, what the code of the lowest rate discloses:
more than any claim leaves."""
BLIND_EFFICIENCY = (
    (25.232, 11.088, 5.991, 3.26, 2.855, 2.021, 1.616, 1.647, 1.398,
     1.332, 1.219, 1.209, 1.177, 1.172, 1.143, 1.142, 1.111, 1.093),
    (25.149, 11.051, 5.971, 3.247, 1.78, 1.282, 1.245, 1.311, 1.195,
     1.151, 1.148, 1.129, 1.128, 1.1, 1.097, 1.088, 1.101, 1.102),
)
"""By frame size and point of QBER."""
# fmt: on

_LOWEST_QBER = 1e-4
LEAST_LEAKAGE = (137 / 3686, 2185 / 58982)
"""By frame size: public bits per reconciled bit, without tags, that the code of the highest rate costs however few
the errors."""


def baseline_efficiency(qber: float, deviations: float, frame_size: int = 4096) -> float:
    """f of the baseline at error rate qber, where a frame fails with probability Phi(-deviations).

    Linear in log Q, deviations and log f between the points of the table, constant outside.
    """
    rows = BASELINE_EFFICIENCY[0 if frame_size == FRAME_SIZES[0] else 1]
    z = min(max(deviations, DEVIATIONS[0]), DEVIATIONS[-1])
    j = min(int(z - DEVIATIONS[0]), len(DEVIATIONS) - 2)
    weight = z - DEVIATIONS[j]
    return exp((1.0 - weight) * _log_interpolated(rows[j], qber) + weight * _log_interpolated(rows[j + 1], qber))


def blind_efficiency(qber: float, frame_size: int = 4096) -> float:
    """f of the blind protocol at error rate qber. Linear in (log Q, log f) between the points, constant outside."""
    return exp(_log_interpolated(BLIND_EFFICIENCY[0 if frame_size == FRAME_SIZES[0] else 1], qber))


def _log_interpolated(table: tuple[float, ...], qber: float) -> float:
    q = max(qber, _LOWEST_QBER)
    if q >= QBER[-1]:
        return log(table[-1])
    i = 0
    for j in range(1, len(QBER) - 1):
        if q >= QBER[j]:
            i = j
    weight = log(q / QBER[i]) / log(QBER[i + 1] / QBER[i])
    return log(table[i]) + weight * log(table[i + 1] / table[i])
