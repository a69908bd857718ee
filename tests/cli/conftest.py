"""A campaign's file from the closed form alone, so that reports can be judged without a simulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caligo.closed_form import expect
from caligo.dataset import FORMAT, GROUPS, HISTORY_COLUMNS, NOT_YET
from caligo.discrepancy import PROFILE_STEPS
from caligo.phases import Phase
from caligo.physics import CLAIMS, Counts, feasibility_margin
from caligo.physics.efficiency import PAYLOADS
from caligo.physics.prediction import Prediction
from caligo.physics.security import effective_retention
from caligo.results import COUNTS, METRICS, ROW_DTYPE, ProtocolOutcome, ProtocolResult, Reason, ResultRows
from caligo.space import COLUMNS, ExplorationSample, Space, Strategy
from caligo.spec import CampaignSpec

SPEC = CampaignSpec(name="synthetic")
LENGTH_SCALES = np.array([1.1, 0.42, 0.71, 0.21, 1.6, 0.38, 6.5, 0.35, 0.9], dtype=np.float32)


def closed_form(index: int, inputs: np.ndarray, rng: np.random.Generator) -> ResultRows:
    """A row as the simulator would give it, up to sampling noise; its key follows from its counts."""
    s = ExplorationSample.inflate(index, inputs)
    physics = (s.r, s.nu, s.dt_ns, s.F, s.eta, s.e_det, s.P_dark)
    p = Prediction(*(float(value) for value in expect(inputs, SPEC.physics, SPEC.protocol)))
    if feasibility_margin(*physics) <= 0:
        return ProtocolResult(ProtocolOutcome.SKIPPED_INFEASIBLE, Reason.CLOSED_FORM, margin=min(0.0, p.margin)).to_row(
            index, inputs
        )
    is_baseline = s.strategy is Strategy.BASELINE
    result = ProtocolResult(
        ProtocolOutcome.SUCCESS,
        margin=min(0.0, p.margin),
        qber=float(np.clip(p.qber + rng.normal(0, np.sqrt(p.qber / max(p.reconciled, 1))), 0, 0.5)),
        detection_rate=p.p_click,
        min_entropy_rate=p.min_entropy_rate,
        leakage_rate=p.leakage_rate,
        wall_seconds=0.2,
        pairs=s.N,
        detected=int(p.detected),
        sifted=int(p.detected / 2),
        test_bits=int(SPEC.protocol.test_fraction * p.detected) if is_baseline else 0,
    )
    if p.filled < 0.5:
        result.outcome, result.reason = ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW
        return result.to_row(index, inputs)
    payload = PAYLOADS[p.reconciled > 8 * PAYLOADS[1]]
    result.frames_total = max(1, round(p.reconciled / payload))
    m = result.reconciled = result.frames_total * payload
    result.leaked = max(1, int(m * (p.leakage_rate + rng.normal(0, 0.004))))
    counts = Counts(result.detected, result.detected - result.test_bits, m, 0, result.leaked)
    r = effective_retention(s.r, s.dt_ns)
    secret = CLAIMS[SPEC.physics.claim].key_bits(counts, r, s.nu, SPEC.physics.epsilon, "alice").secret
    result.margin = max(-1.0, secret / m)
    if secret >= 1.0:
        result.frames_decoded = min(result.frames_total, max(4, 256 * PAYLOADS[0] // payload))
        result.key_length, result.net_efficiency = int(secret), int(secret) / s.N
        if is_baseline and index % 40 == 0:
            result.outcome, result.reason = ProtocolOutcome.FAILURE_RECONCILIATION, Reason.FRAME_LOST
            result.key_length, result.net_efficiency = 0, 0.0
    else:
        result.outcome, result.reason = ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY
        if not is_baseline:
            result.reconciled = result.leaked = 0
    return result.to_row(index, inputs)


def design(space: Space, count: int, rng: np.random.Generator) -> np.ndarray:
    unit = rng.random((count, len(COLUMNS)))
    unit[:, 3] = np.sqrt(unit[:, 3])
    unit[:, -1] = rng.random(count) < space.blind_fraction
    return space.from_unit(unit)


def make_rows(space: Space, lhs: int, active: int, rng: np.random.Generator) -> dict[Phase, ResultRows]:
    first = np.concatenate([closed_form(i, row, rng) for i, row in enumerate(design(space, lhs, rng))])
    pool = np.concatenate([closed_form(i, row, rng) for i, row in enumerate(design(space, 6 * active, rng))])
    pool = pool[pool["reason"] != Reason.INSUFFICIENT_RAW]  # their margin says nothing
    near = pool[np.argsort(np.abs(pool["metrics"][:, 1]))[:active]]
    near["index"] = np.arange(active)
    doomed = near["outcome"] == ProtocolOutcome.SKIPPED_INFEASIBLE
    near["outcome"][doomed] = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
    near["reason"][doomed] = Reason.GUARDRAIL
    return {Phase.LHS: first, Phase.ACTIVE: near}


def cliff_margin(space: Space, axes: tuple[int, int], x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    rows = np.tile(at, (2, len(y), len(x), 1))
    rows[..., axes[0]] = x
    rows[..., axes[1]] = y[:, None]
    rows[..., -1] = np.arange(2)[:, None, None]
    margin = expect(rows, SPEC.physics, SPEC.protocol).margin
    return np.stack([margin, 0.02 + 0.15 * np.abs(margin)], axis=-1).astype(np.float32)


def make_campaign(path: Path, *, lhs: int = 300, active: int = 96, missing: int = 0, fitted: bool = True) -> Path:
    """A campaign file at `path`; the last `missing` rows of the active phase have not come yet."""
    rng = np.random.default_rng(7)
    space = SPEC.space.resolve()
    phases = make_rows(space, lhs, active, rng)
    if missing:
        phases[Phase.ACTIVE]["outcome"][-missing:] = NOT_YET
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format=FORMAT,
            campaign="campaigns/0f3a9c",
            spec=SPEC.model_dump_json(),
            versions=json.dumps({"caligo": "0.1.0", "numpy": np.__version__}),
        )
        for phase, rows in phases.items():
            group = file.create_group(GROUPS[phase])
            for name in ROW_DTYPE.names or ():
                group[name] = rows[name]
            group["inputs"].attrs["columns"] = COLUMNS
            group["metrics"].attrs["columns"] = [n for n, _ in METRICS]
            group["counts"].attrs["columns"] = [n for n, _ in COUNTS]
        _write_surrogate(file.create_group("surrogate"), space, fitted)
        margin = phases[Phase.ACTIVE]["metrics"][:, 1]
        foretold = np.stack([margin + 0.05 * rng.standard_normal(active), np.full(active, 0.05)], axis=1)
        file["surrogate/forecast"] = foretold.astype(np.float32) if fitted else np.full((active, 2), np.float32(np.nan))
    return path


def relevance() -> np.ndarray:
    """Sobol indices: F by far the most, P_dark nothing."""
    first = np.array([0.05, 0.14, 0.08, 0.25, 0.04, 0.11, 0.0, 0.10, 0.06])
    return np.stack([first, np.full(9, 0.004), 1.3 * first, np.full(9, 0.002)], axis=1).astype(np.float32)


def profiles(space: Space) -> np.ndarray:
    """A device that errs more than it should: the difference falls along e_det, where below 0.03 nothing is known of
    P_dark; two values of the strategy."""
    low, high = space.model_bounds()
    found = np.full((9, PROFILE_STEPS, 3), np.nan, dtype=np.float32)
    for j in range(9):
        steps = np.linspace(0, 1, 2 if j == 8 else PROFILE_STEPS)
        found[j, : len(steps)] = np.stack([low[j] + steps * (high[j] - low[j]), 0 * steps - 0.02, 0 * steps + 0.006]).T
    found[5, :, 1] -= np.linspace(0, 0.03, PROFILE_STEPS)
    found[6, :5, 1:] = np.nan
    return found


def _write_surrogate(group: h5py.Group, space: Space, fitted: bool) -> None:
    axes = (3, 7)  # F, N
    low, high = space.model_bounds()
    x, y = (np.linspace(low[a], high[a], 41).astype(np.float32) for a in axes)
    at = ((low + high) / 2).astype(np.float32)
    at[5], at[1] = 0.01, -0.6
    fits, used = 14, 13
    history = np.full((fits, len(HISTORY_COLUMNS)), np.nan, dtype=np.float32)
    t = np.arange(used)
    history[:used, :6] = np.stack(
        [
            240 + 8 * t,
            0.09 * np.exp(-t / 9) + 0.03,
            0.95 - 0.05 * np.exp(-t / 5),
            0.03 + 0.04 * np.exp(-t / 6),
            0.9 - 0.08 * np.exp(-t / 4),
            0.43 + 0.02 * np.sin(t),
        ],
        axis=1,
    )
    nan = np.float32(np.nan)
    group["length_scales"] = LENGTH_SCALES if fitted else np.full(9, nan)
    group["relevance"] = relevance() if fitted else np.full((9, 4), nan)
    group["discrepancy"] = np.array([0.002, 0.05, -0.031, 0.004] if fitted else [nan] * 4, dtype=np.float32)
    group["discrepancy_rows"] = np.array([212 if fitted else 0], dtype=np.int64)
    group["discrepancy_point"] = at if fitted else np.full(9, nan)
    group["discrepancy_along"] = profiles(space) if fitted else np.full((9, PROFILE_STEPS, 3), nan)
    group["noise"] = np.array([0.012 if fitted else nan], dtype=np.float32)
    group["secure_fraction"] = np.array([0.437, 0.021] if fitted else [nan, nan], dtype=np.float32)
    group["history"] = history if fitted else np.full_like(history, nan)
    group["guardrail"] = np.array([0.995, 0.0085] if fitted else [nan, nan], dtype=np.float32)
    group["guardrail_rows"] = np.array([412, 1, 23, 0] if fitted else [0, 0, 0, 0], dtype=np.int64)
    group["cliff_axes"] = np.array(axes, dtype=np.uint8)
    group["cliff_x"], group["cliff_y"], group["cliff_at"] = x, y, at
    margin = cliff_margin(space, axes, x, y, at) if fitted else np.full((2, 41, 41, 2), nan)
    group["cliff_margin"] = margin.astype(np.float32)


@pytest.fixture(scope="session")
def campaign_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished campaign of 300 + 96 rows, of which the last 6 have not come yet."""
    return make_campaign(tmp_path_factory.mktemp("campaign") / "exploration_data.h5", missing=6)


@pytest.fixture
def write_campaign() -> Callable[..., Path]:
    """`make_campaign`, for files of a test's own."""
    return make_campaign
