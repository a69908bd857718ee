"""Phase 1: Latin hypercube rows until the wanted number of feasible ones is there."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo import seeds
from caligo.errors import FailedPrecondition
from caligo.results import ProtocolOutcome, ResultRows
from caligo.seeds import Phase, Purpose
from caligo.spec import CampaignSpec
from caligo_orchestrator.pipeline import SIMULATE, Pipeline
from caligo_orchestrator.remote import DesignRows, Sampler

_PROBE_ROWS: Final = 4096
_MAX_ROWS_A_SAMPLE: Final = 1000
"""A space with a smaller feasible share than one in this many is not worth a warm-up."""


@dataclasses.dataclass(frozen=True)
class Design:
    """One Latin hypercube of `size` rows of which the first `used` belong to the campaign."""

    seed: int
    size: int
    used: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The designs of a warm-up, one after the other; row indices count through all of them."""

    designs: tuple[Design, ...]

    @property
    def rows(self) -> int:
        return sum(design.used for design in self.designs)

    def to_json(self) -> bytes:
        return json.dumps([dataclasses.asdict(design) for design in self.designs]).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Plan:
        return cls(tuple(Design(**design) for design in json.loads(text)))


def plan(spec: CampaignSpec, sampler: Sampler) -> Plan:
    """Size the designs so that together they hold `spec.lhs.samples` feasible rows.

    A probe of the space gives the feasible share and with it the size of the first design, so that a single
    hypercube covers the space in nearly all cases; what is missing then comes from further small ones. The plan is
    a function of the spec alone.

    Raises:
        FailedPrecondition: the closed form leaves next to nothing of the space.
    """
    wanted = spec.lhs.samples
    probe = _design_seed(spec, 0)
    feasible = sum(int(chunk.feasible.sum()) for chunk in sampler.design(spec, probe, _PROBE_ROWS, 0, _PROBE_ROWS))
    if feasible * _MAX_ROWS_A_SAMPLE < _PROBE_ROWS:
        raise FailedPrecondition(
            f"space: {feasible} of {_PROBE_ROWS} probed rows are feasible; choose bounds with some hope of a key"
        )
    designs: list[Design] = []
    found = 0
    while found < wanted:
        size = math.ceil((wanted - found) * _PROBE_ROWS / feasible)
        seed = _design_seed(spec, len(designs) + 1)
        used = 0
        for chunk in sampler.design(spec, seed, size, 0, size):
            last = int(np.searchsorted(np.cumsum(chunk.feasible), wanted - found))
            if last < len(chunk.index):
                used += last + 1
                found = wanted
                break
            found += int(chunk.feasible.sum())
            used += len(chunk.index)
        designs.append(Design(seed, size, used))
    return Plan(tuple(designs))


def _design_seed(spec: CampaignSpec, number: int) -> int:
    return seeds.key(spec.seed, Phase.LHS, number, Purpose.DESIGN)


def run(
    spec: CampaignSpec, plan: Plan, done: NDArray[np.int64], sampler: Sampler, pipeline: Pipeline
) -> Iterator[ResultRows]:
    """Evaluate the rows of the plan that are not among `done` (int64 indices); yields durable rows."""
    for chunk in _rows(spec, plan, sampler):
        missing = ~np.isin(chunk.index, done)
        verdict = np.where(chunk.feasible, SIMULATE, ProtocolOutcome.SKIPPED_INFEASIBLE).astype(np.uint8)
        yield from pipeline.submit(chunk.index[missing], chunk.inputs[missing], verdict[missing])
    yield from pipeline.drain()


def _rows(spec: CampaignSpec, plan: Plan, sampler: Sampler) -> Iterator[DesignRows]:
    offset = 0
    for design in plan.designs:
        for chunk in sampler.design(spec, design.seed, design.size, 0, design.used, offset):
            yield dataclasses.replace(chunk, index=chunk.index + offset)
        offset += design.used
