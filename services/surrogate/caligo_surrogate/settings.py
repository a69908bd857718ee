"""Settings of the surrogate service (`CALIGO_SURROGATE_*`). Free of torch, so that `--help` answers at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caligo.settings import ServiceSettings


class SurrogateSettings(ServiceSettings, section="surrogate"):
    """How the surrogate service runs on this machine."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where models live; `auto` takes a CUDA device where there is one."""
    kernel: Literal["auto", "dense", "blocks", "keops"] = "auto"
    """How kernel matrices are represented: `dense` holds them, `blocks` makes them piece by piece (and trains with
    gradient checkpoints), `keops` never makes them (needs pykeops and a C++ compiler). `auto`: dense where a matrix
    fits into half of the device's memory, else keops where it can be used, else blocks."""
    threads: int = Field(1, ge=1, le=256)
    """CPU threads of one computation. More help where cores are idle and above about a thousand rows; where simulators
    share the cores, threads that wait for one another cost more than they bring. With another number, sums are rounded
    in another order and a campaign's proposals differ."""
    memory_budget_mib: int | None = Field(None, ge=1)
    """Memory that the models of all campaigns may hold together, by default half of the device's; beyond, those least
    recently used give up what can be computed again, and are forgotten if that is not enough."""
