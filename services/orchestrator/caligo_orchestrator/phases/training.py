"""Phase 2: the surrogate learns the rows of phase 1, is validated, and is kept."""

from __future__ import annotations

import threading
from pathlib import Path

from caligo.phases import Phase
from caligo.spec import CampaignSpec
from caligo_orchestrator.campaigns.progress import ProgressBoard
from caligo_orchestrator.campaigns.recorder import Recorder
from caligo_orchestrator.model.remote import Surrogate
from caligo_orchestrator.pipeline import Stopped
from caligo_orchestrator.store import models
from caligo_orchestrator.store.journal import Journal


def recall(campaign: str, spec: CampaignSpec, model: Surrogate, journal: Journal, directory: Path) -> bool:
    """Make the model anew from the rows of phase 1; whether it needs no training, as what was learned is kept, by this
    campaign or by the base that the spec takes it from."""
    model.delete()
    model.create(spec)
    for rows in journal.row_blocks(campaign, Phase.LHS):
        model.observe(Phase.LHS, rows)
    if models.kept(journal, campaign):
        models.load(model, journal, campaign)
        return True
    if spec.training.skip:
        models.load(model, journal, spec.base)
        models.save(model, journal, campaign, directory)
        return True
    return False


def run(spec: CampaignSpec, model: Surrogate, recorder: Recorder, board: ProgressBoard, stop: threading.Event) -> None:
    """Train and validate.

    Raises:
        Stopped: `stop` was set.
    """
    board.enter(Phase.SURROGATE, 0, spec.surrogate.training_steps)
    for response in model.fit(spec.training.holdout_fraction, spec.training.folds):
        if stop.is_set():
            raise Stopped
        if response.HasField("progress"):
            board.step(response.progress.step, response.progress.steps)
        else:
            recorder.fit(0, response.summary)
