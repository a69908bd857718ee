"""Phase 3: joint batches where the surrogate is least sure on which side of the cliff it stands.

Batch k + 1 + lookahead is proposed from exactly the results of the batches up to k, those in between pending. So
simulators never wait for a batch to end, and the rows depend on nothing but the spec.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from caligo.results import ProtocolOutcome, ResultRows
from caligo.seeds import Phase
from caligo.spec import CampaignSpec
from caligo.v1 import surrogate_pb2
from caligo_orchestrator.pipeline import SIMULATE, Pipeline
from caligo_orchestrator.remote import Sampler, Surrogate
from caligo_orchestrator.store.journal import Journal, Proposal


def batches(spec: CampaignSpec) -> int:
    """Number of joint batches in the budget."""
    return math.ceil(spec.active.samples / spec.active.batch_size)


class ActivePhase:
    """Proposes, screens, evaluates and learns until the budget is spent.

    Goes on after a stop from what the journal holds: the proposals with the model states that made them, and the
    rows. `on_fit(batch, summary)` is called after the surrogate has learned a batch.
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
        self._proposals = journal.proposals(campaign)
        self._missing = [self._size(k) for k in range(self._total)]
        self._learned = 0
        """Batches whose results the surrogate has."""

    def run(self) -> Iterator[ResultRows]:
        """Durable rows, as they come."""
        yield from self._restore()
        while self._learned < self._total:
            while len(self._proposals) < min(self._total, self._learned + 1 + self._spec.active.lookahead):
                self._propose()
                yield from self._submit(self._proposals[-1], np.empty(0, dtype=np.int64))
            while self._missing[self._learned]:
                rows = self._pipeline.take()
                self._count(rows["index"])
                yield rows
            self._learn()

    def _restore(self) -> Iterator[ResultRows]:
        """Put surrogate and pipeline where they stood when the last proposal was made."""
        if not self._proposals:
            return
        last = self._proposals[-1]
        self._learned = max(0, last.batch - self._spec.active.lookahead)
        self._surrogate.observe(Phase.ACTIVE, self._rows(0, self._learned))
        self._surrogate.restore(last.tensors, last.metadata)
        done = self._journal.row_indices(self._campaign, Phase.ACTIVE)
        self._count(done)
        for proposal in self._proposals:
            yield from self._submit(proposal, done)

    def _propose(self) -> None:
        batch = len(self._proposals)
        pending = [p.inputs for p in self._proposals[self._learned :]]
        tensors, metadata = self._surrogate.export()
        inputs = self._surrogate.propose(
            batch, self._size(batch), np.concatenate([np.empty((0, 9), dtype=np.float32), *pending])
        )
        proposal = Proposal(batch, inputs, self._screen(batch, inputs), tensors, metadata)
        self._journal.append_proposal(self._campaign, proposal)
        self._proposals.append(proposal)

    def _screen(self, batch: int, inputs: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The verdict on each candidate: the closed form's first, then the guardrail's."""
        verdict = np.full(len(inputs), SIMULATE, dtype=np.uint8)
        verdict[self._surrogate.screen(self._index(batch), inputs)] = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
        verdict[~self._sampler.feasible(self._spec, inputs)] = ProtocolOutcome.SKIPPED_INFEASIBLE
        return verdict

    def _submit(self, proposal: Proposal, done: NDArray[np.int64]) -> Iterator[ResultRows]:
        index = self._index(proposal.batch)
        missing = ~np.isin(index, done)
        for rows in self._pipeline.submit(index[missing], proposal.inputs[missing], proposal.verdict[missing]):
            self._count(rows["index"])
            yield rows

    def _learn(self) -> None:
        """Give the surrogate the oldest complete batch and fit."""
        batch = self._learned
        self._surrogate.observe(Phase.ACTIVE, self._rows(batch, batch + 1))
        self._learned += 1
        for response in self._surrogate.fit(self._spec.training.holdout_fraction):
            self._pipeline.raise_if_stopped()
            if response.HasField("summary"):
                self._on_fit(batch, response.summary)

    def _count(self, index: NDArray[np.int64]) -> None:
        for batch in (index // self._spec.active.batch_size).tolist():
            self._missing[batch] -= 1

    def _size(self, batch: int) -> int:
        return min(self._spec.active.batch_size, self._spec.active.samples - batch * self._spec.active.batch_size)

    def _index(self, batch: int) -> NDArray[np.int64]:
        return batch * self._spec.active.batch_size + np.arange(self._size(batch), dtype=np.int64)

    def _rows(self, first: int, last: int) -> ResultRows:
        q = self._spec.active.batch_size
        return self._journal.rows(self._campaign, Phase.ACTIVE, first * q, last * q)
