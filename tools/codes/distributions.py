"""Edge-perspective degree distributions {degree: fraction of edges} of the mother codes.

Rates 0.50 to 0.90: Elkouss, Leverrier, Alleaume, Boutros, ISIT 2009, Table I (optimised for the binary
symmetric channel; the exponents printed there are degree - 1). The printed fractions of rate 0.85 add up to
1.0515; with 0.04274 instead of 0.094274 for degree 5 they add up to 1, and rate and threshold are the table's.
"""

from __future__ import annotations

E09_VARIABLE: dict[float, dict[int, float]] = {
    0.50: {
        2: 0.14438,
        3: 0.19026,
        4: 0.01836,
        5: 0.00233,
        6: 0.04697,
        8: 0.053943,
        9: 0.05590,
        10: 0.01290,
        11: 0.00162,
        14: 0.06159,
        15: 0.13115,
        17: 0.01481,
        47: 0.00879,
        49: 0.00650,
        55: 0.00210,
        56: 0.00099,
        57: 0.11178,
        58: 0.06238,
        59: 0.05094,
        66: 0.02230,
    },
    0.55: {2: 0.16880, 3: 0.20994, 6: 0.18095, 15: 0.03846, 16: 0.02635, 18: 0.23454, 19: 0.05815, 31: 0.08280},
    0.60: {2: 0.11040, 3: 0.20804, 8: 0.14163, 9: 0.14858, 26: 0.14438, 27: 0.08909, 46: 0.00748, 71: 0.15038},
    0.65: {
        2: 0.10451,
        3: 0.15652,
        4: 0.08057,
        5: 0.00056,
        9: 0.12151,
        13: 0.10485,
        15: 0.10719,
        21: 0.00771,
        51: 0.31656,
    },
    0.70: {
        2: 0.05343,
        3: 0.29406,
        6: 0.00896,
        9: 0.15571,
        12: 0.12189,
        25: 0.19872,
        46: 0.09572,
        62: 0.02741,
        65: 0.04056,
        73: 0.00354,
    },
    0.75: {2: 0.10805, 3: 0.09511, 4: 0.01449, 5: 0.13764, 6: 0.10667, 7: 0.05288, 28: 0.01107, 31: 0.47408},
    0.80: {2: 0.09420, 3: 0.18088, 6: 0.11972, 7: 0.08550, 8: 0.09816, 17: 0.07194, 26: 0.34960},
    0.85: {2: 0.04528, 3: 0.20537, 4: 0.05878, 5: 0.04274, 6: 0.08454, 7: 0.01176, 9: 0.05137, 21: 0.50015},
    0.90: {2: 0.07689, 3: 0.28096, 5: 0.08933, 9: 0.19620, 12: 0.30631, 21: 0.05031},
}

E09_CHECK: dict[float, dict[int, float]] = {
    0.50: {10: 0.47575, 12: 0.46847, 13: 0.02952, 14: 0.02626},
    0.55: {10: 0.27631, 11: 0.72369},
    0.60: {2: 0.00036, 10: 0.13063, 13: 0.31068, 18: 0.49341, 19: 0.064915},
    0.65: {2: 0.000578, 15: 0.06089, 16: 0.47001, 21: 0.46852},
    0.70: {20: 0.76922, 21: 0.23077},
    0.75: {25: 0.74161, 26: 0.25839},
    0.80: {29: 0.58807, 30: 0.41193},
    0.85: {41: 0.54204, 42: 0.45795},
    0.90: {50: 0.95025, 51: 0.04975},
}

SHORT_VARIABLE: dict[float, dict[int, float]] = {
    0.50: {2: 0.206, 3: 0.278, 4: 0.009, 20: 0.507},
    0.55: {2: 0.182, 3: 0.271, 6: 0.050, 9: 0.009, 18: 0.488},
    0.60: {2: 0.159, 3: 0.284, 4: 0.023, 16: 0.535},
    0.65: {2: 0.129, 3: 0.301, 9: 0.083, 11: 0.067, 19: 0.073, 22: 0.347},
    0.70: {2: 0.125, 3: 0.256, 5: 0.115, 10: 0.013, 12: 0.048, 16: 0.442},
    0.75: {2: 0.116, 3: 0.233, 5: 0.021, 10: 0.288, 20: 0.343},
    0.80: {2: 0.112, 3: 0.158, 6: 0.188, 8: 0.090, 15: 0.087, 28: 0.365},
    0.85: {2: 0.069, 3: 0.158, 4: 0.064, 5: 0.102, 6: 0.096, 7: 0.016, 8: 0.051, 10: 0.006, 20: 0.438},
    0.90: {2: 0.055, 3: 0.198, 5: 0.174, 8: 0.024, 10: 0.185, 12: 0.169, 14: 0.131, 20: 0.064},
    0.92: {2: 0.055, 3: 0.198, 5: 0.174, 8: 0.024, 10: 0.185, 12: 0.169, 14: 0.131, 20: 0.064},
    0.95: {2: 0.028, 3: 0.066, 4: 0.278, 12: 0.627},
}
"""For 4,096 bits: not published, but found by `search`, a random search for the lowest frame error rate,
measured on graphs of this length. The published distributions lose more to their short cycles there than they gain by
their thresholds."""

_HIGH_RATE = {2: 0.063, 3: 0.070, 4: 0.259, 12: 0.463, 16: 0.065, 21: 0.080}
"""Not published either, but found by a random search for the highest threshold at rate 0.95 by `density_evolution`:
0.0057 where 0.00636 is the limit."""

LONG_VARIABLE: dict[float, dict[int, float]] = E09_VARIABLE | {0.92: _HIGH_RATE, 0.95: _HIGH_RATE}
"""For longer frames."""


def payload_distribution(n: int, rate: float) -> dict[int, float]:
    """Of the degrees of the payload's variables, for the mother code of length n; the checks are concentrated."""
    return (SHORT_VARIABLE if n <= 4096 else LONG_VARIABLE)[rate]
