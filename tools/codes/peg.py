"""Progressive edge growth (Hu, Eleftheriou, Arnold, IEEE TIT 51 (2005) 386), for given node degrees.

Edges are placed one at a time, variables in the order given. Each goes to a check that the
variable cannot reach yet, or, where all can be reached, to one of those at the largest distance; among
these, to the check that is furthest behind its own target degree. The search for the distance stops at
`max_depth` levels, which bounds the cost for long codes and gives up only girths above 2 max_depth + 2. For variables
of degrees up to `deep_degree` it never stops: cycles among them are, or are parts of, code words of few bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def node_degrees(edge_fractions: dict[int, float], nodes: int, edges: int | None = None) -> NDArray[np.int32]:
    """Ascending degrees of `nodes` nodes that realise an edge-perspective degree distribution.

    Largest-remainder rounding of the node fractions (lambda_i / i) / sum(lambda_j / j). With `edges` given,
    the degrees are then moved by one, on as few nodes as possible, until they sum to it.
    """
    degrees = np.array(sorted(edge_fractions), dtype=np.int64)
    weight = np.array([edge_fractions[int(d)] / d for d in degrees])
    ideal = nodes * weight / weight.sum()
    count = np.floor(ideal).astype(np.int64)
    short = nodes - int(count.sum())
    count[np.argsort(count - ideal, kind="stable")[:short]] += 1
    result = np.repeat(degrees, count).astype(np.int32)
    if edges is not None:
        while (gap := edges - int(result.sum())) != 0:
            step = min(abs(gap), nodes)
            if gap > 0:
                result[:step] += 1
            else:
                result[nodes - step :] -= 1
            result.sort()
    return result


@njit(cache=True)
def grow(
    variable_degrees: NDArray[np.int32],
    check_targets: NDArray[np.int32],
    max_depth: int,
    rng: np.random.Generator,
    deep_degree: int = 3,
    modulated: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Parity-check matrix as edge lists `(edge_variable, edge_check)`, int32, sorted by variable.

    Of equally good checks, the first after one drawn from `rng` is taken. The edges of the first `modulated` variables
    do not count when those of the others are placed.
    """
    n = variable_degrees.size
    m = check_targets.size
    edges = int(variable_degrees.sum())
    widest = int(check_targets.max()) * 2 + 8
    variable_start = np.zeros(n + 1, np.int64)
    for v in range(n):
        variable_start[v + 1] = variable_start[v] + variable_degrees[v]
    edge_check = np.empty(edges, np.int32)
    edge_variable = np.empty(edges, np.int32)
    check_degree = np.zeros(m, np.int32)
    check_variables = np.empty((m, widest), np.int32)
    counted = np.zeros(m, np.int32)
    fill = 1.0 / check_targets
    placed = np.zeros(n, np.int32)
    distance = np.empty(m, np.int32)
    check_seen = np.zeros(m, np.int64)
    variable_seen = np.zeros(n, np.int64)
    queue = np.empty(m, np.int32)
    stamp = 0
    for v in range(n):
        if v == modulated:
            counted[:] = 0
            fill = 1.0 / check_targets
        depth = max_depth if variable_degrees[v] > deep_degree else m
        for k in range(variable_degrees[v]):
            stamp += 1
            variable_seen[v] = stamp
            tail = 0
            for i in range(k):
                c = edge_check[variable_start[v] + i]
                check_seen[c] = stamp
                distance[c] = 0
                queue[tail] = c
                tail += 1
            head = 0
            deepest = 0
            while head < tail and tail < m:
                c = queue[head]
                head += 1
                deepest = distance[c]
                if deepest >= depth:
                    break
                for i in range(check_degree[c]):
                    w = check_variables[c, i]
                    if variable_seen[w] == stamp:
                        continue
                    variable_seen[w] = stamp
                    for j in range(placed[w]):
                        d = edge_check[variable_start[w] + j]
                        if check_seen[d] != stamp:
                            check_seen[d] = stamp
                            distance[d] = distance[c] + 1
                            queue[tail] = d
                            tail += 1
            open_checks = tail < m
            last = distance[queue[tail - 1]] if tail > 0 else 0
            best = -1
            best_fill = np.inf
            offset = int(rng.integers(0, m))
            for i in range(m):
                c = offset + i if offset + i < m else offset + i - m
                if fill[c] < best_fill and (check_seen[c] != stamp if open_checks else distance[c] == last):
                    best_fill = fill[c]
                    best = c
            e = variable_start[v] + k
            edge_check[e] = best
            edge_variable[e] = v
            check_variables[best, check_degree[best]] = v
            check_degree[best] += 1
            counted[best] += 1
            fill[best] = (counted[best] + 1.0) / check_targets[best] if check_degree[best] < widest else np.inf
            placed[v] += 1
    return edge_variable, edge_check


@njit(cache=True)
def _grouped(
    nodes: NDArray[np.int32], neighbours: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Edges by node: those of node i lead to grouped[start[i] : start[i + 1]]; start [count + 1], grouped [edges]."""
    start = np.zeros(count + 1, np.int64)
    for node in nodes:
        start[node + 1] += 1
    for node in range(count):
        start[node + 1] += start[node]
    grouped = np.empty(nodes.size, np.int32)
    fill = start[:-1].copy()
    for e in range(nodes.size):
        grouped[fill[nodes[e]]] = neighbours[e]
        fill[nodes[e]] += 1
    return start, grouped


@njit(cache=True)
def four_cycles(edge_variable: NDArray[np.int32], edge_check: NDArray[np.int32], n: int, m: int) -> int:
    """Number of cycles of length 4: pairs of checks that share more than one variable, counted C(shared, 2)."""
    start, checks = _grouped(edge_variable, edge_check, n)
    by_check_start, variables = _grouped(edge_check, edge_variable, m)
    shared = np.zeros(m, np.int32)
    total = 0
    for c in range(m):
        for i in range(by_check_start[c], by_check_start[c + 1]):
            v = variables[i]
            for j in range(start[v], start[v + 1]):
                d = checks[j]
                if d > c:
                    total += shared[d]
                    shared[d] += 1
        for i in range(by_check_start[c], by_check_start[c + 1]):
            v = variables[i]
            for j in range(start[v], start[v + 1]):
                shared[checks[j]] = 0
    return total
