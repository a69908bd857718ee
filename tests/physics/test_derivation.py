"""Each step behind the finite form of `individual`, by enumeration of small cases; docs/physics.md has the steps.

Nothing here takes a number from the formulas that it tests: states and instruments are matrices, bases, subsets,
hash functions and outcomes are gone through one by one. A case that broke a step would break the claim.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import reduce
from itertools import combinations, permutations, product

import numpy as np
import pytest

from caligo.physics.finite_key import DEPOLARISING, ERASING, balancing_cost, round_entropy

Z = np.eye(2)
X = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)
BASES = (Z, X)
ORDERS = (0.05, 0.3, 0.7, 1.0)
"""s of sum_x p(x)^(1+s)."""


def kron(matrices) -> np.ndarray:
    return reduce(np.kron, matrices, np.eye(1))


def kappa(s: float, r: float, nu: float, memory: int) -> float:
    return 2.0 ** -round_entropy(s, r, nu, memory)


def measured(s: float) -> float:
    """c_s, as the best of many states of one qubit (the Bloch disc), so that no closed form enters."""
    angle = np.linspace(0.0, 2.0 * np.pi, 3601)
    up = [(1.0 + np.cos(angle)) / 2.0, (1.0 + np.sin(angle)) / 2.0]
    return float(max(sum(u ** (1 + s) + (1 - u) ** (1 + s) for u in up) / 2.0))


def random_state(rng: np.random.Generator, dimension: int, rank: int) -> np.ndarray:
    amplitudes = rng.normal(size=(dimension, rank)) + 1j * rng.normal(size=(dimension, rank))
    rho = amplitudes @ amplitudes.conj().T
    return rho / np.trace(rho).real


# --- uncertainty -----------------------------------------------------------------------------------------------------


def power_sum(rho: np.ndarray, qubits: int, s: float) -> float:
    """E over all bases of sum_x p(x | theta)^(1+s)."""
    total = 0.0
    for theta in product(BASES, repeat=qubits):
        columns = kron(theta)
        p = np.einsum("ix,ij,jx->x", columns.conj(), rho, columns).real
        total += float((np.clip(p, 0.0, 1.0) ** (1 + s)).sum())
    return total / 2**qubits


@pytest.mark.parametrize("s", ORDERS)
def test_uncertainty_of_one_qubit(s: float) -> None:
    """(A + B)/2 <= (1 + 2^-s)/2, reached by a state of BB84; mixed states are inside the disc."""
    assert measured(s) == pytest.approx((1 + 2**-s) / 2, rel=1e-12)
    assert power_sum(np.diag([1.0, 0.0]), 1, s) == pytest.approx(measured(s), rel=1e-12)
    assert kappa(s, 0.5, 0.0, ERASING) == pytest.approx(measured(s), rel=1e-12)


def test_uncertainty_needs_s_up_to_one() -> None:
    """Beyond, sum p^(1+s) of a qubit is no convex function of the squared Bloch component, which the proof uses."""
    u = np.sqrt(np.linspace(0.0, 1.0, 2001))

    def curvature(s: float) -> np.ndarray:
        return np.diff(((1 + u) / 2) ** (1 + s) + ((1 - u) / 2) ** (1 + s), n=2)

    assert all((curvature(s) > -1e-15).all() for s in ORDERS)
    assert (curvature(1.5) < 0.0).any()


@pytest.mark.parametrize("s", ORDERS)
def test_uncertainty_of_three_qubits(s: float) -> None:
    """E_theta sum_x p(x | theta)^(1+s) <= c_s^3 for states of Alice's qubits given what Bob saw, entangled ones too."""
    rng = np.random.default_rng(3)
    ghz = np.zeros(8)
    ghz[[0, 7]] = np.sqrt(0.5)
    states = [np.outer(ghz, ghz), np.eye(8) / 8.0]
    states += [random_state(rng, 8, rank) for rank in (1, 2, 8) for _ in range(60)]
    bb84 = [basis[:, bit] for basis in BASES for bit in range(2)]
    tight = [kron(v[:, None] for v in vectors) for vectors in product(bb84, repeat=3)]
    values = [power_sum(rho, 3, s) for rho in states] + [power_sum(v @ v.T, 3, s) for v in tight]
    bound = measured(s) ** 3
    assert max(values) <= bound * (1 + 1e-12)
    assert max(values) == pytest.approx(bound, rel=1e-12)  # every product of BB84 states


