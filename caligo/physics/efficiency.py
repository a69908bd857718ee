"""Expected reconciliation efficiency f = leak / (bits h(Q)), without the tag.

What the plans of the shipped codes are expected to disclose at their own error rate (`plans.expected_leak` of the
simulator, from its measured frame error rates; at most one frame in a hundred fails). Measured with frames by
`python -m benchmarks.reconciliation_efficiency`, which also holds it against the observed-channel approximation of
Martinez-Mateo et al., "Blind reconciliation" (2012), Appendix A, for ideal codes; docs/performance.md has both.
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
            2.398,
            2.127,
            1.976,
            1.87,
            1.608,
            1.475,
            1.421,
            1.374,
            1.334,
            1.292,
            1.259,
            1.235,
            1.187,
            1.158,
        ),
        (
            25.232,
            11.088,
            5.991,
            3.26,
            1.829,
            2.021,
            1.616,
            1.444,
            1.398,
            1.251,
            1.219,
            1.209,
            1.177,
            1.172,
            1.143,
            1.142,
            1.111,
            1.093,
        ),
    ),
    (
        (
            25.149,
            11.051,
            5.971,
            3.247,
            1.78,
            1.429,
            1.354,
            1.375,
            1.28,
            1.208,
            1.167,
            1.163,
            1.165,
            1.133,
            1.125,
            1.116,
            1.117,
            1.115,
        ),
        (
            25.149,
            11.051,
            5.971,
            3.247,
            1.78,
            1.282,
            1.245,
            1.311,
            1.195,
            1.151,
            1.124,
            1.129,
            1.128,
            1.1,
            1.097,
            1.088,
            1.101,
            1.102,
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
