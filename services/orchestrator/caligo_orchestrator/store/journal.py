"""The journal: one SQLite database a data directory, the only thing that decides what has happened.

A result counts as done when `append_rows` has returned: the database runs in WAL mode with `synchronous=FULL`, so a
commit is on disk. Everything else, the HDF5 file above all, can be made again from here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caligo.results import ROW_DTYPE, ResultRows
from caligo.seeds import Phase
from caligo.v1 import campaign_pb2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS campaigns (
  id TEXT PRIMARY KEY,
  request_id TEXT UNIQUE,
  spec TEXT NOT NULL,
  priority INTEGER NOT NULL,
  state INTEGER NOT NULL,
  problem BLOB,
  findings BLOB,
  create_time REAL NOT NULL,
  update_time REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
  campaign TEXT NOT NULL, sequence INTEGER NOT NULL, event BLOB NOT NULL,
  PRIMARY KEY (campaign, sequence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS result_rows (
  campaign TEXT NOT NULL, phase INTEGER NOT NULL, sample INTEGER NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY (campaign, phase, sample)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS proposals (
  campaign TEXT NOT NULL, batch INTEGER NOT NULL, inputs BLOB NOT NULL, verdict BLOB NOT NULL,
  tensors BLOB NOT NULL, metadata TEXT NOT NULL, posterior BLOB NOT NULL DEFAULT x'',
  PRIMARY KEY (campaign, batch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoints (
  campaign TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (campaign, key)
) WITHOUT ROWID;
"""

State = campaign_pb2.CampaignState