# --- Bob's instrument, his memory, and what he reads after the bases ------------------------------------------------


def instrument(rng: np.random.Generator, qubits: int, stored: tuple[int, ...]):
    """Kraus operators 1_S (x) <w|: the qubits of S are kept as they come, the others measured jointly."""
    rest = [i for i in range(qubits) if i not in stored]
    unitary, _ = np.linalg.qr(rng.normal(size=(2 ** len(rest),) * 2) + 1j * rng.normal(size=(2 ** len(rest),) * 2))
    order = [*stored, *rest]
    permuted = np.eye(2**qubits).reshape((2,) * qubits + (-1,)).transpose([*order, qubits]).reshape(2**qubits, -1)
    return [(stored, np.kron(np.eye(2 ** len(stored)), w.conj()[None, :]) @ permuted) for w in unitary.T]


def adaptive_instrument(rng: np.random.Generator, qubits: int):
    """Measures qubit 0, and lets the outcome say which of the others is kept and how the rest is measured."""
    outcomes = []
    for bit, stored in ((0, 1), (1, qubits - 1)):
        first = np.kron(np.eye(2)[:, [bit]].T, np.eye(2 ** (qubits - 1)))
        for _, operator in instrument(rng, qubits - 1, (stored - 1,)):
            outcomes.append(((stored,), operator @ first))
    return outcomes


def posteriors(operator: np.ndarray, qubits: int, theta, flags, stored) -> np.ndarray:
    """p(x, readout | theta, flags) of one outcome, [2^qubits, 2^kept]: Alice's bits, what Bob reads in her bases.

    Alice prepares each |x>_theta with probability 2^-qubits; her purification would give the same.
    """
    states = operator @ kron(theta)
    kept = [i for i, flag in enumerate(flags) if flag]
    readings = []
    for bits in product((0, 1), repeat=len(kept)):
        projectors = [np.eye(2)] * len(stored)
        for i, bit in zip(kept, bits, strict=True):
            v = theta[stored[i]][:, [bit]]
            projectors[i] = v @ v.T
        readings.append(np.einsum("ix,ij,jx->x", states.conj(), kron(projectors), states).real)
    return np.clip(np.stack(readings, axis=1), 0.0, None) / 2**qubits


def conditional_power_sum(operator, qubits: int, stored, r: float, s: float, kept_rounds=None) -> float:
    """E over bases, flags and readings of sum_x p(x | theta, flags, reading, z)^(1+s), for one outcome z.

    kept_rounds: the rounds whose bits count, and their bases are balanced if given; all of them, with independent
    bases, if None.
    """
    subset = range(qubits) if kept_rounds is None else kept_rounds
    balanced = kept_rounds is not None
    weight = total = 0.0
    for theta in product((0, 1), repeat=qubits):
        if balanced and 2 * sum(theta[i] for i in subset) != len(subset):
            continue
        for flags in product((0, 1), repeat=len(stored)):
            chance = math.prod(r if flag else 1 - r for flag in flags)
            joint = posteriors(operator, qubits, [BASES[t] for t in theta], flags, stored)
            dropped = tuple(i for i in range(qubits) if i not in subset)
            joint = joint.reshape((2,) * qubits + (-1,)).sum(axis=dropped).reshape(-1, joint.shape[1])
            reading = joint.sum(axis=0)
            seen = reading > 1e-15
            total += chance * float((joint[:, seen] ** (1 + s) / reading[seen] ** s).sum())
            weight += chance * float(reading.sum())
    return total / weight


