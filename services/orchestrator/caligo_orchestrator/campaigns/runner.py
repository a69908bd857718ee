"""One campaign from its spec to its file.

A run walks through the phases. What it has done is in the journal, so a campaign that was stopped in any way is
simply run again: every phase starts from what is there.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from caligo import wire
from caligo.calibration import calibrate
from caligo.dataset import GROUPS
from caligo.errors import FailedPrecondition
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.space import DIMENSIONS
from caligo.spec import CampaignSpec
from caligo.v1 import campaign_pb2
from caligo_orchestrator.campaigns.names import resource_name
from caligo_orchestrator.campaigns.progress import ProgressBoard
from caligo_orchestrator.campaigns.recorder import Recorder
from caligo_orchestrator.farm import Farm
from caligo_orchestrator.farm.base import ALWAYS_THERE
from caligo_orchestrator.model import findings
from caligo_orchestrator.model.remote import Sampler, ServiceLostError, Surrogate
from caligo_orchestrator.phases import active, lhs, training
from caligo_orchestrator.pipeline import Pipeline, Stopped
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store import dataset, models
from caligo_orchestrator.store.journal import Journal

_SOURCE_VERSION: Final = "epr_source_version"


class CampaignRunner:
    """Runs one campaign to an end, or until it is told to stop."""

    def __init__(
        self,
        id: str,
        spec: CampaignSpec,
        directory: Path,
        journal: Journal,
        farm: Farm,
        settings: OrchestratorSettings,
        note: Callable[[str], None],
    ) -> None:
        self.id = id
        self.spec = spec
        self.progress = ProgressBoard()
        self.stopping = threading.Event()
        self._directory = directory
        self._journal = journal
        self._farm = farm
        self._settings = settings
        self._note = note
        self._recorder: Recorder | None = None
        self._at_work: Pipeline | None = None
        self._services: tuple[Sampler | Surrogate, ...] = ()
        self._source_version = ""

    def stop(self) -> None:
        """End the run soon, whatever it is doing: what it asked of other services is given up.

        From another thread; again is harmless.
        """
        self.stopping.set()
        for service in self._services:
            service.give_up()

    @property
    def undurable(self) -> int:
        """Rows that have a result and are not durable yet."""
        return self._at_work.undurable if self._at_work is not None else 0

    @property
    def unwritten(self) -> int:
        """Durable rows that are not in the file yet."""
        return self._recorder.unwritten if self._recorder is not None else 0

    def run(self) -> campaign_pb2.Findings:
        """Walk through the phases. Again, after a service was lost, goes on from what the journal holds.

        Raises:
            Stopped: `stop` was called.
            CaligoError: the campaign cannot go on.
        """
        try:
            return self._run_phases()
        except Exception as error:
            if self.stopping.is_set():  # calls that were given up fail in many ways
                raise Stopped from error
            raise

    def _run_phases(self) -> campaign_pb2.Findings:
        self._directory.mkdir(parents=True, exist_ok=True)
        self.progress.reset()
        tls = self._settings.services_tls()
        sampler = Sampler(self._settings.sampler, tls)
        model = Surrogate(self._settings.surrogate, models.model_name(self._journal, self.id), tls)
        self._services = (sampler, model)  # before it looks, so that `stop` ends their calls or is seen
        try:
            if self.stopping.is_set():
                raise Stopped
            for service in self._services:
                service.await_ready(self._settings.patience_seconds)
            self._source_version = self._settle_source_version()
            plan = self._plan(sampler)
            name = resource_name(self.id)
            writer, note = dataset.open_file(name, self.spec, plan, self._directory, self._journal)
            recorder = self._recorder = Recorder(self.id, self._journal, writer, self.progress)
            try:
                self._recover(note)
                self._run_lhs(plan, sampler, recorder)
                gc.collect()  # the design's buffers, before the surrogate needs the memory
                self._run_training(model, recorder)
                gc.collect()
                convergence = self._run_active(sampler, model, recorder)
                result = self._conclude(model, recorder, convergence)
            finally:
                writer.close()
            dataset.finalize_file(self._directory, self._journal)
            with contextlib.suppress(ServiceLostError):  # if the surrogate is gone, so is the model
                model.delete()
            return result
        finally:
            sampler.close()
            model.close()

    # --- phases ---------------------------------------------------------------------------------------------------

    def _settle_source_version(self) -> str:
        """The version of the EPR source that makes all rows of the campaign: the one that is there when it first runs,
        and from then on none other. Empty for the source that simulators have of themselves.

        Raises:
            Unreachable: no simulator answers.
        """
        source = self.spec.protocol.epr_source
        if source == ALWAYS_THERE:
            return ""
        kept = self._journal.checkpoint(self.id, _SOURCE_VERSION)
        if kept is None:
            found = self._farm.epr_sources(self._settings.patience_seconds, source).get(source)
            if found is None:
                return ""  # its rows wait for a simulator that has it
            kept = found.encode()
            self._journal.put_checkpoint(self.id, _SOURCE_VERSION, kept)
        return kept.decode()

    def _plan(self, sampler: Sampler) -> lhs.Plan:
        text = self._journal.checkpoint(self.id, "lhs_plan")
        if text is None and self.spec.lhs.skip:  # the base stays as long as this campaign has not ended
            text = self._journal.checkpoint(self.spec.base, "lhs_plan")
            if text is None:
                raise FailedPrecondition(f"base: campaign {self.spec.base!r} has been deleted")
            for rows in self._journal.row_blocks(self.spec.base, Phase.LHS):
                self._journal.append_rows(self.id, Phase.LHS, rows)
        if text is None:
            text = lhs.plan(self.spec, sampler).to_json()
        self._journal.put_checkpoint(self.id, "lhs_plan", text)
        return lhs.Plan.from_json(text)

    def _run_lhs(self, plan: lhs.Plan, sampler: Sampler, recorder: Recorder) -> None:
        done = self._journal.row_indices(self.id, Phase.LHS)
        self.progress.enter(Phase.LHS, len(done), plan.rows)
        if len(done) == plan.rows:
            return
        self._note(f"phase 1: Latin hypercube of {plan.rows} rows, {self.spec.lhs.samples} of them feasible")
        with self._pipeline(Phase.LHS, recorder) as pipeline:
            lhs.run(self.spec, plan, done, sampler, pipeline)

    def _run_training(self, model: Surrogate, recorder: Recorder) -> None:
        if training.recall(self.id, self.spec, model, self._journal, self._directory):
            return
        self._note("phase 2: training the surrogate")
        training.run(self.spec, model, recorder, self.progress, self.stopping)
        models.save(model, self._journal, self.id, self._directory)

    def _run_active(self, sampler: Sampler, model: Surrogate, recorder: Recorder) -> campaign_pb2.Convergence | None:
        if self.spec.active.skip:
            return None
        done = len(self._journal.row_indices(self.id, Phase.ACTIVE))
        self.progress.enter(Phase.ACTIVE, done, self.spec.active.samples)
        self._note(f"phase 3: active learning, {self.spec.active.samples} rows in batches")
        with self._pipeline(Phase.ACTIVE, recorder) as pipeline:
            phase = active.ActivePhase(self.id, self.spec, sampler, model, self._journal, pipeline, recorder.fit)
            phase.run()
        if phase.convergence.is_reached:
            self._note(f"phase 3: the boundary has converged; {phase.learned} batches learned")
        models.save(model, self._journal, self.id, self._directory)
        return campaign_pb2.Convergence(
            batches=phase.learned,
            converged=phase.convergence.is_reached,
            changed_share=phase.convergence.changed_share,
            expected_brier=model.boundary()[1],
        )

    def _conclude(
        self, model: Surrogate, recorder: Recorder, convergence: campaign_pb2.Convergence | None
    ) -> campaign_pb2.Findings:
        described, explained = model.describe(), model.explain()
        length_scales = wire.decode(described.length_scales, wire.INPUTS, DIMENSIONS)
        guardrail = described.guardrail
        forecast = self._journal.forecasts(self.id, 0 if self.spec.active.skip else self.spec.active.samples)
        recorder.surrogate(
            {
                "forecast": forecast,
                "guardrail": np.array([guardrail.threshold, guardrail.false_skip_bound], dtype=np.float32),
                "guardrail_rows": np.array(
                    [guardrail.evidence, guardrail.false_skips, guardrail.audits, guardrail.false_audits],
                    dtype=np.int64,
                ),
                "length_scales": length_scales,
                "noise": np.array([described.noise], dtype=np.float32),
                "secure_fraction": np.array(
                    [described.secure_fraction, described.secure_fraction_error], dtype=np.float32
                ),
                **findings.explanation(explained),
                **findings.cliff_slice(model, self.spec.space.resolve(), explained),
            }
        )
        foretold = self._journal.rows(self.id, Phase.ACTIVE)
        calibration = calibrate(foretold, forecast[foretold["index"]], self.spec.surrogate.target)
        return findings.summarise(
            self.spec,
            self._all_rows(),
            described,
            explained,
            length_scales,
            recorder.validations,
            calibration,
            convergence,
        )

    # --- results --------------------------------------------------------------------------------------------------

    def _pipeline(self, phase: Phase, recorder: Recorder) -> Pipeline:
        record = functools.partial(recorder.rows, phase)
        self._at_work = Pipeline(
            resource_name(self.id),
            self.spec,
            phase,
            self._farm,
            record,
            self.stopping,
            source_version=self._source_version,
        )
        return self._at_work

    def _recover(self, note: str | None) -> None:
        """Count what the journal holds, and pass on what was found of the file."""
        if note is not None:
            self._note(note)
        for phase in GROUPS:
            for rows in self._journal.row_blocks(self.id, phase):
                self.progress.count(rows, recovered=True)

    def _all_rows(self) -> Iterator[ResultRows]:
        for phase in GROUPS:
            yield from self._journal.row_blocks(self.id, phase)
