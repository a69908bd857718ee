"""The tag that tells a string that was corrected from one that was not: its size, and how often it is wrong.

A string is cut into L words of WORD_BITS bits and hashed by a polynomial modulo PRIME at one uniform point (Kiktenko et
al. 2016, section 2). Two different strings of the same length have the same tag at no more than L of the PRIME points.
"""

TAG_BITS = 50
PRIME = 2**50 - 27
"""The largest prime below 2^50."""
WORD_BITS = 49


def collision_bound(frames: int, bits: int) -> float:
    """Upper bound on the probability that any of `frames` wrong frames of `bits` bits has the right tag."""
    return frames * -(-bits // WORD_BITS) / PRIME
