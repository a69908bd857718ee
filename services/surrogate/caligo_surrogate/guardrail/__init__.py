"""The guardrail: which candidates are not worth a simulation, and how often it is wrong."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from caligo import logs, screening, seeds
from caligo.phases import Phase
from caligo.screening import Screen
from caligo.spec import GuardrailSpec
from caligo_surrogate.guardrail.classifiers import CLASSIFIERS, Classifier, Floats

log = logs.get("surrogate.guardrail")

MIN_OF_EACH: Final = 20
"""Simulated successes and failures below which there is nothing to learn from: the guardrail stays silent."""
MOST_ROWS: Final = 5000
"""Simulated rows that are learnt from, and again as many infeasible ones; of more, every audit and a random choice."""
_SUREST: Final = 10.0
"""Log-odds of the closed form that a classifier is shown at most: beyond them it has nothing to add."""


class Mode(enum.StrEnum):
    """What the guardrail does, and why."""

    DISABLED = "disabled"
    """Nothing: it is switched off by the spec."""
    CLOSED_FORM = "closed_form"
    """The closed form skips what it gives up, in phase 1; a table of real runs proves that few would have had a key."""
    TOO_FEW_ROWS = "too_few_rows"
    """Nothing: the table is not used, and it has seen too few rows of either class."""
    UNPROVEN = "unproven"
    """Nothing: at no threshold is the false-skip rate known to be as low as it must be."""
    RAISED = "raised"
    """Skips above a threshold higher than the spec's, which the false-skip rate would not allow."""
    AS_SPECIFIED = "as_specified"
    """Skips above the spec's threshold."""


@dataclasses.dataclass(frozen=True)
class State:
    """How far the guardrail can be trusted.

    Attributes:
        mode: what it does.
        threshold: that the evidence is for: the one in use, or the spec's while none is. In the mode `CLOSED_FORM` the
            higher one of both strategies'.
        evidence: runs above the threshold: those of the table and simulated rows, or simulated rows that the
            classifier had not seen.
        false_skips: of these, runs that gave a key.
        audits: of the evidence, rows that an audit had simulated.
        false_audits: of these, rows that gave a key.
        false_skip_bound: on the share of the rows above the threshold that would have given a key; 1 without evidence.
        table_refused: why the table of the closed form is not used, a clause; empty where it is.
    """

    mode: Mode
    threshold: float
    evidence: int = 0
    false_skips: int = 0
    audits: int = 0
    false_audits: int = 0
    false_skip_bound: float = 1.0
    table_refused: str = ""

    @property
    def is_active(self) -> bool:
        """Whether anything is skipped."""
        return self.mode in (Mode.CLOSED_FORM, Mode.RAISED, Mode.AS_SPECIFIED)


