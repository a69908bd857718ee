"""Predictions of a campaign's surrogate, whether it runs or not."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo.dataset import GROUPS
from caligo.errors import CaligoError, FailedPrecondition
from caligo_orchestrator.api.messages import spec_of
from caligo_orchestrator.campaigns.names import resource_name
from caligo_orchestrator.campaigns.states import SUCCEEDED
from caligo_orchestrator.model.remote import ModelLostError, Surrogate
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store import models
from caligo_orchestrator.store.journal import CampaignRecord, Journal

_FORGET_SECONDS: Final = 5.0


def predict(
    record: CampaignRecord, journal: Journal, settings: OrchestratorSettings, inputs: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Mean, standard deviation and probability of a key at rows [n, 9], float32 [n, 3].

    Asks the model that the campaign works with. Where the surrogate does not have it, the journal's rows and the last
    state of the model make another, which the surrogate keeps for as long as it has room.

    Raises:
        InvalidArgument: a row has a strategy that no row of the campaign has, so that nothing is known of it.
        FailedPrecondition: the campaign has no fitted surrogate yet.
        Unreachable: the surrogate does not answer.
    """
    spec = spec_of(record)
    spec.space.resolve().check(inputs, extrapolate=True)
    absent = contextlib.suppress(ModelLostError, FailedPrecondition)
    with _asking(settings, models.model_name(journal, record.id)) as working, absent:
        return working.predict(inputs)
    state = _state(record, journal)
    if state is None:
        raise FailedPrecondition(f"{resource_name(record.id)}: its surrogate has not been fitted yet")
    with _asking(settings, _remade_name(record, journal, state)) as remade:
        with absent:
            return remade.predict(inputs)
        remade.create(spec)
        for phase in GROUPS:
            for block in journal.row_blocks(record.id, phase):
                remade.observe(phase, block)
        remade.restore(*state)
        return remade.predict(inputs)


def forget(record: CampaignRecord, journal: Journal, settings: OrchestratorSettings) -> None:
    """Have the surrogate forget what it holds of a campaign; where it does not answer, it will when it needs room."""
    names = [models.model_name(journal, record.id)]
    if (state := _state(record, journal)) is not None:
        names.append(_remade_name(record, journal, state))
    for name in names:
        with contextlib.suppress(CaligoError), _asking(settings, name) as model:
            model.delete(_FORGET_SECONDS)


def _asking(settings: OrchestratorSettings, name: str) -> contextlib.closing[Surrogate]:
    return contextlib.closing(Surrogate(settings.surrogate, name, settings.services_tls()))


def _state(record: CampaignRecord, journal: Journal) -> tuple[bytes, str] | None:
    """The last state of a campaign's model: the one kept at the end, if the campaign has got there."""
    last = None if record.state == SUCCEEDED else journal.last_state(record.id)
    return last or models.kept(journal, record.id)


def _remade_name(record: CampaignRecord, journal: Journal, state: tuple[bytes, str]) -> str:
    # Rows only ever come, so their numbers say which they are. A model of this name is complete once it is fitted.
    rows = [journal.row_count(record.id, phase) for phase in GROUPS]
    content = hashlib.sha256(repr((state, rows)).encode()).hexdigest()[:16]
    return f"{models.model_name(journal, record.id)}.{content}"
