"""The guardrail: a classifier that tells which candidates are not worth a simulation, and how often it is wrong."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Iterator
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.ensemble import RandomForestClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from caligo import logs, seeds
from caligo.space import DIMENSIONS
from caligo.spec import GuardrailSpec

log = logs.get("surrogate.guardrail")

MIN_OF_EACH: Final = 20
"""Simulated successes and failures below which there is nothing to learn from: the guardrail stays silent."""
MOST_ROWS: Final = 5000
"""Simulated rows that are learnt from, and again as many infeasible ones; of more, every audit and a random choice."""
CONFIDENCE: Final = 0.95
"""Of the one-sided bounds on the false-skip rate."""
FOLDS: Final = 5
LANDMARKS: Final = 300
TREES: Final = 200
_AUDIT_BLOCK: Final = 1024
_CHUNK_BYTES: Final = 2**20
"""Of a temporary array of a prediction: it has to stay in a core's cache."""

Floats = NDArray[np.float64]


class Verdict(enum.IntEnum):
    """What becomes of a candidate; the codes are the contract's."""

    SIMULATE = 0
    SKIP = 1
    AUDIT = 2
    """It would be skipped, and is simulated to see who is right."""


class Mode(enum.StrEnum):
    """What the guardrail does, and why."""

    DISABLED = "disabled"
    """Nothing: it is switched off by the spec."""
    TOO_FEW_ROWS = "too_few_rows"
    """Nothing: it has seen too few of either class."""
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
        threshold: that the evidence is for: the one in use, or the spec's while none is.
        evidence: simulated rows that the classifier, not having seen them, puts above the threshold.
        false_skips: of these, rows that gave a key.
        audits: of the evidence, rows that an audit had simulated.
        false_audits: of these, rows that gave a key.
        false_skip_bound: on the share of the rows above the threshold that would have given a key; 1 without evidence.
    """

    mode: Mode
    threshold: float
    evidence: int = 0
    false_skips: int = 0
    audits: int = 0
    false_audits: int = 0
    false_skip_bound: float = 1.0

    @property
    def is_active(self) -> bool:
        """Whether anything is skipped."""
        return self.mode in (Mode.RAISED, Mode.AS_SPECIFIED)


class Guardrail:
    """P(failure) of candidates and the verdict on them.

    The classifier learns from simulated rows and from rows that the closed form excludes, which are failures for sure.
    Its log-odds become probabilities by a sigmoid fitted to the log-odds of simulated rows that it had not seen (Platt,
    "Probabilistic outputs for support vector machines", 1999, with his regularised targets): candidates that the closed
    form excludes never come here, so the probability has to be right among the others. Rows that the guardrail skipped
    train nothing.

    The same unseen rows say how often it is wrong, and nothing is skipped unless the bound on that is at most the
    spec's `max_false_skip_rate`; where the spec's threshold does not give that, the lowest higher one is taken that
    does. The bound is Clopper and Pearson's upper one (95 %) on all simulated rows above the threshold, or their lower
    one on the audited rows alone where that is higher: only these are a fair sample of what is skipped. The others
    are the design's rows, and candidates without those that the guardrail of the time was surest of, which makes the
    rate seem higher rather than lower.

    A raised threshold is found by tests in a fixed order, from the highest down to the first that fails, which keep
    the error of a single one; together with the test of the spec's own, the error is at most twice that. Not allowed
    for is that all this is done again after every fit.

    Attributes:
        classifier: None while the guardrail is disabled or has too few rows.
        state: what it does and what is known of its errors.
    """

    def __init__(
        self,
        spec: GuardrailSpec,
        seed: int,
        simulated: NDArray[np.float32],
        failed: NDArray[np.bool_],
        audited: NDArray[np.bool_],
        infeasible: NDArray[np.float32],
    ) -> None:
        """Train.

        Args:
            seed: of the campaign.
            simulated: float32 [n, 9], unit coordinates of rows that were simulated.
            failed: bool [n], no key came of them.
            audited: bool [n], rows among them with the verdict `AUDIT`.
            infeasible: float32 [m, 9], unit coordinates of rows that the closed form excludes.
        """
        self._spec = spec
        self._seed = seed
        self.classifier: Classifier | None = None
        rng = seeds.generator(seed, seeds.Phase.SURROGATE, 1, seeds.Purpose.TRAINING)
        order = rng.permutation(len(simulated))
        chosen = order[np.argsort(~audited[order], kind="stable")][:MOST_ROWS]
        simulated, failed, audited = simulated[chosen], failed[chosen], audited[chosen]
        if not spec.enabled:
            self.state = State(Mode.DISABLED, spec.threshold)
        elif min(np.count_nonzero(failed), np.count_nonzero(~failed)) < MIN_OF_EACH:
            self.state = State(Mode.TOO_FEW_ROWS, spec.threshold)
        else:
            certain = infeasible[rng.permutation(len(infeasible))[: len(simulated)]]
            labels = np.append(failed, np.ones(len(certain), dtype=bool))
            classifier = CLASSIFIERS[spec.classifier]
            self.classifier = classifier(np.concatenate([simulated, certain]), labels, int(rng.integers(2**32)))
            unseen = self.classifier.unseen_log_odds[: len(simulated)]
            self._slope, self._offset = _platt(unseen, failed)
            self.state = self._judge(self._probability(unseen), failed, audited)
        log.info("guardrail", rows=len(simulated), **dataclasses.asdict(self.state))

    @property
    def is_active(self) -> bool:
        """Whether it skips anything."""
        return self.state.is_active

    def failure_probability(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """P(failure) of rows [n, 9] in unit coordinates, float32 [n]; 0 while there is no classifier."""
        if self.classifier is None:
            return np.zeros(len(unit), dtype=np.float32)
        return self._probability(self.classifier.log_odds(unit))

    def verdicts(self, probability: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """What becomes of candidates, codes of `Verdict`, uint8 [n].

        Args:
            probability: float32 [n], of failure.
            index: int64 [n], the candidates' indices in the active phase. They alone decide whom an audit spares.
        """
        doomed = self.is_active & (probability > self.state.threshold)
        audited = np.zeros(len(doomed), dtype=bool)
        audited[doomed] = _audits(self._spec, self._seed, index[doomed])
        return np.where(doomed, np.where(audited, Verdict.AUDIT, Verdict.SKIP), Verdict.SIMULATE).astype(np.uint8)

    def _probability(self, log_odds: Floats) -> NDArray[np.float32]:
        return expit(self._slope * log_odds + self._offset).astype(np.float32)

    def _judge(self, probability: NDArray[np.float32], failed: NDArray[np.bool_], audited: NDArray[np.bool_]) -> State:
        """The state that the probabilities of unseen rows justify."""

        def at(threshold: float, mode: Mode) -> State:
            above = probability > threshold
            evidence, false_skips, audits, false_audits = (
                int(np.count_nonzero(above & which)) for which in (True, ~failed, audited, audited & ~failed)
            )
            bound = _bound(evidence, false_skips, audits, false_audits)
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


def _audits(spec: GuardrailSpec, seed: int, index: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows of the active phase, int64 [n], an audit spares, bool [n]."""
    # One leaf a block of indices: making a generator takes far longer than a draw.
    block, place = np.divmod(index, _AUDIT_BLOCK)
    blocks, row = np.unique(block, return_inverse=True)
    draws = [
        seeds.generator(seed, seeds.Phase.ACTIVE, int(b), seeds.Purpose.AUDIT).random(_AUDIT_BLOCK) for b in blocks
    ]
    return np.reshape(draws, (-1, _AUDIT_BLOCK))[row, place] < spec.audit_fraction


