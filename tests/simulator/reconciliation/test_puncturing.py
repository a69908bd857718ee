"""Untainted puncturing on small graphs by hand, and its yield on long codes."""

from __future__ import annotations

import numpy as np
import pytest
from caligo_simulator.protocol.reconciliation.build_codes import grow
from caligo_simulator.protocol.reconciliation.puncturing import untainted_pattern

from .published import MM12


def test_a_chain() -> None:
    """Checks {0,1}, {1,2}, {2,3}: the ends see one other variable, the middle two. Both ends are punctured."""
    start = np.array([0, 2, 4, 6], np.int32)
    variables = np.array([0, 1, 1, 2, 2, 3], np.int32)
    for seed in range(10):
        assert sorted(untainted_pattern(4, start, variables, np.random.default_rng(seed))) == [0, 3]


def test_one_check_allows_one() -> None:
    chosen = {
        int(
            untainted_pattern(5, np.array([0, 5], np.int32), np.arange(5, dtype=np.int32), np.random.default_rng(seed))[
                0
            ]
        )
        for seed in range(60)
    }
    assert chosen == set(range(5)), "ties are broken at random"


def test_maximal_and_untainted() -> None:
    code = grow(1000, 0.6, {2: 0.2, 3: 0.4, 8: 0.4}, seed=1, depth=10)
    pattern = untainted_pattern(code.n, code.check_start, code.check_variables, np.random.default_rng(1))
    rows = np.split(code.check_variables, code.check_start[1:-1])
    punctured = np.zeros(code.n, np.bool_)
    punctured[pattern] = True
    assert max(punctured[row].sum() for row in rows) == 1
    tainted = np.zeros(code.n, np.bool_)
    for row in rows:
        if punctured[row].any():
            tainted[row] = True
    assert tainted.all(), "nothing is left that could be punctured"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "low", "high"), [(0.5, 1909, 1987), (0.6, 1587, 1655), (0.7, 1212, 1273), (0.8, 851, 901)]
)
def test_published_counts(rate: float, low: int, high: int) -> None:
    """T10: U12, Table I, n = 10^4, on the same ensembles; the matrices are not ours, hence 5 % on either side."""
    code = grow(10_000, rate, MM12[rate][0], seed=1, depth=20)
    count = untainted_pattern(code.n, code.check_start, code.check_variables, np.random.default_rng(1)).size
    assert 0.95 * low <= count <= 1.05 * high
