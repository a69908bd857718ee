"""The journal keeps what it has acknowledged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from caligo_orchestrator.store.journal import Journal, Proposal

from caligo.results import ROW_DTYPE, ResultRows
from caligo.seeds import Phase
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


def test_proposals_and_checkpoints_round_trip(path: Path) -> None:
    journal = Journal(path)
    inputs = np.random.default_rng(1).random((4, 9), dtype=np.float32)
    posterior = np.random.default_rng(2).random((4, 2), dtype=np.float32)
    verdict = np.array([8, 0, 255, 7], dtype=np.uint8)
    journal.append_proposal("a", Proposal(0, inputs, verdict, b"\x00\xff", "{}", posterior))
    (back,) = Journal(path).proposals("a")
    assert back.inputs.dtype == np.float32
    assert np.array_equal(back.inputs, inputs)
    assert back.verdict.tolist() == [8, 0, 255, 7]
    assert np.array_equal(back.posterior, posterior)
    assert journal.last_state("a") == (b"\x00\xff", "{}")
    assert journal.last_state("b") is None
    forecasts = journal.forecasts("a", 6)
    assert np.array_equal(forecasts[:4], posterior)
    assert np.isnan(forecasts[4:]).all()
    assert (back.tensors, back.metadata) == (b"\x00\xff", "{}")
    journal.put_checkpoint("a", "k", b"1")
    journal.put_checkpoint("a", "k", b"2")
    assert journal.checkpoint("a", "k") == b"2"
    assert journal.checkpoint("a", "other") is None
    journal.delete_campaign("a")
    assert journal.proposals("a") == []


def test_a_journal_of_the_first_release_goes_on(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as old:
        old.execute("ALTER TABLE proposals DROP COLUMN posterior")
        old.execute("INSERT INTO proposals VALUES ('a', 0, ?, ?, x'00', '{}')", (bytes(36), bytes(1)))
    old.close()
    journal = Journal(path)
    inputs, verdict = np.zeros((1, 9), dtype=np.float32), np.zeros(1, dtype=np.uint8)
    journal.append_proposal("a", Proposal(1, inputs, verdict, b"", "", np.ones((1, 2), dtype=np.float32)))
    first, second = journal.proposals("a")
    assert first.posterior.shape == (0, 2)
    assert second.posterior.tolist() == [[1, 1]]
    assert np.isnan(journal.forecasts("a", 2)[0]).all()
    assert journal.forecasts("a", 2)[1].tolist() == [1, 1]
