"""What a key length claims: one registry of the statements on security, which everything printed comes from.

A key length is a number under a claim: who makes the partition, which attacks are covered, what is charged, and who
has proved it. docs/physics.md holds the derivations, the attacks that made the statements of release 0.1 void, and
the order of the messages that every claim assumes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import log2
from types import MappingProxyType
from typing import Literal, NamedTuple

from . import finite_key
from .epsilon import Budget
from .security import min_entropy_rate

Partition = Literal["alice", "bob"]
"""Who divides the rounds into two strings: Alice's bases, or Bob by naming the sets."""


class Status(StrEnum):
    """Who has proved the finite form of a claim."""

    THEOREM = "theorem"
    COMBINED = "lemmas combined"
    DERIVED = "own derivation"
    NONE = "none"


class Counts(NamedTuple):
    """What a claim's finite form needs to know of a run; floats so that expectations may be given."""

    detected: float
    """Rounds that Bob reported as detected."""
    key_rounds: float
    """Of these, the ones outside the calibration slots, before the cut."""
    cut: float
    """m: bits of each string after the cut to whole frames, before any frame is dropped."""
    removed: float
    """Rounds, of both strings together, whose removal Bob could influence after the bases were known."""
    leak: float
    """Public bits about what is kept of one string, and all tags, those of dropped frames too: the mean of both."""
    known: float = 0.0
    """Rounds of the key, of both strings together, that may hold more than one pair: their bits count as known."""


class KeyBits(NamedTuple):
    """What a claim makes of a run."""

    entropy: float
    """Bits of one string that Bob does not know before the leak, at least 0."""
    secret: float
    """Extractable bits of each string, unrounded; may be negative."""


EntropyForm = Callable[[Counts, float, float, Budget, Partition], float]
"""(counts, r, nu, budget, partition) -> KeyBits.entropy before it is cut off at 0."""


@dataclass(frozen=True)
class Claim:
    """One statement on the sender's security, with what protects the receiver beside it."""

    name: str
    title: str
    status: Status
    partitions: tuple[Partition, ...]
    adversary: str
    """The attacks that are covered."""
    receiver: str
    """What protects honest Bob, and on which condition."""
    charged: str
    """What the public bits and Bob's choices cost."""
    source: str
    terms: tuple[str, ...]
    """The sender's error terms; each is spent once."""
    entropy_form: EntropyForm
    hashing_cost: Callable[[float], float]
    """Bits that the leftover hash takes, of eps_h."""
    covers_several: bool = True
    """Whether there is a form for rounds that hold more than one pair (`Counts.known`)."""

    @property
    def error(self) -> str:
        """The sender's error in symbols."""
        return " + ".join(self.terms)

    def refusal(self, partition: Partition) -> str | None:
        """Why this cannot be the claim of a campaign whose partition is `partition`; None where it can."""
        if self.status is Status.NONE:
            return f"{self.name} is no claim on oblivious transfer and can only be printed for comparison"
        if partition not in self.partitions:
            return f"{self.name} covers partition {' and '.join(self.partitions)} only, not {partition}"
        return None

    def entropy_rate(self, r: float, nu: float) -> float:
        """Asymptotic bits per bit of one string; r after the wait, nu stored qubits per round of the key."""
        return min_entropy_rate(r, nu, self.name)

    def budget(self, eps: float) -> Budget:
        """The sender's error terms, eps each."""
        return Budget(dict.fromkeys(self.terms, eps))

    def key_bits(self, counts: Counts, r: float, nu: float, eps: float, partition: Partition) -> KeyBits:
        """The finite form.

        r: retention after the wait, [0, 1]; nu: stored qubits per detected round, [0, 1]; eps: each of the error
        terms, (0, 1). Defined whether or not the claim covers the partition: `refusal` says that.
        """
        budget = self.budget(eps)
        entropy = max(0.0, self.entropy_form(counts, r, nu, budget, partition))
        secret = entropy - counts.leak - self.hashing_cost(budget.spend("eps_h"))
        budget.settle()
        return KeyBits(entropy, secret)

    def total_error(self, eps: float) -> float:
        """The sender's error, where each term is eps."""
        return self.budget(eps).total


