"""What a campaign has found: the numbers that matter, and a slice through the cliff for pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from caligo.calibration import Calibration
from caligo.dataset import DISCREPANCY_COLUMNS
from caligo.discrepancy import RELEVANCE_COLUMNS, Discrepancy
from caligo.results import ProtocolOutcome, ResultRows, metric
from caligo.savings import Savings
from caligo.slices import cut
from caligo.space import COLUMNS, DIMENSIONS, STRATEGY_COLUMN, Space
from caligo.spec import CampaignSpec
from caligo.v1 import campaign_pb2, surrogate_pb2
from caligo_orchestrator.model.remote import Explained, Surrogate
from caligo_orchestrator.store.hdf5 import GRID_POINTS


def summarise(
    spec: CampaignSpec,
    blocks: Iterable[ResultRows],
    model: surrogate_pb2.GetModelResponse,
    explained: Explained,
    length_scales: NDArray[np.float32],
    validations: Mapping[str, surrogate_pb2.Validation],
    calibration: Calibration | None,
    convergence: campaign_pb2.Convergence | None,
) -> campaign_pb2.Findings:
    """The numbers that matter, from all result rows (in blocks) and what is known of the surrogate.

    Args:
        validations: by the name of their field in `Findings`.
    """
    outcomes, savings = np.zeros(256, dtype=np.int64), Savings()
    efficiencies = [np.empty(0, dtype=np.float32)]
    for rows in blocks:
        outcomes += np.bincount(rows["outcome"], minlength=256)
        succeeded = rows["outcome"] == ProtocolOutcome.SUCCESS
        efficiencies.append(metric(rows, "net_efficiency")[succeeded])
        savings += Savings.of(rows, spec.physics, spec.protocol)
    efficiency = np.concatenate(efficiencies)
    skipped = [outcomes[o] for o in ProtocolOutcome if o.is_skipped]
    order = np.argsort(length_scales, kind="stable")
    found = campaign_pb2.Findings(
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
        guardrail=model.guardrail,
        prior=model.prior,
        convergence=convergence,
        discrepancy=explained.discrepancy,
        relevance=explained.relevance,
        seconds_simulated=savings.spent,
    )
    saved, saved_error = savings.saved()
    if math.isfinite(saved):
        found.seconds_saved, found.seconds_saved_error = saved, saved_error
    for field, validation in validations.items():
        getattr(found, field).CopyFrom(validation)
    if calibration is not None:
        coverage50, coverage90, coverage95 = calibration.coverage
        found.calibration.CopyFrom(
            campaign_pb2.Calibration(
                rows=calibration.rows,
                coverage50=coverage50,
                coverage90=coverage90,
                coverage95=coverage95,
                mean_z=calibration.mean_z,
            )
        )
    return found


def explanation(explained: Explained) -> Mapping[str, NDArray]:
    """What the surrogate says of the physics, as datasets of the `surrogate` group of the HDF5 file."""
    relevance = [[getattr(one, column) for column in RELEVANCE_COLUMNS] for one in explained.relevance]
    datasets: dict[str, NDArray] = {"relevance": np.array(relevance, dtype=np.float32)}
    if explained.discrepancy is not None and explained.profiles is not None:
        found = Discrepancy.from_message(explained.discrepancy)
        datasets |= {
            "discrepancy": np.array([getattr(found, column) for column in DISCREPANCY_COLUMNS], dtype=np.float32),
            "discrepancy_rows": np.array([found.rows]),
            "discrepancy_point": np.array(found.point or [np.nan] * DIMENSIONS, dtype=np.float32),
            "discrepancy_along": explained.profiles,
        }
    return datasets


def cliff_slice(surrogate: Surrogate, space: Space, explained: Explained) -> Mapping[str, NDArray]:
    """The posterior on a grid over the two most relevant continuous parameters, both strategies.

    The other parameters stand at the middle of their range in model coordinates. Datasets as in the `surrogate`
    group of the HDF5 file.
    """
    low, high = space.model_bounds()
    order = np.argsort([-one.total for one in explained.relevance], kind="stable")
    free = [j for j in order if j != STRATEGY_COLUMN and high[j] > low[j]]
    x_axis, y_axis = free[:2] if len(free) >= 2 else (0, 1)
    piece = cut(space, (x_axis, y_axis), (low + high) / 2, GRID_POINTS, surrogate.predict)
    return {
        "cliff_axes": np.array(piece.axes, dtype=np.uint8),
        "cliff_x": piece.x,
        "cliff_y": piece.y,
        "cliff_at": piece.at,
        "cliff_margin": np.stack([piece.mean, piece.deviation], axis=-1),
    }
