"""`caligo run` with its real services: what it says when they fail, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("caligo")
SECONDS = 120


class Run:
    """A `caligo run` and everything that descends from it, known by a mark in the environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._mark = f"CALIGO_MARK={uuid.uuid4().hex}"
        (directory / "spec.yaml").write_text("name: embedded\nlhs: {samples: 16}\nactive: {samples: 4}\n")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        key, value = self._mark.split("=")
        return subprocess.Popen(
            [COMMAND, "run", "spec.yaml", "--output", "out", *arguments],
            cwd=self.directory,
            env={**os.environ, key: value, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[int]:
        """Live processes that carry the mark."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark.encode() in environment.read_bytes():
                    found.append(int(environment.parent.name))
            except OSError:
                continue
        return found

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + SECONDS
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.05)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    before = set(Path("/tmp").glob("caligo-*"))
    yield made
    left = made.processes()
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left
    assert set(Path("/tmp").glob("caligo-*")) <= before


def test_a_service_that_does_not_start_is_named_with_its_last_words(run: Run) -> None:
    process = run.start(CALIGO_SURROGATE_KETTLE="on")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 5
    line = err.splitlines()[-1]
    assert line.startswith("caligo: the surrogate ended with code 2: ")
    assert "CALIGO_SURROGATE_KETTLE: no such setting" in line
    assert "out/logs/surrogate.log" in line
    assert "Traceback" not in err
    assert not (run.directory / "out" / "journal.sqlite3").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_starting(run: Run, number: signal.Signals) -> None:
    process = run.start()
    assert process.stderr is not None
    assert process.stderr.readline() == "starting the sampler\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "caligo: interrupted; nothing had been started; run the same command again"
    assert not run.processes()


def test_killed_it_takes_its_services_along(run: Run) -> None:
    process = run.start()
    assert process.stderr is not None
    assert process.stderr.readline() == "starting the sampler\n"
    process.kill()
    process.communicate(timeout=SECONDS)
    run.wait_until_gone()
    for left in Path("/tmp").glob("caligo-*"):  # what SIGKILL does not let anybody remove
        if left.is_dir() and left.stat().st_uid == os.getuid() and not any(left.glob("orchestrator")):
            for socket in left.iterdir():
                socket.unlink()
            left.rmdir()
