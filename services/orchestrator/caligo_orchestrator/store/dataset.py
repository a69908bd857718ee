"""A campaign's HDF5 file and its journal: the file is opened as the journal says it must be, and finished."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from caligo import statement
from caligo.dataset import FORMAT, HISTORY_COLUMNS
from caligo.layout import FILE_NAME
from caligo.phases import Phase
from caligo.spec import CampaignSpec
from caligo_orchestrator.phases import active, lhs
from caligo_orchestrator.store import hdf5
from caligo_orchestrator.store.journal import Journal

BATCH_ROWS: Final = 256
"""Rows that go into the file in one piece."""
_STRUCTURE: Final = "file"
"""Checkpoint with the structure of the live file."""


def open_file(
    name: str, spec: CampaignSpec, plan: lhs.Plan, directory: Path, journal: Journal
) -> tuple[hdf5.HDF5Writer, str | None]:
    """The live file of the campaign `campaigns/{id}`, with every row and fit that the journal holds.

    Returns:
        The writer, and a line for people where the file that was there was damaged and has been kept beside.

    Raises:
        OSError: it cannot be read or written.
        JournalError: the journal cannot be read.
    """
    id = directory.name
    layout = hdf5.Layout(
        {
            "format": FORMAT,
            "campaign": name,
            **statement.attributes(spec),
            "spec": spec.model_dump_json(),
            "versions": json.dumps(_versions()),
        },
        {Phase.LHS: plan.rows, Phase.ACTIVE: 0 if spec.active.skip else spec.active.samples},
        fits=1 + active.batches(spec),
    )
    known = journal.checkpoint(id, _STRUCTURE)
    writer, structure, note = hdf5.open_live(
        directory / FILE_NAME,
        layout,
        hdf5.Structure.from_json(known) if known is not None else None,
        BATCH_ROWS,
        lambda phase, start, stop: journal.rows(id, phase, start, stop),
    )
    try:
        journal.put_checkpoint(id, _STRUCTURE, structure.to_json())
        writer.write_history(_fits(journal, id, layout.fits))
    except BaseException:
        writer.close()
        raise
    return writer, note


def finalize_file(directory: Path, journal: Journal) -> None:
    """Put the final file of a campaign that has ended in the place of the live one, which has been closed.

    Raises:
        OSError: it cannot be read or written; the file is as it was.
        JournalError: the journal cannot be written.
    """
    journal.drop_checkpoint(directory.name, _STRUCTURE)  # should the campaign begin anew, so does its file
    hdf5.finalize(directory / FILE_NAME)


def finish_file(name: str, spec: CampaignSpec, directory: Path, journal: Journal) -> str | None:
    """Rewrite the file of a campaign that ends early: what the journal holds and nothing else.

    Does nothing where the campaign has not come as far as having a file. Returns and raises as `open_file`.
    """
    id = directory.name
    plan = journal.checkpoint(id, "lhs_plan")
    if plan is None or not directory.exists():
        return None
    writer, note = open_file(name, spec, lhs.Plan.from_json(plan), directory, journal)
    try:
        if not spec.active.skip:
            writer.write_surrogate({"forecast": journal.forecasts(id, spec.active.samples)})
    finally:
        writer.close()
    finalize_file(directory, journal)
    return note


def _fits(journal: Journal, id: str, lines: int) -> Mapping[int, Mapping[str, float]]:
    found = {line: journal.checkpoint(id, f"fit/{line}") for line in range(lines)}
    unused = dict.fromkeys(HISTORY_COLUMNS, math.nan)
    # What an earlier release kept of a fit has fewer columns.
    return {line: unused | json.loads(values or b"{}") for line, values in found.items()}


def _versions() -> dict[str, str]:
    packages = ("caligo", "caligo-orchestrator", "numpy", "h5py")
    return {name: importlib.metadata.version(name) for name in packages}
