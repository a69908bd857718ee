"""LHSSampler: stratification, marginals, purity of rows, float32."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from caligo_sampler.design import MAX_SIZE, LHSSampler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import qmc

from caligo.errors import InvalidArgument
from caligo.space import PARAMETERS, PRESETS, SYMBOLS, Scale, Space

FIDELITY = SYMBOLS.index("F")
SIZES = [1, 2, 3, 7, 64, 1000, 4097, 100_003]


def probabilities(space: Space, inputs: np.ndarray) -> np.ndarray:
    """Distribution function of each continuous coordinate by scipy, float64 [n, 8]."""
    low, high = space.model_bounds()[:, :8]
    columns = [
        stats.beta.cdf(inputs[:, j].astype(np.float64), 2, 1, low[j], high[j] - low[j])
        if p.scale is Scale.BETA21
        else stats.uniform.cdf(inputs[:, j].astype(np.float64), low[j], high[j] - low[j])
        for j, p in enumerate(PARAMETERS)
    ]
    return np.column_stack(columns)


def strata(space: Space, inputs: np.ndarray, size: int) -> np.ndarray:
    return np.floor(probabilities(space, inputs) * size).astype(np.int64)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", SIZES)
def test_one_row_in_each_stratum_of_each_dimension(preset: str, size: int) -> None:
    space = Space(PRESETS[preset], blind_fraction=0.3)
    _, inputs = LHSSampler(space, 7, size).rows(0, size)
    for column in strata(space, inputs, size).T:
        assert np.array_equal(np.sort(column), np.arange(size))
    assert inputs[:, 8].sum() == round(0.3 * size)


@pytest.mark.parametrize("preset", PRESETS)
def test_stratification_is_exact_up_to_the_stated_size(preset: str) -> None:
    """Each dimension at its own limit, in float32; just there the rounding is as coarse as the strata allow."""
    space = Space(PRESETS[preset])
    limits = LHSSampler(space, 0, 1).exact_sizes()
    assert list(limits) == list(SYMBOLS)
    size = min(limits.values())
    _, inputs = LHSSampler(space, 3, size).rows(0, size)
    for column in strata(space, inputs, size).T:
        assert np.array_equal(np.sort(column), np.arange(size))


def test_stratification_is_as_good_as_scipys() -> None:
    """scipy's own Latin hypercube passes and a random design fails the check that ours passes."""

    def is_stratified(unit: np.ndarray) -> bool:
        n = len(unit)
        return all(np.array_equal(np.sort(np.floor(c * n)), np.arange(n)) for c in unit.T)

    space = Space(PRESETS["cliff"])
    _, inputs = LHSSampler(space, 1, 500).rows(0, 500)
    assert is_stratified(probabilities(space, inputs))
    assert is_stratified(qmc.LatinHypercube(8, rng=1).random(500))
    assert not is_stratified(np.random.default_rng(1).random((500, 8)))


def test_discrepancy_is_that_of_a_latin_hypercube() -> None:
    space = Space(PRESETS["cliff"])
    ours = [qmc.discrepancy(probabilities(space, LHSSampler(space, seed, 256).rows(0, 256)[1])) for seed in range(40)]
    scipys = [qmc.discrepancy(qmc.LatinHypercube(8, rng=seed).random(256)) for seed in range(40)]
    assert stats.ks_2samp(ours, scipys).pvalue > 1e-3
    random = [qmc.discrepancy(np.random.default_rng(seed).random((256, 8))) for seed in range(40)]
    assert np.mean(ours) < np.mean(random)


def test_dimensions_and_neighbours_are_uncorrelated() -> None:
    """Pairwise over columns, and between row i and rows i+1, i+2, ...: a weak permutation would show here."""
    n = 200_000
    space = Space(PRESETS["table1"])
    _, inputs = LHSSampler(space, 11, n).rows(0, n)
    columns = np.column_stack([probabilities(space, inputs), inputs[:, 8]])
    limit = 5.5 / math.sqrt(n)
    for a, b in itertools.combinations(columns.T, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < limit
    for column in columns.T:
        for lag in (1, 2, 3, math.isqrt(n), math.isqrt(n) + 1):
            assert abs(np.corrcoef(column[:-lag], column[lag:])[0, 1]) < limit


def test_seeds_give_unrelated_designs() -> None:
    space = Space(PRESETS["cliff"])
    first, second = (probabilities(space, LHSSampler(space, seed, 50_000).rows(0, 50_000)[1]) for seed in (1, 2))
    for j in range(8):
        assert abs(np.corrcoef(first[:, j], second[:, j])[0, 1]) < 5.5 / math.sqrt(50_000)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_permutation_of_few_strata_is_equally_likely(size: int) -> None:
    space = Space(PRESETS["cliff"])
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(500):
        _, inputs = LHSSampler(space, seed, size).rows(0, size)
        for column in strata(space, inputs, size).T:
            key = tuple(column.tolist())
            counts[key] = counts.get(key, 0) + 1
    assert len(counts) == math.factorial(size)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_marginals_by_kolmogorov_smirnov(preset: str, symbol: str) -> None:
    """On a slice out of the middle, which unlike a whole design is close to an independent sample."""
    space = Space(PRESETS[preset])
    _, inputs = LHSSampler(space, 5, 10**8).rows(123_456, 20_000)
    j = SYMBOLS.index(symbol)
    assert stats.kstest(probabilities(space, inputs)[:, j], "uniform").pvalue > 1e-4


def test_fidelity_is_beta21_and_not_uniform() -> None:
    space = Space(PRESETS["cliff"])
    _, inputs = LHSSampler(space, 5, 10_000).rows(0, 10_000)
    low, high = space.bounds["F"]
    assert inputs[:, FIDELITY].mean() == pytest.approx(low + (high - low) * 2 / 3, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**64 - 1), size=st.integers(1, 3000))
