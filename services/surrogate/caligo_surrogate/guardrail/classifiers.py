"""What tells failures from successes, trained by scikit-learn and evaluated here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from caligo.space import DIMENSIONS

Floats = NDArray[np.float64]

FOLDS: Final = 5
LANDMARKS: Final = 300
TREES: Final = 200
_CHUNK_BYTES: Final = 2**20
"""Of a temporary array of a prediction: it has to stay in a core's cache."""


class Classifier(Protocol):
    """Made from rows float32 [n, 10], labels bool [n] (True: failure) and a seed.

    The columns of a row are its unit coordinates and the closed form's log-odds of failure; a column that is 0
    everywhere tells nothing.

    scikit-learn trains; for a prediction it takes milliseconds before it looks at the first row, so the trained
    numbers are evaluated here.

    Attributes:
        estimator: scikit-learn's, which predicts the same.
        unseen_log_odds: float64 [n], of failure, each from a fit that had not seen the row.
    """

    estimator: Any
    unseen_log_odds: Floats

    def __init__(self, x: NDArray[np.float32], failed: NDArray[np.bool_], seed: int) -> None: ...

    def log_odds(self, x: NDArray[np.float32]) -> Floats:
        """Log-odds of failure of rows [n, 10], float64 [n]."""
        ...


class KernelLogistic:
    """Logistic regression with a Gaussian kernel of the coordinates on a random choice of landmarks, and a line in the
    closed form's log-odds.

    Williams and Seeger, "Using the Nystroem method to speed up kernel machines", NIPS 2000, for the landmarks. The
    length scale is 3 standard deviations of each coordinate, the square root of their number, so the mean squared
    distance of two rows is two squared length scales. Unseen rows are those left out of cross-fitting.
    """

    PENALTY: Final = 0.01

    def __init__(self, x: NDArray[np.float32], failed: NDArray[np.bool_], seed: int) -> None:
        scaler = StandardScaler()
        kernel = Nystroem(gamma=1 / (2 * DIMENSIONS), n_components=min(LANDMARKS, len(x)), random_state=seed)
        columns = ColumnTransformer(
            [
                ("kernel", make_pipeline(scaler, kernel), slice(0, DIMENSIONS)),
                ("closed_form", "passthrough", [DIMENSIONS]),
            ]
        )
        features = columns.fit_transform(x.astype(np.float64))
        logistic = LogisticRegression(C=1 / self.PENALTY, solver="newton-cholesky", warm_start=True)
        logistic.fit(features, failed)
        self.estimator: Pipeline = make_pipeline(columns, logistic)
        scaler, kernel = columns.named_transformers_["kernel"]
        self._landmarks = kernel.components_ / np.sqrt(DIMENSIONS)
        self._mean, self._scale = scaler.mean_, scaler.scale_ * np.sqrt(DIMENSIONS)
        self._weights = kernel.normalization_.T @ logistic.coef_[0, :-1]
        self._slope = float(logistic.coef_[0, -1])
        self._offset = float(logistic.intercept_[0])

        # The landmarks know no labels, so they may stay; the optimum is unique, so its search may start anywhere.
        self.unseen_log_odds = np.empty(len(x))
        part = LogisticRegression(C=1 / self.PENALTY, solver="newton-cholesky", warm_start=True)
        part.classes_, part.coef_, part.intercept_ = logistic.classes_, logistic.coef_, logistic.intercept_
        for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, failed):
            part.fit(features[seen], failed[seen])
            self.unseen_log_odds[unseen] = part.decision_function(features[unseen])

    def log_odds(self, x: NDArray[np.float32]) -> Floats:
        result = np.empty(len(x))
        half = 0.5 * np.square(self._landmarks).sum(1)
        for rows in _chunks(len(x), 8 * len(half)):
            place = (x[rows, :DIMENSIONS] - self._mean) / self._scale
            exponent = place @ self._landmarks.T  # minus half the squared distance
            exponent -= half
            exponent -= 0.5 * np.square(place).sum(1)[:, None]
            result[rows] = np.exp(exponent, out=exponent) @ self._weights
        return result + self._slope * x[:, DIMENSIONS] + self._offset


class RandomForest:
    """Votes of trees; unseen rows are those out of a tree's bag. Half a vote for either class keeps log-odds finite."""

    def __init__(self, x: NDArray[np.float32], failed: NDArray[np.bool_], seed: int) -> None:
        self.estimator = RandomForestClassifier(TREES, oob_score=True, random_state=seed).fit(x, failed)
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

    def log_odds(self, x: NDArray[np.float32]) -> Floats:
        votes = np.empty(len(x))
        for rows in _chunks(len(x), 8 * TREES):
            values = x[rows]
            first = values.shape[1] * np.arange(len(values))[:, None]
            node = np.tile(self._roots, (len(values), 1))
            for _ in range(self._depth):
                left = values.take(first + self._feature.take(node)) <= self._threshold.take(node)
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
