"""Rows under other claims, from what they counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caligo.dataset import open_campaign
from caligo.physics.claims import CLAIMS, LEGACY, Counts, claim
from caligo.recompute import KeyStatus, recompute, refusal
from caligo.results import ProtocolOutcome, ProtocolResult, Reason, ResultRows, count
from caligo.spec import CampaignSpec, validate

OLD = Path(__file__).parents[1] / "assets" / "release-0.1" / "data" / "campaigns"
PLACE = np.array([0.75, -1.0, 9.0, 0.99, -0.1, 0.002, -7.0, 6.0, 0], dtype=np.float32)
"""r, log nu, log dt, F, log eta, e_det, log P_dark, log N, strategy."""
HOPELESS = np.array([0.99, 0.0, 7.0, 0.85, -2.0, 0.05, -3.0, 6.0, 0], dtype=np.float32)


def row(outcome: ProtocolOutcome, reason: Reason = Reason.NONE, at: np.ndarray = PLACE, **values: Any) -> ResultRows:
    counted = {"pairs": 10**6, "detected": 794_000, "test_bits": 79_400, "reconciled": 350_000, "leaked": 50_000}
    return ProtocolResult(outcome, reason, **{**counted, **values}).to_row(0, at)


def status(of: ResultRows, name: str, spec: CampaignSpec | None = None) -> KeyStatus:
    return KeyStatus(recompute(of, spec or CampaignSpec(), CLAIMS[name]).status[0])


@pytest.mark.parametrize("name", ["individual", "lupo2023", "stw09", "kww2012"])
def test_the_counts_of_a_row_go_into_the_finite_form(name: str) -> None:
    found = recompute(row(ProtocolOutcome.SUCCESS, removed=20), CampaignSpec(), CLAIMS[name])
    counts = Counts(detected=794_000, key_rounds=714_600, cut=350_010, removed=20, leak=50_000)
    expected = CLAIMS[name].key_bits(counts, 0.75, 0.1, 1e-10, "alice").secret
    assert expected > 1000
    assert found.key_length[0] == pytest.approx(expected, abs=1)  # the place is float32
    assert found.margin[0] == pytest.approx(expected / 350_000, abs=1e-6)
    assert status(row(ProtocolOutcome.SUCCESS), name) is KeyStatus.KEY


def test_a_run_that_ended_before_decoding_is_counted_apart() -> None:
    ended = row(ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY)
    assert status(ended, "individual") is KeyStatus.NO_KEY  # it is the campaign's own claim that said so
    assert status(ended, "lupo2023") is KeyStatus.UNDECODED
    assert recompute(ended, CampaignSpec(), CLAIMS["lupo2023"]).key_length[0] > 1000


@pytest.mark.parametrize("frame", [3686, 58982])
def test_a_blind_run_that_disclosed_nothing_has_no_key_under_a_claim_that_leaves_no_more(frame: int) -> None:
    counts = {"test_bits": 0, "sifted": 350_000, "frames_total": 350_000 // frame, "reconciled": 0, "leaked": 0}
    ended = row(ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY, **counts)
    for name in ("individual", "lupo2023", "kww2012"):
        assert status(ended, name) is KeyStatus.NO_KEY
    assert status(ended, "stw09") is KeyStatus.UNKNOWN
    assert status(ended, "individual", validate(CampaignSpec, {"physics": {"claim": "lupo2023"}})) is KeyStatus.UNKNOWN


def test_a_frame_lost_is_lost_under_every_claim_that_leaves_key() -> None:
    lost = row(ProtocolOutcome.FAILURE_RECONCILIATION, Reason.FRAME_LOST)
    found = recompute(lost, CampaignSpec(), CLAIMS["individual"])
    assert (found.status[0], found.key_length[0]) == (KeyStatus.FRAME_LOST, 0)
    assert found.margin[0] > 0
    leaks = row(ProtocolOutcome.FAILURE_RECONCILIATION, Reason.FRAME_LOST, leaked=300_000)
    assert status(leaks, "individual") is KeyStatus.NO_KEY


@pytest.mark.parametrize(
    "reason", [Reason.DETECTION_INTERVAL, Reason.INSUFFICIENT_RAW, Reason.QBER_LIMIT, Reason.NO_CODE]
)
def test_what_ends_a_run_whatever_is_claimed(reason: Reason) -> None:
    ended = row(ProtocolOutcome.FAILURE_SECURITY, reason, reconciled=0, leaked=0)
    for name in ("individual", "stw09", "kww2012"):
        found = recompute(ended, CampaignSpec(), CLAIMS[name])
        assert (found.status[0], found.key_length[0]) == (KeyStatus.NO_KEY, 0)
        assert math.isnan(found.margin[0])


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (ProtocolOutcome.FAILURE_TIMEOUT, Reason.TIME_LIMIT),
        (ProtocolOutcome.FAILURE_ERROR, Reason.EXCEPTION),
        (ProtocolOutcome.SKIPPED_PREDICTED_FAILURE, Reason.GUARDRAIL),
        (42, 42),
    ],
)
def test_what_was_not_carried_out_is_not_known(outcome: Any, reason: Any) -> None:
    assert status(row(outcome, reason), "individual") is KeyStatus.UNKNOWN


def test_where_no_run_gives_key_the_closed_form_decides() -> None:
    skipped = (ProtocolOutcome.SKIPPED_INFEASIBLE, Reason.CLOSED_FORM)
    assert status(row(*skipped, at=HOPELESS), "stw09") is KeyStatus.NO_KEY
    assert status(row(*skipped, at=PLACE), "individual") is KeyStatus.NO_KEY  # by its own claim
    assert status(row(*skipped, at=PLACE), "stw09") is KeyStatus.UNKNOWN


def test_a_claim_that_says_nothing_about_the_rows_is_refused() -> None:
    alice = CampaignSpec()
    bob = validate(CampaignSpec, {"physics": {"claim": "erven2014"}, "protocol": {"partition": "bob"}})
    assert refusal(alice, CLAIMS["erven2014"]) == "erven2014 covers partition bob only, not alice"
    assert refusal(bob, CLAIMS["lupo2023"]) == "lupo2023 covers partition alice only, not bob"
    assert [refusal(bob, CLAIMS[name]) for name in ("erven2014", "individual", "stw09", "kww2012")] == [None] * 4
    assert "another protocol" in str(refusal(alice, claim("release-0.1/lupo2023")))
    with pytest.raises(ValueError, match="erven2014 covers partition bob only"):
        recompute(row(ProtocolOutcome.SUCCESS), alice, CLAIMS["erven2014"])


@pytest.mark.parametrize("id", ["lupo", "erven", "kww", "paused-lhs", "paused-active", "running"])
def test_a_file_of_release_0_1_gives_its_own_keys_under_the_rules_of_then(id: str) -> None:
    with open_campaign(OLD / id / "exploration_data.h5") as campaign:
        rows, spec = campaign.rows(), campaign.spec
    found = recompute(rows, spec, claim(spec.physics.claim))
    np.testing.assert_array_equal(found.key_length, count(rows, "key_length"))
    assert np.count_nonzero(found.status == KeyStatus.KEY) == np.count_nonzero(rows["outcome"] == 1) > 0
    assert {refusal(spec, old) for old in LEGACY.values()} == {None}
    assert {refusal(spec, new) for new in CLAIMS.values()} == {"the rows are of another protocol"}


def test_no_rows() -> None:
    assert len(recompute(row(ProtocolOutcome.SUCCESS)[:0], CampaignSpec(), CLAIMS["individual"]).status) == 0
