"""The journal: one SQLite database a data directory, the only thing that decides what has happened.

What a method has written when it returns is on disk: the database runs in WAL mode with `synchronous=FULL`. So a
result counts as done when `append_rows` has returned. Everything else, the HDF5 file above all, can be made again
from here.
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
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from caligo.database import Connection, JournalError, faults
from caligo.phases import Phase
from caligo.results import ROW_DTYPE, ResultRows, rows_from_records
from caligo.v1 import campaign_pb2
from caligo_orchestrator.campaigns.states import DELETE, ENDED, QUEUED, RUN, RUNNING, State, Step, Wish, next_step

_VERSION: Final = 4
"""Of the tables, `PRAGMA user_version`: 0 and 2 before and in release 0.1; 3 since specs have a claim and rows more
counts, which release 0.1 could not read; 4 since campaigns have wishes by revision."""
_CAMPAIGNS: Final = """
CREATE TABLE campaigns (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  request_id TEXT,
  spec TEXT NOT NULL,
  priority INTEGER NOT NULL,
  state INTEGER NOT NULL,
  wanted INTEGER NOT NULL,
  samples INTEGER,
  revision INTEGER NOT NULL,
  seen INTEGER NOT NULL,
  problem BLOB,
  findings BLOB,
  create_time REAL NOT NULL,
  update_time REAL NOT NULL,
  UNIQUE (owner, request_id)
)"""
_RETIRED: Final = "CREATE TABLE retired (id TEXT PRIMARY KEY) WITHOUT ROWID"
_BY_AGE: Final = "CREATE INDEX campaigns_by_age ON campaigns (create_time DESC, id)"
_MODEL_STATES: Final = """
CREATE TABLE model_states (
  campaign TEXT PRIMARY KEY, tensors BLOB NOT NULL, metadata TEXT NOT NULL
) WITHOUT ROWID"""
_SCHEMA: Final = (
    _CAMPAIGNS,
    _BY_AGE,
    _RETIRED,
    """
CREATE TABLE events (
  campaign TEXT NOT NULL, sequence INTEGER NOT NULL, event BLOB NOT NULL,
  PRIMARY KEY (campaign, sequence)
) WITHOUT ROWID""",
    """
CREATE TABLE result_rows (
  campaign TEXT NOT NULL, phase INTEGER NOT NULL, sample INTEGER NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY (campaign, phase, sample)
) WITHOUT ROWID""",
    """
CREATE TABLE proposals (
  campaign TEXT NOT NULL, batch INTEGER NOT NULL, inputs BLOB NOT NULL, verdict BLOB NOT NULL,
  posterior BLOB NOT NULL,
  PRIMARY KEY (campaign, batch)
) WITHOUT ROWID""",
    _MODEL_STATES,
    """
CREATE TABLE checkpoints (
  campaign TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (campaign, key)
) WITHOUT ROWID""",
)
_WISH_OF_STATE: Final = "CASE state WHEN 3 THEN 2 ELSE 1 END"
"""Of a campaign of which nothing is outstanding: to pause where it is paused, else to run."""
_FROM_VERSION_0: Final = (
    "ALTER TABLE campaigns RENAME TO old_campaigns",
    _CAMPAIGNS,
    f"""
INSERT INTO campaigns
SELECT id, '', request_id, spec, priority, state, {_WISH_OF_STATE}, NULL, 0, 0,
  problem, findings, create_time, update_time
FROM old_campaigns""",
    "DROP TABLE old_campaigns",
    _BY_AGE,
    _RETIRED,
    _MODEL_STATES,
    """
INSERT INTO model_states
SELECT campaign, tensors, metadata FROM proposals AS p
WHERE batch = (SELECT MAX(batch) FROM proposals WHERE campaign = p.campaign)""",
    "ALTER TABLE proposals DROP COLUMN tensors",
    "ALTER TABLE proposals DROP COLUMN metadata",
)
_FROM_VERSION_3: Final = (
    "ALTER TABLE campaigns RENAME TO old_campaigns",
    _CAMPAIGNS,
    # A wish was the state that was asked for; 0 was the wish to delete.
    f"""
INSERT INTO campaigns
SELECT id, owner, request_id, spec, priority, state,
  CASE wanted WHEN 3 THEN 2 WHEN 6 THEN 3 WHEN 0 THEN 4 ELSE {_WISH_OF_STATE} END, NULL, wanted IS NOT NULL, 0,
  problem, findings, create_time, update_time
