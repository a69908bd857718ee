"""Information reconciliation with a pool of rate-adaptive LDPC codes (docs: physics, section 4).

plan = baseline_plan(design_qber)        # or blind_plan(device_qber); None: no code of the pool serves it
result = reconcile(plan, alice, bob, rng)
"""

from .codes import Code, CodeFileError, modulated_bits, payload_bits
from .plans import Plan, baseline_plan, blind_plan
from .protocol import Reconciliation, reconcile

__all__ = [
    "Code",
    "CodeFileError",
    "Plan",
    "Reconciliation",
    "baseline_plan",
    "blind_plan",
    "modulated_bits",
    "payload_bits",
    "reconcile",
]
