"""The store killed, and the disk at fault, at each of its own write calls in turn, by fault injection of strace."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from caligo_orchestrator.store.journal import Journal

from caligo.phases import Phase

SCRIPT = Path(__file__).with_name("store_run.py")
CALLS = (
    "write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync",
    "rename", "renameat2", "unlink", "unlinkat", "ftruncate", "mkdir",
)  # fmt: skip
STRIDE = 100
"""In the quick run every so many-th call."""
QUICK = "/dev/shm" if Path("/dev/shm").is_dir() else None
ALL = pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])
EVERY = pytest.mark.parametrize("stride", [STRIDE, ALL])

_spec = importlib.util.spec_from_file_location("store_run", SCRIPT)
assert _spec is not None and _spec.loader is not None
store_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(store_run)

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which injects the faults, is missing")


@pytest.fixture(scope="module", autouse=True)
def _strace_may_trace() -> None:
    if shutil.which("strace") and subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")


def run(directory: Path, inject: str) -> subprocess.CompletedProcess[str]:
    """The small campaign as a process of its own, with an injection of strace's."""
    trace = ["strace", "-f", "-o", str(directory.with_name("trace")), "-e", f"trace={','.join(CALLS)}"]
    command = [*trace, "-e", f"inject={inject}", sys.executable, str(SCRIPT), str(directory)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def calls(directory: Path) -> list[tuple[str, int]]:
    """Write calls that the run makes when nothing happens to it: name, and number among those of that name."""
    ended = run(directory, "write:delay_enter=0:when=1")
    assert ended.returncode == 0, ended.stderr
    trace = directory.with_name("trace").read_text()
    lines = re.findall(rf"^(\d+) +({'|'.join(CALLS)})\(", trace, re.MULTILINE)
    ((store, _),) = Counter(thread for thread, _ in lines).most_common(1)  # strace counts a thread's calls
    seen: Counter[str] = Counter()
    found = []
    for thread, name in lines:
        if thread == store:
            seen[name] += 1
            found.append((name, seen[name]))
    return found


def table(directory: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with h5py.File(directory / "campaigns/small/exploration_data.h5") as file:
        for group, members in file.items():
            for name, dataset in members.items():
                found[f"{group}/{name}"] = repr((dataset.shape, dataset.dtype)).encode() + np.asarray(dataset).tobytes()
    return found


def rows(directory: Path) -> dict[str, bytes]:
    """What the journal holds, by `phase/index`."""
    if not (directory / "journal.sqlite3").exists():
        return {}
    journal = Journal(directory / "journal.sqlite3")
    try:
        return {f"{int(p)}/{row['index']}": row.tobytes() for p in Phase for row in journal.rows("small", p)}
    finally:
        journal.close()


def assert_opens(directory: Path) -> None:
    """A file of that name, whenever there is one, is whole."""
    if (directory / "campaigns/small/exploration_data.h5").exists():
        assert "lhs_warmup/outcome" in table(directory)


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[tuple[str, int]], dict[str, bytes], dict[str, bytes]]:
    with tempfile.TemporaryDirectory(dir=QUICK) as name:
        directory = Path(name) / "data"
        directory.mkdir()
        return calls(directory), table(directory), rows(directory)


@EVERY
def test_killed_at_any_write_nothing_acknowledged_is_lost(undisturbed, stride: int) -> None:
    every, file, journal = undisturbed
    assert len(every) > 100
    for when in every[::stride]:
        with tempfile.TemporaryDirectory(dir=QUICK) as name:
            directory = Path(name) / "data"
            directory.mkdir()
            first = run(directory, "{}:signal=KILL:when={}".format(*when))
            assert first.returncode != 0, when
            acknowledged = [word for word in first.stdout.split() if "/" in word]
            held = rows(directory)
            assert set(acknowledged) <= held.keys(), when
            assert all(journal[row] == content for row, content in held.items()), when
            assert_opens(directory)
            store_run.run(directory)
            assert table(directory) == file, when
            assert rows(directory) == journal, when
            assert not list(directory.rglob("*.damaged-*")), when


@EVERY
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_fault_at_any_write_is_said_and_survived(undisturbed, error: str, stride: int) -> None:
    """One call fails: either it did not matter, or the run says so, keeps what it has acknowledged, and goes on."""
    every, file, journal = undisturbed
    said = 0
    for when in every[stride // 2 :: stride]:
        with tempfile.TemporaryDirectory(dir=QUICK) as name:
            directory = Path(name) / "data"
            directory.mkdir()
            ended = run(directory, f"{when[0]}:error={error}:when={when[1]}")
            said += "fault: " in ended.stderr
            assert ended.returncode == 0, (when, ended.stderr)
            acknowledged = [word for word in ended.stdout.split() if "/" in word]
            assert set(acknowledged) <= rows(directory).keys(), when
            assert_opens(directory)
            store_run.run(directory)
            assert table(directory) == file, when
            assert rows(directory) == journal, when
    assert said > 0