FROM old_campaigns""",
    "DROP TABLE old_campaigns",
    _BY_AGE,
    _RETIRED,
)
_OF_A_CAMPAIGN: Final = {
    "events": "campaign, sequence",
    "result_rows": "campaign, phase, sample",
    "proposals": "campaign, batch",
    "model_states": "campaign",
    "checkpoints": "campaign, key",
}
"""Primary keys of the tables with what belongs to a campaign."""

_HOLDING: Final = """
COALESCE(json_extract(spec, '$.lhs.samples') * (COALESCE(json_extract(spec, '$.lhs.skip'), 0) = 0), 0) +
COALESCE(json_extract(spec, '$.active.samples') * (COALESCE(json_extract(spec, '$.active.skip'), 0) = 0), 0)"""
"""Rows that a spec asks for."""

KEPT_EVENTS: Final = 1000
"""Changes of state and notes: a few a phase, and two a pause. Progress is not kept."""


@dataclasses.dataclass(frozen=True)
class CampaignRecord:
    """A campaign as the journal holds it.

    Attributes:
        owner: name of the token that it was made with; empty where the server asks for none.
        spec: JSON.
        wanted: what was asked for last.
        samples: the budget of phase 3 that was asked for and is not in the spec yet.
        revision: how often something was asked for.
        seen: the revision that the campaign's worker has taken note of.
        problem, findings: serialized messages.
        create_time, update_time: seconds since the epoch.
    """

    id: str
    owner: str
    request_id: str | None
    spec: str
    priority: int
    state: State
    wanted: Wish
    samples: int | None
    revision: int
    seen: int
    problem: bytes | None
    findings: bytes | None
    create_time: float
    update_time: float

    @property
    def step(self) -> Step:
        """What its worker does next."""
        return next_step(self.state, self.wanted, is_new=self.seen < self.revision)


@dataclasses.dataclass(frozen=True)
class CampaignFilter:
    """Which campaigns are wanted; an empty field lets all through.

    Attributes:
        prefix: of the id.
    """

    state: State | None = None
    owner: str | None = None
    prefix: str = ""


_RECORD: Final = ", ".join(field.name for field in dataclasses.fields(CampaignRecord))


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A joint batch as it was decided.

    Attributes:
        inputs: float32 [q, 9], model coordinates.
        verdict: uint8 [q], `pipeline.SIMULATE`, `AUDIT`, or the code of the outcome with which a candidate is skipped.
        posterior: float32 [q, 2], mean and standard deviation of the target as foretold; [0, 2] where an earlier
            release made the proposal.
    """

    batch: int
    inputs: NDArray[np.float32]
    verdict: NDArray[np.uint8]
    posterior: NDArray[np.float32]


