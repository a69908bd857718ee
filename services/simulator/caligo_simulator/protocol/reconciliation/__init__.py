"""Information reconciliation with a pool of rate-adaptive LDPC codes (docs: physics, section 4).

plan = baseline_plan(design_qber, n, frame_failure)    # or blind_plan(device_qber, n); None: no code serves it
said = describe(plan, alice, point, rng)
corrected = correct(plan, said, point, bob)
"""

from .codes import Code, CodeFileError, modulated_bits, payload_bits
from .plans import Plan, baseline_plan, blind_plan
from .protocol import Corrected, correct, describe

__all__ = [
    "Code",
    "CodeFileError",
    "Corrected",
    "Plan",
    "baseline_plan",
    "blind_plan",
    "correct",
    "describe",
    "modulated_bits",
    "payload_bits",
]
