"""`caligo run` with its real services: what it says when they fail, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from caligo_simulator.epr.registry import installed_sources

from caligo.cli.embedded import without_server_settings

COMMAND = Path(sys.executable).with_name("caligo")
SECONDS = 180
SPEC = """
name: embedded
space: {bounds: {N: [3.2e+4, 1.0e+6]}}
protocol: {max_decoded_frames: 8}
surrogate: {training_steps: 20}
lhs: {samples: 16}
active: {samples: 4, batch_size: 2}
"""


class Run:
    """A `caligo run` and everything that descends from it, known by a mark in the environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._mark = uuid.uuid4().hex
        (directory / "spec.yaml").write_text(SPEC)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COMMAND, "run", "spec.yaml", "--output", "out", *arguments],
            cwd=self.directory,
            env={**os.environ, "CALIGO_MARK": self._mark, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[Path]:
        """Live processes that carry the mark, as their directories in /proc."""
        return [p for p in Path("/proc").glob("[0-9]*") if self._mark.encode() in _read(p / "environ")]

    def sockets(self) -> set[Path]:
        """Directories of the sockets that the services listen on."""
        commands = b" ".join(_read(p / "cmdline").replace(b"\0", b" ") for p in self.processes())
        return {Path(found.decode()) for found in re.findall(rb"unix:(/tmp/caligo-[^/ ]+)", commands)}

    def segments(self) -> set[str]:
        """Shared-memory segments that the processes have mapped."""
        maps = b" ".join(_read(p / "maps") for p in self.processes())
        return {found.decode() for found in re.findall(rb"/dev/shm/(caligo-\S+)", maps)}

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + SECONDS
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.05)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is not ours
        return b""


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read standard error up to a line that holds `text`."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError("".join(seen))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    left = made.processes()
    for process in left:
        os.kill(int(process.name), signal.SIGKILL)
    assert not left


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


def test_what_surrounds_a_run_does_not_get_into_it(run: Run) -> None:
    """Services, fork server, workers and what else is started import what is installed; a server's settings are its."""
    marks = run.directory / "marks"
    for name in ("token", "random", "numpy", "torch", "grpc", "caligo", "sitecustomize"):
        trap = (
            f"open({str(marks)!r}, 'a').write({name!r})\nraise RuntimeError({name!r} + ' of the working directory')\n"
        )
        (run.directory / f"{name}.py").write_text(trap)
    helped = subprocess.run([COMMAND, "serve", "sampler", "--help"], cwd=run.directory, capture_output=True, text=True)
    assert helped.returncode == 0, helped.stderr
    process = run.start(CALIGO_ORCHESTRATOR_REQUIRE_TOKEN="true", CALIGO_SAMPLER_TLS_CLIENT_CA="nothing.pem")
    wait_for(process, "campaigns/embedded: running")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, err
    assert not marks.exists(), marks.read_text()


SERVER = """
orchestrator: {require_token: true, farm: dask, client_active_campaigns: 1, log_level: debug}
simulator: {address: "0.0.0.0:1", tls_certificate: nothing.pem, workers: 1}
"""


def test_settings_of_a_server_are_not_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.yaml").write_text(SERVER)
    monkeypatch.setenv("CALIGO_CONFIG", str(tmp_path / "server.yaml"))
    monkeypatch.setenv("CALIGO_ORCHESTRATOR_REQUIRE_TOKEN", "true")
    monkeypatch.setenv("caligo_orchestrator_client_calls", "1")
    monkeypatch.setenv("CALIGO_ORCHESTRATOR_METRICS_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("CALIGO_SURROGATE_KERNEL", "dense")
    monkeypatch.setenv("CALIGO_SURROGATE_TLS_KEY", "nothing.pem")
    monkeypatch.setenv("ADDRESS", "mine")
    for service, expected in (
        ("orchestrator", {"LOG_LEVEL": "debug", "METRICS_ADDRESS": "127.0.0.1:1"}),
        ("sampler", {}),
        ("simulator", {"WORKERS": "1"}),
        ("surrogate", {"KERNEL": "dense"}),
    ):
        inherited = without_server_settings(service, os.environ)
        prefix = f"CALIGO_{service.upper()}_"
        found = {name.upper().removeprefix(prefix): inherited[name] for name in inherited if prefix in name.upper()}
        assert found == expected
        assert "CALIGO_CONFIG" not in inherited and inherited["ADDRESS"] == "mine"


def test_terminated_while_starting(run: Run) -> None:
    process = run.start()
    wait_for(process, "starting the sampler")
    sockets = run.sockets()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "caligo: interrupted; nothing had been started; run the same command again"
    assert len(sockets) == 1 and not sockets.pop().exists()
    assert not run.processes()


def test_killed_it_takes_its_services_along(run: Run) -> None:
    process = run.start()
    wait_for(process, "starting the sampler")
    sockets = run.sockets()
    process.kill()
    process.communicate(timeout=SECONDS)
    run.wait_until_gone()
    for directory in sockets:  # nobody is left who could
        shutil.rmtree(directory, ignore_errors=True)


def test_interrupted_and_refused(run: Run) -> None:
    """That it goes on to the same rows, `tests/e2e` shows."""
    long = ("--set", "lhs.samples=400")  # not over before the signal comes
    process = run.start("--workers", "1", *long)
    wait_for(process, "Latin hypercube")
    sockets, segments = run.sockets(), run.segments()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "caligo: interrupted; go on with: caligo run spec.yaml --output out --resume"
    assert len(sockets) == 1 and not sockets.pop().exists()
    assert segments and not [name for name in segments if (Path("/dev/shm") / name).exists()]
    assert not run.processes()

    refused = run.start()
    _, err = refused.communicate(timeout=SECONDS)
    assert (refused.returncode, err.count("\n")) == (4, 1)

    other = run.start("--resume", "--seed", "99", *long)
    _, err = other.communicate(timeout=SECONDS)
    assert other.returncode == 4
    assert "has another 'seed' than this spec" in err.splitlines()[-1]
    assert not run.processes()


@pytest.mark.skipif("netsquid" in installed_sources(), reason="NetSquid is installed")
def test_a_campaign_that_the_orchestrator_refuses_leaves_nothing(run: Run) -> None:
    process = run.start("--set", "protocol.epr_source=netsquid")
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("caligo: protocol.epr_source: ")
    assert not (run.directory / "out").exists()
    assert run.processes() == []
