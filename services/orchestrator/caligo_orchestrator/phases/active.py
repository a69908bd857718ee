"""Phase 3: joint batches where the surrogate is least sure on which side of the cliff it stands.

Batch k + 1 + lookahead is proposed from exactly the results of the batches up to k, those in between pending. So
simulators never wait for a batch to end, and the rows depend on nothing but the spec.

Nor does a proposal wait for a fit: hyper-parameters are fitted in the background, beginning when a batch has been
learned, and come into force whole when the next one has been learned, waited for if they are late. So the state that
proposes after batch k is every row of the batches up to k under the hyper-parameters fitted to those up to k - 1,
however long a fit takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from caligo import tracing
from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.results import ProtocolOutcome
from caligo.screening import Verdict
from caligo.spec import CampaignSpec
from caligo.v1 import surrogate_pb2
from caligo_orchestrator import metrics
from caligo_orchestrator.model.remote import BackgroundFit, Proposed, Sampler, Surrogate
from caligo_orchestrator.phases.convergence import Convergence
from caligo_orchestrator.pipeline import AUDIT, SIMULATE, Pipeline, Stopped
from caligo_orchestrator.store.journal import Journal, Proposal


def batches(spec: CampaignSpec) -> int:
    """Number of joint batches in the budget."""
    return math.ceil(spec.active.samples / spec.active.batch_size)


class ActivePhase:
    """Proposes, screens, evaluates and learns until the budget is spent or the boundary has converged.

    Goes on after a stop from what the journal holds: the proposals with the model state that made the last one, and
    the rows. `on_fit(batches, summary)` is called when what was fitted to so many batches comes into force.

    Attributes:
        convergence: how still the boundary stands.
    """

    def __init__(
        self,
        campaign: str,
        spec: CampaignSpec,
        sampler: Sampler,
        surrogate: Surrogate,
        journal: Journal,
        pipeline: Pipeline,
        on_fit: Callable[[int, surrogate_pb2.FitSummary], None],
    ) -> None:
        self._campaign = campaign
        self._spec = spec
        self._sampler = sampler
        self._surrogate = surrogate
        self._journal = journal
        self._pipeline = pipeline
        self._on_fit = on_fit
        self._total = batches(spec)
        self.convergence = Convergence(campaign, spec, journal, surrogate)
        self._proposals = journal.proposals(campaign)
        self._missing = [self._size(k) for k in range(self._total)]
        self._learned = 0
        """Batches whose results the surrogate has."""
        self._fit: BackgroundFit | None = None
        """The fit under way, of the batches up to the last one learned."""

    @property
    def learned(self) -> int:
        """Batches that the surrogate has learned."""
        return self._learned

    def run(self) -> None:
        """Go on to the end; every row is durable when this returns.

        Raises:
            Stopped: the campaign was told to end its work, or a smaller budget is wanted than what is being proposed.
        """
        try:
            self._restore()
            while self._learned < self._total:
                while len(self._proposals) < min(self._total, self._learned + 1 + self._spec.active.lookahead):
                    self._propose()
                    self._submit(self._proposals[-1], np.empty(0, dtype=np.int64))
                while self._missing[self._learned]:
                    self._count(self._pipeline.take()["index"])
                self._learn()
            self._finish_fit()
        finally:
            if self._fit is not None:
                self._fit.cancel()

    def _restore(self) -> None:
        """Put surrogate and pipeline where they stood when the last proposal was made, step by step as before.

        Rows that come after hyper-parameters extend what is derived from them, in another rounding than rows that
        were there already: so the order of the calls counts.
        """
        if not self._proposals:
            return
        state = self._journal.last_state(self._campaign)
        assert state is not None
        learned = max(0, self._proposals[-1].batch - self._spec.active.lookahead)
        in_force_since = max((k + 1 for k in range(1, learned) if self._is_fit_due(k)), default=0)
        for batch in range(in_force_since):
            self._observe(batch)
        self._surrogate.restore(*state)
        for batch in range(in_force_since, learned):
            self._observe(batch)
        self._learned = learned
        self._begin_fit()
        done = self._journal.row_indices(self._campaign, Phase.ACTIVE)
        self._count(done)
        for proposal in self._proposals:
            self._submit(proposal, done)

    def _propose(self) -> None:
        batch = len(self._proposals)
        pending = [p.inputs for p in self._proposals[self._learned :]]
        # The last one as large as the others, whatever the budget leaves of it: a larger budget then goes on from here.
        size = self._spec.active.batch_size
        with tracing.working_on(Phase.ACTIVE, batch * size):
            proposed = self._surrogate.propose(
                batch, size, np.concatenate([np.empty((0, 9), dtype=np.float32), *pending])
            )
            verdict = self._verdict(proposed)
        proposal = Proposal(batch, proposed.inputs, verdict, proposed.posterior)
        if not self._journal.append_proposal(self._campaign, proposal, proposed.state):
            raise Stopped  # to begin anew with the smaller budget
        self._proposals.append(proposal)
        self._count_decided(proposed.inputs)

    def _verdict(self, proposed: Proposed) -> NDArray[np.uint8]:
        """What becomes of each candidate: the closed form's word counts before the guardrail's."""
        verdict = np.full(len(proposed.inputs), SIMULATE, dtype=np.uint8)
        verdict[proposed.screening == Verdict.SKIP] = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
        verdict[proposed.screening == Verdict.AUDIT] = AUDIT
        verdict[~self._sampler.feasible(self._spec, proposed.inputs)] = ProtocolOutcome.SKIPPED_INFEASIBLE
        return verdict

    def _count_decided(self, inputs: NDArray[np.float32]) -> None:
        """Count the candidates whose answer the closed form is sure to know: none should be spent on these."""
        key = expect(inputs, self._spec.physics, self._spec.protocol).key
        decided = int(((key < 0.01) | (key > 0.99)).sum())
        metrics.CANDIDATES.labels("decided").inc(decided)
        metrics.CANDIDATES.labels("open").inc(len(key) - decided)

    def _submit(self, proposal: Proposal, done: NDArray[np.int64]) -> None:
        index = self._index(proposal.batch, self._size(proposal.batch))
        missing = np.flatnonzero(~np.isin(index, done))
        for rows in self._pipeline.submit(index[missing], proposal.inputs[missing], proposal.verdict[missing]):
            self._count(rows["index"])

    def _learn(self) -> None:
        """Give the surrogate the oldest complete batch and the hyper-parameters that are due; begin the next fit.

        Where the boundary has converged, nothing is proposed any more; what is under way is still learned.
        """
        self._observe(self._learned)
        self._finish_fit()
        self._learned += 1
        self.convergence.look(self._learned)
        if self.convergence.is_reached:
            self._total = len(self._proposals)
        self._begin_fit()

    def _observe(self, batch: int) -> None:
        q = self._spec.active.batch_size
        rows = self._journal.rows(self._campaign, Phase.ACTIVE, batch * q, (batch + 1) * q)
        self._surrogate.observe(Phase.ACTIVE, rows, self._proposals[batch].verdict[: len(rows)] == AUDIT)

    def _is_fit_due(self, learned: int) -> bool:
        """Whether a fit begins when so many batches have been learned."""
        return learned == self._total or (learned > 0 and learned % self._spec.surrogate.refit_every == 0)

    def _begin_fit(self) -> None:
        if self._is_fit_due(self._learned):
            self._fit = self._surrogate.begin_fit(self._spec.training.holdout_fraction)

    def _finish_fit(self) -> None:
        """Wait for the fit under way, if there is one, and bring it into force."""
        if self._fit is not None:
            summary = self._fit.wait(self._pipeline.raise_if_stopped)
            self._fit = None
            self._surrogate.restore(summary.tensors, summary.metadata)
            self._on_fit(self._learned, summary)

    def _count(self, index: NDArray[np.int64]) -> None:
        for batch in (index // self._spec.active.batch_size).tolist():
            self._missing[batch] -= 1

    def _size(self, batch: int) -> int:
        """Rows of a batch that the budget holds."""
        return min(self._spec.active.batch_size, self._spec.active.samples - batch * self._spec.active.batch_size)

    def _index(self, batch: int, size: int) -> NDArray[np.int64]:
        return batch * self._spec.active.batch_size + np.arange(size, dtype=np.int64)