class Candidates(NamedTuple):
    """Rows as the guardrail sees them.

    Attributes:
        unit: float32 [n, 9], unit coordinates.
        log_odds: float64 [n], of failure in closed form; 0 where that is not defined.
    """

    unit: NDArray[np.float32]
    log_odds: Floats

    def of(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Candidates:
        """Some of them."""
        return Candidates(self.unit[chosen], self.log_odds[chosen])

    def features(self) -> NDArray[np.float32]:
        """What a classifier is shown, float32 [n, 10]."""
        return np.column_stack([self.unit, np.clip(self.log_odds, -_SUREST, _SUREST)]).astype(np.float32)


class Guardrail:
    """P(failure) of candidates and the verdict on them.

    Where the closed form may be trusted, it skips rows of phase 1 (`caligo.screening`), and candidates of the active
    phase, which come here, are all simulated. Otherwise a classifier decides about these, once it has proved itself on
    the campaign's own rows.

    The classifier learns from simulated rows and from rows that the closed form excludes, which are failures for sure;
    the closed form's log-odds are one of its features. Its own log-odds become probabilities by a sigmoid fitted to
    those of simulated rows that it had not seen (Platt, "Probabilistic outputs for support vector machines", 1999, with
    his regularised targets): candidates that the closed form excludes never come here, so the probability has to be
    right among the others. Rows that the guardrail skipped train nothing.

    The same unseen rows say how often it is wrong, and nothing is skipped unless the bound on that is at most the
    spec's `max_false_skip_rate`; where the spec's threshold does not give that, the lowest higher one is taken that
    does. The bound is the upper one (95 %, `screening.upper_bound`) of all simulated rows above the threshold, or the
    lower one of the audited rows alone where that is higher: only these are a fair sample of what is skipped. The
    others are the design's rows, and candidates without those that the guardrail of the time was surest of, which makes
    the rate seem higher rather than lower. Both bounds hold however often they are looked at.

    A raised threshold is found by tests in a fixed order, from the highest down to the first that fails, which keep
    the error of a single one; together with the test of the spec's own, the error is at most twice that.

    Attributes:
        classifier: None while the guardrail is disabled, has too few rows, or needs none.
        state: what it does and what is known of its errors.
    """

    def __init__(
        self,
        spec: GuardrailSpec,
        seed: int,
        screen: Screen,
        simulated: Candidates,
        failed: NDArray[np.bool_],
        audited: NDArray[np.bool_],
        infeasible: Candidates,
    ) -> None:
        """Train.

        Args:
            seed: of the campaign.
            screen: what the closed form may skip.
            simulated: n rows that were simulated.
            failed: bool [n], no key came of them.
            audited: bool [n], rows among them with the verdict `AUDIT`.
            infeasible: rows that the closed form excludes, for the classifier.
        """
        self._spec = spec
        self._seed = seed
        self.classifier: Classifier | None = None
        if not spec.enabled:
            self.state = State(Mode.DISABLED, spec.threshold)
        elif screen.is_active:
            threshold = float(screen.threshold[np.isfinite(screen.threshold)].max())
            self.state = State(
                Mode.CLOSED_FORM, threshold, screen.evidence, screen.false_skips,
                screen.audits, screen.false_audits, screen.false_skip_bound,
            )  # fmt: skip
        else:
            learned = self._learn(simulated, failed, audited, infeasible)
            self.state = dataclasses.replace(learned, table_refused=screen.refused or "")
        log.info("guardrail", rows=len(failed), **dataclasses.asdict(self.state))

    def _learn(
        self,
        simulated: Candidates,
        failed: NDArray[np.bool_],
        audited: NDArray[np.bool_],
        infeasible: Candidates,
    ) -> State:
        """The classifier, and the state that it deserves."""
        rng = seeds.generator(self._seed, Phase.SURROGATE, 1, seeds.Purpose.TRAINING)
        order = rng.permutation(len(failed))
        chosen = order[np.argsort(~audited[order], kind="stable")][:MOST_ROWS]
        failed, audited = failed[chosen], audited[chosen]
        if min(np.count_nonzero(failed), np.count_nonzero(~failed)) < MIN_OF_EACH:
            return State(Mode.TOO_FEW_ROWS, self._spec.threshold)
        certain = infeasible.of(rng.permutation(len(infeasible.unit))[: len(chosen)]).features()
        labels = np.append(failed, np.ones(len(certain), dtype=bool))
        features = np.concatenate([simulated.of(chosen).features(), certain])
        self.classifier = CLASSIFIERS[self._spec.classifier](features, labels, int(rng.integers(2**32)))
        unseen = self.classifier.unseen_log_odds[: len(chosen)]
        self._slope, self._offset = _platt(unseen, failed)
        return self._judge(self._probability(unseen), failed, audited)

    @property
    def is_active(self) -> bool:
        """Whether it skips anything."""
        return self.state.is_active

    def failure_probability(self, candidates: Candidates) -> NDArray[np.float32]:
        """P(failure) of n candidates, float32 [n]; 0 while nothing says it."""
        if self.state.mode is Mode.CLOSED_FORM:
            return expit(candidates.log_odds).astype(np.float32)
        if self.classifier is None:
            return np.zeros(len(candidates.unit), dtype=np.float32)
        return self._probability(self.classifier.log_odds(candidates.features()))

    def verdicts(self, candidates: Candidates, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """What becomes of n candidates, codes of `screening.Verdict`, uint8 [n].

        Args:
            index: int64 [n], the candidates' indices in the active phase. They alone decide whom an audit spares.
        """
        # What the surrogate proposes it does where it doubts the closed form: no fair sample of what the table counted.
        # Of 35 such candidates that the closed form gave up 7 had a key; of 295 rows of phase 1, 1 (benchmarks.skips).
        if self.is_active and self.state.mode is not Mode.CLOSED_FORM:
            doomed = self.failure_probability(candidates) > self.state.threshold
        else:
            doomed = np.zeros(len(index), dtype=np.bool_)
        return screening.verdicts(doomed, self._spec, self._seed, Phase.ACTIVE, index)

    def _probability(self, log_odds: Floats) -> NDArray[np.float32]:
        return expit(self._slope * log_odds + self._offset).astype(np.float32)

    def _judge(self, probability: NDArray[np.float32], failed: NDArray[np.bool_], audited: NDArray[np.bool_]) -> State:
        """The state that the probabilities of unseen rows justify."""

        def at(threshold: float, mode: Mode) -> State:
            above = probability > threshold
            evidence, false_skips, audits, false_audits = (
                int(np.count_nonzero(above & which)) for which in (True, ~failed, audited, audited & ~failed)
            )
            bound = screening.false_skip_bound(evidence, false_skips, audits, false_audits)
            return State(mode, threshold, evidence, false_skips, audits, false_audits, bound)

        state = at(self._spec.threshold, Mode.AS_SPECIFIED)
        if state.false_skip_bound <= self._spec.max_false_skip_rate:
            return state
        # Evidence is best where one more row would be another key: right above such rows, from the surest down.
        keys = np.sort(probability[~failed & (probability > self._spec.threshold)])
        raised = (at(threshold, Mode.RAISED) for threshold in keys[::-1].tolist())
        within = list(
            itertools.takewhile(lambda higher: higher.false_skip_bound <= self._spec.max_false_skip_rate, raised)
        )
        return within[-1] if within else dataclasses.replace(state, mode=Mode.UNPROVEN)


def _platt(log_odds: Floats, failed: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the sigmoid."""
    # A target t between 0 and 1 is a row of each class with weights t and 1 - t.
    failures, successes = np.count_nonzero(failed), np.count_nonzero(~failed)
    target = np.where(failed, (failures + 1) / (failures + 2), 1 / (successes + 2))
    fit = LogisticRegression(C=np.inf).fit(
        np.tile(log_odds, 2)[:, None],
        np.repeat([True, False], len(failed)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])
