"""The error that a statement on security may spend, by terms."""

from collections.abc import Mapping


class Budget:
    """Named error terms, each of which is spent exactly once.

    A total error is the sum of the terms behind it, so a term that a derivation uses twice, or never, makes the
    total wrong without a trace. Here it raises.
    """

    def __init__(self, terms: Mapping[str, float]) -> None:
        """terms: name to probability, each in (0, 1). Raises ValueError for another value."""
        for term, eps in terms.items():
            if not 0.0 < eps < 1.0:
                raise ValueError(f"{term} must be in (0, 1), not {eps!r}")
        self._terms = dict(terms)
        self._left = dict(terms)

    @property
    def total(self) -> float:
        """The sum of all terms, spent or not: the union bound."""
        return sum(self._terms.values())

    def spend(self, term: str) -> float:
        """The value of `term`. Raises ValueError for one that the budget has not, or that was spent before."""
        if term not in self._terms:
            raise ValueError(f"the budget has no {term}, only {', '.join(self._terms)}")
        if term not in self._left:
            raise ValueError(f"{term} is spent twice")
        return self._left.pop(term)

    def settle(self) -> float:
        """The total, once everything was spent. Raises ValueError where something is left."""
        if self._left:
            raise ValueError(f"not spent: {', '.join(self._left)}")
        return self.total
