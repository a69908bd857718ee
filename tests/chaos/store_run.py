"""A small campaign through the store alone: `python store_run.py DIRECTORY`; prints each row that it acknowledges.

Run again in the same directory, it goes on where the journal says that it stopped. A fault of the disk is said and
survived: the step is done once more, as a campaign that is resumed does it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from caligo_orchestrator.phases.lhs import Design, Plan
from caligo_orchestrator.store import dataset
from caligo_orchestrator.store.journal import Journal, Proposal

from caligo.database import JournalError
from caligo.dataset import HISTORY_COLUMNS
from caligo.phases import Phase
from caligo.results import COUNTS, ROW_DTYPE, ResultRows
from caligo.spec import CampaignSpec, validate

ID = "small"
SPEC = validate(CampaignSpec, {"name": ID, "lhs": {"samples": 16}, "active": {"samples": 6, "batch_size": 3}})
PLAN = Plan((Design(1, 20, 20),))
FIT = {name: float(j) for j, name in enumerate(HISTORY_COLUMNS)}


def some_rows(phase: Phase, indices: list[int]) -> ResultRows:
    rows = np.zeros(len(indices), dtype=ROW_DTYPE)
    rows["index"] = indices
    for row in rows:
        generator = np.random.default_rng([int(phase), int(row["index"])])
        row["inputs"], row["metrics"] = generator.random((2, 9), dtype=np.float32)
        row["counts"] = generator.integers(0, 2**40, len(COUNTS))
    rows["outcome"], rows["reason"] = 3, 7
    return rows


def say(*words: str) -> None:
    """In one piece: where it fails, nothing of it stays in a buffer."""
    os.write(1, f"{' '.join(words)}\n".encode())


def run(directory: Path) -> None:
    """Walk through the campaign from wherever the journal says that it is."""
    journal = Journal(directory / "journal.sqlite3")
    place = directory / "campaigns" / ID
    try:
        place.mkdir(parents=True, exist_ok=True)
        with journal.transaction():
            if journal.campaign(ID) is None:
                journal.create_campaign(ID, "request", SPEC.model_dump_json(), 100)
            journal.put_checkpoint(ID, "lhs_plan", PLAN.to_json())
        if journal.checkpoint(ID, "ended") is not None:
            return
        dataset.BATCH_ROWS = 4
        writer, note = dataset.open_file(f"campaigns/{ID}", SPEC, PLAN, place, journal)
        assert note is None, note
        try:
            for phase, total, group in ((Phase.LHS, 20, 5), (Phase.ACTIVE, 6, 2)):
                done = journal.row_indices(ID, phase).tolist()
                order = [i for i in [*range(1, total, 2), *range(0, total, 2)] if i not in done]
                for start in range(0, len(order), group):
                    rows = some_rows(phase, order[start : start + group])
                    journal.append_rows(ID, phase, rows)
                    say(*(f"{int(phase)}/{i}" for i in rows["index"]))
                    writer.write(phase, rows)
                if phase == Phase.LHS:
                    journal.put_checkpoint(ID, "fit/0", json.dumps(FIT).encode())
                    writer.write_history({0: FIT})
                    rows = some_rows(Phase.ACTIVE, [0, 1, 2])
                    proposal = Proposal(0, rows["inputs"], rows["reason"], rows["inputs"][:, :2].copy())
                    journal.append_proposal(ID, proposal, (b"state", "{}"))
            writer.write_surrogate({"length_scales": np.arange(9)})
        finally:
            writer.close()
        dataset.finalize_file(place, journal)
        journal.put_checkpoint(ID, "ended", b"")
        say("ended")
    finally:
        journal.close()


def main() -> None:
    for _ in range(50):
        try:
            return run(Path(sys.argv[1]))
        except (OSError, JournalError) as error:
            print(f"fault: {error}", file=sys.stderr, flush=True)
    sys.exit("the fault does not go away")


if __name__ == "__main__":
    main()