class Journal:
    """The database of one data directory. Safe to use from several threads.

    Raises:
        JournalError: (any method) the database cannot be written or read. A write that raised has left nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection = Connection(path)
        with self.transaction():
            self._make_tables()
            self._write("INSERT OR IGNORE INTO checkpoints VALUES ('', 'identity', ?)", secrets.token_bytes(8))
        identity = self.checkpoint("", "identity")
        assert identity is not None
        self.identity: str = identity.hex()
        """Tells this data directory from others, for ever."""

    @property
    def _db(self) -> sqlite3.Connection:
        return self._connection.db

    def is_replaced(self) -> bool:
        """Whether another database is at the path of the open one: its drive was lost and is back, say."""
        return self._connection.is_replaced()

    def _make_tables(self) -> None:
        (version,) = self._read("PRAGMA user_version")[0]
        if version > _VERSION:
            raise JournalError(f"the journal was written by a later release (its tables have version {version})")
        if version == 0 and self._read("SELECT 1 FROM sqlite_master WHERE name='campaigns'"):
            if not self._read("SELECT 1 FROM pragma_table_info('proposals') WHERE name='posterior'"):
                self._write("ALTER TABLE proposals ADD COLUMN posterior BLOB NOT NULL DEFAULT x''")
            statements: Sequence[str] = _FROM_VERSION_0
        elif version == 0:
            statements = _SCHEMA
        else:
            statements = _FROM_VERSION_3 if version < _VERSION else ()
        for statement in statements:
            self._write(statement)
        if version != _VERSION:
            self._write(f"PRAGMA user_version={_VERSION}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside becomes durable at the end, all of it or nothing; may be nested."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            if not self._connection.is_in_place():  # what is written there would be lost
                raise JournalError(f"journal: {self._path} is gone")
            with faults():
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # SQLite has rolled back by itself where the disk is full
                        self._db.execute("ROLLBACK")
                    raise

    def _write(self, sql: str, *values: Any) -> None:
        with self.transaction():
            self._db.execute(sql, values)

    def _read(self, sql: str, *values: Any) -> list[tuple]:
        with self._lock, faults():
            return self._db.execute(sql, values).fetchall()

    # --- campaigns ------------------------------------------------------------------------------------------------

    def create_campaign(self, id: str, request_id: str | None, spec: str, priority: int, owner: str = "") -> None:
        """Add a campaign in state QUEUED, which is to run."""
        now = time.time()
        values = (id, owner, request_id, spec, priority, QUEUED, RUN, None, 0, 0, None, None, now, now)
        self._write(f"INSERT INTO campaigns ({_RECORD}) VALUES ({', '.join('?' * len(values))})", *values)

    def is_taken(self, id: str) -> bool:
        """Whether a campaign has, or has had, this id."""
        return bool(self._read("SELECT 1 FROM campaigns WHERE id=? UNION ALL SELECT 1 FROM retired WHERE id=?", id, id))

    def campaign(self, id: str) -> CampaignRecord | None:
        rows = self._read(f"SELECT {_RECORD} FROM campaigns WHERE id=?", id)
        return CampaignRecord(*rows[0]) if rows else None

    def campaign_by_request(self, request_id: str, owner: str = "") -> CampaignRecord | None:
        """The campaign that an owner's request has made."""
        rows = self._read(f"SELECT {_RECORD} FROM campaigns WHERE owner=? AND request_id=?", owner, request_id)
        return CampaignRecord(*rows[0]) if rows else None

    def campaigns(self) -> list[CampaignRecord]:
        """All campaigns, newest first."""
        rows = self._read(f"SELECT {_RECORD} FROM campaigns ORDER BY create_time DESC, id")
        return [CampaignRecord(*row) for row in rows]

    def to_do(self) -> list[CampaignRecord]:
        """Campaigns that may have something to do for their workers, the most urgent first, then the oldest."""
        rows = self._read(
            f"SELECT {_RECORD} FROM campaigns WHERE state IN (?,?) OR seen<revision "
            "ORDER BY priority DESC, create_time, id",
            QUEUED, RUNNING,
        )  # fmt: skip
        return [CampaignRecord(*row) for row in rows]

    def builds_on(self, base: str) -> list[str]:
        """Ids of the campaigns that have not ended and use rows or the model of a campaign."""
        ended = ", ".join("?" * len(ENDED))
        query = f"SELECT id FROM campaigns WHERE json_extract(spec, '$.base')=? AND state NOT IN ({ended})"
        return [id for (id,) in self._read(query, base, *sorted(ENDED))]

    def holdings(self, owner: str, besides: str = "") -> list[tuple[State, int, int]]:
        """(state, campaigns, rows that their specs ask for) of an owner's campaigns but one."""
        return self._read(
            f"SELECT state, COUNT(*), SUM({_HOLDING}) FROM campaigns "
            "WHERE owner=? AND id<>? AND wanted<>? GROUP BY state",
            owner, besides, DELETE,
        )  # fmt: skip

    def states(self) -> dict[int, int]:
        """Number of campaigns by state, where there are any."""
        return dict(self._read("SELECT state, COUNT(*) FROM campaigns GROUP BY state"))

    def page(self, wanted: CampaignFilter, after: tuple[float, str] | None, size: int) -> list[CampaignRecord]:
        """At most `size` campaigns, newest first, those that come after a (create_time, id); none that is to go."""
        conditions = ["wanted <> ?", "substr(id, 1, length(?)) = ?"]
        values: list[Any] = [DELETE, wanted.prefix, wanted.prefix]
        for column, value in (("state", wanted.state), ("owner", wanted.owner)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        if after is not None:
            conditions.append("(create_time < ? OR (create_time = ? AND id > ?))")
            values += [after[0], *after]
        where = " AND ".join(conditions)
        rows = self._read(
            f"SELECT {_RECORD} FROM campaigns WHERE {where} ORDER BY create_time DESC, id LIMIT ?", *values, size
        )
        return [CampaignRecord(*row) for row in rows]

    def want(self, id: str, wanted: Wish, samples: int | None = None) -> int:
        """Keep what is asked for, with another budget of phase 3 where one is given; returns its revision."""
        with self.transaction():
            self._write(
                "UPDATE campaigns SET wanted=?, samples=COALESCE(?, samples), revision=revision+1 WHERE id=?",
                wanted, samples, id,
            )  # fmt: skip
            if wanted == DELETE:  # whoever sends the request again wants a new one
                self._write("UPDATE campaigns SET request_id=NULL WHERE id=?", id)
            return self._read("SELECT revision FROM campaigns WHERE id=?", id)[0][0]

    def note(self, id: str, revision: int) -> None:
        """The worker has taken note of what was asked for."""
        self._write("UPDATE campaigns SET seen=? WHERE id=?", revision, id)

    def set_state(self, id: str, state: State, *, problem: bytes | None = None, findings: bytes | None = None) -> None:
        """What a campaign has come to. It keeps the findings that it has where it is given none."""
        self._write(
            "UPDATE campaigns SET state=?, problem=?, findings=COALESCE(?, findings), update_time=? WHERE id=?",
            state, problem, findings, time.time(), id,
        )  # fmt: skip

    def requeue(self) -> None:
        """Campaigns that an earlier process has left running wait for their turn."""
        self._write("UPDATE campaigns SET state=? WHERE state=?", QUEUED, RUNNING)

    def set_priority(self, id: str, priority: int) -> None:
        self._write("UPDATE campaigns SET priority=?, update_time=? WHERE id=?", priority, time.time(), id)

    def set_spec(self, id: str, spec: str) -> None:
        """Another spec, in which the budget that was asked for is; what was found under the old one is forgotten."""
        self._write(
            "UPDATE campaigns SET spec=?, samples=NULL, findings=NULL, update_time=? WHERE id=?", spec, time.time(), id
        )

    def delete_block(self, id: str, block: int = 2000) -> bool:
        """Forget some of what belongs to a campaign; whether there is more. Others get their turn in between."""
        for table, key in _OF_A_CAMPAIGN.items():
            with self.transaction():
                sql = f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE campaign=? LIMIT ?)"
                if self._db.execute(sql, (id, block)).rowcount:
                    return True
        return False

    def delete_campaign(self, id: str) -> None:
        """Forget a campaign and all that belongs to it but its id, which no other one will have."""
        while self.delete_block(id):
            pass
        with self.transaction():
            self._write("DELETE FROM campaigns WHERE id=?", id)
            self._write("INSERT OR IGNORE INTO retired VALUES (?)", id)

    # --- events ---------------------------------------------------------------------------------------------------

    def append_event(self, id: str, event: campaign_pb2.WatchCampaignResponse) -> int:
        """Keep an event; sets and returns its number. Of each campaign the last `KEPT_EVENTS` are kept."""
        with self.transaction():
            event.sequence = self.last_sequence(id) + 1
            self._write("INSERT INTO events VALUES (?,?,?)", id, event.sequence, event.SerializeToString())
            self._write("DELETE FROM events WHERE campaign=? AND sequence<=?", id, event.sequence - KEPT_EVENTS)
            return event.sequence

    def last_sequence(self, id: str) -> int:
        return self._read("SELECT COALESCE(MAX(sequence), 0) FROM events WHERE campaign=?", id)[0][0]

    def events(self, id: str, after: int) -> list[campaign_pb2.WatchCampaignResponse]:
        rows = self._read("SELECT event FROM events WHERE campaign=? AND sequence>? ORDER BY sequence", id, after)
        return [campaign_pb2.WatchCampaignResponse.FromString(event) for (event,) in rows]

    # --- result rows ----------------------------------------------------------------------------------------------

    def append_rows(self, id: str, phase: Phase, rows: ResultRows) -> None:
        """Make result rows durable. A row that is there already stays: any two computations of it are equal."""
        size, records = ROW_DTYPE.itemsize, rows.tobytes()
        with self.transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO result_rows VALUES (?,?,?,?)",
                [
                    (id, int(phase), sample, records[j * size : (j + 1) * size])
                    for j, sample in enumerate(rows["index"].tolist())
                ],
            )

    def rows(self, id: str, phase: Phase, start: int = 0, stop: int = 2**62, limit: int = -1) -> ResultRows:
        """Durable rows with start <= index < stop, ordered by index; the first `limit` of them, -1 for all.

        Those of release 0.1 have 0 for the counts that it had not.
        """
        records = self._read(
            "SELECT record FROM result_rows WHERE campaign=? AND phase=? AND sample>=? AND sample<? "
            "ORDER BY sample LIMIT ?",
            id, int(phase), start, stop, limit,
        )  # fmt: skip
        return rows_from_records(record for (record,) in records)

    def row_blocks(self, id: str, phase: Phase, start: int = 0, block: int = 4096) -> Iterator[ResultRows]:
        """Durable rows of a phase from an index on, in order, block by block, so that memory stays bounded."""
        while len(rows := self.rows(id, phase, start, limit=block)):
            yield rows
            start = int(rows["index"][-1]) + 1

    def row_indices(self, id: str, phase: Phase) -> NDArray[np.int64]:
        """Indices of the durable rows of a phase, ascending."""
        with self._lock, faults():
            found = self._db.execute(
                "SELECT sample FROM result_rows WHERE campaign=? AND phase=? ORDER BY sample", (id, int(phase))
            )
            return np.fromiter((sample for (sample,) in found), dtype=np.int64)

    def progress(self, id: str) -> int:
        """A number that grows whenever a campaign gets on."""
        tables = ("result_rows", "proposals", "checkpoints")
        return sum(self._read(f"SELECT COUNT(*) FROM {table} WHERE campaign=?", id)[0][0] for table in tables)

    def row_count(self, id: str, phase: Phase) -> int:
        """Number of durable rows of a phase."""
        return self._read("SELECT COUNT(*) FROM result_rows WHERE campaign=? AND phase=?", id, int(phase))[0][0]

    # --- proposals and checkpoints --------------------------------------------------------------------------------

    def append_proposal(self, id: str, proposal: Proposal, state: tuple[bytes, str]) -> bool:
        """Keep a proposal with the surrogate's exported state, tensors and metadata, that decided it.

        Only the state of the last proposal is ever needed, so only that is kept, written where it has changed.

        Returns:
            False, and keeps nothing, where a smaller budget has been asked for that leaves the batch no row.
        """
        with self.transaction():
            ((wanted,),) = self._read("SELECT samples FROM campaigns WHERE id=?", id) or ((None,),)
            if wanted is not None and proposal.batch * len(proposal.inputs) >= wanted:
                return False
            self._write(
                "INSERT OR REPLACE INTO proposals VALUES (?,?,?,?,?)",
                id, proposal.batch, proposal.inputs.tobytes(), proposal.verdict.tobytes(), proposal.posterior.tobytes(),
            )  # fmt: skip
            if self.last_state(id) != state:
                self._write("INSERT OR REPLACE INTO model_states VALUES (?,?,?)", id, *state)
            return True

    def proposals(self, id: str) -> list[Proposal]:
        """All proposals, in order."""
        rows = self._read("SELECT batch, inputs, verdict, posterior FROM proposals WHERE campaign=? ORDER BY batch", id)
        return [
            Proposal(
                batch,
                np.frombuffer(inputs, dtype=np.float32).reshape(-1, 9),
                np.frombuffer(verdict, dtype=np.uint8),
                np.frombuffer(posterior, dtype=np.float32).reshape(-1, 2),
            )
            for batch, inputs, verdict, posterior in rows
        ]

    def last_state(self, id: str) -> tuple[bytes, str] | None:
        """The surrogate's exported state at the last proposal, if there was one."""
        found = self._read("SELECT tensors, metadata FROM model_states WHERE campaign=?", id)
        return found[0] if found else None

    def forecasts(self, id: str, rows: int) -> NDArray[np.float32]:
        """What was foretold of rows of the active phase, float32 [rows, 2], by index; NaN where nothing was."""
        found = np.full((rows, 2), np.nan, dtype=np.float32)
        sizes = self._read("SELECT LENGTH(verdict), posterior FROM proposals WHERE campaign=? ORDER BY batch", id)
        start = 0
        for size, posterior in sizes:
            if posterior:
                foretold = np.frombuffer(posterior, dtype=np.float32).reshape(-1, 2)
                found[start : start + size] = foretold[: max(0, rows - start)]  # the last batch may pass the budget
            start += size
        return found

    def proposed_batches(self, id: str) -> int:
        """Number of batches proposed."""
        return self._read("SELECT COUNT(*) FROM proposals WHERE campaign=?", id)[0][0]

    def put_checkpoint(self, id: str, key: str, value: bytes) -> None:
        self._write("INSERT OR REPLACE INTO checkpoints VALUES (?,?,?)", id, key, value)

    def drop_checkpoint(self, id: str, key: str) -> None:
        self._write("DELETE FROM checkpoints WHERE campaign=? AND key=?", id, key)

    def checkpoint(self, id: str, key: str) -> bytes | None:
        rows = self._read("SELECT value FROM checkpoints WHERE campaign=? AND key=?", id, key)
        return rows[0][0] if rows else None
