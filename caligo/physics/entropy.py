"""Binary entropy and its inverse, to full double precision."""

from math import exp, log, log1p

_LN2 = log(2.0)
# exp(-745) is the smallest positive double, so the bracket below holds every argument there is.
_LOG_TINY = -745.0
_LOG_HALF = -_LN2
_BISECTIONS = 70


def binary_entropy(p: float) -> float:
    """h(p) = -p log2 p - (1-p) log2(1-p) in bits, for p in [0, 1]; h(0) = h(1) = 0."""
    if p <= 0.0 or p >= 1.0:
        return 0.0
    return -(p * log(p) + (1.0 - p) * log1p(-p)) / _LN2


def solve_entropy(target: float, slope: float) -> float:
    """The y in [0, 1/2] with h(y) + slope*y = target, for slope >= 0.

    The left side increases on [0, 1/2], so bisection cannot fail; it runs over log y, which keeps
    the relative precision of a small y. Targets outside the range give the nearer end.
    """
    if target <= 0.0:
        return 0.0
    if target >= 1.0 + 0.5 * slope:
        return 0.5
    low = _LOG_TINY
    high = _LOG_HALF
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        y = exp(middle)
        if binary_entropy(y) + slope * y < target:
            low = middle
        else:
            high = middle
    return exp(0.5 * (low + high))


def inverse_binary_entropy(h: float) -> float:
    """The p in [0, 1/2] with binary_entropy(p) = h, for h in [0, 1].

    Close to h = 1 the inverse is ill-conditioned: there h(p) = h holds to double precision, p itself
    to about 1e-8.
    """
    return solve_entropy(h, 0.0)
