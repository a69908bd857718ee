"""A synthetic cliff in nine dimensions, rows on it, and a stand-in for a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from caligo_surrogate.device import Device
from caligo_surrogate.landscape import EfficiencyLandscape
from numpy.typing import NDArray
from scipy.stats import qmc

from caligo.phases import Phase
from caligo.results import METRIC, ROW_DTYPE, ProtocolOutcome, ResultRows
from caligo.space import Space
from caligo.spec import GuardrailSpec, PhysicsSpec, ProtocolSpec, SpaceSpec, SurrogateSpec

SLOPES = np.array([-1.5, -1.0, 0.8, 2.0, 1.0, 0.0, 0.0, 1.2, 0.3])
"""Of the margin along the unit coordinates: F matters most, e_det and P_dark not at all."""


def drain(generator: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    """What a generator yields and what it returns."""
    yielded = []
    while True:
        try:
            yielded.append(next(generator))
        except StopIteration as end:
            return yielded, end.value


class SyntheticCliff:
    """A smooth margin with a curved zero level, half of the box above it; key where it is positive."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def margin(self, unit: NDArray[np.floating]) -> NDArray[np.float64]:
        centred = np.asarray(unit, dtype=np.float64) - 0.5
        bend = np.sin(3 * centred[:, 3]) * centred[:, 7] + centred[:, 0] * centred[:, 2]
        return 0.25 * (centred @ SLOPES + bend)

    def design(self, n: int, seed: int) -> NDArray[np.float32]:
        """Latin hypercube rows, model coordinates float32 [n, 9]."""
        unit = qmc.LatinHypercube(9, rng=np.random.default_rng(seed)).random(n)
        unit[:, 8] = unit[:, 8] >= 0.5
        return self.space.from_unit(unit)

    def rows(self, inputs: NDArray[np.float32], start: int = 0) -> ResultRows:
        """Result rows as a simulator gives them."""
        rows = np.zeros(len(inputs), dtype=ROW_DTYPE)
        margin = self.margin(self.space.to_unit(inputs))
        rows["index"] = start + np.arange(len(inputs))
        rows["inputs"] = inputs
        rows["metrics"] = np.nan
        rows["metrics"][:, METRIC["margin"]] = margin
        rows["metrics"][:, METRIC["net_efficiency"]] = 0.1 * np.clip(margin, 0, None)
        rows["outcome"] = np.where(margin > 0, ProtocolOutcome.SUCCESS, ProtocolOutcome.FAILURE_SECURITY)
        return rows


class MockGPUBackend(Device):
    """A GPU played by the CPU: counts transfers, has little memory, and fails like a device where it runs out.

    Attributes:
        uploads: shape and dtype of every tensor that came to the device.
        downloads: shapes of what went back.
        capacity: rows of a chunk above which the device is out of memory.
    """

    def __init__(self, capacity: int = 10**9, memory: int = 2**40) -> None:
        super().__init__("cpu")
        self.uploads: list[tuple[torch.Size, torch.dtype]] = []
        self.downloads: list[torch.Size] = []
        self.capacity = capacity
        self.memory = memory

    @property
    def is_gpu(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return "cuda:mock"

    def to_device(self, array: NDArray[np.floating]) -> torch.Tensor:
        if len(array) > self.capacity:
            raise torch.OutOfMemoryError("mock device is out of memory")
        tensor = super().to_device(array)
        self.uploads.append((tensor.shape, tensor.dtype))
        return tensor

    def to_host(self, tensor: torch.Tensor) -> NDArray[np.float32]:
        self.downloads.append(tensor.shape)
        return super().to_host(tensor)

    def total_bytes(self) -> int:
        return self.memory


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def space() -> Space:
    return SpaceSpec().resolve()


@pytest.fixture(scope="session")
def cliff(space: Space) -> SyntheticCliff:
    return SyntheticCliff(space)


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes landscapes over the same space, empty or with `n` observed rows; no physics has this cliff."""

    cliff: SyntheticCliff

    def __call__(
        self,
        n: int = 0,
        *,
        device: Device | None = None,
        seed: int = 7,
        guardrail: GuardrailSpec | None = None,
        space: Space | None = None,
        **surrogate: Any,
    ) -> EfficiencyLandscape:
        landscape = EfficiencyLandscape(
            space or self.cliff.space,
            SurrogateSpec(**{"prior": "constant", **surrogate}),
            guardrail or GuardrailSpec(),
            PhysicsSpec(),
            ProtocolSpec(),
            seed,
            device or Device("cpu"),
        )
        if n:
            landscape.observe(Phase.LHS, self.cliff.rows(self.cliff.design(n, seed=1)))
        return landscape


@pytest.fixture(scope="session")
def make(cliff: SyntheticCliff) -> Maker:
    return Maker(cliff)


@pytest.fixture(scope="session")
def fitted(make: Maker) -> EfficiencyLandscape:
    """A landscape that has learnt 200 rows; not to be changed."""
    landscape = make(200)
    drain(landscape.fit())
    return landscape


@pytest.fixture(scope="session", name="drain")
def _drain() -> Callable[[Generator[Any, None, Any]], tuple[list[Any], Any]]:
    return drain


@pytest.fixture(name="MockGPUBackend")
def _mock_gpu_backend() -> type[MockGPUBackend]:
    return MockGPUBackend


@pytest.fixture(
    params=[
        "mock",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ]
)
def gpu(request: pytest.FixtureRequest) -> Device:
    """A GPU: played by the CPU, and the one that there is."""
    return MockGPUBackend() if request.param == "mock" else Device("cuda")
