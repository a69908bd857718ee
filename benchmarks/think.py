"""One think of the surrogate, by stage and number of rows: 16 new rows in, the next batch of 16 out.

Stages: the new rows extend the posterior; the batch rule chooses 16 points; their posterior is solved for, to be
reported. Beside them stands what a new set of hyper-parameters costs (`condition`), which campaigns do in the
background. Hyper-parameters are learned once from the first 1,000 rows. Rows are closed-form margins of the `cliff`
space with a noise of 0.01.

Peers, with the same kernel, hyper-parameters, rows and sweep, in float64: scikit-learn's GaussianProcessRegressor,
fitted anew without optimising, the batch chosen from the sweep greedily by the straddle over joint covariances of its
best 256 points; BoTorch's SingleTaskGP, its batch ascended jointly by `optimize_acqf` (the sum over the batch's
Cholesky factor). `apart` is the greatest distance of our mean from scikit-learn's at 200 points, in standard
deviations of the target. The ratio is the faster peer's time over ours at 2,000 rows, or the largest number below.

    python -m benchmarks.think --json
    python -m benchmarks.think --device cuda --rows 2000 10000 100000 1000000 --peer-rows 10000 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.utils.transforms import t_batch_mode_transform
from caligo_surrogate import acquisition
from caligo_surrogate.acquisition.straddle import ITERATIONS
from caligo_surrogate.design import search_box
from caligo_surrogate.device import Device
from caligo_surrogate.escalation import Numerics, Solver
from caligo_surrogate.posterior import Posterior, condition
from caligo_surrogate.prior import Constant
from caligo_surrogate.regressor import EfficiencyGP, train
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from scipy.stats import qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from benchmarks.gp_memory import rows
from caligo.space import PRESETS, Space
from caligo.spec import SurrogateSpec

SEED = 9
BATCH = 16
LEARN_FROM = 1000
SWEEP = 2048
SPEC = SurrogateSpec()
Result = TypeVar("Result")


class Problem:
    """Rows, hyper-parameters and the sweep that everyone starts from."""

    def __init__(self, most: int, device: Device) -> None:
        self.device = device
        self.inputs, self.targets = (t.to(device.torch_device) for t in rows(most + BATCH))
        n = min(LEARN_FROM, most)
        self.gp = EfficiencyGP(self.inputs[:n], self.targets[:n], Constant(), Numerics())
        for _ in train(self.gp, SPEC.training_steps, SPEC.learning_rate, Solver("cholesky", device, Numerics()), SEED):
            pass
        self.sweep = self.points(SWEEP)
        process = self.gp.process_on(torch.device("cpu"))
        self.noise, self.constant = max(process.noise, process.least_noise), process.constant
        self.box = search_box(Space(PRESETS["cliff"]), self.inputs)
        self.level = float((self.targets < 0).double().mean())

    def points(self, n: int) -> torch.Tensor:
        """The first n points of a sweep."""
        points = qmc.Sobol(9, scramble=True, rng=SEED).random(n).astype(np.float32)
        points[:, 8] = points[:, 8] >= 0.5
        return self.device.to_device(points)

    def synchronised(self) -> float:
        if self.device.is_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


def timed(problem: Problem, spent: dict[str, list[float]], stage: str, compute: Callable[[], Result]) -> Result:
    start = problem.synchronised()
    result = compute()
    spent.setdefault(stage, []).append(problem.synchronised() - start)
    return result


def ours(problem: Problem, n: int, repeats: int, solver: Solver) -> tuple[dict[str, float], Posterior]:
    """Median seconds of each stage, and the posterior that the last think left."""
    spent: dict[str, list[float]] = {}
    gp, plan = problem.gp, solver.posterior(n).plan

    def conditioned() -> Posterior:
        process = gp.process_on(problem.device.torch_device)
        return condition(process, problem.inputs[:n], problem.targets[:n], solver, plan, SEED)

    base = timed(problem, spent, "condition", conditioned)
    new = slice(n, n + BATCH)
    for i in range(repeats + 1):
        now = timed(problem, spent, "extend", lambda: base.extended(problem.inputs[new], problem.targets[new]))
        batch = timed(
            problem,
            spent,
            "choose",
            lambda now=now, i=i: acquisition.propose(
                now, problem.points, problem.box, BATCH, SPEC.acquisition, problem.level, SPEC.straddle_weight, i
            ),
        )
        timed(problem, spent, "report", lambda now=now, batch=batch: now.moments(batch))
    # The first think warms caches and compilers.
    return {stage: statistics.median(times[1:] or times) for stage, times in spent.items()}, now


def scikit_learn(problem: Problem, n: int) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    """Seconds of a think, and the fitted mean."""
    gp = problem.gp
    scales = gp.matern.length_scales.cpu().double().numpy()
    kernel = ConstantKernel(gp.matern.variance, "fixed") * Matern(scales, "fixed", nu=2.5)
    x = problem.inputs[: n + BATCH].cpu().double().numpy()
    y = problem.targets[: n + BATCH].cpu().double().numpy() - problem.constant
    sweep = problem.sweep.cpu().double().numpy()
    start = time.perf_counter()
    peer = GaussianProcessRegressor(kernel, alpha=problem.noise, optimizer=None).fit(x, y)
    mean, sd = peer.predict(sweep, return_std=True)
    best = np.argsort(-(SPEC.straddle_weight * sd - np.abs(mean + problem.constant - problem.level)))[:256]
    mean, covariance = peer.predict(sweep[best], return_cov=True)
    variance, factor = covariance.diagonal().copy(), np.zeros((BATCH, 256))
    for i in range(BATCH):
        value = SPEC.straddle_weight * np.sqrt(variance.clip(0)) - np.abs(mean + problem.constant - problem.level)
        pivot = int(value.argmax())
        column = covariance[pivot] - factor[:i, pivot] @ factor[:i]
        factor[i] = column / np.sqrt(max(variance[pivot], 0) + problem.noise)
        variance -= factor[i] ** 2
    return time.perf_counter() - start, lambda x: peer.predict(x) + problem.constant


class PeerStraddle(AcquisitionFunction):
    """The straddle of a batch on BoTorch's own posterior."""

    def __init__(self, model: SingleTaskGP, level: float, noise: float) -> None:
        super().__init__(model)
        self.level, self.noise = level, noise

    @t_batch_mode_transform()  # type: ignore[arg-type]
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        found = self.model.posterior(X).distribution
        covariance = found.covariance_matrix + self.noise * torch.eye(X.shape[-2], dtype=X.dtype, device=X.device)
        pivots = torch.linalg.cholesky(covariance).diagonal(dim1=-2, dim2=-1).square()
        deviation = (pivots - self.noise).clamp_min(1e-12).sqrt()
        return (SPEC.straddle_weight * deviation - (found.mean - self.level).abs()).sum(-1)


