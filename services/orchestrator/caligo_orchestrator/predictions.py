"""Predictions of a campaign's surrogate, whether it runs or not."""

from __future__ import annotations

import contextlib
import hashlib

import numpy as np
from numpy.typing import NDArray

from caligo.dataset import GROUPS
from caligo.errors import FailedPrecondition
from caligo.spec import CampaignSpec
from caligo.tls import Tls
from caligo_orchestrator.phases import surrogate
from caligo_orchestrator.remote import ModelLostError, Surrogate
from caligo_orchestrator.store.journal import Journal


def predict(
    id: str,
    spec: CampaignSpec,
    journal: Journal,
    address: str,
    inputs: NDArray[np.float32],
    *,
    has_ended: bool,
    tls: Tls | None = None,
) -> NDArray[np.float32]:
    """Mean, standard deviation and probability of a key at rows [n, 9], float32 [n, 3].

    Asks the model that the campaign works with. Where the surrogate does not have it, the journal's rows and the last
    state of the model make another, which the surrogate keeps for as long as it has room.

    Args:
        address, tls: of the surrogate.
        has_ended: the campaign has got to its end, so that the model kept then is the last.

    Raises:
        InvalidArgument: a row has a strategy that no row of the campaign has, so that nothing is known of it.
        FailedPrecondition: the campaign has no fitted surrogate yet.
        Unreachable: the surrogate does not answer.
    """
    spec.space.resolve().check(inputs, extrapolate=True)
    name = surrogate.model_name(journal, id)
    absent = contextlib.suppress(ModelLostError, FailedPrecondition)
    with contextlib.closing(Surrogate(address, name, tls)) as working, absent:
        return working.predict(inputs)
    state = None if has_ended else journal.last_state(id)
    state = state or surrogate.kept(journal, id)
    if state is None:
        raise FailedPrecondition(f"campaigns/{id}: its surrogate has not been fitted yet")
    rows = [journal.row_count(id, phase) for phase in GROUPS]
    # Rows only ever come, so their numbers say which they are. A model of this name is complete once it is fitted.
    content = hashlib.sha256(repr((state, rows)).encode()).hexdigest()[:16]
    with contextlib.closing(Surrogate(address, f"{name}.{content}", tls)) as remade:
        with absent:
            return remade.predict(inputs)
        remade.create(spec)
        for phase in GROUPS:
            for block in journal.row_blocks(id, phase):
                remade.observe(phase, block)
        remade.restore(*state)
        return remade.predict(inputs)
