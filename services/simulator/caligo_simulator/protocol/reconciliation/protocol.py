"""Reconciliation of the frames of one string, from Alice's syndromes to verified bits.

Only the chosen string is decoded: Bob holds no correlated data about the other. What is disclosed for frame
j is disclosed for frame j of both strings, so that Bob's requests do not depend on his choice; the leak
counted here is that about one string. A malicious Alice who makes single frames fail would learn from
Bob's requests which string he decodes (selective failure); this is outside the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caligo.physics.entropy import binary_entropy

from ..verification import TAG_BITS, draw_point, tags
from .decoder import KNOWN, decode
from .plans import Plan


@dataclass(frozen=True, eq=False)
class Reconciliation:
    """What Bob holds afterwards and what it cost, one entry a frame.

    bits: uint8 (frames, payload), his estimate of Alice's frames, meaningful where `verified` (bool).
    leaked: int64, public bits about the payload, the tag's included.
    attempts: uint8, decodings made (1 for the baseline). iterations: int32, of the decoder, over all attempts.
    """

    plan: Plan
    bits: NDArray[np.uint8]
    verified: NDArray[np.bool_]
    leaked: NDArray[np.int64]
    attempts: NDArray[np.uint8]
    iterations: NDArray[np.int32]

    @property
    def frames_total(self) -> int:
        return self.verified.size

    @property
    def frames_failed(self) -> int:
        return int(self.frames_total - np.count_nonzero(self.verified))

    @property
    def leaked_total(self) -> int:
        """Public bits about the frames that are kept."""
        return int(self.leaked[self.verified].sum())

    def efficiency(self, qber: float, *, with_tag: bool = True) -> float:
        """f = leak / (payload h(qber)) over the verified frames; nan if there are none or h = 0."""
        kept = np.count_nonzero(self.verified)
        ideal = kept * self.plan.payload * binary_entropy(qber)
        leak = self.leaked_total - (0 if with_tag else TAG_BITS * kept)
        return float(leak / ideal) if ideal > 0.0 else float("nan")


def reconcile(plan: Plan, alice: NDArray[np.uint8], bob: NDArray[np.uint8], rng: np.random.Generator) -> Reconciliation:
    """Alice sends syndromes and tags of her frames, Bob corrects his.

    alice, bob: uint8 or int8 0/1 (frames, plan.payload). rng: Alice's private bits on the punctured
    positions, and the point of the hash.
    """
    code = plan.code
    frames = alice.shape[0]
    order = plan.reveal_order
    words = np.zeros((frames, code.n), np.uint8)
    words[:, order] = rng.integers(0, 2, (frames, order.size), dtype=np.uint8)
    words[:, code.payload] = alice
    syndromes = code.syndromes(words)
    point = draw_point(rng)

    # Alice's values on the modulated positions stay in the rows: the decoder reads one only once it is revealed.
    words[:, code.payload] = bob
    reliability = np.full(code.n, plan.reliability, np.float32)
    reliability[code.modulated] = KNOWN
    reliability[order] = 0.0
    decoding = decode(code, words, syndromes, reliability, order, np.array(plan.revealed, np.int64))
    bits = decoding.bits[:, code.payload]
    verified = decoding.converged & (tags(bits, point) == tags(alice.astype(np.uint8, copy=False), point))
    return Reconciliation(
        plan=plan,
        bits=bits,
        verified=verified,
        leaked=plan.syndrome_leak[decoding.stage] + TAG_BITS,
        attempts=decoding.stage + np.uint8(1),
        iterations=decoding.iterations,
    )
