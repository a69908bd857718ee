"""Where tensors live: the way of float32 arrays to a device and back, and how much of it fits at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from caligo import logs
from caligo.errors import InvalidArgument, ResourceExhausted
from caligo_surrogate import metrics

log = logs.get("surrogate.device")

Backend = Literal["dense", "blocks", "keops"]
"""How a kernel matrix is represented: held, made block by block as it is needed, or never made."""

MIN_CHUNK: Final = 16
"""Rows below which a chunk is not halved again."""
MAX_CHUNK: Final = 1024
"""Rows above which a chunk is not faster: its test-by-test covariance begins to cost more than it saves."""
_CONTROL_GROUP: Final = Path("/sys/fs/cgroup")
"""Where Linux shows a container its own limits."""
_SHARE: Final = 0.1
"""Share of the device's memory that one chunk may plan with. Not of what happens to be free: sizes of chunks round
sums, and imputed rows, which go through them, have to come out the same whoever else is there."""


class Device:
    """A CUDA device or the CPU.

    Everything that enters or leaves goes through `to_device` and `to_host`, float32 both ways.
    """

    def __init__(
        self,
        choice: Literal["auto", "cuda", "cpu"] = "auto",
        kernel: Literal["auto"] | Backend = "auto",
    ) -> None:
        """Take a device; `auto` is CUDA where there is any.

        Args:
            kernel: how kernel matrices are represented on it; `auto` leaves it to `Solver.kernel`.

        Raises:
            InvalidArgument: `cuda` was asked for and there is none.
        """
        if choice == "cuda" and not torch.cuda.is_available():
            raise InvalidArgument("device", "no CUDA device here; use auto or cpu")
        use_cuda = choice != "cpu" and torch.cuda.is_available()
        self.torch_device = torch.device("cuda" if use_cuda else "cpu")
        self.kernel = kernel
        self.halvings = 0
        """Pieces that did not fit and were halved, since the start."""

    @property
    def is_gpu(self) -> bool:
        return self.torch_device.type != "cpu"

    @property
    def name(self) -> str:
        """`cuda:NAME` or `cpu`."""
        return f"cuda:{torch.cuda.get_device_name(self.torch_device)}" if self.is_gpu else "cpu"

    def to_device(self, array: NDArray[np.floating]) -> torch.Tensor:
        """A copy of `array` on the device, float32."""
        return torch.tensor(array, dtype=torch.float32, device=self.torch_device)

    def to_host(self, tensor: torch.Tensor) -> NDArray[np.float32]:
        """A copy of `tensor` in host memory, float32."""
        return tensor.detach().to("cpu", torch.float32).numpy()

    def total_bytes(self) -> int:
        """Memory that the device has; on the CPU no more than our container may have."""
        if self.is_gpu:
            return torch.cuda.get_device_properties(self.torch_device).total_memory
        return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _memory_limit())

    def in_chunks(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        rows: NDArray[np.float32],
        bytes_per_row: int,
    ) -> NDArray[np.float32]:
        """`function` of all rows, evaluated in as large pieces as fit, joined on the host.

        A piece that runs out of memory is halved and repeated, down to `MIN_CHUNK` rows.

        Args:
            function: float32 [c, ...] on the device to float32 [c, k] on the device, row by row.
            rows: float32 [n, ...], n > 0.
            bytes_per_row: device memory that a row of a piece takes at the peak.

        Raises:
            ResourceExhausted: not even the smallest piece fits.
        """
        chunk = int(np.clip(_SHARE * self.total_bytes() / bytes_per_row, MIN_CHUNK, MAX_CHUNK))
        pieces: list[NDArray[np.float32]] = []
        start = 0
        while start < len(rows):
            try:
                pieces.append(self.to_host(function(self.to_device(rows[start : start + chunk]))))
            except torch.OutOfMemoryError:
                if chunk <= MIN_CHUNK:
                    raise ResourceExhausted(f"{self.name}: {chunk} rows do not fit into memory") from None
                chunk = max(MIN_CHUNK, chunk // 2)
                self.halvings += 1
                metrics.HALVINGS.inc()
                log.warning("out of memory; chunk halved", rows=chunk, device=self.name)
                if self.is_gpu:
                    torch.cuda.empty_cache()
                continue
            start += chunk
        return np.concatenate(pieces)


def _memory_limit() -> int:
    """Bytes of memory that the control group may have (cgroup v2, then v1)."""
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # without a limit it is not there, or says "max"
            return int((_CONTROL_GROUP / limit).read_text())
    return 2**63
