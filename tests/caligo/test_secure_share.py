"""The closed form's share of a space with a key, against plain Monte Carlo over the design's own distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caligo.closed_form import expect
from caligo.physics.claims import CLAIMS
from caligo.secure_share import secure_share
from caligo.spec import CampaignSpec, validate


@pytest.fixture(scope="module")
def designed() -> tuple[float, float]:
    """Share and its standard error over 100,000 independent rows, F ~ Beta(2, 1)."""
    spec, rng = CampaignSpec(), np.random.default_rng(1)
    unit = rng.random((100_000, 9))
    unit[:, 3] = np.sqrt(unit[:, 3])
    unit[:, 8] = unit[:, 8] < 0.5
    rows = spec.space.resolve().from_unit(unit)
    keys = expect(rows, spec.physics, spec.protocol).key
    return float(np.mean(keys)), float(np.std(keys)) / math.sqrt(len(keys))


def test_the_share_is_that_of_the_design(designed: tuple[float, float]) -> None:
    found = secure_share(CampaignSpec(), CLAIMS["individual"])
    value, error = found.designed
    assert found.partition == "alice"
    assert 0.0003 < error < 0.005
    assert abs(value - designed[0]) < 4 * math.hypot(error, designed[1])
    assert found.uniform[0] < value - 0.08  # dense near perfect pairs is a friendly measure


def test_a_claim_of_the_other_partition_is_computed_for_that() -> None:
    found = secure_share(CampaignSpec(), CLAIMS["erven2014"])
    assert found.partition == "bob"
    assert found.designed[0] < 0.05


def test_the_extremes() -> None:
    good = {"F": [0.99, 1], "e_det": [0, 0.001], "nu": [0.05, 0.06], "N": [1e7, 1e8], "eta": [0.5, 1]}
    certain = validate(CampaignSpec, {"space": {"bounds": {**good, "P_dark": [1e-8, 1e-7]}}})
    hopeless = validate(CampaignSpec, {"space": {"bounds": {"N": [1e3, 2e3]}}})
    assert secure_share(certain, CLAIMS["individual"]).designed == pytest.approx((1.0, 0.0), abs=2e-3)
    assert secure_share(hopeless, CLAIMS["individual"]).uniform == pytest.approx((0.0, 0.0), abs=1e-9)


def test_one_strategy_alone() -> None:
    blind = validate(CampaignSpec, {"space": {"blind_fraction": 1.0}})
    baseline = validate(CampaignSpec, {"space": {"blind_fraction": 0.0}})
    both = secure_share(CampaignSpec(), CLAIMS["individual"]).uniform[0]
    halves = [secure_share(spec, CLAIMS["individual"]).uniform[0] for spec in (blind, baseline)]
    assert both == pytest.approx(np.mean(halves))
