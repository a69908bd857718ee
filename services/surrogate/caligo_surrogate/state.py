"""What a fit leaves to be kept and given back: hyper-parameters, and which rows it saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

import safetensors
import safetensors.torch
import torch

from caligo.errors import InvalidArgument
from caligo.phases import Phase
from caligo.space import COLUMNS
from caligo_surrogate.conditioning import Hyper
from caligo_surrogate.regressor import EfficiencyGP

FORMAT: Final = "caligo.surrogate/2"


def save(hyper: Hyper, below: Mapping[Phase, int], target: str, prior: str) -> tuple[bytes, str]:
    """Hyper-parameters in safetensors format and the rest as a JSON object.

    Args:
        below: rows with a smaller index, by phase, were there at the fit.
    """
    bounds = {phase.name.lower(): bound for phase, bound in below.items()}
    return safetensors.torch.save(dict(hyper)), json.dumps({**_metadata(target, prior), "fitted_below": bounds})


def load(tensors: bytes, metadata: str, target: str, prior: str, like: EfficiencyGP) -> tuple[Hyper, dict[Phase, int]]:
    """What `save` was given.

    Args:
        like: a process with the parameters that there must be.

    Raises:
        InvalidArgument: they are not such, or of a model with another target or prior.
    """
    expected = _metadata(target, prior)
    try:
        found = json.loads(metadata)
    except ValueError:
        raise InvalidArgument("metadata", "must be the JSON object of an export") from None
    below = found.pop("fitted_below", None) if isinstance(found, dict) else None
    if found != expected or not _is_bounds(below):
        raise InvalidArgument("metadata", f"must be {json.dumps(expected)} and `fitted_below`, rows by phase")
    try:
        hyper = safetensors.torch.load(tensors)
    except safetensors.SafetensorError:
        raise InvalidArgument("tensors", "must be in safetensors format") from None
    shapes = {name: value.shape for name, value in like.named_parameters()}
    if {name: value.shape for name, value in hyper.items()} != shapes:
        raise InvalidArgument("tensors", f"must hold {', '.join(shapes)} in an export's shapes")
    if any(value.dtype != torch.float32 or not bool(value.isfinite().all()) for value in hyper.values()):
        raise InvalidArgument("tensors", "must be finite float32")
    return hyper, {phase: below[phase.name.lower()] for phase in Phase}


def _metadata(target: str, prior: str) -> dict[str, Any]:
    return {"format": FORMAT, "target": target, "prior": prior, "columns": list(COLUMNS), "kernel": "matern52-ard"}


def _is_bounds(value: Any) -> TypeGuard[dict[str, int]]:
    names = {phase.name.lower() for phase in Phase}
    return isinstance(value, dict) and value.keys() == names and all(isinstance(v, int) for v in value.values())
