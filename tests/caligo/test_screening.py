"""Skips by the closed form alone: the bound, the table of real runs, the thresholds that follow, who is audited."""

from __future__ import annotations

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binomtest

import caligo
from caligo import screening
from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.physics import claims
from caligo.screening import THRESHOLDS, Table, TableError, Verdict
from caligo.spec import CampaignSpec, GuardrailSpec, PhysicsSpec, ProtocolSpec

SPEC = GuardrailSpec()
PHYSICS, PROTOCOL = PhysicsSpec(), ProtocolSpec()
CELL = ("alice", PHYSICS.claim, PHYSICS.memory_model)


def table(rows, keys, **changes) -> Table:
    """A table whose only cell has these runs and keys above each threshold, the same for both strategies."""
    cell = np.tile(rows, (2, 1)), np.tile(keys, (2, 1))
    return dataclasses.replace(Table(caligo.__version__, "statistical", {CELL: cell}), **changes)


CLEAN = table([1600, 1400, 1200, 1000, 800, 700, 600, 500], np.zeros(8, dtype=int))


@pytest.fixture
def written(tmp_path):
    def write(content: Table):
        content.write(tmp_path / "table.json")
        return tmp_path / "table.json"

    return write


def screen(path, own=None, **spec):
    with mock.patch.object(screening, "TABLE", path):
        return screening.screen(GuardrailSpec(**spec), PHYSICS, PROTOCOL, own)


# --- bound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "keys"), [(1, 0), (20, 0), (20, 3), (400, 0), (400, 7), (50, 49)])
def test_bound_is_where_the_mixture_refutes_a_rate(rows, keys):
    """By quadrature: the mixture's likelihood is 20 times that of the bound, and less of every rate below it."""

    def ratio(p):
        return quad(lambda u: u ** (2 * keys) * ((1 - p * u * u) / (1 - p)) ** (rows - keys), 0, 1, limit=500)[0]

    bound = screening.upper_bound(rows, keys)
    assert keys / rows < bound < 1
    assert ratio(bound) == pytest.approx(20, rel=1e-2)
    assert all(ratio(p) < 20 for p in np.linspace(max(keys / rows, 1e-3), bound, 10)[1:-1])


def test_bounds_are_bounds_of_the_rate():
    for rows in (1, 10, 200):
        for keys in range(0, rows + 1, max(1, rows // 7)):
            low, high = screening.lower_bound(rows, keys), screening.upper_bound(rows, keys)
            assert 0 <= low <= keys / rows <= high <= 1
            assert high >= binomtest(keys, rows, alternative="less").proportion_ci(0.95).high - 1e-9
    assert (screening.lower_bound(0, 0), screening.upper_bound(0, 0)) == (0, 1)


def test_the_bound_holds_however_often_one_looks():
    """At a rate of exactly 1 %, at most one campaign in twenty ever sees a bound below it; of a bound for a single look
    that cannot be said."""
    looks, campaigns = range(100, 2001, 20), 4000
    found = np.random.default_rng(1).random((campaigns, max(looks))) < 0.01
    keys = np.cumsum(found, axis=1)[:, np.array(looks) - 1]

    def share(bound):
        most = []  # keys up to which the bound lies below 1 %, for each look
        for rows in looks:
            k = most[-1] if most else -1
            while bound(rows, k + 1) < 0.01:
                k += 1
            most.append(k)
        return (keys <= np.array(most)).any(axis=1).mean()

    assert share(screening.upper_bound) <= 0.05
    assert share(lambda n, k: binomtest(k, n, alternative="less").proportion_ci(0.95).high) > 0.08


# --- table ----------------------------------------------------------------------------------------------------------


def test_the_table_that_ships_is_of_this_release_and_has_every_claim():
    shipped = Table.read(screening.TABLE)
    assert shipped.version == caligo.__version__
    for name, claim in claims.CLAIMS.items():
        for partition in claim.partitions if claim.status is not claims.Status.NONE else ():
            for memory in ("markov", "fixed"):
                rows, keys = shipped.cells[partition, name, memory]
                assert (np.diff(rows) <= 0).all() and (np.diff(keys) <= 0).all()
                assert (keys <= rows).all()
    ready = screening.screen(SPEC, PHYSICS, PROTOCOL)
    assert ready.is_active
    assert ready.refused is None
    assert ready.false_skip_bound <= 0.01


def test_what_is_written_is_read(written):
    read = Table.read(written(CLEAN))
    assert (read.version, read.source, read.cells.keys()) == (CLEAN.version, CLEAN.source, CLEAN.cells.keys())
    np.testing.assert_array_equal(read.cells[CELL], CLEAN.cells[CELL])


def test_damage_of_any_kind_is_seen(written):
    path = written(CLEAN)
    text = path.read_text()
    whole = json.loads(text)
    damaged = [
        text[: len(text) // 2],
        "",
        "[]",
        "{}",
        json.dumps(whole | {"format": "caligo.doomed-runs/0"}),
        json.dumps(whole | {"table": {}}),
        *(json.dumps(whole | {"table": whole["table"] | {name: None}}) for name in whole["table"]),
        text.replace("1600", "16000"),
    ]
    for content in damaged:
        path.write_text(content)
        with pytest.raises(TableError):
            Table.read(path)
        assert not screen(path).is_active
        assert screen(path).refused
    path.unlink()
    assert "cannot be read" in screen(path).refused
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in screen(path).refused


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"version": "0.1.0"}, "version 0.1.0"),
        ({"source": "netsquid"}, "source netsquid"),
        ({"cells": {}}, "claim individual"),
    ],
)
def test_a_table_of_something_else_is_not_used_and_says_so(written, changes, word):
    found = screen(written(dataclasses.replace(CLEAN, **changes)))
    assert not found.is_active
    assert word in found.refused


