"""The guardrail: a random forest that tells which candidates are not worth a simulation."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.isotonic import IsotonicRegression

from caligo import seeds
from caligo.spec import GuardrailSpec

TREES: Final = 200
MIN_OF_EACH: Final = 20
"""Simulated successes and failures below which there is nothing to be calibrated on: the guardrail stays silent."""
_PRIOR_WEIGHT: Final = 0.5
"""Jeffreys' prior of a proportion: half a success and half a failure."""


class Guardrail:
    """P(failure) of candidates and the verdict on them.

    The forest learns from simulated rows and from rows that the closed form excludes, which are failures for sure:
    proposals are not checked against the closed form, so both kinds are asked about. Its votes become probabilities by
    an isotonic regression on the out-of-bag votes (Niculescu-Mizil and Caruana, "Predicting good probabilities with
    supervised learning", ICML 2005, for isotonic calibration). Half a success stands above the highest vote and half a
    failure below the lowest (Jeffreys' prior), so that n failures without a success give n / (n + 1/2) at most: a
    threshold of 0.99 needs 50 of them. Rows that the guardrail itself skipped never train it.
    """

    def __init__(
        self,
        spec: GuardrailSpec,
        seed: int,
        simulated: NDArray[np.float32],
        failed: NDArray[np.bool_],
        infeasible: NDArray[np.float32],
    ) -> None:
        """Train.

        Args:
            seed: of the campaign.
            simulated: float32 [n, 9], unit coordinates of rows that were simulated.
            failed: bool [n], no key came of them.
            infeasible: float32 [m, 9], unit coordinates of rows that the closed form excludes.
        """
        self._spec = spec
        self._seed = seed
        self._forest: RandomForestClassifier | None = None
        if not spec.enabled or min(np.count_nonzero(failed), np.count_nonzero(~failed)) < MIN_OF_EACH:
            return
        leaf = seeds.sequence(seed, seeds.Phase.SURROGATE, 1, seeds.Purpose.TRAINING)
        forest = RandomForestClassifier(TREES, oob_score=True, random_state=int(leaf.generate_state(1)[0]))
        labels = np.append(failed, np.ones(len(infeasible), dtype=bool))
        forest.fit(np.concatenate([simulated, infeasible]), labels)
        # Candidates that the closed form excludes are skipped by it: the probability has to be right among the others.
        votes, labels = forest.oob_decision_function_[: len(simulated), 1], labels[: len(simulated)]
        voted = np.isfinite(votes)  # a row drawn by every tree has no out-of-bag vote
        self._calibration = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
            np.concatenate([[0.0], votes[voted], [1.0]]),
            np.concatenate([[1.0], labels[voted], [0.0]]),
            sample_weight=np.concatenate([[_PRIOR_WEIGHT], np.ones(voted.sum()), [_PRIOR_WEIGHT]]),
        )
        self._forest = forest

    @property
    def is_active(self) -> bool:
        """False while it is switched off or knows too little of either class."""
        return self._forest is not None

    def failure_probability(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """P(failure) of rows [n, 9] in unit coordinates, float32 [n]; 0 while it is not active."""
        if self._forest is None or not len(unit):
            return np.zeros(len(unit), dtype=np.float32)
        votes = self._forest.predict_proba(unit)[:, 1]
        return self._calibration.predict(votes).astype(np.float32)

    def skips(self, probability: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which candidates are not to be simulated: those above the threshold that no audit spares.

        Args:
            probability: float32 [n], of failure.
            index: int64 [n], the candidates' indices in the active phase; each has its own leaf of the seed tree.
        """
        skip = probability > self._spec.threshold
        for i in np.flatnonzero(skip):
            audit = seeds.generator(self._seed, seeds.Phase.ACTIVE, int(index[i]), seeds.Purpose.AUDIT)
            skip[i] = audit.random() >= self._spec.audit_fraction
        return skip
