"""What a run has found on its way to the disk: first the journal, then the file, then whoever watches."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from numpy.typing import NDArray

from caligo import tracing
from caligo.dataset import HISTORY_COLUMNS
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.v1 import surrogate_pb2
from caligo_orchestrator import metrics
from caligo_orchestrator.campaigns.progress import ProgressBoard
from caligo_orchestrator.store.hdf5 import HDF5Writer
from caligo_orchestrator.store.journal import Journal

_VALIDATIONS: Final = ("validation", "cross_validation")
"""What a fit says of the model's quality: fields of `FitSummary` and of `Findings`, and keys in the journal."""
_SCORES: Final = tuple(name for name in HISTORY_COLUMNS if name not in ("rows", "secure_fraction"))
"""What the history takes from a validation."""


class Recorder:
    """Records rows and fits of one campaign.

    Attributes:
        validations: the latest of each kind, by its field in `Findings`.
    """

    def __init__(self, id: str, journal: Journal, writer: HDF5Writer, board: ProgressBoard) -> None:
        self._id = id
        self._journal = journal
        self._writer = writer
        self._board = board
        self.validations = {
            kind: surrogate_pb2.Validation.FromString(kept)
            for kind in _VALIDATIONS
            if (kept := journal.checkpoint(id, kind)) is not None
        }

    @property
    def unwritten(self) -> int:
        """Durable rows that are not in the file yet."""
        return self._writer.unwritten

    def rows(self, phase: Phase, rows: ResultRows) -> None:
        """Result rows: durable when this returns.

        Raises:
            OSError, JournalError: they cannot be.
        """
        began = tracing.now()
        with metrics.COMMIT.time():
            self._journal.append_rows(self._id, phase, rows)
        durable = tracing.now()
        with metrics.WRITE.time():
            self._writer.write(phase, rows)
        self._board.count(rows)
        metrics.count_durable(phase, rows)
        tracing.add_row_spans("journal", rows["index"], began, durable)
        tracing.add_row_spans("hdf5", rows["index"], durable)

    def fit(self, line: int, summary: surrogate_pb2.FitSummary) -> None:
        """A fit of the surrogate, a line of the history."""
        for kind in _VALIDATIONS:
            if summary.HasField(kind):
                self.validations[kind] = getattr(summary, kind)
                self._journal.put_checkpoint(self._id, kind, self.validations[kind].SerializeToString())
        scores = dict.fromkeys(_SCORES, math.nan)
        if summary.HasField("validation"):
            found, fields = summary.validation, summary.validation.DESCRIPTOR.fields_by_name
            # The closed form's own are there only where the surrogate started from it.
            scores |= {c: getattr(found, c) for c in _SCORES if not fields[c].has_presence or found.HasField(c)}
        values = {"rows": summary.rows, **scores, "secure_fraction": summary.secure_fraction}
        self._journal.put_checkpoint(self._id, f"fit/{line}", json.dumps(values).encode())
        self._writer.write_history({line: values})
        self._board.fitted(summary.secure_fraction)

    def surrogate(self, datasets: Mapping[str, NDArray]) -> None:
        """What the surrogate has come to, datasets of its group in the file."""
        self._writer.write_surrogate(datasets)