def _bound(evidence: int, false_skips: int, audits: int, false_audits: int) -> float:
    """On the false-skip rate: Clopper and Pearson's, each one-sided, 1 without evidence.

    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika
    26 (1934).
    """
    if not evidence:
        return 1.0
    bound = binomtest(false_skips, evidence, alternative="less").proportion_ci(CONFIDENCE).high
    if audits:
        bound = max(bound, binomtest(false_audits, audits, alternative="greater").proportion_ci(CONFIDENCE).low)
    return float(bound)


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


# --- classifiers ------------------------------------------------------------------------------------------------------


class Classifier(Protocol):
    """Made from rows float32 [n, 9], labels bool [n] (True: failure) and a seed.

    scikit-learn trains; for a prediction it takes milliseconds before it looks at the first row, so the trained
    numbers are evaluated here.

    Attributes:
        estimator: scikit-learn's, which predicts the same.
        unseen_log_odds: float64 [n], of failure, each from a fit that had not seen the row.
    """

    estimator: Any
    unseen_log_odds: Floats

    def __init__(self, unit: NDArray[np.float32], failed: NDArray[np.bool_], seed: int) -> None: ...

    def log_odds(self, unit: NDArray[np.float32]) -> Floats:
        """Log-odds of failure of rows [n, 9], float64 [n]."""
        ...


