"""The four services as child processes of the command, on Unix sockets in a private directory.

The code path is the remote one; only the addresses differ. Each service runs in a session of its own, so that Ctrl-C
reaches the command alone, and holds the read end of a pipe as its lifeline: if the command dies, whatever the way,
the pipe closes and the services end by themselves.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caligo import rpc
from caligo.cli.interrupts import Interrupts
from caligo.errors import InternalError, InvalidArgument
from caligo.settings import ServiceSettings

WORKING_SERVICES: Final = ("sampler", "simulator", "surrogate")
_START_SECONDS: Final = 180.0
"""A first start compiles kernels; on a busy machine of 2 cores that has taken half a minute."""
_STOP_SECONDS: Final = 20.0
"""More than the grace period of a service, so that it is only killed when it hangs."""
_ORPHAN_SECONDS: Final = 5.0


_TAKEN_OVER: Final = frozenset(
    {
        *("metrics_address", "traces_endpoint", "traces_share", "log_level"),
        *("workers", "segment_pairs", "namespace", "verify_segments"),
        *("device", "kernel", "threads", "memory_budget_mib"),
    }
)
"""Settings that count in a `caligo run` too: how a service computes and what it tells. The others are a server's."""


def environment(make_home: Callable[[], str]) -> dict[str, str]:
    """The environment of a service: what it imports is what is installed, and what compiles has a home.

    Python would look into the working directory first, in every process that the service starts: whatever is called
    `token.py` there would be run. What compiles keeps the results at home: Numba, if the installation cannot be
    written, ends in an error where there is no such place, and KeOps makes one that is called `~`.
    """
    inherited = {**os.environ, "PYTHONSAFEPATH": "1"}
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises where there is none
    if home.startswith("/") and os.access(home, os.W_OK | os.X_OK):
        return inherited
    return {**inherited, "HOME": make_home()}


def without_server_settings(service: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """An environment for a service of ours, where variables and a settings file may be those of a server.

    What is no setting at all stays, for the service to refuse.

    Raises:
        InvalidArgument: the settings file cannot be used.
    """
    module = importlib.import_module(f"caligo_{service}.settings")
    settings: type[ServiceSettings] = getattr(module, f"{service.capitalize()}Settings")
    prefix = f"CALIGO_{service.upper()}_"
    dropped = {f"{prefix}{name}".upper() for name in settings.model_fields.keys() - _TAKEN_OVER} | {"CALIGO_CONFIG"}
    in_file = settings.read_section(inherited.get("CALIGO_CONFIG"))
    from_file = {f"{prefix}{name}".upper(): str(value) for name, value in in_file.items()}
    from_variables = {name.upper() if name.upper().startswith(prefix) else name: inherited[name] for name in inherited}
    return {name: value for name, value in (from_file | from_variables).items() if name not in dropped}


class ServiceProcess:
    """One running service."""

    def __init__(
        self, name: str, address: str, log: Path, flags: list[str], environment: Mapping[str, str] = os.environ
    ) -> None:
        self.name = name
        self.address = address
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"caligo_{name}", "--address", address, "--lifeline", *flags],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise InternalError, with the end of its log, if the service has ended."""
        code = self._process.poll()
        if code is not None:
            raise InternalError(f"the {self.name} ended with code {code}: {self._last_words()}")

    def wait_until_serving(self) -> None:
        """Block until the standard health service says SERVING.

        Raises:
            InternalError: the service ended, or took too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        with rpc.channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < deadline:
                self.check()
                with contextlib.suppress(grpc.RpcError):
                    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                time.sleep(0.05)
        raise InternalError(f"the {self.name} did not start in {_START_SECONDS:g} s: {self._last_words()}")

    def terminate(self) -> None:
        """Ask it to finish what is under way and end."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait until it has ended; if it does not, kill it, and then whatever it has left behind."""
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        # Helpers of a killed service, a resource tracker above all, see its end and clean up; give them the time.
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while _group_exists(self._process.pid):
            if time.monotonic() > deadline:
                os.killpg(self._process.pid, signal.SIGKILL)
                break
            time.sleep(0.02)

    def _last_words(self) -> str:
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        return f"{last[-300:]} (log: {self._log})"


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class EmbeddedServices:
    """The running services of one data directory."""

    def __init__(self, processes: list[ServiceProcess]) -> None:
        self._processes = processes

    @property
    def address(self) -> str:
        """The orchestrator's address."""
        return self._processes[-1].address

    def check(self) -> None:
        """Raise InternalError if one of them has ended."""
        for process in self._processes:
            process.check()


@contextlib.contextmanager
def embedded_services(
    data_directory: Path,
    interrupts: Interrupts,
    *,
    workers: int | None = None,
    on_starting: Callable[[str], None] = lambda name: None,
) -> Iterator[EmbeddedServices]:
    """Start the four services; on the way out, whatever the way, stop them and remove their sockets.

    Args:
        data_directory: the orchestrator's; logs go to `logs/SERVICE.log` below it.
        workers: EPR worker processes; None leaves it to the simulator.
        on_starting: told the name of each service that is waited for.

    Raises:
        InternalError: a service did not start.
        InvalidArgument: the directory cannot be written, or the settings file cannot be used.
    """
    logs = data_directory / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(str(data_directory), error.strerror or "cannot be made") from None
    processes: list[ServiceProcess] = []

    def start(name: str, *flags: str) -> None:
        with interrupts.held():
            log = logs / f"{name}.log"
            own = without_server_settings(name, surroundings)
            processes.append(ServiceProcess(name, f"unix:{sockets / name}", log, list(flags), own))

    def clean_up() -> None:
        with interrupts.held():
            _stop(processes)
            shutil.rmtree(sockets, ignore_errors=True)

    with contextlib.ExitStack() as stack:
        with interrupts.held():
            # Under /tmp whatever TMPDIR says: the path of a Unix socket holds 107 bytes.
            sockets = Path(tempfile.mkdtemp(prefix="caligo-", dir="/tmp"))
            stack.callback(clean_up)
        surroundings = environment(lambda: str(sockets))
        for name in WORKING_SERVICES:
            start(name, *(["--workers", str(workers)] if name == "simulator" and workers else []))
        for process in processes:
            on_starting(process.name)
            process.wait_until_serving()
        start(
            "orchestrator",
            "--data-directory",
            str(data_directory),
            *(flag for process in processes for flag in (f"--{process.name}", process.address)),
        )
        on_starting("orchestrator")
        processes[-1].wait_until_serving()
        yield EmbeddedServices(processes)


def _stop(processes: list[ServiceProcess]) -> None:
    """The orchestrator first, while those it calls still answer; then the others together."""
    workers = [process for process in processes if process.name in WORKING_SERVICES]
    for group in ([process for process in processes if process not in workers], workers):
        for process in group:
            process.terminate()
        for process in group:
            process.wait()
