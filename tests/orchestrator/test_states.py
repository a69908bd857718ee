"""What a campaign's worker does next, for every pair of state and wish."""

from __future__ import annotations

import itertools

import pytest
from caligo_orchestrator.campaigns.states import (
    CANCEL,
    CANCELLED,
    DELETE,
    ENDED,
    FAILED,
    PAUSE,
    PAUSED,
    QUEUED,
    RUN,
    RUNNING,
    SUCCEEDED,
    Step,
    next_step,
    state_name,
)

# (state, wish): what follows where the worker knows of the wish already, and where it is new.
TABLE = {
    (QUEUED, RUN): (Step.RUN, Step.NOTE),
    (QUEUED, PAUSE): (Step.PAUSE, Step.PAUSE),
    (QUEUED, CANCEL): (Step.CANCEL, Step.CANCEL),
    (RUNNING, RUN): (Step.RUN, Step.RUN),
    (RUNNING, PAUSE): (Step.PAUSE, Step.PAUSE),
    (RUNNING, CANCEL): (Step.CANCEL, Step.CANCEL),
    (PAUSED, RUN): (Step.NOTHING, Step.QUEUE),  # paused by a problem: not tried again in a circle
    (PAUSED, PAUSE): (Step.NOTHING, Step.NOTE),
    (PAUSED, CANCEL): (Step.CANCEL, Step.CANCEL),
    **{(ended, RUN): (Step.NOTHING, Step.QUEUE) for ended in ENDED},  # with a larger budget
    **{(ended, wish): (Step.NOTHING, Step.NOTE) for ended in ENDED for wish in (PAUSE, CANCEL)},
    **{(state, DELETE): (Step.DELETE, Step.DELETE) for state in (QUEUED, RUNNING, PAUSED, *ENDED)},
}
STATES = (QUEUED, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("wish", [RUN, PAUSE, CANCEL, DELETE])
def test_next_step(state, wish) -> None:
    assert tuple(next_step(state, wish, is_new=new) for new in (False, True)) == TABLE[state, wish], state_name(state)


AFTER = {
    Step.NOTE: lambda state: state,
    Step.QUEUE: lambda state: QUEUED,
    Step.PAUSE: lambda state: PAUSED,
    Step.CANCEL: lambda state: CANCELLED,
}


@pytest.mark.parametrize(("state", "wish"), list(itertools.product(STATES, (RUN, PAUSE, CANCEL))))
def test_every_wish_comes_to_rest_or_to_a_run(state, wish) -> None:
    """Steps change the state until nothing is left but to run or to do nothing; none goes in a circle."""
    is_new = True
    for _ in range(4):
        step = next_step(state, wish, is_new=is_new)
        if step in (Step.NOTHING, Step.RUN):
            break
        state, is_new = AFTER[step](state), False
    assert step is (Step.RUN if wish == RUN else Step.NOTHING)
    assert state in {RUN: (QUEUED, RUNNING), PAUSE: (PAUSED, *ENDED), CANCEL: tuple(ENDED)}[wish]