@dataclasses.dataclass(frozen=True)
class CampaignRecord:
    """A campaign as the journal holds it. `spec` is JSON, `problem` and `findings` are serialized messages."""

    id: str
    request_id: str | None
    spec: str
    priority: int
    state: State
    problem: bytes | None
    findings: bytes | None
    create_time: float
    update_time: float


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A joint batch as it was decided, with the model state that decided it.

    Attributes:
        inputs: float32 [q, 9], model coordinates.
        verdict: uint8 [q], `pipeline.SIMULATE`, `AUDIT`, or the code of the outcome with which a candidate is skipped.
        tensors, metadata: the surrogate's exported state at the proposal.
        posterior: float32 [q, 2], mean and standard deviation of the target as foretold; [0, 2] where an earlier
            release made the proposal.
    """

    batch: int
    inputs: NDArray[np.float32]
    verdict: NDArray[np.uint8]
    tensors: bytes
    metadata: str
    posterior: NDArray[np.float32]


class Journal:
    """The database of one data directory. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        if not self._read("SELECT 1 FROM pragma_table_info('proposals') WHERE name='posterior'"):  # of release 0.1
            self._db.execute("ALTER TABLE proposals ADD COLUMN posterior BLOB NOT NULL DEFAULT x''")
        self._write(("INSERT OR IGNORE INTO checkpoints VALUES ('', 'identity', ?)", (secrets.token_bytes(8),)))
        identity = self.checkpoint("", "identity")
        assert identity is not None
        self.identity: str = identity.hex()
        """Tells this data directory from others, for ever."""

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _write(self, *statements: tuple[str, Sequence[Any]]) -> None:
        with self._transaction() as db:
            for sql, values in statements:
                db.execute(sql, values)

    def _read(self, sql: str, *values: Any) -> list[tuple]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # --- campaigns ------------------------------------------------------------------------------------------------

    def create_campaign(self, id: str, request_id: str | None, spec: str, priority: int) -> None:
        """Add a campaign in state QUEUED."""
        now = time.time()
        self._write(
            (
                "INSERT INTO campaigns VALUES (?,?,?,?,?,NULL,NULL,?,?)",
                (id, request_id, spec, priority, State.CAMPAIGN_STATE_QUEUED, now, now),
            )
        )

    def campaign(self, id: str) -> CampaignRecord | None:
        rows = self._read("SELECT * FROM campaigns WHERE id=?", id)
        return CampaignRecord(*rows[0]) if rows else None

    def campaign_by_request(self, request_id: str) -> CampaignRecord | None:
        rows = self._read("SELECT * FROM campaigns WHERE request_id=?", request_id)
        return CampaignRecord(*rows[0]) if rows else None

    def campaigns(self) -> list[CampaignRecord]:
        """All campaigns, newest first."""
        return [CampaignRecord(*row) for row in self._read("SELECT * FROM campaigns ORDER BY create_time DESC, id")]

    def set_state(self, id: str, state: State, *, problem: bytes | None = None, findings: bytes | None = None) -> None:
        self._write(
            (
                "UPDATE campaigns SET state=?, problem=?, findings=COALESCE(?, findings), update_time=? WHERE id=?",
                (state, problem, findings, time.time(), id),
            )
        )

    def delete_campaign(self, id: str) -> None:
        self._write(
            *(
                (f"DELETE FROM {table} WHERE campaign=?", (id,))
                for table in ("events", "result_rows", "proposals", "checkpoints")
            ),
            ("DELETE FROM campaigns WHERE id=?", (id,)),
        )

    # --- events ---------------------------------------------------------------------------------------------------

    def append_event(self, id: str, event: campaign_pb2.WatchCampaignResponse) -> int:
        """Keep an event; sets and returns its number."""
        with self._lock:
            event.sequence = self.last_sequence(id) + 1
            self._write(("INSERT INTO events VALUES (?,?,?)", (id, event.sequence, event.SerializeToString())))
            return event.sequence

    def last_sequence(self, id: str) -> int:
        return self._read("SELECT COALESCE(MAX(sequence), 0) FROM events WHERE campaign=?", id)[0][0]

    def events(self, id: str, after: int) -> list[campaign_pb2.WatchCampaignResponse]:
        rows = self._read("SELECT event FROM events WHERE campaign=? AND sequence>? ORDER BY sequence", id, after)
        return [campaign_pb2.WatchCampaignResponse.FromString(event) for (event,) in rows]

    # --- result rows ----------------------------------------------------------------------------------------------

    def append_rows(self, id: str, phase: Phase, rows: ResultRows) -> None:
        """Make result rows durable. A row that is there already stays: any two computations of it are equal."""
        with self._transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO result_rows VALUES (?,?,?,?)",
                [(id, int(phase), int(row["index"]), row.tobytes()) for row in rows],
            )

    def rows(self, id: str, phase: Phase, start: int = 0, stop: int = 2**62) -> ResultRows:
        """Durable rows with start <= index < stop, ordered by index."""
        records = self._read(
            "SELECT record FROM result_rows WHERE campaign=? AND phase=? AND sample>=? AND sample<? ORDER BY sample",
            id,
            int(phase),
            start,
            stop,
        )
        return np.frombuffer(b"".join(record for (record,) in records), dtype=ROW_DTYPE)

    def row_indices(self, id: str, phase: Phase) -> NDArray[np.int64]:
        """Indices of the durable rows of a phase, ascending."""
        found = self._read(
            "SELECT sample FROM result_rows WHERE campaign=? AND phase=? ORDER BY sample", id, int(phase)
        )
        return np.fromiter((sample for (sample,) in found), dtype=np.int64, count=len(found))

    def row_count(self, id: str, phase: Phase) -> int:
        """Number of durable rows of a phase."""
        return self._read("SELECT COUNT(*) FROM result_rows WHERE campaign=? AND phase=?", id, int(phase))[0][0]

    def row_blocks(self, id: str, phase: Phase, start: int = 0, block: int = 4096) -> Iterator[ResultRows]:
        """Durable rows of a phase from an index on, in order, block by block, so that memory stays bounded."""
        while True:
            records = self._read(
                "SELECT record FROM result_rows WHERE campaign=? AND phase=? AND sample>=? ORDER BY sample LIMIT ?",
                id,
                int(phase),
                start,
                block,
            )
            if not records:
                return
            rows = np.frombuffer(b"".join(record for (record,) in records), dtype=ROW_DTYPE)
            yield rows
            start = int(rows["index"][-1]) + 1

    # --- proposals and checkpoints --------------------------------------------------------------------------------

    def append_proposal(self, id: str, proposal: Proposal) -> None:
        self._write(
            (
                "INSERT OR REPLACE INTO proposals VALUES (?,?,?,?,?,?,?)",
                (
                    id,
                    proposal.batch,
                    proposal.inputs.tobytes(),
                    proposal.verdict.tobytes(),
                    proposal.tensors,
                    proposal.metadata,
                    proposal.posterior.tobytes(),
                ),
            )
        )

    def proposals(self, id: str) -> list[Proposal]:
        columns = "batch, inputs, verdict, tensors, metadata, posterior"
        rows = self._read(f"SELECT {columns} FROM proposals WHERE campaign=? ORDER BY batch", id)
        return [
            Proposal(
                batch,
                np.frombuffer(inputs, dtype=np.float32).reshape(-1, 9),
                np.frombuffer(verdict, dtype=np.uint8),
                tensors,
                metadata,
                np.frombuffer(posterior, dtype=np.float32).reshape(-1, 2),
            )
            for batch, inputs, verdict, tensors, metadata, posterior in rows
        ]

    def last_state(self, id: str) -> tuple[bytes, str] | None:
        """The surrogate's exported state at the last proposal, if there was one."""
        found = self._read("SELECT tensors, metadata FROM proposals WHERE campaign=? ORDER BY batch DESC LIMIT 1", id)
        return found[0] if found else None

    def forecasts(self, id: str, rows: int) -> NDArray[np.float32]:
        """What was foretold of rows of the active phase, float32 [rows, 2], by index; NaN where nothing was."""
        found = np.full((rows, 2), np.nan, dtype=np.float32)
        sizes = self._read("SELECT LENGTH(verdict), posterior FROM proposals WHERE campaign=? ORDER BY batch", id)
        start = 0
        for size, posterior in sizes:
            if posterior:
                found[start : start + size] = np.frombuffer(posterior, dtype=np.float32).reshape(-1, 2)
            start += size
        return found

    def put_checkpoint(self, id: str, key: str, value: bytes) -> None:
        self._write(("INSERT OR REPLACE INTO checkpoints VALUES (?,?,?)", (id, key, value)))

    def checkpoint(self, id: str, key: str) -> bytes | None:
        rows = self._read("SELECT value FROM checkpoints WHERE campaign=? AND key=?", id, key)
        return rows[0][0] if rows else None
