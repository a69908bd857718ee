"""Closed-form feasibility of design rows: h_min(r_eff, nu) - h(Q) in bits a reconciled bit, by SIMD kernels.

The formulas are those of `caligo.physics`. The rate of the default claim, `individual`, which is that of `lupo2023`
too, is written again here in float32 so that it vectorises: numba compiles calls of `math.exp` and `math.log` one
element at a time, hence the polynomials below, which LLVM inlines. The other claims compile the scalar functions of
`caligo.physics` as they are and cost microseconds a row instead of nanoseconds.

The storage rate is that per detected round. The baseline's calibration slots raise it a little per round of the key, so
a row that is called infeasible is so in every protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numba import njit, prange, types
from numba.extending import register_jitable
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from caligo import physics
from caligo.closed_form import surplus
from caligo.physics import detection, security
from caligo.space import DIMENSIONS
from caligo.spec import PhysicsSpec
from caligo_sampler.parallel import THREAD_POOL

Float32Array = NDArray[np.float32]

MARGIN_TOLERANCE: Final = 1e-6
"""Largest difference, in bits, between a margin from here and the closed form in float64 of the same float32 row,
anywhere in the parameter space. Only rows this close to the boundary can be classified differently."""


def check_feasibility(inputs: Float32Array, physics_spec: PhysicsSpec) -> Float32Array:
    """Margins h_min - h(Q) of design rows; key is possible only where they are positive.

    Args:
        inputs: model coordinates, C-contiguous float32 [n, 9], finite and within the limits of the parameters.
        physics_spec: claim, memory model, fidelity convention and device; epsilon does not matter here.

    Returns:
        float32 [n], bits a reconciled bit, in [-1, 1/2].

    Raises:
        TypeError: `inputs` is no such array.
    """
    if inputs.dtype != np.float32 or inputs.shape[1:] != (DIMENSIONS,) or not inputs.flags.c_contiguous:
        raise TypeError(f"inputs must be C-contiguous float32 [n, {DIMENSIONS}]")
    if physics_spec.device.in_rounds() is not None:
        return surplus(inputs, physics_spec).astype(np.float32)
    margins = np.empty(len(inputs), dtype=np.float32)
    decays = physics_spec.memory_model == "markov"
    is_weight = physics_spec.fidelity_convention == "weight"
    with THREAD_POOL:
        if physics_spec.claim in ("individual", "lupo2023"):
            decay = _LOG2_10 if decays else _ZERO
            _check_feasibility_kernel(inputs, decay, _HALF if is_weight else _TWO_THIRDS, margins)
        else:
            _check_feasibility_scalar_kernel(inputs, physics_spec.claim == "erven2014", decays, is_weight, margins)
    return margins


# --- elementary functions, float32 ----------------------------------------------------------------------------------


def _fit(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], low: float, high: float, degree: int) -> tuple:
    """Coefficients, constant first, of the polynomial through `function` at the Chebyshev points of [low, high]."""
    polynomial = Chebyshev.interpolate(function, degree, [low, high]).convert(kind=Polynomial)
    return tuple(np.float32(c) for c in polynomial.coef)


_ZERO, _HALF, _ONE, _TWO = (np.float32(x) for x in (0.0, 0.5, 1.0, 2.0))
_TWO_THIRDS = np.float32(2.0 / 3.0)
_LOG2_10 = np.float32(np.log2(10.0))
_LOG10_REFERENCE_WAIT = np.float32(np.log10(security.REFERENCE_WAIT_NS))
_SMALLEST = np.float32(np.finfo(np.float32).tiny)
_LOWEST_EXPONENT = np.float32(-125.0)
_LOG2_OF_ZERO = np.float32(-1e30)
_ROUNDER = np.float32(1.5 * 2**23)
_SQRT_HALF_BITS = int(np.float32(np.sqrt(0.5)).view(np.int32))

# Each interpolates to about 1e-7, the rounding of float32 itself.
_SQRT_HALF = float(np.sqrt(0.5))
_EXP = _fit(np.exp2, -0.5, 0.5, 5)
_LOG = _fit(lambda x: np.log2(1.0 + x) / x, _SQRT_HALF - 1.0, 2.0 * _SQRT_HALF - 1.0, 8)
_COMPLEMENT = _fit(lambda q: -(1.0 - q) * np.log2(1.0 - q) / q, 0.0, 0.5, 6)
_E0, _E1, _E2, _E3, _E4, _E5 = _EXP
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = _LOG
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = _COMPLEMENT

_inlined = njit(fastmath=True, forceinline=True, error_model="numpy")


@njit(fastmath={"contract", "nnan", "ninf", "nsz"}, forceinline=True, error_model="numpy")  # it must not reassociate
def _exp2(x, scale):  # type: ignore[no-untyped-def]
    """2^(x scale) for a product of -125 to 127."""
    # The sum has no bits left for a fraction: its last ones are the rounded product, an integer.
    rounded = np.float32(x * scale + _ROUNDER)
    f = x * scale - (rounded - _ROUNDER)
    mantissa = ((((_E5 * f + _E4) * f + _E3) * f + _E2) * f + _E1) * f + _E0
    exponent = np.int32(rounded.view(np.int32) << 23)
    return np.int32(np.float32(mantissa).view(np.int32) + exponent).view(np.float32)


@_inlined
def _log2(x):  # type: ignore[no-untyped-def]
    """log2 of a positive normal number; the relative error stays small around x = 1."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(np.int32(bits - _SQRT_HALF_BITS) >> 23)
    f = np.int32(bits - np.int32(exponent << 23)).view(np.float32) - _ONE
    p = (((_L8 * f + _L7) * f + _L6) * f + _L5) * f + _L4
    p = (((p * f + _L3) * f + _L2) * f + _L1) * f + _L0
    return p * f + np.float32(exponent)


