"""Expected reconciliation efficiency f = leak / (bits h(Q)), without the tag.

Measured on the codes that the simulator ships (frames of 4096 bits, a tenth of them punctured or shortened, frame
error rate below 1e-2) by `python -m benchmarks.reconciliation_efficiency`, 3,000 frames a point; below Q = 0.005, where
the code of the highest rate serves all, computed from what it discloses. Against the
observed-channel approximation of Martinez-Mateo et al., "Blind reconciliation" (2012), Appendix A, for ideal codes
of that length they lose 0.05 to 0.4, most at low error rates; docs/performance.md has both.
"""

from math import exp, log

BASELINE = 0
BLIND = 1
FRAME_SIZES = (4096, 65536)
PAYLOADS = (3686, 58982)
"""Bits of a frame of each size that carry the string."""

QBER = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.002,
    0.003,
    0.004,
    0.005,
    0.010,
    0.015,
    0.020,
    0.025,
    0.030,
    0.040,
    0.050,
    0.060,
    0.080,
    0.100,
)
EFFICIENCY = (
    (
        (
            25.232,
            11.088,
            5.991,
            3.258,
            2.359,
            2.182,
            1.976,
            1.864,
            1.598,
            1.475,
            1.417,
            1.379,
            1.334,
            1.29,
            1.263,
            1.231,
            1.183,
            1.16,
        ),
        (
            25.232,
            11.088,
            5.991,
            3.26,
            1.846,
            2.022,
            1.619,
            1.436,
            1.401,
            1.255,
            1.215,
            1.212,
            1.187,
            1.175,
            1.156,
            1.153,
            1.108,
            1.092,
        ),
    ),
    (
        (
            25.149,
            11.051,
            5.971,
            3.247,
            1.78,
            1.421,
            1.356,
            1.361,
            1.275,
            1.251,
            1.162,
            1.172,
            1.143,
            1.134,
            1.135,
            1.139,
            1.143,
            1.114,
        ),
        (
            25.149,
            11.051,
            5.971,
            3.247,
            1.78,
            1.287,
            1.247,
            1.309,
            1.206,
            1.192,
            1.112,
            1.138,
            1.102,
            1.1,
            1.104,
            1.12,
            1.135,
            1.096,
        ),
    ),
)
"""By frame size, strategy and point of QBER."""

_LOWEST_QBER = 1e-4
LEAST_LEAKAGE = (137 / 3686, 2185 / 58982)
"""By frame size: public bits per reconciled bit, without tags, that the code of the highest rate costs however few
the errors."""


def expected_efficiency(qber: float, strategy: int, frame_size: int = 4096) -> float:
    """f at error rate qber, for strategy BASELINE (0) or BLIND (1) and a frame size of FRAME_SIZES.

    Linear in (log Q, log f) between the points, constant outside.
    """
    table = EFFICIENCY[0 if frame_size == FRAME_SIZES[0] else 1][strategy]
    q = max(qber, _LOWEST_QBER)
    if q >= QBER[-1]:
        return table[-1]
    i = 0
    for j in range(1, len(QBER) - 1):
        if q >= QBER[j]:
            i = j
    weight = log(q / QBER[i]) / log(QBER[i + 1] / QBER[i])
    return exp(log(table[i]) + weight * log(table[i + 1] / table[i]))
