"""Expected reconciliation efficiency f = leak / (bits h(Q)), without the tag.

Frames of 4096 bits, a tenth of them punctured or shortened, codes of rate 0.5 (0.05) 0.9, frame error
rate 1e-2: the observed-channel (Gaussian) approximation of Martinez-Mateo et al., "Blind
reconciliation" (2012), Appendix A. It is optimistic by some 0.03 to 0.08 for real codes of this length.
"""

from math import exp, log

BASELINE = 0
BLIND = 1

QBER = (0.005, 0.010, 0.015, 0.020, 0.025, 0.030, 0.040, 0.050, 0.060, 0.080, 0.100)
BASELINE_EFFICIENCY = (1.66, 1.46, 1.33, 1.26, 1.22, 1.215, 1.19, 1.16, 1.14, 1.12, 1.10)
BLIND_EFFICIENCY = (1.53, 1.38, 1.26, 1.20, 1.15, 1.13, 1.12, 1.10, 1.09, 1.07, 1.06)

_LOWEST_QBER = 1e-4


def expected_efficiency(qber: float, strategy: int) -> float:
    """f at error rate qber, for strategy BASELINE (0) or BLIND (1).

    Linear in (log Q, log f) between the points, along the first segment below them down to 1e-4 (short
    frames pay more and more for few errors), constant above the last.
    """
    q = max(qber, _LOWEST_QBER)
    if q >= QBER[-1]:
        return BLIND_EFFICIENCY[-1] if strategy == BLIND else BASELINE_EFFICIENCY[-1]
    i = 0
    for j in range(1, len(QBER) - 1):
        if q >= QBER[j]:
            i = j
    if strategy == BLIND:
        low, high = BLIND_EFFICIENCY[i], BLIND_EFFICIENCY[i + 1]
    else:
        low, high = BASELINE_EFFICIENCY[i], BASELINE_EFFICIENCY[i + 1]
    weight = log(q / QBER[i]) / log(QBER[i + 1] / QBER[i])
    return exp(log(low) + weight * log(high / low))