def stored_share(counts: Counts, nu: float, known: float = 0.0) -> float:
    """nu_key = min(1, nu detected / key_rounds): stored qubits per round outside the calibration slots.

    Bob knows the slots beforehand and stores none of them. known: rounds of the key that are not counted, since he
    knows them and stores none of those either.
    """
    worth = counts.key_rounds - known
    return min(1.0, nu * counts.detected / worth) if worth > 0.0 else 1.0


def _string_length(counts: Counts, partition: Partition) -> float:
    """Bits of one string before Bob could remove any: all that there were, where he names the sets."""
    return counts.cut if partition == "alice" else 0.5 * counts.key_rounds


def _jointly(form: Callable[[float, float, float, float, float, float], float]) -> EntropyForm:
    """A form about both strings together, of which the better one holds half; a round removed may cost one bit."""

    def entropy(counts: Counts, r: float, nu: float, budget: Budget, partition: Partition) -> float:
        rounds = 2.0 * _string_length(counts, partition)
        # Where Bob names the sets no cut has balanced the bases.
        balanced = 1.0 if partition == "alice" else 0.0
        both = form(rounds, r, stored_share(counts, nu, counts.known), budget.spend("eps_s"), balanced, counts.known)
        return 0.5 * (both - counts.removed)

    return entropy


def _lupo2023(counts: Counts, r: float, nu: float, budget: Budget, partition: Partition) -> float:
    share = stored_share(counts, nu)
    length = _string_length(counts, partition)
    one = finite_key.min_entropy_lupo2023(length, r, share, budget.spend("eps_s"), budget.spend("eps_e"))
    return one - 0.5 * counts.removed


def _kww2012(counts: Counts, r: float, nu: float, budget: Budget, partition: Partition) -> float:
    share = stored_share(counts, nu)
    length = _string_length(counts, partition)
    one = finite_key.min_entropy_kww2012(length, r, share, budget.spend("eps_s"), budget.spend("eps_m"))
    return one - 0.5 * counts.removed


def _erven2014(counts: Counts, r: float, nu: float, budget: Budget, partition: Partition) -> float:
    # All of the removed rounds may have been in the one string, hence (1/2) removed off the halved entropy.
    share = stored_share(counts, nu)
    length = _string_length(counts, partition)
    eps_s, eps_m = budget.spend("eps_s"), budget.spend("eps_m")
    one = finite_key.min_entropy_erven2014(length, r, share, eps_s, eps_m, counts.known)
    return one - 0.5 * counts.removed


def _release_0_1(form: Callable[[float, float, float, float, float], float], second: str) -> EntropyForm:
    """As release 0.1 counted: the bits of the frames that Bob called decoded, nu as it was given."""

    def entropy(counts: Counts, r: float, nu: float, budget: Budget, partition: Partition) -> float:
        kept = max(0.0, counts.cut - 0.5 * counts.removed)
        return form(kept, r, nu, budget.spend("eps_s"), budget.spend(second))

    return entropy


def _leftover_hash(eps_h: float) -> float:
    """2 log2(1/eps_h): for the two hashes of the distributed lemma, whose error is below sqrt(2^(l - a/2 + leak))."""
    return 2.0 * log2(1.0 / eps_h)


def _leftover_hash_lupo(eps_h: float) -> float:
    """2 log2(1/eps_h) - 1, Lupo Eq. 3."""
    return 2.0 * log2(1.0 / eps_h) - 1.0


def _leftover_hash_erven(eps_h: float) -> float:
    """log2(1/(2 eps_h)), the last term of Erven Eq. 8: half of the lemma's, since two keys are taken from it."""
    return log2(0.5 / eps_h)