def test_bob_learns_nothing_of_the_bases_from_his_outcome() -> None:
    """No-signalling: p(z | theta) is the same for all bases, so that they stay coins given what Bob saw."""
    rng = np.random.default_rng(8)
    for outcomes in (instrument(rng, 3, (0,)), instrument(rng, 3, ()), adaptive_instrument(rng, 3)):
        assert sum(op.conj().T @ op for _, op in outcomes) == pytest.approx(np.eye(8), abs=1e-12)
        for stored, op in outcomes:
            flags = (0,) * len(stored)
            chances = [posteriors(op, 3, theta, flags, stored).sum() for theta in product(BASES, repeat=3)]
            assert chances == pytest.approx([chances[0]] * 8, abs=1e-12)


@pytest.mark.parametrize("s", ORDERS)
@pytest.mark.parametrize("r", [0.0, 0.6, 0.75, 1.0])
def test_memory_with_flags(r: float, s: float) -> None:
    """For every outcome of every instrument: c_s a measured round, r + (1-r) 2^-s a stored one, flags known."""
    rng = np.random.default_rng(75)
    stored_factor = r + (1 - r) * 2**-s
    cases = [instrument(rng, 3, stored) for stored in ((), (1,), (0, 2), (0, 1, 2))] + [adaptive_instrument(rng, 3)]
    for outcomes in cases:
        for stored, operator in outcomes:
            value = conditional_power_sum(operator, 3, stored, r, s)
            assert value <= measured(s) ** (3 - len(stored)) * stored_factor ** len(stored) * (1 + 1e-12)
            # The code takes the mean over the rounds, not the product, and lets Bob measure where that is better.
            assert value <= kappa(s, r, len(stored) / 3, ERASING) ** 3 * (1 + 1e-12)


def test_a_stored_qubit_reaches_its_factor() -> None:
    (stored, operator), *_ = instrument(np.random.default_rng(1), 1, (0,))
    for r, s in product((0.0, 0.6, 1.0), ORDERS):
        assert conditional_power_sum(operator, 1, stored, r, s) == pytest.approx(r + (1 - r) * 2**-s, rel=1e-12)


@pytest.mark.parametrize("s", ORDERS)
def test_memory_without_flags(s: float) -> None:
    """Depolarised and unflagged, a stored qubit is a binary symmetric channel: no measurement beats Alice's basis."""
    rng = np.random.default_rng(9)
    for r in (0.3, 0.75, 0.9):
        q = (1 - r) / 2
        best = (1 - q) ** (1 + s) + q ** (1 + s)
        assert kappa(s, r, 1.0, DEPOLARISING) == pytest.approx(max(best, measured(s)), rel=1e-12)
        for theta in product(BASES, repeat=2):
            states = _depolarised(theta, r)
            own = _readout_power_sum(states, [np.outer(v, v) for v in kron(theta).T], s)
            assert own == pytest.approx(best**2, rel=1e-12)
            for _ in range(10):
                unitary, _r = np.linalg.qr(rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4)))
                joint = _readout_power_sum(states, [np.outer(v, v.conj()) for v in unitary.T], s)
                assert joint <= own * (1 + 1e-12)


def _depolarised(theta, r: float) -> list[np.ndarray]:
    """The two stored qubits for each of Alice's four values, each r rho + (1-r) 1/2."""
    single = [[r * np.outer(b[:, x], b[:, x]) + (1 - r) * np.eye(2) / 2 for x in range(2)] for b in theta]
    return [np.kron(single[0][x0], single[1][x1]) for x0, x1 in product(range(2), repeat=2)]


