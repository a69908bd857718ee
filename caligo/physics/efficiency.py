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
            20.628,
            9.065,
            6.822,
            4.590,
            2.959,
            2.449,
            2.235,
            2.085,
            1.706,
            1.572,
            1.483,
            1.420,
            1.372,
            1.315,
            1.272,
            1.240,
            1.207,
            1.174,
        ),
        (
            20.658,
            9.094,
            4.951,
            2.850,
            2.962,
            2.114,
            1.730,
            1.577,
            1.492,
            1.370,
            1.313,
            1.302,
            1.254,
            1.228,
            1.186,
            1.164,
            1.131,
            1.116,
        ),
    ),
    (
        (
            20.628,
            9.065,
            6.822,
            4.590,
            2.959,
            2.449,
            2.235,
            2.085,
            1.706,
            1.572,
            1.483,
            1.420,
            1.372,
            1.315,
            1.272,
            1.240,
            1.207,
            1.174,
        ),
        (
            20.658,
            9.094,
            4.951,
            2.850,
            2.962,
            2.114,
            1.730,
            1.577,
            1.492,
            1.370,
            1.313,
            1.302,
            1.254,
            1.228,
            1.186,
            1.164,
            1.131,
            1.116,
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