_SILENT_BOB = (
    "Bob measures every round in the basis C and sends nothing after his detection reports, so whatever Alice sends,"
    " C is independent of all that she sees, provided that his no-click operator is the same in both bases: detectors"
    " of equal efficiency and dark rate in all modes, no dead time or afterpulse that depends on the outcome, double"
    " clicks read as private coins and never dropped. With the blind strategy Bob asks for bits, and C is hidden only"
    " from an honest-but-curious Alice at equal error rates in both bases."
)
_NAMING_BOB = (
    " Where Bob names the sets, his bases are private coins, and the sets show C to nobody on the same condition."
)
_STORED_AS_IT_COMES = (
    "Bob keeps at most a share nu of the detected qubits as they come, choosing which by anything he sees, and measures"
    " the rest before the bases are known in any way, jointly too."
)
_NOT_COVERED = " Not covered: entangling kept qubits with measured ones, encoding before storage, and erasure codes."

_ENTRIES = (
    Claim(
        name="individual",
        title="qubits kept as they come, flagged erasure",
        status=Status.DERIVED,
        partitions=("alice", "bob"),
        adversary=_STORED_AS_IT_COMES
        + " After the wait each kept qubit is intact with probability r, and he sees which are."
        + _NOT_COVERED,
        receiver=_SILENT_BOB + _NAMING_BOB,
        charged="half of the public bits about both strings, and one bit of both strings' entropy for each round whose"
        " removal Bob can influence; the string that he learns is not charged",
        source="docs/physics.md, 'The finite form of individual': derived from published lemmas, itself not a"
        " published theorem",
        terms=("eps_s", "eps_h"),
        entropy_form=_jointly(finite_key.min_entropy_individual),
        hashing_cost=_leftover_hash,
    ),
    Claim(
        name="lupo2023",
        title="the same memory, the rest measured round by round",
        status=Status.COMBINED,
        partitions=("alice",),
        adversary=_STORED_AS_IT_COMES.replace("in any way, jointly too", "one by one")
        + " After the wait each kept qubit is intact with probability r, and he sees which are. The string that is"
        " hidden is the one with more entropy given Bob's data; of a string fixed beforehand it is false."
        + _NOT_COVERED,
        receiver=_SILENT_BOB,
        charged="the public bits about one string, half a bit for each round whose removal Bob can influence; the"
        " string that he learns is not charged",
        source="Lupo, Peat, Andersson, Kok, arXiv:2302.04236, Eqs. 3 and 34-51; the finite form joins their lemmas"
        " with Ng, Berta, Wehner, Phys. Rev. A 86, 042308 (2012) and Hoeffding's inequality",
        terms=("eps_s", "eps_e", "eps_h"),
        entropy_form=_lupo2023,
        hashing_cost=_leftover_hash_lupo,
        covers_several=False,
    ),
    Claim(
        name="stw09",
        title="qubits kept as they come, depolarising memory without a flag",
        status=Status.DERIVED,
        partitions=("alice", "bob"),
        adversary=_STORED_AS_IT_COMES
        + " After the wait a kept qubit is depolarised with probability 1-r and he does not see which are."
        + _NOT_COVERED
        + " Nor is a weak measurement of a qubit that is then stored.",
        receiver=_SILENT_BOB + _NAMING_BOB,
        charged="as individual",
        source="rate of Schaffner, Terhal, Wehner, Quantum Inf. Comput. 9, 963 (2009), Theorem 5 and Corollary 7; the"
        " finite form is that of individual with their memory (docs/physics.md), since their own needs n >="
        " (5/eps^2) log2(2/eps^2)",
        terms=("eps_s", "eps_h"),
        entropy_form=_jointly(finite_key.min_entropy_stw09),
        hashing_cost=_leftover_hash,
    ),
    Claim(
        name="erven2014",
        title="any encoding into a depolarising memory, as published with the experiment",
        status=Status.COMBINED,
        partitions=("bob",),
        adversary="Any encoding of the detected qubits, jointly too, into nu depolarising qubits per detected round"
        " that keep their state with probability r: strong converse. That Bob names the sets after he has read his"
        " memory is proved for a noiseless bounded memory only.",
        receiver="Bob measures in bases that are private coins, names both sets and sends nothing after, so the sets"
        " show C to nobody, provided that his no-click operator is the same in both bases."
        " With the blind strategy he asks for bits, and C is hidden only from an honest-but-curious Alice at equal"
        " error rates in both bases.",
        charged="both syndromes and the string that he learns, which halves the entropy; half a bit for each round"
        " that he leaves out of his sets",
        source="Erven et al., Nat. Commun. 5:3418 (2014), Eqs. 3-8; where several pairs may be in a round, with"
        " his m_1, of single ones, in the place of all",
        terms=("eps_s", "eps_m", "eps_h"),
        entropy_form=_erven2014,
        hashing_cost=_leftover_hash_erven,
    ),
    Claim(
        name="kww2012",
        title="weak string erasure against any encoding",
        status=Status.NONE,
        partitions=("alice", "bob"),
        adversary="Weak string erasure is proved against any encoding into the memory. Oblivious transfer is not:"
        " min-entropy splitting is not available against a quantum memory, and interactive hashing leaves far less.",
        receiver=_SILENT_BOB + _NAMING_BOB,
        charged="the public bits about one string",
        source="Koenig, Wehner, Wullschleger, IEEE Trans. Inf. Theory 58, 1962 (2012), Corollary I.2; Lupo Eq. 19",
        terms=("eps_s", "eps_m", "eps_h"),
        entropy_form=_kww2012,
        hashing_cost=_leftover_hash_lupo,
        covers_several=False,
    ),
)

