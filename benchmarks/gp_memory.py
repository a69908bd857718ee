"""Peak memory of one training step: the kernel matrix whole, block by block with checkpoints, and symbolic (KeOps).

A step is the loss of the exact marginal likelihood by conjugate gradients and its gradient, as
`caligo_surrogate.regressor` takes it. Counted are the bytes of live tensors, since the resident set of a process hides
what an allocator keeps. KeOps works inside one kernel without tensors, so little is left to count. The ratio is that of
the checkpointed step to the plain one; the aim is at most a half at 8,000 rows. The gradients of a quadratic form are
compared.

    python -m benchmarks.gp_memory --rows 8000 --device cpu --json
"""

from __future__ import annotations

import argparse
import json
import time
import weakref
from typing import Any, get_args

import numpy as np
import torch
from caligo_sampler.design import LHSSampler
from caligo_surrogate import keops
from caligo_surrogate.device import Backend, Device
from caligo_surrogate.escalation import Numerics, Solver
from caligo_surrogate.prior import Constant
from caligo_surrogate.regressor import EfficiencyGP, train
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from caligo.closed_form import expect
from caligo.space import PRESETS, Space
from caligo.spec import PhysicsSpec, ProtocolSpec

SEED = 5


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the storages that operations under it make, while anything refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self._known:
            return
        self._known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


def peak_of_step(gp: EfficiencyGP, solver: Solver) -> int:
    """Peak bytes of live tensors in a training step."""
    with LiveTensors() as live:
        next(train(gp, 1, 0.05, solver, SEED))
    return live.peak


def seconds_of_step(gp: EfficiencyGP, solver: Solver) -> float:
    """Seconds of a training step."""
    start = time.perf_counter()
    next(train(gp, 1, 0.05, solver, SEED))
    return time.perf_counter() - start


def gradient(gp: EfficiencyGP) -> torch.Tensor:
    """Gradient of u'Kv with respect to length scales and output scale, u and v fixed at random.

    What a step differentiates is made of such forms; the step's own gradient is an estimate, whose random vectors
    depend on how the matrix is represented.
    """
    generator = torch.Generator().manual_seed(SEED)
    n = len(gp.targets)
    u, v = (torch.randn(n, 8, generator=generator).to(gp.inputs) for _ in range(2))
    gp.zero_grad()
    (u * (gp.covar_module(gp.inputs) @ v)).sum().backward()
    return torch.cat([p.grad.flatten() for p in gp.covar_module.parameters() if p.grad is not None])


def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit coordinates and standardised closed-form margins of the `cliff` space, float32 [n, 9] and [n]."""
    space = Space(PRESETS["cliff"])
    _, design = LHSSampler(space, SEED, n).rows(0, n)
    margin = expect(design, PhysicsSpec(), ProtocolSpec()).margin
    noisy = margin + 0.01 * np.random.default_rng(SEED).standard_normal(n)
    return torch.tensor(space.to_unit(design)), torch.tensor((noisy - noisy.mean()) / noisy.std(), dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    arguments = parser.parse_args()
    device = Device(arguments.device)
    inputs, targets = (t.to(device.torch_device) for t in rows(arguments.rows))
    peak: dict[str, int] = {}
    seconds: dict[str, float] = {}
    reference = torch.zeros(0)
    for backend in get_args(Backend):
        if backend == "keops" and keops.missing():
            continue
        # A loose tolerance: neither the peak nor the ratio of the times depends on the number of products.
        device.kernel, numerics = backend, Numerics(training_tolerance=0.5)
        solver = Solver("cg", device, numerics)
        gp = EfficiencyGP(inputs, targets, Constant(), numerics, backend)
        peak[backend] = peak_of_step(gp, solver)
        seconds[backend] = seconds_of_step(gp, solver)
        with solver.gpytorch_settings(solver.training(arguments.rows).plan, SEED):
            found = gradient(gp)
        reference = found if backend == "dense" else reference
        apart = float((found - reference).abs().max() / reference.abs().max())
        figures = f"{peak[backend] / 2**20:9.1f} MiB  {seconds[backend]:7.2f} s"
        print(f"{backend:8} {figures}  gradient differs by {apart:.1e}")
    if arguments.json:
        line = {
            "name": "gp_memory",
            "value": peak["blocks"] / 2**20,
            "unit": "MiB",
            "peer": "dense",
            "peer_value": peak["dense"] / 2**20,
            "ratio": peak["blocks"] / peak["dense"],
            "rows": arguments.rows,
            "slower": seconds["blocks"] / seconds["dense"],
            "keops_mib": peak["keops"] / 2**20 if "keops" in peak else None,
            "device": device.name,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
