"""The client for scripts and notebooks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from caligo import rpc
from caligo.client import calls
from caligo.client.calls import Attempts, Call, Connection, Plan, Stream
from caligo.client.download import Download
from caligo.client.model import Campaign, CampaignState, Changed, Event, check_success
from caligo.contours import Contours
from caligo.errors import InternalError, InvalidArgument
from caligo.phases import Phase
from caligo.requirements import IMPROVABLE, Requirement
from caligo.results import ResultRows
from caligo.slices import CliffSlice
from caligo.spec import CampaignSpec
from caligo.thresholds import Threshold
from caligo.tls import Tls
from caligo.v1 import campaign_pb2_grpc

T = TypeVar("T")


class CampaignClient:
    """Campaigns on the orchestrator at `address` (`host:port`, `dns:///name:port` or `unix:PATH`).

    Once the server has answered, it may go away and come back, restarted say: streams go on by themselves where they
    were, and calls that do no harm twice are sent again, for as long as `patience_seconds` without a word from it.
    `delete` is the only one that is not. Safe to use from several threads. A context manager; leaving it closes the
    connection.

    Args:
        token: what `caligo token create` printed, where the server asks for one.
        tls: whom to trust and who we are; without it, and on a Unix socket, nothing is encrypted.
    """

    def __init__(
        self, address: str, *, token: str = "", tls: Tls | None = None, patience_seconds: float = 60.0
    ) -> None:
        self.address = address
        self._connection = Connection(address, patience_seconds, is_encrypted=tls is not None)
        self._channel = rpc.channel(address, tls, token=token, may_be_proxied=True)
        self._stub = campaign_pb2_grpc.CampaignServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; `with` does so by itself."""
        self._channel.close()

    # --- one campaign -----------------------------------------------------------------------------------------------

    def create(
        self,
        spec: CampaignSpec,
        *,
        validate_only: bool = False,
        request_id: str | None = None,
        priority: int = 100,
    ) -> Campaign:
        """Start a campaign.

        Args:
            validate_only: check the spec and make nothing; what comes back has no name.
            request_id: the same id again gives the same campaign; by default a new one.
            priority: share of the farm relative to other campaigns, 1 to 1,000.

        Raises:
            InvalidArgument: the server does not accept the spec.
            FailedPrecondition: a phase is skipped whose result `spec.base` does not hold.
            ResourceExhausted: it would be more than the server lets one client have.
        """
        return self._carry_out(
            calls.create(spec, validate_only=validate_only, request_id=request_id, priority=priority)
        )

    def get(self, name: str) -> Campaign:
        """The campaign as it is now.

        Raises:
            NotFound: there is none of that name.
        """
        return self._carry_out(calls.get(name))

    def list(
        self,
        state: CampaignState | None = None,
        *,
        owner: str | None = None,
        prefix: str | None = None,
        page_size: int = 0,
    ) -> Iterator[Campaign]:
        """Campaigns, newest first; pages are fetched as they are needed.

        Args:
            state: only those in this state.
            owner: only those of this owner.
            prefix: only those whose id begins so.
            page_size: campaigns a page, at most 1,000; 0 leaves it to the server.
        """
        token = ""
        while True:
            campaigns, token = self._carry_out(calls.page(token, page_size, state, owner, prefix))
            yield from campaigns
            if not token:
                return

    def update(self, name: str, *, samples: int | None = None, priority: int | None = None) -> Campaign:
        """Change the budget or the priority of a campaign that has not ended. A running one picks it up.

        Args:
            samples: rows wanted in phase 3; the file will be that of a campaign made with this budget.
            priority: share of the farm relative to other campaigns, 1 to 1,000.

        Raises:
            NotFound: there is none of that name.
            InvalidArgument: no such budget or priority, or neither given.
            FailedPrecondition: it has ended, or more rows than `samples` have been handed out.
        """
        return self._carry_out(calls.update(name, samples=samples, priority=priority))

    def pause(self, name: str) -> Campaign:
        """Stop at once; what has come back is kept, rows under way are computed again after a resume.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it has ended.
        """
        return self._carry_out(calls.pause(name))

    def resume(self, name: str) -> Campaign:
        """Go on with a paused campaign.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it has ended.
        """
        return self._carry_out(calls.resume(name))

    def cancel(self, name: str) -> Campaign:
        """End a campaign for good; what it has is kept.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it has ended already.
        """
        return self._carry_out(calls.cancel(name))

    def delete(self, name: str) -> None:
        """Remove a campaign that has ended, with its files.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it has not ended.
        """
        self._carry_out(calls.delete(name))

    def wait(self, name: str) -> Campaign:
        """Block until the campaign has ended; it is then SUCCEEDED or CANCELLED.

        Raises:
            NotFound: there is none of that name.
            CampaignFailed: it ended in failure; the text is its problem.
        """
        for event in self.watch(name):
            if isinstance(event, Changed) and event.campaign.state.is_final:
                break
        return check_success(self.get(name))

    # --- streams ----------------------------------------------------------------------------------------------------

    def watch(self, name: str, after: int = 0) -> Iterator[Event]:
        """Events with a number greater than `after`, then live ones until the campaign has ended.

        No kept event is lost or doubled where the connection breaks.

        Raises:
            NotFound: there is none of that name.
        """
        return self._follow(calls.Events(name, after))

    def results(self, name: str, phase: Phase, start_row: int = 0, *, follow: bool = False) -> Iterator[ResultRows]:
        """Result rows of a phase in the file's order, in batches: structured arrays [n] of `ROW_DTYPE`.

        Args:
            phase: `Phase.LHS` or `Phase.ACTIVE`.
            start_row: first row wanted, counted in the phase's order.
            follow: wait for rows that are yet to come, until the campaign has ended.

        Raises:
            NotFound: there is no campaign of that name.
        """
        return self._follow(calls.Results(name, phase, start_row, follow))

    def read(self, name: str, offset: int = 0, length: int = 0) -> Iterator[bytes]:
        """Bytes of the campaign's HDF5 file, in pieces; `length` 0 for all from `offset` on.

        Raises:
            NotFound: there is no campaign of that name.
            InvalidArgument: the range does not lie in the file.
            FailedPrecondition: the campaign has neither ended nor paused, or the file changed meanwhile.
        """
        return (data for data in self._follow(calls.FileRange(name, offset, length)) if data)

    def download(
        self,
        name: str,
        path: str | Path,
        *,
        overwrite: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Fetch the campaign's HDF5 file. `path` appears complete and checked, or not at all.

        What has come of it is kept beside it as `PATH.part`; a later call goes on from there.

        Args:
            on_progress: told the bytes that are here and those of the whole file.

        Raises:
            NotFound: there is no campaign of that name.
            FailedPrecondition: it has neither ended nor paused.
            AlreadyExists: there is something at `path`, and `overwrite` is not set.
            InvalidArgument: `path` cannot be written.
            InternalError: what came is not what was sent.
        """
        path = Path(path)
        with contextlib.closing(Download(name, path, overwrite=overwrite)) as download:
            while True:
                try:
                    for done, total in self._follow(download):
                        if on_progress is not None:
                            on_progress(done, total)
                    download.finish()
                    return path
                except (InvalidArgument, InternalError) as error:
                    if not download.start_over(error):
                        raise

    # --- the surrogate ----------------------------------------------------------------------------------------------

    def predict(self, name: str, inputs: NDArray[np.float32], *, extrapolate: bool = False) -> NDArray[np.float32]:
        """What one run at each row would give: by the campaign's surrogate, and by the closed form alone.

        Args:
            inputs: float32 [n, 9], model coordinates.
            extrapolate: take rows outside the campaign's space, where the surrogate has learned nothing.

        Returns:
            float32 [n, 6]: mean and standard deviation of the target and probability of a key, by the surrogate; mean
            and standard deviation of the margin and probability of a key, by the closed form of the campaign's device
            and claim. The last three are NaN for campaigns of release 0.1, whose claims have none.

        Raises:
            NotFound: there is no campaign of that name.
            InvalidArgument: a row is outside the campaign's space, or has a strategy that no row of it has.
            FailedPrecondition: its surrogate has not been fitted yet.
        """
        return self._carry_out(calls.predict(name, inputs, extrapolate=extrapolate))

    def slice(
        self, name: str, x: str, y: str, *, at: NDArray[np.float32] | None = None, points: int = 41
    ) -> CliffSlice:
        """The posterior on a grid over two parameters, each over its range in the campaign's space.

        Args:
            x: symbol of the first parameter.
            y: symbol of the second one.
            at: float32 [9], model coordinates of the point that the slice goes through; by default the middle of the
                space.
            points: of the grid, along each parameter.

        Raises:
            InvalidArgument: no such parameters, fewer than two points, or `at` is outside the campaign's space.
            NotFound: there is no campaign of that name.
            FailedPrecondition: its surrogate has not been fitted yet.
        """
        return self._carry_out(calls.slice(name, x, y, at=at, points=points))

    def threshold(
        self, name: str, parameter: str, *, at: Mapping[str, float | str] = {}, levels: Sequence[float] = (0.5, 0.95)
    ) -> tuple[Threshold, ...]:
        """Where along a parameter a key becomes likely, over its range in the campaign's space.

        Args:
            parameter: its symbol.
            at: what the other parameters are held at, by symbol in physical units; what is missing takes the middle of
                the space. Every strategy that the campaign has is answered for.
            levels: of the probability that one run gives a key.

        Returns:
            One answer a strategy and level, each with all its crossings, their bands, and the closed form's own. All
            are under the claim of the campaign's spec.

        Raises:
            InvalidArgument: no such parameter, one that the campaign holds fixed, or `at` is outside its space.
            NotFound: there is no campaign of that name.
            FailedPrecondition: its surrogate has not been fitted yet.
        """
        return self._carry_out(calls.threshold(name, parameter, at, levels))

    def contour(
        self,
        name: str,
        x: str,
        y: str,
        *,
        at: Mapping[str, float | str] = {},
        level: float = 0.5,
        points: int = 101,
    ) -> Contours:
        """The cliff over two parameters as lines, with the surrogate's band and the closed form's own.

        Args:
            x: symbol of the first parameter.
            y: symbol of the second.
            at: what the other parameters are held at, by symbol in physical units; what is missing takes the middle of
                the space. Every strategy that the campaign has is answered for.
            level: of the probability that one run gives a key.
            points: of the grid along each parameter, 2 to 501; lines are straight between them.

        Raises:
            InvalidArgument: no such parameter, one that the campaign holds fixed, or `at` is outside its space.
            NotFound: there is no campaign of that name.
            FailedPrecondition: its surrogate has not been fitted yet.
            ModuleNotFoundError: `contourpy`, which comes with matplotlib, is not installed.
        """
        return self._carry_out(calls.contour(name, x, y, at, level, points))

    def require(
        self,
        name: str,
        baseline: Mapping[str, float | str],
        *,
        free: Sequence[str] = IMPROVABLE,
        confidence: float = 0.95,
        weights: Mapping[str, float] = {},
    ) -> tuple[Requirement, ...]:
        """The cheapest improvements of hardware with which a key becomes likely (`caligo.requirements`).

        Args:
            baseline: what there is, by symbol in physical units; what is missing takes the middle of the space.
            free: symbols of what may be improved, of F, eta, e_det and P_dark; at most to the end of the space.
            confidence: probability that one run gives a key.
            weights: of the improvement factors in the cost, by symbol; 1 where nothing is said.

        Returns:
            One answer a strategy of the campaign, under the claim of its spec, with the closed form's own cost.

        Raises:
            InvalidArgument: as `check` of `caligo.requirements` does, or the baseline lies outside the space.
            NotFound: there is no campaign of that name.
            FailedPrecondition: its surrogate has not been fitted yet.
        """
        return self._carry_out(calls.require(name, baseline, free, confidence, weights))

    # --- calls ------------------------------------------------------------------------------------------------------

    def _carry_out(self, plan: Plan[T]) -> T:
        answer = None
        while True:
            try:
                call = plan.send(answer)
            except StopIteration as end:
                return end.value
            answer = self._call(call)

    def _call(self, call: Call) -> Any:
        attempts = Attempts(self._connection, is_repeatable=call.is_repeatable)
        while True:
            try:
                answer = getattr(self._stub, call.method)(call.request, timeout=call.seconds)
                attempts.succeed()
                return answer
            except grpc.RpcError as error:
                delay = attempts.fail(error)
            time.sleep(delay)

    def _follow(self, stream: Stream[T]) -> Iterator[T]:
        if not self._connection.has_answered:
            self.get(stream.name)
        attempts = Attempts(self._connection, is_stream=True)
        while not stream.is_done:
            call = getattr(self._stub, stream.method)(stream.request())
            try:
                for message in call:
                    attempts.succeed()
                    yield stream.receive(message)
                return
            except grpc.RpcError as error:
                delay = attempts.fail(error)
            finally:
                call.cancel()
            time.sleep(delay)
