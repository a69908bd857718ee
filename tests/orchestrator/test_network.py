"""A network between orchestrator and simulators that is cut, slow, or halts in the middle of a message."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from caligo_orchestrator.farm.replicas import ReplicaFarm

from tests.orchestrator.test_farm import Customer, Replica, free_port

pytestmark = pytest.mark.slow


class Wire:
    """A user-space proxy before a port of this machine; what is sent through it meets whatever the network does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.bytes_per_second: float | None = None
        self.halted = threading.Event()
        """Nothing passes any more, and nobody is told."""
        self.carried = 0
        self._sockets: list[socket.socket] = []
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every connection breaks."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def close(self) -> None:
        self._closed = True
        self.halted.clear()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(700):  # less than most messages: they are halted in their middle
                while self.halted.is_set():
                    time.sleep(0.01)
                if self.bytes_per_second is not None:
                    time.sleep(len(data) / self.bytes_per_second)
                sink.sendall(data)
                self.carried += len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def behind_wires(count: int, plain: int = 0) -> Iterator[tuple[list[Wire], ReplicaFarm, list[Replica]]]:
    """A farm over `count` simulators behind a wire each, and `plain` others."""
    with contextlib.ExitStack() as stack:
        made, wires, addresses = [], [], []
        for number in range(count + plain):
            port = free_port()
            replica = Replica(f"127.0.0.1:{port}", row_seconds=0.01).start()
            stack.callback(replica.stop)
            made.append(replica)
            if number < count:
                wires.append(Wire(port))
                stack.callback(wires[-1].close)
                addresses.append(wires[-1].address)
            else:
                addresses.append(replica.address)
        farm = ReplicaFarm("ipv4:" + ",".join(addresses), 60.0, quiet_seconds=0.05)
        stack.callback(farm.close)
        yield wires, farm, made


def test_a_network_that_is_cut_again_and_again_changes_no_row() -> None:
    chance = random.Random(1)
    with behind_wires(2) as (wires, farm, _):
        customer = Customer(farm, rows=300)
        while len(customer.order) < 300:
            time.sleep(chance.uniform(0.2, 0.8))
            chance.choice(wires).cut()
        customer.await_rows(300)
        customer.assert_complete(300)
        assert farm.stats().poison == 0


def test_a_slow_network_is_only_slow() -> None:
    with behind_wires(1) as (wires, farm, _):
        wires[0].bytes_per_second = 20_000
        customer = Customer(farm, rows=60)
        customer.await_rows(60, 60)
        customer.assert_complete(60)
        assert farm.stats().lost == 0


def test_a_network_that_halts_for_a_while_costs_that_while() -> None:
    with behind_wires(1) as (wires, farm, _):
        customer = Customer(farm, rows=200)
        customer.await_rows(20)
        wires[0].halted.set()
        time.sleep(3)
        wires[0].halted.clear()
        customer.await_rows(200)
        customer.assert_complete(200)


def test_where_it_halts_for_good_the_others_do_the_work() -> None:
    """Nobody says that anything is wrong: what was under way is copied to those that are idle."""
    with behind_wires(1, plain=1) as (wires, farm, replicas):
        customer = Customer(farm, rows=200)
        customer.await_rows(40)
        wires[0].halted.set()
        customer.await_rows(200, 60)
        customer.assert_complete(200)
        assert len(replicas[1].rows) > len(replicas[0].rows)