def test_a_claim_without_closed_form_is_refused(written):
    physics = PhysicsSpec.model_construct(**{**PHYSICS.model_dump(), "claim": "release-0.1/max"})
    with mock.patch.object(screening, "TABLE", written(CLEAN)):
        found = screening.screen(SPEC, physics, PROTOCOL)
    assert "not defined for the claim" in found.refused


# --- thresholds -----------------------------------------------------------------------------------------------------


def test_the_threshold_is_the_spec_s_or_the_next_one_measured(written):
    path = written(CLEAN)
    for asked, used in ((0.5, 0.9), (0.9, 0.9), (0.99, 0.99), (0.991, 0.995)):
        found = screen(path, threshold=asked)
        assert found.threshold.tolist() == [used, used]
        assert found.evidence == 2 * CLEAN.cells[CELL][0][0, THRESHOLDS.index(used)]
    assert not screen(path, threshold=0.99995).is_active


def test_keys_above_the_threshold_raise_it(written):
    found = screen(written(table([1600, 1400, 1200, 1000, 800, 700, 600, 500], [90, 60, 40, 12, 0, 0, 0, 0])))
    assert found.threshold.tolist() == [0.995, 0.995]
    assert found.false_skips == 0
    assert found.false_skip_bound == screening.upper_bound(
        800, 0, 0.05 / 5
    )  # five thresholds were there to choose from
    allowed = screen(
        written(table([1600, 1400, 1200, 1000, 800, 700, 600, 500], [90, 60, 40, 12, 0, 0, 0, 0])),
        max_false_skip_rate=0.03,
    )
    assert allowed.threshold.tolist() == [0.99, 0.99]
    assert allowed.false_skips == 24


def test_too_few_runs_prove_nothing(written):
    found = screen(written(table(np.full(8, 100), np.zeros(8, dtype=int))))
    assert not found.is_active
    assert "prove" in found.refused
    assert screen(written(table(np.full(8, 100), np.zeros(8, dtype=int))), max_false_skip_rate=0.1).is_active


def test_a_strategy_that_is_not_proved_is_simulated(written):
    rows, keys = (np.array(counts) for counts in CLEAN.cells[CELL])
    rows[1] = 5
    found = screen(written(dataclasses.replace(CLEAN, cells={CELL: (rows, keys)})))
    assert found.threshold.tolist() == [0.99, np.inf]
    inputs = np.zeros((2, 9), dtype=np.float32)
    inputs[1, 8] = 1
    assert found.dooms(np.array([30.0, 30.0]), inputs).tolist() == [True, False]


def test_the_campaign_s_own_audits_join_and_may_refute(written):
    path = written(CLEAN)
    own_rows, own_keys = np.zeros((2, 8), dtype=np.int64), np.zeros((2, 8), dtype=np.int64)
    own_rows[0] = 30
    joined = screen(path, (own_rows, own_keys))
    assert (joined.evidence, joined.audits, joined.false_audits) == (2 * 1000 + 30, 30, 0)
    own_keys[0] = 6  # in 30 audits: no table makes 1 % of that
    refuted = screen(path, (own_rows, own_keys))
    assert refuted.threshold.tolist() == [np.inf, 0.99]


def test_switched_off(written):
    assert not screen(written(CLEAN), enabled=False).is_active


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def design():
    from caligo_sampler.design import LHSSampler

    return LHSSampler(CampaignSpec(name="x").space.resolve(), 5, 3000).rows(0, 3000)[1]


def test_log_odds_are_those_of_the_closed_form(design):
    log_odds = screening.failure_log_odds(design, PHYSICS, PROTOCOL)
    key = expect(design, PHYSICS, PROTOCOL).key
    assert np.isfinite(log_odds).all()
    inside = np.abs(log_odds) < 30
    np.testing.assert_allclose(1 / (1 + np.exp(log_odds[inside])), key[inside], rtol=1e-9, atol=1e-12)


def test_counts_are_those_of_counting(design):
    log_odds = screening.failure_log_odds(design, PHYSICS, PROTOCOL)
    has_key = np.random.default_rng(0).random(len(design)) < 0.3
    rows, keys = screening.counts(log_odds, design, has_key)
    failure = 1 / (1 + np.exp(-log_odds))
    for strategy in range(2):
        for t, threshold in enumerate(THRESHOLDS):
            above = (failure > threshold) & (screening.strategies(design) == strategy)
            assert (rows[strategy, t], keys[strategy, t]) == (above.sum(), (above & has_key).sum())


def test_an_audit_spares_its_share_by_index_and_phase():
    doomed, index = np.ones(20_000, dtype=bool), np.arange(20_000)
    found = screening.verdicts(doomed, SPEC, 7, Phase.LHS, index)
    assert 0.017 < (found == Verdict.AUDIT).mean() < 0.023
    assert set(found) == {Verdict.SKIP, Verdict.AUDIT}
    some = np.random.default_rng(0).permutation(20_000)[:500]
    np.testing.assert_array_equal(screening.verdicts(doomed[some], SPEC, 7, Phase.LHS, some), found[some])
    assert (screening.verdicts(doomed, SPEC, 7, Phase.ACTIVE, index) != found).any()
    assert not screening.verdicts(~doomed, SPEC, 7, Phase.LHS, index).any()
    assert len(screening.verdicts(doomed[:0], SPEC, 7, Phase.LHS, index[:0])) == 0
