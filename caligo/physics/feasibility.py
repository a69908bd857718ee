"""Is any key possible at a point of the parameter space, however long the run?"""

from .detection import Convention, qber
from .security import MemoryModel, effective_retention, entropy_surplus, min_entropy_rate


def feasibility_margin(
    r: float,
    nu: float,
    wait_time_ns: float,
    fidelity: float,
    efficiency: float,
    detector_error: float,
    dark_count_prob: float,
    *,
    claim: str = "individual",
    memory_model: MemoryModel = "markov",
    convention: Convention = "fidelity",
) -> float:
    """h_min(r_eff, nu) - h(Q), bits per reconciled bit in [-1, 1/2]: the rate at perfect reconciliation.

    Arguments and errors: those of security.effective_retention, security.min_entropy_rate and
    detection.qber. A kernel composes the same from their leaf functions and security.entropy_surplus.
    """
    r_eff = effective_retention(r, wait_time_ns, memory_model)
    error_rate = qber(fidelity, efficiency, detector_error, dark_count_prob, convention)
    return entropy_surplus(min_entropy_rate(r_eff, nu, claim), error_rate)


def is_feasible(
    r: float,
    nu: float,
    wait_time_ns: float,
    fidelity: float,
    efficiency: float,
    detector_error: float,
    dark_count_prob: float,
    *,
    claim: str = "individual",
    memory_model: MemoryModel = "markov",
    convention: Convention = "fidelity",
) -> bool:
    """feasibility_margin > 0: false exactly where no number of pairs and no code give key."""
    margin = feasibility_margin(
        r,
        nu,
        wait_time_ns,
        fidelity,
        efficiency,
        detector_error,
        dark_count_prob,
        claim=claim,
        memory_model=memory_model,
        convention=convention,
    )
    return margin > 0.0