@_inlined
def _binary_entropy(q):  # type: ignore[no-untyped-def]
    """h(q) for q in [0, 1/2]."""
    q = min(max(q, _SMALLEST), _HALF)
    # -(1-q) log2(1-q) is q times a smooth function of q.
    complement = (((((_C6 * q + _C5) * q + _C4) * q + _C3) * q + _C2) * q + _C1) * q + _C0
    return q * (complement - _log2(q))


# --- kernels --------------------------------------------------------------------------------------------------------


@_inlined
def _margin(r, log_nu, log_dt, fidelity, log_eta, e_det, log_dark, decay, source_slope):  # type: ignore[no-untyped-def]
    """physics.feasibility_margin under the claim individual, of model coordinates, float32.

    decay: log2(10) for a Markov memory; 0, which makes the exponent of r equal 1, for a fixed one.
    source_slope: disagreement of the pair over 1 - F, 2/3 or 1/2 by the fidelity convention.
    """
    wait = _exp2(log_dt - _LOG10_REFERENCE_WAIT, decay)
    log_r = _log2(max(r, _SMALLEST)) if r >= _SMALLEST else _LOG2_OF_ZERO  # 0 to any power is 0
    r_eff = _exp2(max(log_r * wait, _LOWEST_EXPONENT), _ONE)
    nu = _exp2(log_nu, _LOG2_10)
    entropy_rate = _HALF * (_ONE - nu) + nu * min(_HALF, _ONE - r_eff)

    eta = _exp2(log_eta, _LOG2_10)
    dark = _exp2(log_dark, _LOG2_10)
    source_error = source_slope * (_ONE - fidelity)
    wrong_port = source_error + e_det - _TWO * source_error * e_det
    dark_only = (_ONE - eta) * dark * (_TWO - dark)
    photon = eta * (wrong_port * (_ONE - dark) + _HALF * dark)
    error_rate = (photon + _HALF * dark_only) / (eta + dark_only)
    return entropy_rate - _binary_entropy(error_rate)


_USED = 7  # columns that the margin depends on; they come first
_TILE = 256  # rows; a tile stays in the first-level cache
_BLOCK = 16 * _TILE  # rows a thread takes at a time


@njit(fastmath=True, error_model="numpy")
def _check_block(rows, decay, source_slope, margins):  # type: ignore[no-untyped-def]
    """Margins of a block of rows, flattened.

    The columns of a tile are laid out one after the other first. The arithmetic then loads whole vectors, and
    gathering, apart from it, costs less than half as much as it does in between. It always goes over a whole tile, so
    that no row is left to a loop of its own, which rounds otherwise: a margin depends on its row and on nothing else.
    """
    columns = np.zeros(_USED * _TILE, dtype=np.float32)
    found = np.empty(_TILE, dtype=np.float32)
    for start in range(0, margins.size, _TILE):
        tile = rows[DIMENSIONS * start :]
        out = margins[start : start + _TILE]
        for i in range(out.size):
            for j in range(_USED):
                columns[j * _TILE + i] = tile[i * DIMENSIONS + j]
        for i in range(_TILE):
            found[i] = _margin(
                columns[i],
                columns[_TILE + i],
                columns[2 * _TILE + i],
                columns[3 * _TILE + i],
                columns[4 * _TILE + i],
                columns[5 * _TILE + i],
                columns[6 * _TILE + i],
                decay,
                source_slope,
            )
        out[:] = found[: out.size]


_ROWS = types.Array(types.float32, 2, "C", readonly=True)


@njit(
    types.void(_ROWS, types.float32, types.float32, types.float32[::1]),
    fastmath=True,
    parallel=True,
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _check_feasibility_kernel(inputs, decay, source_slope, margins):  # type: ignore[no-untyped-def]
    """Margins under the claim individual: float32 [n, 9] in, float32 [n] out; the other two are those of `_margin`."""
    rows = inputs.reshape(inputs.size)
    for block in prange((margins.size + _BLOCK - 1) // _BLOCK):
        start = block * _BLOCK
        _check_block(rows[DIMENSIONS * start :], decay, source_slope, margins[start : start + _BLOCK])


for _leaf in physics.LEAVES:
    register_jitable(_leaf)


# Not cached on disk: numba would not notice that a function of caligo.physics has changed.
@njit(parallel=True, nogil=True, error_model="numpy")
def _check_feasibility_scalar_kernel(inputs, is_erven, decays, is_weight, margins):  # type: ignore[no-untyped-def]
    """Margins under the claims stw09 and erven2014, float64 inside; compiled on its first call, which takes seconds."""
    for i in prange(margins.size):
        r, fidelity, e_det = float(inputs[i, 0]), float(inputs[i, 3]), float(inputs[i, 5])
        nu, wait_ns, eta, dark = 10.0 ** inputs[i, 1], 10.0 ** inputs[i, 2], 10.0 ** inputs[i, 4], 10.0 ** inputs[i, 6]
        r_eff = security.markov_retention(r, wait_ns) if decays else r
        if is_erven:
            entropy_rate = security.min_entropy_rate_erven2014(r_eff, nu)
        else:
            entropy_rate = security.min_entropy_rate_stw09(r_eff, nu)
        if is_weight:
            source_error = detection.source_error_weight(fidelity)
        else:
            source_error = detection.source_error_fidelity(fidelity)
        error_rate = detection.conditional_qber(source_error, eta, e_det, dark)
        margins[i] = security.entropy_surplus(entropy_rate, error_rate)
