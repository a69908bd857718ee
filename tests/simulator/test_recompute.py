"""Rows of real runs hold what every claim needs: under their own they give their own key lengths, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from caligo_simulator.harness import ProtocolHarness, Setup

from caligo.physics.claims import CLAIMS
from caligo.recompute import KeyStatus, recompute, refusal
from caligo.results import Reason, ResultRows, count, metric
from caligo.space import STRATEGY_COLUMN, ExplorationSample, Strategy
from caligo.spec import CampaignSpec

MakeSample = Callable[..., ExplorationSample]
PLACES = [
    {},
    {"N": 200_000, "F": 0.96},
    {"F": 0.93},  # no key
    {"N": 2_000},  # not a frame
    {"N": 2_500_000, "nu": 0.3, "r": 0.75},  # longer than what is decoded
]


@pytest.mark.parametrize(
    ("claim", "partition"),
    [("individual", "alice"), ("lupo2023", "alice"), ("stw09", "alice"), ("individual", "bob"), ("erven2014", "bob")],
)
def test_under_its_own_claim_a_row_gives_its_own_key(
    harness: ProtocolHarness,
    make_setup: Callable[..., Setup],
    secure: MakeSample,
    as_row: Callable[[ExplorationSample], tuple[int, np.ndarray]],
    claim: str,
    partition: str,
) -> None:
    setup = make_setup(
        physics={"claim": claim, "memory_model": "markov"}, protocol={"partition": partition, "max_decoded_frames": 16}
    )
    spec = CampaignSpec(physics=setup.physics, protocol=setup.protocol)
    memory = {} if claim != "erven2014" else {"nu": 1e-4}
    blocks = []
    for number, (changes, strategy) in enumerate((c, s) for c in PLACES for s in Strategy):
        _, inputs = as_row(secure(index=number, strategy=strategy, **{**changes, **memory}))
        blocks.append(harness.run(ExplorationSample.inflate(number, inputs), setup).to_row(number, inputs))
    rows: ResultRows = np.concatenate(blocks)

    found = recompute(rows, spec, CLAIMS[claim])
    np.testing.assert_array_equal(found.key_length, count(rows, "key_length"))
    success = rows["outcome"] == 1
    assert {Strategy(s) for s in rows["inputs"][success, STRATEGY_COLUMN]} == set(Strategy)
    assert (found.status[success] == KeyStatus.KEY).all()
    np.testing.assert_allclose(found.margin[success], metric(rows, "margin")[success], atol=1e-6)
    assert not (found.status == KeyStatus.UNKNOWN).any()
    others = [other for name, other in CLAIMS.items() if name != claim and refusal(spec, other) is None]
    assert len(others) >= 2
    for other in others:
        again = recompute(rows, spec, other)
        undecoded = again.status == KeyStatus.UNDECODED
        assert (rows["reason"][undecoded] == Reason.PREDICTED_NEGATIVE_KEY).all()