def _readout_power_sum(states, effects, s: float) -> float:
    joint = np.array([[np.trace(effect @ rho).real / len(states) for rho in states] for effect in effects])
    reading = joint.sum(axis=1)
    return float((joint ** (1 + s) / reading[:, None] ** s).sum())


# --- Alice's sample --------------------------------------------------------------------------------------------------


def kept_rounds(theta, order, m: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Alice's rule: each basis in the order of a public permutation, then cut to m. Rounds and their bases."""
    chosen = [[i for i in order if theta[i] == basis][:m] for basis in (0, 1)]
    rounds = tuple(sorted(chosen[0] + chosen[1]))
    return rounds, tuple(theta[i] for i in rounds)


def test_permute_then_cut_is_a_uniform_subset_with_balanced_bases() -> None:
    """Five rounds, every basis string and permutation: given m, all (subset, balanced bases) are equally likely."""
    counts: dict[int, dict] = {1: defaultdict(int), 2: defaultdict(int)}
    for theta in product((0, 1), repeat=5):
        m = min(sum(theta), 5 - sum(theta))
        if m:
            for order in permutations(range(5)):
                counts[m][kept_rounds(theta, order, m)] += 1
    for m, seen in counts.items():
        assert len(seen) == math.comb(5, 2 * m) * math.comb(2 * m, m)
        assert len(set(seen.values())) == 1


def test_cut_without_permuting_lets_bob_store_what_is_kept() -> None:
    """With the first rounds kept, the first is kept with probability 1 and the last hardly ever."""
    kept = [0] * 5
    runs = 0
    for theta in product((0, 1), repeat=5):
        if 0 < sum(theta) < 5:
            runs += 1
            for i in kept_rounds(theta, range(5), 1)[0]:
                kept[i] += 1
    assert kept[0] == runs
    assert kept[4] < 0.1 * runs


@pytest.mark.parametrize(("rounds", "stored", "sample"), [(6, 2, 4), (7, 3, 2), (5, 5, 4), (8, 1, 6)])
def test_sampling_without_replacement(rounds: int, stored: int, sample: int) -> None:
    """The mean over all subsets of a product of factors is at most the mean factor to the power of the sample."""
    for measured_factor, stored_factor in ((0.9, 0.99), (0.75, 1.0), (0.8, 0.6)):
        products = [
            math.prod(stored_factor if i < stored else measured_factor for i in subset)
            for subset in combinations(range(rounds), sample)
        ]
        mixed = (stored * stored_factor + (rounds - stored) * measured_factor) / rounds
        assert np.mean(products) <= mixed**sample * (1 + 1e-12)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
def test_balanced_bases_cost_the_share_of_balanced_strings(m: int) -> None:
    balanced = sum(2 * sum(theta) == 2 * m for theta in product((0, 1), repeat=2 * m))
    assert balancing_cost(float(m)) == pytest.approx(-math.log2(balanced / 4**m), abs=1e-12)


@pytest.mark.parametrize(("r", "s"), [(0.6, 0.3), (0.75, 1.0), (1.0, 0.7)])
def test_uncertainty_of_a_balanced_sample(r: float, s: float) -> None:
    """Four rounds, one kept in memory, the others measured jointly; then Alice keeps one round of each basis."""
    rng = np.random.default_rng(11)
    for outcomes in (instrument(rng, 4, (2,)), instrument(rng, 4, ()), adaptive_instrument(rng, 4)):
        for stored, operator in outcomes:
            subsets = list(combinations(range(4), 2))
            value = np.mean([conditional_power_sum(operator, 4, stored, r, s, subset) for subset in subsets])
            bound = kappa(s, r, len(stored) / 4, ERASING) ** 2 * 2 ** balancing_cost(1.0)
            assert value <= bound * (1 + 1e-12)


# --- smoothing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", ORDERS)
def test_smoothing_cuts_an_event(s: float) -> None:
    """P[p(X | Z) > 2^-a] <= eps with 2^-a = (E sum_x p^(1+s) / eps)^(1/s), for the data of three measured rounds."""
    rng = np.random.default_rng(5)
    outcomes = instrument(rng, 3, (0,))
    table = []  # (probability of the case, p(x | case))
    for stored, operator in outcomes:
        for theta in product(BASES, repeat=3):
            for flags in ((0,), (1,)):
                joint = posteriors(operator, 3, theta, flags, stored) * (0.75 if flags[0] else 0.25) / 8
                table += [(column.sum(), column / column.sum()) for column in joint.T if column.sum() > 1e-15]
    assert sum(weight for weight, _ in table) == pytest.approx(1.0)
    mean = sum(weight * (p ** (1 + s)).sum() for weight, p in table)
    for eps in (0.5, 0.2, 0.05, 0.01):
        limit = (mean / eps) ** (1 / s)
        assert sum(weight * p[p > limit].sum() for weight, p in table) <= eps


# --- splitting with distributed hashing ------------------------------------------------------------------------------


def linear_hashes(bits: int, length: int) -> np.ndarray:
    """All linear functions from `bits` to `length` bits, [functions, 2^bits] -> value: a 2-universal family."""
    inputs = np.array(list(product((0, 1), repeat=bits)))
    values = [
        (inputs @ np.array(matrix).reshape(bits, length)) % 2 @ (1 << np.arange(length))
        for matrix in product((0, 1), repeat=bits * length)
    ]
    return np.array(values)


def split(p: np.ndarray, largest: float) -> tuple[list[np.ndarray], float]:
    """The three events of the rule, as parts of p(x_0, x_1), and the threshold of the marginals.

    x_0 heavy: Bob may know S_0. x_0 light and x_1 heavy: S_1. Both light: S_0.
    """
    threshold = math.sqrt(largest)
    heavy_0 = p.sum(axis=1) > threshold
    heavy_1 = p.sum(axis=0) > threshold
    first = p * heavy_0[:, None]
    second = p * (~heavy_0[:, None] & heavy_1[None, :])
    return [first, second, p - first - second], threshold


def hidden_string_distance(parts, family_0, family_1, size: int, shared_seed: bool = False) -> float:
    """Mean over the seeds of the distance of the hidden string from uniform, given the other and D."""
    total = 0.0
    seeds_0, seeds_1 = range(len(family_0)), range(len(family_1))
    functions = [(f, f) for f in seeds_0] if shared_seed else list(product(seeds_0, seeds_1))
    for f0, f1 in functions:
        for number, part in enumerate(parts):
            hashed = np.zeros((size, size))
            np.add.at(hashed, (family_0[f0][:, None], family_1[f1][None, :]), part)
            if number == 1:  # S_0 is the hidden one
                hashed = hashed.T
            total += 0.5 * float(abs(hashed - hashed.mean(axis=1, keepdims=True)).sum())
    return total / len(functions)


def joints(rng: np.random.Generator, bits: int):
    """Distributions of two strings: independent, equal, a known xor, one string known in part or whole, hidden
    relations that Bob knows, mixtures of cases that are heavy on either side."""
    size = 2**bits
    uniform = np.full((size, size), 1.0 / size**2)
    yield uniform
    yield np.eye(size) / size
    yield np.eye(size)[rng.permutation(size)] / size
    known = np.zeros((size, size))
    known[0] = 1.0 / size
    yield known
    yield known.T
    yield (known + known.T + uniform) / 3
    few = np.zeros((size, size))
    few[:2, :] = rng.dirichlet(np.ones(2 * size)).reshape(2, size)
    yield few
    for support in (3, size, size**2 // 2):
        p = np.zeros(size**2)
        p[rng.choice(size**2, support, replace=False)] = rng.dirichlet(np.ones(support))
        yield p.reshape(size, size)
    relation = np.array([[(a ^ b).bit_count() % 2 == 0 for b in range(size)] for a in range(size)])
    yield relation / relation.sum()


@pytest.mark.parametrize(("bits", "length"), [(2, 1), (3, 1), (4, 1), (2, 2)])
def test_splitting(bits: int, length: int) -> None:
    """Every pair of linear hash functions: the distance is below the form with the masses of the three events."""
    rng = np.random.default_rng(bits)
    family = linear_hashes(bits, length)
    for p in joints(rng, bits):
        largest = float(p.max())
        parts, threshold = split(p, largest)
        masses = [part.sum() for part in parts]
        u = 2.0**length * threshold
        distance = hidden_string_distance(parts, family, family, 2**length)
        sharp = 0.5 * (masses[0] * math.sqrt(u) + math.sqrt(masses[1] * u) + math.sqrt(masses[2] * (u * u + u)))
        assert distance <= sharp + 1e-12
        assert distance <= math.sqrt(u) + 1e-12
        if u <= 1.0:
            assert distance <= 0.875 * math.sqrt(u) + 1e-12


def test_the_constant_of_splitting() -> None:
    """The largest of the sharp form over the three masses, for u up to 1, is .875 sqrt(u), at u = 1."""
    grid = np.linspace(0.0, 1.0, 401)
    p2, p3 = np.meshgrid(grid, grid)
    inside = p2 + p3 <= 1.0
    for u in np.linspace(0.01, 1.0, 100):
        sharp = 0.5 * ((1 - p2 - p3) * math.sqrt(u) + np.sqrt(p2 * u) + np.sqrt(p3 * (u * u + u)))
        assert sharp[inside].max() <= 0.875 * math.sqrt(u) * (1 + 1e-12)
    assert sharp[inside].max() == pytest.approx(0.875, abs=1e-5)


@pytest.mark.parametrize("leaks", [(0, 0), (1, 0), (0, 2), (2, 1), (1, 1), (2, 2)])
def test_splitting_after_syndromes(leaks: tuple[int, int]) -> None:
    """Public bits are Bob's data, so they come first, whatever their shares; half of their number is what they cost.

    For each value y of both syndromes the rule is applied to p(x | y); the mean distance is below
    sqrt(2^(l - a/2 + (leak_0 + leak_1)/2)).
    """
    bits, length = 3, 1
    rng = np.random.default_rng(4)
    family = linear_hashes(bits, length)
    inputs = np.arange(2**bits)
    for p in joints(rng, bits):
        largest = float(p.max())
        syndromes = [_syndrome(rng, inputs, leak) for leak in leaks]
        distance = 0.0
        for y0, y1 in product(range(2 ** leaks[0]), range(2 ** leaks[1])):
            given = p * np.outer(syndromes[0] == y0, syndromes[1] == y1)
            chance = float(given.sum())
            if chance > 0.0:
                parts, _ = split(given / chance, largest / chance)
                distance += chance * hidden_string_distance(parts, family, family, 2**length)
        assert distance <= math.sqrt(2.0 ** (length + sum(leaks) / 2) * math.sqrt(largest)) + 1e-12


def _syndrome(rng: np.random.Generator, inputs: np.ndarray, leak: int) -> np.ndarray:
    """`leak` parities of each input."""
    checks = rng.choice(np.arange(1, len(inputs)), leak, replace=False) if leak else []
    value = np.zeros(len(inputs), dtype=int)
    for check in checks:
        value = 2 * value + np.array([(int(x) & int(check)).bit_count() % 2 for x in inputs])
    return value


def test_the_hidden_string_depends_on_the_syndromes() -> None:
    """Why the public bits come first: named before them, the hidden string may be one that they give away.

    x_1 is 8 uniform bits; Bob knows that the 4-bit syndrome of x_0 is its upper half, the other 8 bits of x_0 are
    uniform. Before the syndromes no value is likelier than 2^-8, nor a pair than 2^-16, and the rule hides x_1. The
    syndromes of both are all of x_1: the distance is 1/2 where sqrt(2^(l - a/2 + leak)) is .354.
    """
    length, both = 1, 16
    x1 = np.arange(256)
    syndrome_0, syndrome_1 = x1 >> 4, x1 % 16
    assert len(set(zip(syndrome_0, syndrome_1, strict=True))) == len(x1)  # the public bits give x_1 away
    named_before = 1 - 2.0**-length
    promised = math.sqrt(2.0 ** (length - both / 2 + (4 + 4) / 2))
    assert named_before > promised == pytest.approx(0.354, abs=5e-4)

    # Given both syndromes x_1 is certain, hence heavy, and the rule hides x_0, which has 8 bits left.
    parity = np.array([x.bit_count() % 2 for x in range(1 << 12)])
    for y0 in (0, 7):
        x0 = (y0 << 8) + np.arange(256)
        named_after = np.mean([abs(parity[x0 & function].mean() - 0.5) for function in range(1 << 12)])
        assert named_after == pytest.approx(0.5 * 2.0**-8)


def test_seeds_must_be_independent() -> None:
    """x_0 = x_1, five uniform bits, one hashed bit: .5 with one seed for both strings, .031 with two."""
    family = linear_hashes(5, 1)
    parts, _ = split(np.eye(32) / 32, 1 / 32)
    assert hidden_string_distance(parts, family, family, 2, shared_seed=True) == pytest.approx(0.5)
    assert hidden_string_distance(parts, family, family, 2) == pytest.approx(0.031, abs=5e-4)


def test_a_removed_round_costs_one_bit() -> None:
    """Bob names the rounds to drop by what he knows; what is kept is at most 2^removed times as likely."""
    rng = np.random.default_rng(6)
    for removed in range(4):
        p = rng.dirichlet(np.full(64, 0.3)).reshape((2,) * 6)
        worst = max(p.sum(axis=axes).max() for axes in combinations(range(6), removed))
        assert worst <= 2**removed * p.max() * (1 + 1e-12)


def _mean_root(p: np.ndarray, said: np.ndarray, choice: dict[tuple[int, int], tuple[int, ...]]) -> float:
    """Mean over what is said of sqrt(u_y), where Bob then leaves frames out; 1 is what the length allows for.

    p: [4, 4], the values of two frames of two bits; said: the public bit of a frame, [4]. choice: by both public bits,
    the frames that he leaves out, which cost two bits of a each, and of whose public bits nothing is charged.
    """
    total = 0.0
    for said_of, dropped in choice.items():
        given = p * np.outer(said == said_of[0], said == said_of[1])
        if chance := float(given.sum()):
            likeliest = given.sum(axis=dropped).max() / chance
            bits = -math.log2(p.max()) - 2 * len(dropped) - (2 - len(dropped))
            total += chance * math.sqrt(2 ** (bits / 2) * math.sqrt(likeliest))
    return total


def test_syndromes_of_dropped_frames_cost_nothing_more() -> None:
    """Whatever frames Bob drops by what was said, if that is linear; what is not linear can cost more."""
    rng = np.random.default_rng(7)
    parity, both_ones = np.array([0, 1, 1, 0]), np.array([0, 0, 0, 1])
    states = [np.full((4, 4), 1 / 16)] + [rng.dirichlet(np.full(16, a)).reshape(4, 4) for a in (0.1, 0.5, 3.0)]
    said = list(product((0, 1), repeat=2))
    worst = {"parity": 0.0, "and": 0.0}
    for dropped in product([(), (0,), (1,), (0, 1)], repeat=4):
        choice = dict(zip(said, dropped, strict=True))
        for p in states:
            worst["parity"] = max(worst["parity"], _mean_root(p, parity, choice))
            worst["and"] = max(worst["and"], _mean_root(p, both_ones, choice))
    assert worst["parity"] <= 1.0 + 1e-12
    assert worst["and"] > 1.0
