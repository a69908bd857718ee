"""The journal keeps what it has acknowledged."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from caligo_orchestrator.campaigns.states import CANCEL, CANCELLED, PAUSE, PAUSED, QUEUED, RUN, RUNNING, Step
from caligo_orchestrator.store.journal import Journal, Proposal

from caligo.database import JournalError
from caligo.phases import Phase
from caligo.results import ROW_DTYPE, ResultRows
from caligo.spec import CampaignSpec
from caligo.v1 import campaign_pb2


def some_rows(*indices: int) -> ResultRows:
    rows = np.zeros(len(indices), dtype=ROW_DTYPE)
    rows["index"] = indices
    rows["metrics"] = np.arange(9, dtype=np.float32) + np.array(indices, dtype=np.float32)[:, None]
    rows["counts"] = np.array(indices)[:, None] * 10**12
    rows["outcome"] = 1
    return rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


def test_rows_come_back_bit_for_bit_after_reopening(path: Path) -> None:
    journal = Journal(path)
    journal.append_rows("a", Phase.LHS, some_rows(5, 2))
    journal.append_rows("a", Phase.ACTIVE, some_rows(2))
    # Not closed: as after a kill.
    again = Journal(path)
    assert again.rows("a", Phase.LHS).tobytes() == some_rows(2, 5).tobytes()
    assert again.row_indices("a", Phase.ACTIVE).tolist() == [2]
    assert again.rows("b", Phase.LHS).shape == (0,)


def test_a_row_that_is_there_stays(path: Path) -> None:
    journal = Journal(path)
    journal.append_rows("a", Phase.LHS, some_rows(1))
    other = some_rows(1)
    other["metrics"] += 1
    journal.append_rows("a", Phase.LHS, other)
    assert journal.rows("a", Phase.LHS).tobytes() == some_rows(1).tobytes()


def test_blocks_cover_every_row_once_in_order(path: Path) -> None:
    journal = Journal(path)
    journal.append_rows("a", Phase.LHS, some_rows(*range(0, 100, 3)))
    blocks = list(journal.row_blocks("a", Phase.LHS, start=6, block=7))
    assert [len(b) for b in blocks] == [7, 7, 7, 7, 4]
    assert np.concatenate(blocks)["index"].tolist() == list(range(6, 100, 3))


def test_synchronous_full_and_wal(path: Path) -> None:
    journal = Journal(path)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_events_are_numbered_from_one_without_gaps(path: Path) -> None:
    journal = Journal(path)
    for text in ("a", "b", "c"):
        journal.append_event("x", campaign_pb2.WatchCampaignResponse(note=text))
    journal.append_event("y", campaign_pb2.WatchCampaignResponse(note="other"))
    assert [(e.sequence, e.note) for e in journal.events("x", 1)] == [(2, "b"), (3, "c")]


def proposal(batch: int, size: int = 4) -> Proposal:
    generator = np.random.default_rng(batch)
    verdict = np.array([8, 0, 255, 7] * size, dtype=np.uint8)[:size]
    inputs, posterior = (generator.random((size, n), dtype=np.float32) for n in (9, 2))
    return Proposal(batch, inputs, verdict, posterior)


def test_proposals_and_checkpoints_round_trip(path: Path) -> None:
    journal = Journal(path)
    journal.append_proposal("a", proposal(0), (b"\x00\xff", "{}"))
    (back,) = Journal(path).proposals("a")
    assert back.inputs.dtype == np.float32
    assert np.array_equal(back.inputs, proposal(0).inputs)
    assert back.verdict.tolist() == [8, 0, 255, 7]
    assert np.array_equal(back.posterior, proposal(0).posterior)
    assert journal.last_state("a") == (b"\x00\xff", "{}")
    assert journal.last_state("b") is None
    forecasts = journal.forecasts("a", 6)
    assert np.array_equal(forecasts[:4], proposal(0).posterior)
    assert np.isnan(forecasts[4:]).all()
    journal.put_checkpoint("a", "k", b"1")
    journal.put_checkpoint("a", "k", b"2")
    assert journal.checkpoint("a", "k") == b"2"
    assert journal.checkpoint("a", "other") is None
    journal.drop_checkpoint("a", "k")
    assert journal.checkpoint("a", "k") is None


def test_one_model_state_is_kept_however_many_proposals_there_are(path: Path) -> None:
    journal = Journal(path)
    for batch in range(30):
        fit = batch // 10
        journal.append_proposal("a", proposal(batch), (bytes([fit]) * 100_000, str(fit)))
        assert journal.last_state("a") == (bytes([fit]) * 100_000, str(fit))
    journal.append_proposal("b", proposal(0), (b"x" * 100_000, "b"))
    assert len(journal.proposals("a")) == 30
    assert journal.last_state("b") == (b"x" * 100_000, "b")
    journal.close()
    assert path.stat().st_size < 500_000


def test_a_deleted_campaign_leaves_nothing(path: Path) -> None:
    journal = Journal(path)
    for id in ("a", "b"):
        journal.create_campaign(id, f"request-{id}", "{}", 100)
        journal.append_rows(id, Phase.LHS, some_rows(1, 2))
        journal.append_proposal(id, proposal(0), (b"t", "m"))
        journal.put_checkpoint(id, "k", b"1")
        journal.append_event(id, campaign_pb2.WatchCampaignResponse(note="x"))
    journal.delete_campaign("a")
    assert journal.campaign("a") is None
    assert journal.campaign_by_request("request-a") is None
    assert not len(journal.rows("a", Phase.LHS))
    assert journal.proposals("a") == journal.events("a", 0) == []
    assert journal.last_state("a") is journal.checkpoint("a", "k") is None
    assert len(journal.rows("b", Phase.LHS)) == 2
    assert journal.campaign("b") is not None
    tables = [name for (name,) in journal._db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    for table in set(tables) - {"campaigns", "retired"}:
        assert journal._db.execute(f"SELECT 1 FROM {table} WHERE campaign='a'").fetchone() is None, table


def test_a_request_id_belongs_to_its_owner(path: Path) -> None:
    journal = Journal(path)
    for id, owner in (("a", "ann"), ("b", "bob")):
        journal.create_campaign(id, "same", "{}", 100, owner)
    journal.create_campaign("c", None, "{}", 100, "bob")
    journal.create_campaign("d", None, "{}", 100, "bob")
    assert [journal.campaign_by_request("same", owner).id for owner in ("ann", "bob")] == ["a", "b"]
    assert journal.campaign_by_request("same") is None
    with pytest.raises(sqlite3.IntegrityError):
        journal.create_campaign("e", "same", "{}", 100, "bob")
    assert journal.campaign("e") is None


def test_a_wish_is_kept_until_it_has_come_about(path: Path) -> None:
    journal = Journal(path)
    journal.create_campaign("a", None, "{}", 100)
    assert journal.want("a", PAUSE) == 1
    assert journal.want("a", CANCEL) == 2
    again = Journal(path)
    record = again.campaign("a")
    assert (record.state, record.wanted, record.step) == (QUEUED, CANCEL, Step.CANCEL)
    assert [found.id for found in again.to_do()] == ["a"]
    with again.transaction():
        again.set_state("a", CANCELLED)
        again.note("a", record.revision)
    record = again.campaign("a")
    assert (record.state, record.step) == (CANCELLED, Step.NOTHING)
    assert again.to_do() == []


def test_what_is_to_do_comes_by_priority_and_then_by_age(path: Path) -> None:
    journal = Journal(path)
    for id, priority in (("old", 5), ("young", 5), ("urgent", 9), ("done", 1000)):
        journal.create_campaign(id, None, "{}", priority)
    journal.set_state("done", CANCELLED)
    assert [record.id for record in journal.to_do()] == ["urgent", "old", "young"]


def test_an_id_is_taken_for_ever(path: Path) -> None:
    journal = Journal(path)
    journal.create_campaign("a", None, "{}", 100)
    journal.append_rows("a", Phase.LHS, some_rows(*range(5000)))
    journal.append_rows("b", Phase.LHS, some_rows(1))
    journal.delete_campaign("a")
    assert journal.campaign("a") is None
    assert (journal.row_count("a", Phase.LHS), journal.row_count("b", Phase.LHS)) == (0, 1)
    assert [Journal(path).is_taken(id) for id in ("a", "b")] == [True, False]


def test_what_an_owner_holds_is_counted_without_reading_specs(path: Path) -> None:
    journal = Journal(path)
    for k, (lhs, active) in enumerate((({}, {}), ({"skip": True}, {}), ({}, {"skip": True}))):
        spec = CampaignSpec.model_validate(
            {"base": "x" if lhs else "", "lhs": {"samples": 20, **lhs}, "active": {"samples": 7, **active}}
        )
        journal.create_campaign(f"c{k}", None, spec.model_dump_json(), 100, "ann")
    journal.create_campaign("other", None, CampaignSpec().model_dump_json(), 100, "bob")
    journal.set_state("c2", CANCELLED)
    assert sorted(journal.holdings("ann")) == [(QUEUED, 2, 27 + 7), (CANCELLED, 1, 20)]
    assert journal.holdings("ann", besides="c0") == [(QUEUED, 1, 7), (CANCELLED, 1, 20)]


def test_a_batch_beyond_the_budget_that_is_wanted_is_refused(path: Path) -> None:
    journal = Journal(path)
    journal.create_campaign("a", None, "{}", 100)
    assert journal.append_proposal("a", proposal(0, size=4), (b"", ""))
    journal.want("a", RUN, samples=8)
    assert journal.append_proposal("a", proposal(1, size=4), (b"", ""))
    assert not journal.append_proposal("a", proposal(2, size=4), (b"", ""))
    assert journal.proposed_batches("a") == 2


def test_a_journal_that_was_removed_takes_no_writes(path: Path) -> None:
    journal = Journal(path)
    journal.create_campaign("a", None, "{}", 100)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(JournalError, match="is gone"):
        journal.append_rows("a", Phase.LHS, some_rows(1))
    assert not journal.is_replaced()
    Journal(path).close()
    assert journal.is_replaced()
    with pytest.raises(JournalError, match="is gone"):
        journal.append_rows("a", Phase.LHS, some_rows(1))


VERSION_3 = """
CREATE TABLE campaigns (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, request_id TEXT, spec TEXT NOT NULL, priority INTEGER NOT NULL,
  state INTEGER NOT NULL, wanted INTEGER, problem BLOB, findings BLOB, create_time REAL NOT NULL,
  update_time REAL NOT NULL, UNIQUE (owner, request_id));
