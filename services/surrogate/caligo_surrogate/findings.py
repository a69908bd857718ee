"""What the user learns from a fitted surrogate: where the key is, how sure that is, what matters."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from caligo import seeds
from caligo.phases import Phase
from caligo.seeds import Purpose
from caligo.space import Space
from caligo_surrogate.conditioning import Fitted
from caligo_surrogate.design import design_points

VOLUME_POINTS: Final = 2**14
"""Sobol points of the secure share of the space: they find it within half a per cent."""
JOINT_POINTS: Final = {"cholesky": 1024, "cg": 256}
"""Of these, points of the joint posterior samples, by solver: without a factor each costs a system."""
VOLUME_SAMPLES: Final = 256
"""Posterior samples for its uncertainty."""
BOUNDARY_POINTS: Final = 2**12
"""Sobol points that tell how much of the boundary still moves."""


def sides(fitted: Fitted, space: Space, seed: int) -> NDArray[np.bool_]:
    """Where a key is likelier than none, bool [`BOUNDARY_POINTS`].

    The points are a Sobol set by the measure of the campaign's design; space and seed alone decide it.
    """
    moments = fitted.means(_boundary_points(space, seed))
    return (moments.key(fitted.scale.level) > 0.5).numpy()


def expected_brier(fitted: Fitted, space: Space, seed: int) -> float:
    """The Brier score of "there is a key" to be expected over the points of `sides`.

    That of probabilities p that mean what they say: the mean of p (1 - p).
    """
    key = fitted.moments(_boundary_points(space, seed)).key(fitted.scale.level).double()
    return float((key * (1 - key)).mean())


def _boundary_points(space: Space, seed: int) -> NDArray[np.float32]:
    return design_points(space, BOUNDARY_POINTS, seeds.key(seed, Phase.SURROGATE, 0, Purpose.BOUNDARY) >> 1)


def secure_share(fitted: Fitted, space: Space, seed: int) -> tuple[float, float]:
    """Share of the space where a key is likelier than none, and the half width of its 95 % interval.

    Shares are by the measure of the campaign's design: uniform in model coordinates, F by Beta(2, 1), strategies at
    `blind_fraction`. The half width is 1.96 times the root mean square distance between that share and the share in
    joint posterior samples of the whole surface, with the error of the points added.
    """
    points = design_points(space, VOLUME_POINTS, seeds.key(seed, Phase.SURROGATE, 0, Purpose.VOLUME) >> 1)
    share = float((fitted.means(points).key(fitted.scale.level) > 0.5).double().mean())
    uncertainty = _share_uncertainty(fitted, points[: JOINT_POINTS[fitted.posterior.plan.method]], seed)
    integration = np.sqrt(share * (1 - share) / VOLUME_POINTS)
    return share, 1.96 * float(np.hypot(uncertainty, integration))


def _share_uncertainty(fitted: Fitted, unit: NDArray[np.float32], seed: int) -> float:
    """Root mean square distance of the share in joint posterior samples from that of the mean, on given points."""
    rng = seeds.generator(seed, Phase.SURROGATE, 0, Purpose.SURFACES)
    to_device = fitted.device.to_device
    normal = to_device(rng.standard_normal((len(unit), VOLUME_SAMPLES), dtype=np.float32))
    x, posterior = to_device(unit), fitted.posterior
    with torch.no_grad():
        central = posterior.central(x)
        mean = central.mean[:, None]
        every = torch.cat([mean, mean + posterior.deviations(posterior.covariance(x), normal)], dim=1)
        z = (every - fitted.scale.level) / central.noise.sqrt()[:, None]
        share = (central.gate[:, None] * torch.special.ndtr(z) > 0.5).double().mean(0)
    return float((share[1:] - share[0]).square().mean().sqrt())