def botorch(problem: Problem, n: int) -> float:
    """Seconds of a think."""
    gp = problem.gp
    x = problem.inputs[: n + BATCH].double()
    y = problem.targets[: n + BATCH].double().unsqueeze(-1)
    start = problem.synchronised()
    likelihood = GaussianLikelihood()
    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=9))
    model = SingleTaskGP(x, y, likelihood=likelihood, covar_module=kernel, outcome_transform=None)
    model.to(x)
    likelihood.noise, kernel.outputscale = problem.noise, gp.matern.variance
    kernel.base_kernel.lengthscale, model.mean_module.constant = gp.matern.length_scales.double(), problem.constant
    model.requires_grad_(False).eval()
    starts = problem.sweep[: 4 * BATCH].double().reshape(4, BATCH, 9)
    optimize_acqf(
        PeerStraddle(model, problem.level, problem.noise),
        problem.box.double(),
        BATCH,
        num_restarts=4,
        batch_initial_conditions=starts,
        options={"maxiter": ITERATIONS},
    )
    return problem.synchronised() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rows", type=int, nargs="+", default=[50, 100, 500, 2000])
    parser.add_argument("--peer-rows", type=int, default=4000, help="peers up to this many rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch on a CPU")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--solver", choices=("auto", "cholesky", "cg"), default="auto")
    parser.add_argument("--kernel", choices=("auto", "dense", "blocks", "keops"), default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    problem = Problem(max(arguments.rows), Device(arguments.device, arguments.kernel))
    solver = Solver(arguments.solver, problem.device, Numerics())
    measured: list[dict[str, Any]] = []
    for n in arguments.rows:
        stages, now = ours(problem, n, arguments.repeats, solver)
        found: dict[str, Any] = {"rows": n, "solver": now.plan.method, "kernel": now.matrix.backend, **stages}
        found["think"] = stages["extend"] + stages["choose"] + stages["report"]
        if n <= arguments.peer_rows:
            found["scikit_learn"], mean = scikit_learn(problem, n)
            found["botorch"] = botorch(problem, n)
            points = problem.sweep[:200]
            apart = now.moments(points)[0].cpu().double().numpy() - mean(points.cpu().double().numpy())
            found["apart"] = float(np.abs(apart).max())
        if problem.device.is_gpu:
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        measured.append(found)
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
            )
        )
    with_peer = [found for found in measured if "botorch" in found]
    chosen = next((f for f in with_peer if f["rows"] == 2000), (with_peer or measured)[-1])
    if arguments.json:
        peer = min(("scikit_learn", "botorch"), key=lambda name: chosen.get(name, np.inf))
        line = {
            "name": "think",
            "value": chosen["think"],
            "unit": "s",
            "peer": peer,
            "peer_value": chosen.get(peer),
            "ratio": chosen[peer] / chosen["think"] if peer in chosen else None,
            "rows": chosen["rows"],
            "device": problem.device.name,
            "stages": measured,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