def test_any_slice_equals_the_whole(data: st.DataObject, seed: int, size: int) -> None:
    sampler = LHSSampler(Space(PRESETS["cliff"]), seed, size)
    index, inputs = sampler.rows(0, size)
    start = data.draw(st.integers(0, size))
    count = data.draw(st.integers(0, size - start))
    some_index, some = LHSSampler(Space(PRESETS["cliff"]), seed, size).rows(start, count)
    assert np.array_equal(some_index, index[start : start + count])
    assert np.array_equal(some.view(np.uint32), inputs[start : start + count].view(np.uint32))


def test_rows_do_not_depend_on_the_order_of_requests() -> None:
    sampler = LHSSampler(Space(PRESETS["cliff"]), 1, 1000)
    _, whole = sampler.rows(0, 1000)
    for i in np.random.default_rng(0).permutation(1000):
        assert np.array_equal(sampler.rows(int(i), 1)[1][0], whole[i])


def test_a_slice_of_a_huge_design_costs_the_slice() -> None:
    sampler = LHSSampler(Space(PRESETS["cliff"]), 1, 10**9)
    sampler.rows(0, 1)
    tracemalloc.start()
    index, inputs = sampler.rows(999_990_000, 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * (index.nbytes + inputs.nbytes)
    assert index[-1] == 10**9 - 1
    _, last = LHSSampler(Space(PRESETS["cliff"]), 1, MAX_SIZE).rows(MAX_SIZE - 5, 5)
    assert np.isfinite(last).all()


@pytest.mark.parametrize("size", [10, 10**6, 10**9, MAX_SIZE])
def test_rows_stay_inside_the_bounds(size: int) -> None:
    space = Space(PRESETS["qia2025"])
    _, inputs = LHSSampler(space, 2, size).rows(0, min(size, 20_000))
    low, high = space.model_bounds().astype(np.float32)
    assert (inputs >= low).all()
    assert (inputs <= high).all()
    assert set(np.unique(inputs[:, 8])) <= {0.0, 1.0}


def test_a_dimension_of_zero_width_is_constant() -> None:
    space = Space({**PRESETS["cliff"], "eta": (0.3, 0.3), "e_det": (0.0, 0.0)})
    sampler = LHSSampler(space, 1, 100)
    _, inputs = sampler.rows(0, 100)
    assert (inputs[:, SYMBOLS.index("eta")] == np.float32(np.log10(0.3))).all()
    assert (inputs[:, SYMBOLS.index("e_det")] == 0.0).all()
    assert set(sampler.exact_sizes()) == set(SYMBOLS) - {"eta", "e_det"}


@pytest.mark.parametrize(("fraction", "blind"), [(0.0, 0), (1.0, 777), (0.25, 194)])
def test_share_of_blind_rows_is_exact(fraction: float, blind: int) -> None:
    _, inputs = LHSSampler(Space(PRESETS["cliff"], fraction), 4, 777).rows(0, 777)
    assert np.count_nonzero(inputs[:, 8] == 1.0) == blind


def test_sampler_returns_float32_everywhere() -> None:
    """Section 7.1 of the design document: no 64-bit float leaves the sampler, and rows are contiguous."""
    for size, count in ((1, 1), (1000, 1000), (10**9, 17), (5, 0)):
        index, inputs = LHSSampler(Space(PRESETS["cliff"]), 1, size).rows(0, count)
        assert inputs.dtype == np.float32
        assert inputs.shape == (count, 9)
        assert inputs.flags.c_contiguous
        assert index.dtype == np.int64


@pytest.mark.parametrize(
    ("seed", "size", "field"), [(1, 0, "size"), (1, -5, "size"), (1, 2**40 + 1, "size"), (-1, 10, "seed")]
)
def test_bad_designs_are_refused(seed: int, size: int, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        LHSSampler(Space(PRESETS["cliff"]), seed, size)
    assert error.value.violations[0].field == field


@pytest.mark.parametrize(
    ("start", "count", "field"),
    [(-1, 1, "start"), (11, 0, "start"), (0, 11, "count"), (5, 6, "count"), (0, -1, "count")],
)
def test_bad_slices_are_refused(start: int, count: int, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        LHSSampler(Space(PRESETS["cliff"]), 1, 10).rows(start, count)
    assert error.value.violations[0].field == field