CLAIMS: Mapping[str, Claim] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""The claims that a key length can be printed under, by name."""

DEFAULT = "individual"

RELEASE_0_1 = "release-0.1/"
"""What the name of a claim begins with whose rows release 0.1 made; the name of its bound follows."""


def _legacy(bound: str, form: Callable[[float, float, float, float, float], float], second: str) -> Claim:
    return Claim(
        name=RELEASE_0_1 + bound,
        title=f"the bound {bound} of release 0.1",
        status=Status.NONE,
        partitions=("bob",),
        adversary="None: Bob named the sets and the frames to drop without a limit, so that a Bob without any memory"
        " could hold both strings.",
        receiver="None: Bob answered with pass or fail of each frame, so that an Alice who spoils one syndrome read C.",
        charged="the public bits about one string; frames that Bob called failed cost nothing",
        source=f"release 0.1 of this program; the rate is that of {bound}",
        terms=("eps_s", second, "eps_h"),
        entropy_form=_release_0_1(form, second),
        hashing_cost=_leftover_hash_lupo,
    )


LEGACY: Mapping[str, Claim] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            _legacy("lupo2023", finite_key.min_entropy_lupo2023, "eps_e"),
            _legacy("kww2012", finite_key.min_entropy_kww2012, "eps_m"),
            _legacy("erven2014", finite_key.min_entropy_erven2014, "eps_m"),
        )
    }
)
"""The rules that campaigns of release 0.1 were computed by; `claim` finds them, `CLAIMS` does not list them."""


def claim(name: str) -> Claim:
    """The claim of that name, of CLAIMS or LEGACY. Raises ValueError, with the names, for another."""
    found = CLAIMS.get(name) or LEGACY.get(name)
    if found is None:
        raise ValueError(f"no claim {name!r}: there are {', '.join(CLAIMS)}, and of old files {', '.join(LEGACY)}")
    return found


def rules_of_another_release(name: str) -> str | None:
    """Under which rules rows were made, as one line, where they are none of this release's claims; None where they are.

    Args:
        name: of a claim, or whatever another release has written in its place.
    """
    if name in CLAIMS:
        return None
    bound = name.removeprefix(RELEASE_0_1)
    if bound == name:
        return f"made under the claim {name!r}, which this release does not know"
    rules = f"made under the rules of release 0.1 (bound {bound})"
    if name not in LEGACY:
        return rules
    attack = LEGACY[name].adversary.removeprefix("None: ").removesuffix(".")
    return f"{rules}, which prove nothing (docs/physics.md): {attack}"
