"""Untainted puncturing on small graphs by hand, and its yield on long codes."""

from __future__ import annotations

import numpy as np
import pytest
from caligo_simulator.protocol.reconciliation.codes import Code
from caligo_simulator.protocol.reconciliation.puncturing import untainted_pattern, untainted_prefix

from tools.codes.build import grow
from tools.codes.peg import node_degrees

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


def test_how_far_a_pattern_goes() -> None:
    """Checks {0,1}, {1,2}, {2,3}: 0 and 3 share none, 1 shares one with 0, 2 shares one with 3."""
    code = Code(4, np.array([0, 2, 4, 6], np.int32), np.array([0, 1, 1, 2, 2, 3], np.int32), np.zeros(0, np.int32), 0)
    for positions, count in (([0, 3, 1], 2), ([0, 1, 3], 1), ([3, 0], 2), ([2, 0, 3, 1], 2), ([1], 1), ([], 0)):
        assert untainted_prefix(code, np.array(positions, np.int32)) == count


def test_maximal_and_untainted() -> None:
    code = grow(1000, 0.6, node_degrees({2: 0.2, 3: 0.4, 8: 0.4}, 1000), seed=1, depth=10)
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


def random_graph_count(rate: float, n: int) -> int:
    """Punctured variables of a graph of the ensemble whose sockets are joined at random."""
    rng = np.random.default_rng(1)
    variables, checks, _ = MM12[rate]
    degrees = node_degrees(variables, n)
    m = round(n * (1 - rate))
    sockets = np.repeat(np.arange(m), node_degrees(checks, m, int(degrees.sum())))
    rng.shuffle(sockets)
    edges = np.unique(np.stack([sockets, np.repeat(np.arange(n), degrees)], axis=1), axis=0)
    start = np.zeros(m + 1, np.int32)
    np.cumsum(np.bincount(edges[:, 0], minlength=m), out=start[1:])
    return untainted_pattern(n, start, edges[:, 1].astype(np.int32), rng).size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "low", "high", "tolerance"),
    [(0.5, 1909, 1987, 0.16), (0.6, 1587, 1655, 0.08), (0.7, 1212, 1273, 0.05), (0.8, 851, 901, 0.05)],
)
def test_published_counts(rate: float, low: int, high: int, tolerance: float) -> None:
    """T10: U12, Table I, n = 10^4, same ensembles; their matrices are of another variant of edge growth.

    The count depends on how the graph is made. Plain progressive edge growth first pairs up all checks through
    variables of degree 2, so more of them can be punctured where these abound (rates 0.5 and 0.6); in a random
    graph fewer can. The published counts lie between the two.
    """
    code = grow(10_000, rate, node_degrees(MM12[rate][0], 10_000), seed=1, depth=20)
    count = untainted_pattern(code.n, code.check_start, code.check_variables, np.random.default_rng(1)).size
    assert 0.95 * low <= count <= (1 + tolerance) * high
    assert 0.85 * low <= random_graph_count(rate, 10_000) < low
