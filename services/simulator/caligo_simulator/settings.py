"""Settings of the simulator service."""

from __future__ import annotations

import os

from pydantic import Field, field_validator

from caligo.settings import ServiceSettings
from caligo_simulator.epr.source import TILE


class SimulatorSettings(ServiceSettings, section="simulator"):
    """What the simulator can be told, beside what every service can."""

    workers: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=1024)
    """EPR worker processes, and as many threads for the protocol; by default one a core."""
    segment_pairs: int = Field(2**20, ge=TILE, le=2**28)
    """Most pairs that pass through a slot of the arena at once, a multiple of 65536; a slot takes 4 bytes a pair and
    there are two slots a worker."""
    namespace: str = Field("default", pattern=r"^[A-Za-z0-9](-?[A-Za-z0-9])*$", max_length=64)
    """Part of the names of our shared memory: what a dead service left behind in the same namespace is removed at start
    and once a minute."""
    verify_segments: bool = False
    """For debugging: note a checksum of each segment when it is written, and compare it when it is read."""

    @field_validator("segment_pairs")
    @classmethod
    def _whole_tiles(cls, pairs: int) -> int:
        if pairs % TILE:
            raise ValueError(f"must be a multiple of {TILE}")
        return pairs