class KernelLogistic:
    """Logistic regression with a Gaussian kernel on a random choice of landmarks.

    Williams and Seeger, "Using the Nystroem method to speed up kernel machines", NIPS 2000, for the landmarks. The
    length scale is 3 standard deviations of each coordinate, the square root of their number, so the mean squared
    distance of two rows is two squared length scales. Unseen rows are those left out of cross-fitting.
    """

    PENALTY: Final = 0.01

    def __init__(self, unit: NDArray[np.float32], failed: NDArray[np.bool_], seed: int) -> None:
        scaler = StandardScaler()
        kernel = Nystroem(gamma=1 / (2 * DIMENSIONS), n_components=min(LANDMARKS, len(unit)), random_state=seed)
        features = kernel.fit_transform(scaler.fit_transform(unit.astype(np.float64)))
        logistic = LogisticRegression(C=1 / self.PENALTY, solver="newton-cholesky", warm_start=True)
        logistic.fit(features, failed)
        self.estimator: Pipeline = make_pipeline(scaler, kernel, logistic)
        self._landmarks = kernel.components_ / np.sqrt(DIMENSIONS)
        self._mean, self._scale = scaler.mean_, scaler.scale_ * np.sqrt(DIMENSIONS)
        self._weights = kernel.normalization_.T @ logistic.coef_[0]
        self._offset = float(logistic.intercept_[0])

        # The landmarks know no labels, so they may stay; the optimum is unique, so its search may start anywhere.
        self.unseen_log_odds = np.empty(len(unit))
        part = LogisticRegression(C=1 / self.PENALTY, solver="newton-cholesky", warm_start=True)
        part.classes_, part.coef_, part.intercept_ = logistic.classes_, logistic.coef_, logistic.intercept_
        for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(unit, failed):
            part.fit(features[seen], failed[seen])
            self.unseen_log_odds[unseen] = part.decision_function(features[unseen])

    def log_odds(self, unit: NDArray[np.float32]) -> Floats:
        result = np.empty(len(unit))
        half = 0.5 * np.square(self._landmarks).sum(1)
        for rows in _chunks(len(unit), 8 * len(half)):
            x = (unit[rows] - self._mean) / self._scale
            exponent = x @ self._landmarks.T  # minus half the squared distance
            exponent -= half
            exponent -= 0.5 * np.square(x).sum(1)[:, None]
            result[rows] = np.exp(exponent, out=exponent) @ self._weights
        return result + self._offset


class RandomForest:
    """Votes of trees; unseen rows are those out of a tree's bag. Half a vote for either class keeps log-odds finite."""

    def __init__(self, unit: NDArray[np.float32], failed: NDArray[np.bool_], seed: int) -> None:
        self.estimator = RandomForestClassifier(TREES, oob_score=True, random_state=seed).fit(unit, failed)
        self.unseen_log_odds = self._of_votes(self.estimator.oob_decision_function_[:, 1])
        trees = [tree.tree_ for tree in self.estimator.estimators_]
        sizes = [tree.node_count for tree in trees]
        self._depth = max(tree.max_depth for tree in trees)
        # The nodes of all trees in one row; a leaf leads to itself.
        self._roots = np.cumsum([0, *sizes[:-1]])
        right, left, feature, self._threshold, self._failures = (
            np.concatenate(columns)
            for columns in zip(
                *(
                    (tree.children_right, tree.children_left, tree.feature, tree.threshold, tree.value[:, 0, 1])
                    for tree in trees
                ),
                strict=True,
            )
        )
        leaf, nodes, first = left < 0, np.arange(sum(sizes)), np.repeat(self._roots, sizes)
        self._feature = np.where(leaf, 0, feature)
        self._children = np.where(leaf[:, None], nodes[:, None], np.stack([right, left], axis=1) + first[:, None])

    def log_odds(self, unit: NDArray[np.float32]) -> Floats:
        votes = np.empty(len(unit))
        for rows in _chunks(len(unit), 8 * TREES):
            x = unit[rows]
            first = DIMENSIONS * np.arange(len(x))[:, None]
            node = np.tile(self._roots, (len(x), 1))
            for _ in range(self._depth):
                left = x.take(first + self._feature.take(node)) <= self._threshold.take(node)
                node = self._children.take(2 * node + left)
            votes[rows] = self._failures.take(node).mean(1)
        return self._of_votes(votes)

    @staticmethod
    def _of_votes(share: Floats) -> Floats:
        share = (TREES * share + 0.5) / (TREES + 1)
        return np.log(share / (1 - share))


def _chunks(rows: int, bytes_per_row: int) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // bytes_per_row)
    return (slice(start, start + step) for start in range(0, rows, step))


CLASSIFIERS: Final[dict[str, type[Classifier]]] = {"kernel_logistic": KernelLogistic, "random_forest": RandomForest}
