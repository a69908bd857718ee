"""The tables of `caligo.physics.blind`: what the plans of the shipped codes disclose in the blind protocol.

`python -m benchmarks.blind_leakage` prints them as they stand there; to be run again after a change of codes or of
their measured error rates.
"""

from __future__ import annotations

import numpy as np
from caligo_simulator.protocol.reconciliation import blind_plan
from caligo_simulator.protocol.reconciliation.plans import expected_leak, leak_deviation

from caligo.physics.blind import HIGHEST, LOWEST, POINTS
from caligo.physics.efficiency import FRAME_SIZES, PAYLOADS, blind_efficiency
from caligo.physics.entropy import binary_entropy

A_LINE = 12


def tables(size: int) -> tuple[tuple[float, ...], ...]:
    """Mean, deviation and least, in bits a bit, of frames of one size at each point."""
    n, payload = FRAME_SIZES[size], PAYLOADS[size]
    found = []
    for q in np.geomspace(LOWEST, HIGHEST, POINTS).tolist():
        plan = blind_plan(q, n)
        if plan is None:
            mean = round(blind_efficiency(q, n) * binary_entropy(q), 5)
            found.append((mean, 0.0, mean))
        else:
            bits = expected_leak(plan), leak_deviation(plan), float(plan.syndrome_leak[0])
            found.append(tuple(round(value / payload, 5) for value in bits))
    return tuple(zip(*found, strict=True))


def main() -> None:
    for name, by_size in zip(("LEAK", "DEVIATION", "LEAST"), zip(tables(0), tables(1), strict=True), strict=True):
        print(f"{name} = (")
        for values in by_size:
            lines = [", ".join(map(str, values[i : i + A_LINE])) for i in range(0, len(values), A_LINE)]
            print("    (" + ",\n     ".join(lines) + "),")
        print(")")


if __name__ == "__main__":
    main()
