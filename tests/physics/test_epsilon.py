"""The budget of error terms, and that every claim spends each of its own exactly once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caligo.physics import claims
from caligo.physics.claims import CLAIMS, LEGACY, Counts
from caligo.physics.epsilon import Budget

ALL = {**CLAIMS, **LEGACY}
COUNTS = Counts(detected=1e6, key_rounds=9e5, cut=4e5, removed=100.0, leak=4e4)

error = st.floats(1e-12, 0.1)


@given(st.dictionaries(st.sampled_from("abcdef"), error, min_size=1), st.randoms(use_true_random=False))
def test_a_term_is_spent_once(terms: dict[str, float], random) -> None:
    budget = Budget(terms)
    order = list(terms)
    random.shuffle(order)
    for i, term in enumerate(order):
        with pytest.raises(ValueError, match="not spent"):
            budget.settle()
        assert budget.spend(term) == terms[term]
        with pytest.raises(ValueError, match="twice"):
            budget.spend(order[random.randint(0, i)])
    assert budget.settle() == budget.total == pytest.approx(sum(terms.values()))


def test_only_what_the_budget_has() -> None:
    with pytest.raises(ValueError, match="no eps_x"):
        Budget({"eps_s": 1e-10}).spend("eps_x")
    for value in (0.0, 1.0, -1e-3, float("nan")):
        with pytest.raises(ValueError, match="eps_s"):
            Budget({"eps_s": value})


class _Counting(Budget):
    spent: list[str]

    def __init__(self, terms) -> None:
        super().__init__(terms)
        type(self).spent = []

    def spend(self, term: str) -> float:
        type(self).spent.append(term)
        return super().spend(term)


@given(
    st.sampled_from(sorted(ALL)),
    st.sampled_from(("alice", "bob")),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    error,
    st.tuples(*[st.floats(0.0, 1e9)] * 5),
)
def test_every_claim_spends_what_its_total_names(name, partition, r, nu, eps, numbers) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "Budget", _Counting)
        ALL[name].key_bits(Counts(*numbers), r, nu, eps, partition)
    assert sorted(_Counting.spent) == sorted(ALL[name].terms)
    assert ALL[name].total_error(eps) == pytest.approx(len(ALL[name].terms) * eps)
    assert ALL[name].error.split(" + ") == list(ALL[name].terms)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_term_costs_key(name: str) -> None:
    """A term that is spent also enters the length: one made smaller leaves less."""
    claim = ALL[name]

    def secret(terms: dict[str, float]) -> float:
        budget = Budget(terms)
        entropy = claim.entropy_form(COUNTS, 0.75, 0.1, budget, claim.partitions[0])
        assert entropy > 0.0
        return entropy - claim.hashing_cost(budget.spend("eps_h"))

    equal = dict.fromkeys(claim.terms, 1e-10)
    for term in claim.terms:
        assert secret({**equal, term: 1e-12}) < secret(equal) - 1.0
