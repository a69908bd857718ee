"""`caligo check`: does a source of rounds, or a simulator, do what the suite asks of it?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from caligo.errors import CaligoError, FailedPrecondition

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from caligo.results import ResultRows

check_app = typer.Typer(no_args_is_help=True, help="Check a source of rounds or a simulator that is your own.")

_LET_GO_SECONDS = 10.0
"""For a simulator to let go of a stream that has ended, and for answers that take no simulating."""
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a check on standard output.")]


class Finding(NamedTuple):
    """One check of a simulator: what was asked, whether it held, and the figures."""

    check: str
    passed: bool
    detail: str


@check_app.command()
def source(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As a spec has it in `protocol.epr_source`.")],
    rounds: Annotated[int, typer.Option(min=1_000, max=10_000_000, help="Rounds a sample.")] = 20_000,
    json: _Json = False,
) -> None:
    """Run the conformance suite of sources: values, determinism by key, segments, the law of the rounds, bases.

    It runs in worker processes, as in a campaign, so one that hangs or ends its process fails a check and no more.
    The source must be installed here, beside the simulator. Ends with 5 where a check fails.

    Example: `caligo check source sequence`
    """
    try:
        from caligo_simulator.epr.conformance import Workers, check
        from caligo_simulator.epr.registry import check_installed
    except ModuleNotFoundError as error:
        if error.name != "caligo_simulator":
            raise
        raise FailedPrecondition("sources are checked where the simulator is installed (caligo-simulator)") from None
    check_installed(name)
    with Workers(name, rounds) as workers:
        _report(f"the source {name}", check(lambda: workers, rounds), json)


@check_app.command()
def simulator(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where it listens; also `unix:PATH`.")],
    epr_source: Annotated[str, typer.Option("--source", help="EPR source to ask for.")] = "statistical",
    json: _Json = False,
) -> None:
    """Ask a running simulator what the farm asks: capacity, rows again, bad setups, time limits, cancellation.

    It must be free: a simulator serves one stream of rows at a time. Ends with 5 where a check fails.

    Example: `caligo check simulator localhost:50052 --source mine`
    """
    _report(f"the simulator at {address}", _of_simulator(address, epr_source), json)


def _report(what: str, findings: Iterator[Any], json: bool) -> None:
    from caligo.cli.output import console, print_json

    failed = total = 0
    for finding in findings:
        total += 1
        failed += not finding.passed
        if json:
            print_json({"check": finding.check, "passed": finding.passed, "detail": finding.detail})
        else:
            console.print(f"{'ok  ' if finding.passed else 'FAIL'} {finding.check}", end="", highlight=False)
            console.print(f": {finding.detail}" if finding.detail else "", highlight=False)
    if failed:
        raise CheckFailedError(f"{what} fails {failed} of {total} checks")
    if not json:
        console.print(f"{what} passes all {total} checks")


class CheckFailedError(CaligoError):
    """A check that was run to its end has found something."""

    exit_code = 5


def _of_simulator(address: str, epr_source: str) -> Iterator[Finding]:
    import numpy as np

    from caligo import rpc
    from caligo.physics.finite_key import detection_interval
    from caligo.results import COUNT, ProtocolOutcome
    from caligo.v1 import simulator_pb2, simulator_pb2_grpc

    with rpc.channel(address) as channel, rpc.calling(address):
        stub = simulator_pb2_grpc.SimulatorServiceStub(channel)
        capacity = stub.GetCapacity(simulator_pb2.GetCapacityRequest(), timeout=10.0)
        fits = capacity.workers >= 1 and capacity.max_rows_in_flight >= capacity.workers
        yield Finding(
            "says its workers and how many rows it takes",
            fits,
            f"{capacity.workers} workers, {capacity.max_rows_in_flight} rows",
        )
        yield Finding(
            "has the source", epr_source in capacity.epr_sources, f"it has {', '.join(capacity.epr_sources) or 'none'}"
        )
        listed = len(capacity.epr_source_versions) == len(capacity.epr_sources)
        yield Finding("says the version of each source", listed, ", ".join(capacity.epr_source_versions))
        if epr_source not in capacity.epr_sources:
            return

        index, inputs = np.arange(8, dtype=np.int64), _rows(8)
        first = _simulate(stub, _setup(epr_source), index, inputs)
        yield Finding(
            "answers each row once", sorted(first["index"].tolist()) == index.tolist(), f"{len(first)} of {len(index)}"
        )
        known = np.isin(first["outcome"], [outcome.value for outcome in ProtocolOutcome])
        yield Finding("outcomes are those of the contract", bool(known.all()), "")
        faults = int(np.count_nonzero(first["outcome"] == ProtocolOutcome.FAILURE_ERROR))
        yield Finding("no row ends in a fault", faults == 0, f"{faults} do" if faults else "")
        again = _simulate(stub, _setup(epr_source), index[::-1].copy(), inputs[::-1].copy())
        yield Finding("a row is the same again, in another order", _alike(first, again), "")
        other = _simulate(stub, _setup(epr_source, seed=8), index, inputs)
        yield Finding(
            "another seed gives other rows", not np.array_equal(_sorted(first)["counts"], _sorted(other)["counts"]), ""
        )
        for sample, row in zip(_samples(inputs), _sorted(first), strict=True):
            low, high = detection_interval(sample.N, _click(sample), 1e-10)
            detected = int(row["counts"][COUNT["detected"]])
            if not low <= detected <= high:
                yield Finding(
                    "detections are those of the closed form",
                    False,
                    f"row {row['index']}: {detected:,} of {low:,} to {high:,}",
                )
                break
        else:
            yield Finding("detections are those of the closed form", True, "eight rows, within the test's interval")

        yield _qber(_sorted(first), _samples(inputs))

        yield _refuses(stub, _setup(epr_source, phase=0), "setup.phase")
        yield _refuses(stub, _setup("no-such-source"), "protocol.epr_source")
        long = _rows(1, log10_pairs=9.0)
        late = _simulate(stub, _setup(epr_source, time_limit_seconds=0.05), index[:1], long)
        yield Finding(
            "a row that takes too long ends as failure_timeout",
            bool((late["outcome"] == ProtocolOutcome.FAILURE_TIMEOUT).all()),
            "",
        )
        yield _one_stream(stub, epr_source, long)
        yield _withdraws(stub, epr_source, long)
        yield _gives_way(stub, epr_source, long)


def _setup(epr_source: str, *, seed: int = 7, phase: int = 1, time_limit_seconds: float = 60.0) -> Any:
    from caligo.v1 import simulator_pb2, types_pb2

    protocol = types_pb2.ProtocolSpec(epr_source=epr_source, time_limit_seconds=time_limit_seconds)
    return simulator_pb2.SimulateSetup(campaign="campaigns/check", seed=seed, phase=phase, protocol=protocol)  # type: ignore[arg-type]


def _rows(count: int, log10_pairs: float = 4.5) -> NDArray[np.float32]:
    """Model coordinates [n, 9] of links that are good enough for a key and short enough for slow sources."""
    import numpy as np

    rows = np.empty((count, 9), np.float32)
    rows[:] = [0.1, -2.0, 9.0, 0.98, 0.0, 0.005, -6.0, log10_pairs, 0.0]
    rows[:, 4] = np.linspace(-0.05, -0.6, count)
    rows[:, 8] = np.arange(count) % 2
    return rows


def _requests(setup: Any, index: NDArray[np.int64], inputs: NDArray[np.float32]) -> Iterator[Any]:
    from caligo import wire
    from caligo.v1 import simulator_pb2

    yield simulator_pb2.SimulateRequest(setup=setup)
    yield simulator_pb2.SimulateRequest(rows=wire.encode_design(index, inputs))


def _simulate(stub: Any, setup: Any, index: NDArray[np.int64], inputs: NDArray[np.float32]) -> ResultRows:
    return _results(_taken(stub, lambda: _requests(setup, index, inputs)))


def _results(answers: Iterator[Any]) -> ResultRows:
    import numpy as np

    from caligo import wire

    return np.concatenate([wire.decode_rows(answer.results) for answer in answers])


def _taken(stub: Any, requests: Callable[[], Iterator[Any]]) -> Any:
    """A stream that the simulator has taken; it may still be letting go of the one before."""
    import grpc

    deadline = time.monotonic() + _LET_GO_SECONDS
    while True:
        answers = stub.Simulate(requests(), timeout=600.0)
        answers.initial_metadata()  # waits for it
        if not answers.done() or answers.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            return answers
        if time.monotonic() > deadline:
            return answers  # to raise why
        time.sleep(0.1)


def _sorted(rows: ResultRows) -> ResultRows:
    import numpy as np

    return rows[np.argsort(rows["index"])]


def _alike(first: ResultRows, second: ResultRows) -> bool:
    """But for the time that they took."""
    import numpy as np

    a, b = _sorted(first), _sorted(second)
    if a.shape != b.shape:
        return False
    from caligo.results import METRIC_NAMES

    physical = [j for j, name in enumerate(METRIC_NAMES) if name != "wall_seconds"]
    same = all(np.array_equal(a[name], b[name]) for name in ("counts", "outcome", "reason"))
    return same and np.array_equal(a["metrics"][:, physical], b["metrics"][:, physical], equal_nan=True)


def _samples(inputs: NDArray[np.float32]) -> list[Any]:
    from caligo.space import ExplorationSample

    return [ExplorationSample.inflate(i, row) for i, row in enumerate(inputs)]


def _click(sample: Any) -> float:
    from caligo.physics.detection import click_probability

    return click_probability(sample.eta, sample.P_dark)


def _qber(rows: ResultRows, samples: list[Any]) -> Finding:
    """Of all rows that opened test bits, within five standard deviations."""
    from caligo.physics.detection import qber
    from caligo.results import COUNT, METRIC

    found = due = variance = 0.0
    for row, sample in zip(rows, samples, strict=True):
        tested = int(row["counts"][COUNT["test_bits"]])
        if tested:
            rate = qber(sample.F, sample.eta, sample.e_det, sample.P_dark)
            found += tested * float(row["metrics"][METRIC["qber"]])
            due, variance = due + tested * rate, variance + tested * rate * (1.0 - rate)
    detail = f"{found:.0f} errors, due {due:.0f} +- {variance**0.5:.0f}"
    return Finding("errors are those of the closed form", abs(found - due) <= 5.0 * variance**0.5 + 1.0, detail)


def _one_stream(stub: Any, epr_source: str, long: NDArray[np.float32]) -> Finding:
    """While it serves a stream, another is refused at once, and its capacity is told all the same."""
    import grpc
    import numpy as np

    from caligo.v1 import simulator_pb2

    check = "a second stream of rows is refused at once"
    index = np.zeros(1, np.int64)
    served = _taken(stub, lambda: _requests(_setup(epr_source), index, long))
    try:
        list(stub.Simulate(_requests(_setup(epr_source), index, _rows(1)), timeout=_LET_GO_SECONDS))
    except grpc.RpcError as error:
        stub.GetCapacity(simulator_pb2.GetCapacityRequest(), timeout=_LET_GO_SECONDS)
        return Finding(check, error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error.code().name)
    finally:
        served.cancel()
    return Finding(check, False, "it was taken")


def _withdraws(stub: Any, epr_source: str, long: NDArray[np.float32]) -> Finding:
    """A row that is withdrawn under way has no result; the others of its stream have theirs."""
    import numpy as np

    from caligo import wire
    from caligo.v1 import simulator_pb2

    def requests() -> Iterator[Any]:
        yield from _requests(_setup(epr_source), np.array([1], np.int64), long)
        withdrawn = wire.encode(np.array([1], np.int64), wire.INDEX)
        yield simulator_pb2.SimulateRequest(withdrawn=withdrawn)
        yield simulator_pb2.SimulateRequest(rows=wire.encode_design(np.zeros(1, np.int64), _rows(1)))

    came = sorted(_results(_taken(stub, requests))["index"].tolist())
    return Finding("a row that is withdrawn has no result, others have", came == [0], f"results of {came}, due [0]")


def _refuses(stub: Any, setup: Any, field: str) -> Finding:
    import grpc
    import numpy as np

    check = f"a wrong {field} is refused by name"
    try:
        list(_taken(stub, lambda: _requests(setup, np.zeros(1, np.int64), _rows(1))))
    except grpc.RpcError as error:
        refused = error.code() is grpc.StatusCode.INVALID_ARGUMENT and field in (error.details() or "")
        return Finding(check, refused, "" if refused else f"{error.code().name}: {error.details()}")
    return Finding(check, False, "it was taken")


def _gives_way(stub: Any, epr_source: str, long: NDArray[np.float32]) -> Finding:
    """A stream that is cancelled makes room for the next."""
    import grpc
    import numpy as np

    answers = _taken(stub, lambda: _requests(_setup(epr_source), np.zeros(1, np.int64), long))
    answers.cancel()
    check, started = "a cancelled stream makes room for the next", time.monotonic()
    try:
        _simulate(stub, _setup(epr_source), np.zeros(1, np.int64), _rows(1))
    except grpc.RpcError as error:
        return Finding(check, False, f"{error.details()}")
    return Finding(check, True, f"{time.monotonic() - started:.1f} s")
