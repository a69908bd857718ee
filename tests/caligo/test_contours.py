"""Contours of surfaces whose level lines are known, and of the closed form beside its thresholds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from caligo import contours, thresholds
from caligo.closed_form import expected
from caligo.points import point
from caligo.space import PARAMETERS, SYMBOLS, Space
from caligo.spec import CampaignSpec, SpaceSpec, validate

SPACE = validate(SpaceSpec, {"blind_fraction": 0}).resolve()
F, ETA, R = (SYMBOLS.index(symbol) for symbol in ("F", "eta", "r"))


def ask(predict, axes=(F, ETA), level=0.5, points=101, space: Space = SPACE, **at) -> contours.Contours:
    asking = contours.steps(space, axes, point(at, space), points, level)
    rows = next(asking)
    while True:
        try:
            rows = asking.send(predict(rows).astype(np.float32))
        except StopIteration as end:
            return end.value


def disc(rows: np.ndarray) -> np.ndarray:
    """A key inside a disc of radius 0.3 in the unit square of F and log eta; the surrogate is sure of it."""
    low, high = SPACE.model_bounds()[:, [F, ETA]]
    unit = (rows[:, [F, ETA]] - low) / (high - low)
    margin = 0.3 - np.hypot(*(unit - 0.5).T)
    sd = np.full_like(margin, 0.02)
    key = 0.5 * (1.0 + np.array([math.erf(m / 0.02 / math.sqrt(2.0)) for m in margin]))
    return np.stack([margin, sd, key, margin, sd, key], axis=1)


def test_a_disc_is_a_closed_circle() -> None:
    found = ask(disc)
    assert (found.x, found.y, found.level) == ("F", "eta", 0.5)
    assert [line.kind for line in found.lines] == list(contours.KINDS)
    low, high = SPACE.model_bounds()[:, [F, ETA]]
    for line in found.lines:
        unit = (np.stack([line.x, np.log10(line.y)], axis=1) - low) / (high - low)
        np.testing.assert_allclose(np.hypot(*(unit - 0.5).T), 0.3, atol=2e-3)
        assert line.x[0] == line.x[-1] and line.y[0] == line.y[-1]


def test_a_surrogate_that_is_unsure_has_its_line_between_two() -> None:
    """A margin 0.9 - r with a deviation of 0.05, 0.03 of which is a run's own."""

    def predict(rows: np.ndarray) -> np.ndarray:
        margin = 0.9 - rows[:, R].astype(float)
        key = 0.5 * (1.0 + np.array([math.erf(m / 0.05 / math.sqrt(2.0)) for m in margin]))
        wide, run = np.full_like(margin, 0.05), np.full_like(margin, 0.03)
        return np.stack([margin, wide, key, margin, run, key], axis=1)

    at = {line.kind: line.x for line in ask(predict, axes=(R, F)).lines}
    np.testing.assert_allclose(at["surrogate"], 0.9, atol=1e-4)
    np.testing.assert_allclose(at["surer"], 0.9 + 1.96 * 0.04, atol=1e-3)
    np.testing.assert_allclose(at["less sure"], 0.9 - 1.96 * 0.04, atol=1e-3)


def test_what_is_not_crossed_has_no_line() -> None:
    def never(rows: np.ndarray) -> np.ndarray:
        return np.tile([-1.0, 0.01, 0.0, -1.0, 0.01, np.nan], (len(rows), 1))

    assert ask(never).lines == ()


def test_the_closed_form_s_line_goes_through_its_thresholds() -> None:
    spec = validate(CampaignSpec, {"space": {"blind_fraction": 0}})
    at = {"eta": 0.5, "N": 3e5, "nu": 0.3, "e_det": 0.005, "P_dark": 1e-6, "dt_ns": 1e9}

    def theory(rows: np.ndarray) -> np.ndarray:
        said = expected(rows, spec)
        return np.concatenate([said, said], axis=1)

    found = ask(theory, axes=(R, F), points=201, **at)
    line = max((line for line in found.lines if line.kind == "closed form"), key=lambda line: line.x.size)
    for share in (0.3, 0.6):
        i = int(share * (line.x.size - 1))
        asking = thresholds.steps(SPACE, F, point({**at, "r": float(line.x[i])}, SPACE), [0.5])
        rows = next(asking)
        with pytest.raises(StopIteration) as end:
            asking.send(theory(rows).astype(np.float32))
        assert end.value.value[0].closed_form[0] == pytest.approx(float(line.y[i]), abs=2e-3)


def test_geojson_is_plain_and_says_its_axes() -> None:
    plain = json.loads(json.dumps(ask(disc, N=1e6).to_geojson(claim="individual")))
    assert plain["type"] == "FeatureCollection"
    assert [axis["symbol"] for axis in plain["axes"]] == ["F", "eta"]
    assert plain["at"]["N"] == pytest.approx(1e6, rel=1e-5) and "F" not in plain["at"]
    feature = plain["features"][0]
    assert feature["geometry"]["type"] == "LineString" and len(feature["geometry"]["coordinates"][0]) == 2
    assert feature["properties"] == {"claim": "individual", "strategy": "baseline", "kind": "surrogate", "level": 0.5}
    assert all(PARAMETERS[SYMBOLS.index(axis["symbol"])].unit == axis["unit"] for axis in plain["axes"])