CREATE INDEX campaigns_by_age ON campaigns (create_time DESC, id);
CREATE TABLE checkpoints (
  campaign TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (campaign, key)) WITHOUT ROWID;
PRAGMA user_version=3;
"""


@pytest.mark.parametrize(
    ("state", "wanted", "step"),
    [
        (QUEUED, None, Step.RUN),
        (RUNNING, None, Step.RUN),
        (PAUSED, None, Step.NOTHING),
        (CANCELLED, None, Step.NOTHING),
        (RUNNING, 3, Step.PAUSE),  # a wish was the state that was wanted
        (RUNNING, 6, Step.CANCEL),
        (PAUSED, 6, Step.CANCEL),
        (CANCELLED, 0, Step.DELETE),
    ],
)
def test_wishes_of_an_earlier_release_come_about(path: Path, state, wanted, step) -> None:
    with sqlite3.connect(path) as old:
        old.executescript(VERSION_3)
        old.execute(
            "INSERT INTO campaigns VALUES ('a', 'ann', 'r', '{}', 5, ?, ?, NULL, NULL, 1.0, 2.0)", (state, wanted)
        )
    old.close()
    for _ in range(2):
        journal = Journal(path)
        record = journal.campaign("a")
        assert (record.owner, record.request_id, record.state, record.step) == ("ann", "r", state, step)
        journal.close()


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(RuntimeError), journal.transaction():
        journal.create_campaign("a", None, "{}", 100)
        with journal.transaction():
            journal.put_checkpoint("a", "k", b"1")
        raise RuntimeError
    assert journal.campaign("a") is journal.checkpoint("a", "k") is None
    with journal.transaction():
        journal.create_campaign("a", None, "{}", 100)
        journal.put_checkpoint("a", "k", b"1")
    assert Journal(path).checkpoint("a", "k") == b"1"


def test_a_journal_of_the_first_release_goes_on(path: Path) -> None:
    with sqlite3.connect(path) as old:
        old.executescript(FIRST_RELEASE)
        old.execute("INSERT INTO campaigns VALUES ('a', 'r', '{}', 5, 2, NULL, NULL, 1.0, 2.0)")
        event = campaign_pb2.WatchCampaignResponse(note="x")
        old.execute("INSERT INTO events VALUES ('a', 1, ?)", (event.SerializeToString(),))
        for batch in range(2):
            values = batch, bytes(36), b"\0", bytes([batch])
            old.execute("INSERT INTO proposals VALUES ('a', ?, ?, ?, ?, '{}')", values)
    old.close()
    for _ in range(2):  # and it goes on going on
        journal = Journal(path)
        record = journal.campaign("a")
        assert (record.id, record.owner, record.request_id, record.priority, record.state) == ("a", "", "r", 5, 2)
        assert (record.wanted, record.revision, record.create_time, record.update_time) == (RUN, 0, 1.0, 2.0)
        assert journal.campaign_by_request("r") == record
        assert journal.last_state("a") == (b"\x01", "{}")
        assert [p.posterior.shape for p in journal.proposals("a")] == [(0, 2), (0, 2)]
        assert [event.note for event in journal.events("a", 0)] == ["x"]
        journal.close()
    journal = Journal(path)
    journal.append_proposal("a", proposal(2, size=1), (b"", ""))
    assert np.isnan(journal.forecasts("a", 3)[:2]).all()
    assert np.array_equal(journal.forecasts("a", 3)[2:], proposal(2, size=1).posterior)


FIRST_RELEASE = """
CREATE TABLE campaigns (
  id TEXT PRIMARY KEY, request_id TEXT UNIQUE, spec TEXT NOT NULL, priority INTEGER NOT NULL,
  state INTEGER NOT NULL, problem BLOB, findings BLOB, create_time REAL NOT NULL, update_time REAL NOT NULL
);
CREATE TABLE events (
  campaign TEXT NOT NULL, sequence INTEGER NOT NULL, event BLOB NOT NULL,
  PRIMARY KEY (campaign, sequence)
) WITHOUT ROWID;
CREATE TABLE result_rows (
  campaign TEXT NOT NULL, phase INTEGER NOT NULL, sample INTEGER NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY (campaign, phase, sample)
) WITHOUT ROWID;
CREATE TABLE proposals (
  campaign TEXT NOT NULL, batch INTEGER NOT NULL, inputs BLOB NOT NULL, verdict BLOB NOT NULL,
  tensors BLOB NOT NULL, metadata TEXT NOT NULL,
  PRIMARY KEY (campaign, batch)
) WITHOUT ROWID;
CREATE TABLE checkpoints (
  campaign TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (campaign, key)
) WITHOUT ROWID;
"""


def test_a_journal_of_a_later_release_is_left_alone(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version=99")
    later.close()
    with pytest.raises(JournalError, match="later release"):
        Journal(path)


def test_what_is_no_database_is_named(path: Path) -> None:
    path.write_bytes(b"not a database, and longer than a header of one is" * 100)
    with pytest.raises(JournalError, match="not a database"):
        Journal(path)


# --- a torn log -----------------------------------------------------------------------------------------------------


SHARED_MEMORY = Path("/dev/shm")
"""Where a sync costs nothing."""


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, list[int]]:
    """A journal of a few commits that was never closed: database, write-ahead log, and the log's size at each."""
    path = tmp_path_factory.mktemp("torn") / "journal.sqlite3"
    with sqlite3.connect(path) as small:
        small.execute("PRAGMA page_size=512")
        small.execute("VACUUM")
    small.close()
    Journal(path).close()
    journal, log = Journal(path), path.with_name(path.name + "-wal")
    assert log.stat().st_size == 0
    sizes = []
    for row in range(5):
        journal.append_rows("a", Phase.LHS, some_rows(row))
        sizes.append(log.stat().st_size)
    content = path.read_bytes(), log.read_bytes()
    journal.close()
    return *content, sizes


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage"])
def test_a_log_torn_anywhere_holds_every_commit_up_to_there_and_goes_on(tmp_path, torn, damage, every) -> None:
    """As after a loss of power in the middle of a write; what was on disk before it stays, and what comes after too."""
    database, log, sizes = torn
    generator = np.random.default_rng(3)
    root = Path(tempfile.mkdtemp(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else tmp_path))
    try:
        for at in sorted({*range(0, len(log), every), *(size + d for size in sizes for d in (-1, 0))} - {len(log)}):
            path = root / f"{at}.sqlite3"
            path.write_bytes(database)
            rest = {
                "cut": b"",
                "flipped": bytes([log[at] ^ 1 << at % 8]) + log[at + 1 :],
                "garbage": generator.bytes(len(log) - at),
            }[damage]
            path.with_name(path.name + "-wal").write_bytes(log[:at] + rest)
            acknowledged = sum(size <= at for size in sizes)
            journal = Journal(path)
            there = journal.row_indices("a", Phase.LHS).tolist()
            assert there == list(range(len(there))), at
            assert len(there) >= acknowledged, at
            assert len(there) == acknowledged or damage != "cut", at
            journal.append_rows("a", Phase.LHS, some_rows(70, 71))
            again = Journal(path)  # the other was not closed: as after a kill
            assert again.rows("a", Phase.LHS).tobytes() == some_rows(*there, 70, 71).tobytes(), at
            assert again._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            for name in (journal, again):
                name.close()
            path.unlink()
    finally:
        shutil.rmtree(root)
