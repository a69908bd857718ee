"""Durable rows a second, and what the HDF5 file costs.

Rows go the way of a campaign's: a group of them is committed to the journal (SQLite, WAL, `synchronous=FULL`, so each
commit waits for the disk) and then written into the live HDF5 file. The groups are as large as what 50 ms bring at
that rate. A sync of 4 KiB, timed beside it, says what the disk itself takes.

The ratio is of the HDF5 file alone: batches of rows into their places in the live file against `numpy.tofile` of the
same bytes, each batch once the one way and once the other, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from caligo_orchestrator.store.dataset import BATCH_ROWS
from caligo_orchestrator.store.hdf5 import HDF5Writer, Layout, open_live
from caligo_orchestrator.store.journal import Journal

from caligo.phases import Phase
from caligo.results import COUNTS, ROW_DTYPE, ResultRows, empty_rows

AIM_ROWS, AIM_RATIO = 50_000, 0.6
GROUPS = (64, 256, 1024, 4096)
"""Rows a commit."""


def some_rows(count: int) -> ResultRows:
    generator = np.random.default_rng(1)
    rows = np.zeros(count, dtype=ROW_DTYPE)
    rows["index"] = np.arange(count)
    for name in ("inputs", "metrics"):
        rows[name] = generator.random((count, 9), dtype=np.float32)
    rows["counts"] = generator.integers(0, 2**40, (count, len(COUNTS)))
    rows["outcome"] = 1
    return rows


def live_file(directory: Path, rows: int, batch: int) -> HDF5Writer:
    layout = Layout({}, {Phase.LHS: rows, Phase.ACTIVE: 0}, fits=1)
    return open_live(directory / f"{batch}.h5", layout, None, batch, lambda *_: empty_rows())[0]


def durable_rate(directory: Path, rows: ResultRows, group: int) -> tuple[float, float]:
    """Rows a second through journal and file, and the share of the time that the journal takes."""
    journal = Journal(directory / f"{group}.sqlite3")
    writer = live_file(directory, len(rows), BATCH_ROWS)
    begin, journaled = time.perf_counter(), 0.0
    for start in range(0, len(rows), group):
        some, at = rows[start : start + group], time.perf_counter()
        journal.append_rows("bench", Phase.LHS, some)
        journaled += time.perf_counter() - at
        writer.write(Phase.LHS, some)
    writer.flush()
    elapsed = time.perf_counter() - begin
    assert journal.row_count("bench", Phase.LHS) == len(rows)
    writer.close()
    journal.close()
    return len(rows) / elapsed, journaled / elapsed


def sync_seconds(directory: Path) -> float:
    times = []
    with (directory / "sync").open("wb", buffering=0) as file:
        for _ in range(30):
            file.write(bytes(4096))
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def flush_ratio(directory: Path, batch: int, count: int = 200) -> tuple[float, float, float]:
    """Seconds a batch into the HDF5 file, of `numpy.tofile` of the same bytes, and the median of their ratios."""
    rows = some_rows(batch * count)
    writer = live_file(directory, len(rows), batch)
    mine, peer = [], []
    (directory / "flat").write_bytes(bytes(rows.nbytes))  # both overwrite what is there already
    with (directory / "flat").open("r+b") as flat:
        for start in range(0, len(rows), batch):
            window = writer._open_window(Phase.LHS, start // batch)
            some = rows[start : start + batch].copy()
            window.put(np.arange(batch), some)
            begin = time.perf_counter()
            writer._write_rows(Phase.LHS, start, window)
            middle = time.perf_counter()
            some.tofile(flat)
            end = time.perf_counter()
            mine.append(middle - begin)
            peer.append(end - middle)
    writer.close()
    ratio = statistics.median(p / m for m, p in zip(mine, peer, strict=True))
    return statistics.median(mine), statistics.median(peer), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--directory", type=Path, help="on the disk to be measured; the system's temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        directory = Path(name)
        sync = sync_seconds(directory)
        print(f"a sync of 4 KiB takes {1e3 * sync:.2f} ms here")
        points = []
        for group in GROUPS:
            rate, share = durable_rate(directory, some_rows(min(100_000, 100 * group)), group)
            points.append({"group": group, "rows_per_second": rate, "journal_share": share})
            print(f"{group:5d} rows a commit: {rate:8.0f} durable rows/s, {share:.0%} of the time in the journal")
        flushes = []
        for batch in (64, BATCH_ROWS, 1024):
            mine, peer, ratio = flush_ratio(directory, batch)
            flushes.append({"batch": batch, "seconds": mine, "tofile_seconds": peer, "ratio": ratio})
            print(f"{batch:5d} rows a batch: {1e6 * mine:6.1f} us, tofile {1e6 * peer:6.1f} us, ratio {ratio:.2f}")
    best = max(points, key=lambda point: point["rows_per_second"])
    flush = next(flush for flush in flushes if flush["batch"] == BATCH_ROWS)
    print(f"aims: {AIM_ROWS} durable rows/s, ratio {AIM_RATIO} at the batch in use ({BATCH_ROWS} rows)")
    if arguments.json:
        print(json.dumps({
            "name": "persistence", "value": best["rows_per_second"], "unit": "durable rows/s",
            "peer": "numpy.tofile of a batch", "peer_value": flush["tofile_seconds"], "ratio": flush["ratio"],
            "group": best["group"], "batch": BATCH_ROWS, "batch_seconds": flush["seconds"], "sync_seconds": sync,
            "aim": AIM_ROWS, "aim_ratio": AIM_RATIO, "points": points, "flushes": flushes,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
