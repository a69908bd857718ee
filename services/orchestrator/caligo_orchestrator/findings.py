"""What a campaign has found: the numbers that matter, and a slice through the cliff for pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from caligo.results import ProtocolOutcome, ResultRows, metric
from caligo.space import COLUMNS, STRATEGY_COLUMN, Space, Strategy
from caligo.v1 import campaign_pb2, surrogate_pb2
from caligo_orchestrator.remote import Surrogate
from caligo_orchestrator.store.hdf5 import GRID_POINTS


def summarise(
    blocks: Iterable[ResultRows],
    model: surrogate_pb2.GetModelResponse,
    length_scales: NDArray[np.float32],
    validation: surrogate_pb2.Validation | None,
) -> campaign_pb2.Findings:
    """The numbers that matter, from all result rows (in blocks) and what the surrogate says of itself."""
    outcomes = np.zeros(256, dtype=np.int64)
    efficiencies = [np.empty(0, dtype=np.float32)]
    for rows in blocks:
        outcomes += np.bincount(rows["outcome"], minlength=256)
        succeeded = rows["outcome"] == ProtocolOutcome.SUCCESS
        efficiencies.append(metric(rows, "net_efficiency")[succeeded])
    efficiency = np.concatenate(efficiencies)
    skipped = [outcomes[o] for o in ProtocolOutcome if o.is_skipped]
    order = np.argsort(length_scales, kind="stable")
    return campaign_pb2.Findings(
        rows=int(outcomes.sum()),
        simulated=int(outcomes.sum() - sum(skipped)),
        faults=int(sum(outcomes[o] for o in ProtocolOutcome if not o.is_physical)),
        skipped_infeasible=int(outcomes[ProtocolOutcome.SKIPPED_INFEASIBLE]),
        skipped_predicted=int(outcomes[ProtocolOutcome.SKIPPED_PREDICTED_FAILURE]),
        succeeded=len(efficiency),
        best_efficiency=float(efficiency.max()) if len(efficiency) else 0.0,
        median_efficiency=float(np.median(efficiency)) if len(efficiency) else 0.0,
        relevant_parameters=[COLUMNS[j].removeprefix("log10_") for j in order],
        length_scales=[float(length_scales[j]) for j in order],
        secure_fraction=model.secure_fraction,
        secure_fraction_error=model.secure_fraction_error,
        validation=validation,
    )


def cliff_slice(surrogate: Surrogate, space: Space, length_scales: NDArray[np.float32]) -> Mapping[str, NDArray]:
    """The posterior on a grid over the two most relevant continuous parameters, both strategies.

    The other parameters stand at the middle of their range in model coordinates. Datasets as in the `surrogate`
    group of the HDF5 file; NaN for a strategy that the space leaves out.
    """
    low, high = space.model_bounds()
    free = [j for j in np.argsort(length_scales, kind="stable") if j != STRATEGY_COLUMN and high[j] > low[j]]
    x_axis, y_axis = free[:2] if len(free) >= 2 else (0, 1)
    at = (low + high) / 2
    x = np.linspace(low[x_axis], high[x_axis], GRID_POINTS)
    y = np.linspace(low[y_axis], high[y_axis], GRID_POINTS)
    margin = np.full((len(Strategy), GRID_POINTS, GRID_POINTS, 2), np.nan, dtype=np.float32)
    shares = {Strategy.BASELINE: 1 - space.blind_fraction, Strategy.BLIND: space.blind_fraction}
    for strategy in (strategy for strategy, share in shares.items() if share > 0):
        grid = np.tile(at, (GRID_POINTS, GRID_POINTS, 1))
        grid[:, :, x_axis] = x[None, :]
        grid[:, :, y_axis] = y[:, None]
        grid[:, :, STRATEGY_COLUMN] = strategy
        prediction = surrogate.predict(grid.reshape(-1, len(at)).astype(np.float32))
        margin[strategy] = prediction[:, :2].reshape(GRID_POINTS, GRID_POINTS, 2)
    return {
        "cliff_axes": np.array([x_axis, y_axis], dtype=np.uint8),
        "cliff_x": x.astype(np.float32),
        "cliff_y": y.astype(np.float32),
        "cliff_at": at.astype(np.float32),
        "cliff_margin": margin,
    }
