"""What is known of a run before any row is: the prior of the surrogate.

`ClosedForm` makes the surrogate the discrepancy model of Kennedy and O'Hagan, "Bayesian calibration of computer models"
(J. R. Stat. Soc. B 63, 2001): what is left to learn is how the simulated device differs from `caligo.closed_form`.
`Constant` knows nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, NamedTuple, Protocol

import torch

from caligo import logs
from caligo.closed_form import expect
from caligo.physics import claims
from caligo.physics.prediction import Arrays
from caligo.space import Space
from caligo.spec import PhysicsSpec, ProtocolSpec, SurrogateSpec

log = logs.get("surrogate.prior")

TORCH: Final = Arrays(torch, torch.special)
MARGIN_UNIT: Final = 0.05
"""Margins are learned in this unit: about what the margins of single runs scatter by near the cliff."""

DEEP: Final = -0.1
"""Margin below which there is no key, whatever the device differs by: how far below depends on codes that are at their
end, and the closed form is not exact there."""
DEPTH_DOUBT: Final = 0.5
"""Standard deviation of that, as a share of how far a margin lies below."""


def depth_doubt(margin: Any) -> Any:
    """The doubt at margins of the closed form, an array or a tensor: `DEPTH_DOUBT`."""
    return DEPTH_DOUBT * (DEEP - margin).clip(min=0)


class Known(NamedTuple):
    """What is known of runs at some points, one tensor of their shape each, in the precision of the points.

    Attributes:
        mean: of the target, in the target's own unit.
        noise: variance of the target between runs, as far as it is known.
        gate: probability that a run gets as far as having a margin and loses no frame on the way.
    """

    mean: torch.Tensor
    noise: torch.Tensor
    gate: torch.Tensor


class Prior(Protocol):
    """Knowledge of the target as a function of unit coordinates [..., 9]; differentiable."""

    @property
    def name(self) -> str:
        """As the spec calls it."""

    def __call__(self, x: torch.Tensor) -> Known: ...


class Constant:
    """Nothing is known: a mean of 0, of the noise no more than that there is some, and no gate."""

    @property
    def name(self) -> str:
        return "constant"

    def __call__(self, x: torch.Tensor) -> Known:
        zero = torch.zeros_like(x[..., 0])
        return Known(zero, zero, zero + 1)


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The closed form of the campaign's own device and protocol, for the margin in units of `MARGIN_UNIT`.

    Evaluated in float64 on the host, wherever the points are: it is full of small differences of large numbers.
    """

    space: Space
    physics: PhysicsSpec
    protocol: ProtocolSpec

    @property
    def name(self) -> str:
        return "closed_form"

    def __call__(self, x: torch.Tensor) -> Known:
        low, high = (torch.as_tensor(bound) for bound in self.space.model_bounds())
        rows = low + x.to("cpu", torch.float64) * (high - low)
        run = expect(rows, self.physics, self.protocol, TORCH)
        noise = (run.sd.square() + depth_doubt(run.margin).square()) / MARGIN_UNIT**2
        return Known((run.margin / MARGIN_UNIT).to(x), noise.to(x), (run.filled * run.decoded).to(x))


def prior_of(surrogate: SurrogateSpec, space: Space, physics: PhysicsSpec, protocol: ProtocolSpec) -> Prior:
    """The prior that a spec asks for, or `Constant` where the closed form does not apply."""
    if surrogate.prior == "constant":
        return Constant()
    if surrogate.target == "efficiency":
        reason = "it is one of the margin, not of the efficiency"
    elif physics.claim not in claims.CLAIMS:
        reason = f"it is not defined for the claim {physics.claim}"
    else:
        return ClosedForm(space, physics, protocol)
    log.warning("the closed form is no prior here; starting from nothing", reason=reason)
    return Constant()
