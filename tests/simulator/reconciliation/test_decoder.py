"""The decoder against `ldpc` on the same noise, and the properties that do not depend on noise."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import ldpc
import numpy as np
import pytest
import scipy.sparse as sp
from caligo_simulator.protocol.reconciliation import codes
from caligo_simulator.protocol.reconciliation.check_update import AHEAD, LANES, UNIT, update_check
from caligo_simulator.protocol.reconciliation.decoder import ITERATIONS, KNOWN, RETRY_ITERATIONS, decode
from numba import njit

CODE = codes.load(4096, 0.75)
MATRIX = sp.csr_matrix(
    (np.ones(CODE.check_variables.size, np.uint8), CODE.check_variables, CODE.check_start),
    shape=(CODE.m, CODE.n),
)


def transmit(frames: int, qber: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sent = rng.integers(0, 2, (frames, CODE.n), dtype=np.uint8)
    received = sent ^ (rng.random(sent.shape) < qber).astype(np.uint8)
    return sent, received, np.full(CODE.n, np.log((1 - qber) / qber), np.float32)


def test_syndromes() -> None:
    words, _, _ = transmit(5, 0.1, 1)
    assert np.array_equal(CODE.syndromes(words), (MATRIX.astype(np.int64) @ words.T % 2).T)


def test_frame_error_rate_is_not_worse_than_product_sum() -> None:
    """Same code, same noise near the waterfall, same stopping rule; flooding product-sum in float64."""
    qber, frames = 0.0285, 150
    sent, received, reliability = transmit(frames, qber, 2)
    syndromes = CODE.syndromes(sent)
    ours = decode(CODE, received, syndromes, reliability, max_iterations=60, retries=0)
    peer = ldpc.BpDecoder(MATRIX, error_rate=qber, max_iter=60, bp_method="product_sum", schedule="parallel")
    error_syndromes = syndromes ^ CODE.syndromes(received)
    peer_right = sum(
        bool(np.array_equal(peer.decode(s) ^ r, x)) for s, r, x in zip(error_syndromes, received, sent, strict=True)
    )
    right = int((ours.bits == sent).all(axis=1).sum())
    assert 0 < frames - peer_right < frames, "the comparison must be made where frames do fail"
    assert right >= peer_right - 3


def test_converged_means_the_syndrome_is_met() -> None:
    sent, received, reliability = transmit(100, 0.033, 3)
    syndromes = CODE.syndromes(sent)
    found = decode(CODE, received, syndromes, reliability, max_iterations=20, retries=0)
    met = (CODE.syndromes(found.bits) == syndromes).all(axis=1)
    assert np.array_equal(met, found.converged)
    assert 0 < found.converged.sum() < 100
    assert (found.iterations[~found.converged] == 20).all()
    assert (found.iterations[found.converged] <= 20).all()


def test_a_race_saves_frames_and_loses_none() -> None:
    sent, received, reliability = transmit(300, 0.0305, 9)
    syndromes = CODE.syndromes(sent)
    once = decode(CODE, received, syndromes, reliability, retries=0)
    raced = decode(CODE, received, syndromes, reliability)
    assert 10 < (~once.converged).sum() < 290
    assert np.array_equal(raced.bits[once.converged], once.bits[once.converged])
    saved = raced.converged & ~once.converged
    assert saved.sum() > 0.2 * (~once.converged).sum()
    assert (CODE.syndromes(raced.bits[saved]) == syndromes[saved]).all()
    assert (raced.bits[saved] == sent[saved]).all(axis=1).mean() > 0.9
    assert (raced.iterations[~raced.converged] == ITERATIONS + RETRY_ITERATIONS).all()


def test_known_positions_stay_known_in_a_race() -> None:
    """Revealed in the first decoding's last stage, they are certain from the start in the race that follows."""
    sent, received, reliability = transmit(100, 0.037, 10)
    order = CODE.modulated[: CODE.punctured][::-1]
    received[:, order] = sent[:, order]
    reliability[order] = 0
    found = decode(CODE, received, CODE.syndromes(sent), reliability, order, np.array([0, CODE.punctured]))
    raced = found.converged & (found.iterations > 2 * ITERATIONS)
    assert raced.any()
    assert np.array_equal(found.bits[raced][:, order], sent[raced][:, order])
    assert (found.stage[raced] == 1).all()


def test_a_frame_does_not_depend_on_its_neighbours() -> None:
    sent, received, reliability = transmit(53, 0.03, 4)
    syndromes = CODE.syndromes(sent)
    together = decode(CODE, received, syndromes, reliability)
    order = np.random.default_rng(0).permutation(53)
    shuffled = decode(CODE, received[order], syndromes[order], reliability)
    assert np.array_equal(together.bits[order], shuffled.bits)
    assert np.array_equal(together.iterations[order], shuffled.iterations)
    alone = decode(CODE, received[7:8], syndromes[7:8], reliability)
    assert np.array_equal(alone.bits[0], together.bits[7])


def fingerprint() -> str:
    """Of what is decoded near the waterfall, races included."""
    sent, received, reliability = transmit(40, 0.0305, 11)
    found = decode(CODE, received, CODE.syndromes(sent), reliability)
    return hashlib.sha256(found.bits.tobytes() + found.iterations.tobytes()).hexdigest()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names a CPU of this kind")
def test_a_frame_does_not_depend_on_the_cpu(tmp_path: Path) -> None:
    """Here and on the least of x86-64, whose vectors are of 128 bits."""
    environment = os.environ | {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    printed = f"import runpy; print(runpy.run_path({__file__!r})['fingerprint']())"
    elsewhere = subprocess.run([sys.executable, "-c", printed], env=environment, capture_output=True, text=True)
    assert elsewhere.stdout.strip() == fingerprint(), elsewhere.stderr


@njit
def one_check(
    posterior: np.ndarray, message: np.ndarray, variables: np.ndarray, targets: np.ndarray, scratch: np.ndarray
) -> None:
    update_check(posterior, message, np.uint32(0), variables, 0, posterior.shape[0], targets, 0, scratch)  # type: ignore[call-arg]


@pytest.mark.parametrize("degree", [2, 3, 9, 30, 120])
def test_messages_of_a_check(degree: int) -> None:
    """Close to 2 atanh of the product of tanh(q / 2), at error rates for which codes have checks of this degree."""
    rng = np.random.default_rng(degree)
    prior = np.log(3 * degree)
    sizes = rng.normal(prior, 0.5, (degree, LANES)) * rng.choice([-1, 1], (degree, LANES))
    posterior = np.rint(UNIT * sizes).astype(np.int16)
    posterior[0, 0] = 0
    inputs = np.tanh(posterior / UNIT / 2)
    message = np.zeros_like(posterior)
    variables = np.r_[np.arange(degree), np.zeros(AHEAD)].astype(np.int32)
    targets = np.array([1 << 5], np.uint32)
    one_check(posterior.copy(), message, variables, targets, np.zeros((4 * degree, LANES), np.int16))
    exact = np.array([2 * np.arctanh(np.delete(inputs, i, axis=0).prod(axis=0)) for i in range(degree)])
    exact[:, 5] *= -1
    assert (message[1:, 0] == 0).all(), "what comes from an unknown position says nothing"
    assert message / UNIT == pytest.approx(exact, rel=0.04, abs=0.05)
    size = np.abs(exact).sum()
    assert abs(np.abs(message).sum() / UNIT / size - 1) < 0.02, "without a bias that adds up"


def test_no_errors_one_iteration() -> None:
    sent, _, reliability = transmit(20, 0.02, 5)
    found = decode(CODE, sent, CODE.syndromes(sent), reliability)
    assert found.converged.all() and (found.iterations == 1).all()
    assert np.array_equal(found.bits, sent)


def test_no_frames() -> None:
    empty = np.zeros((0, CODE.n), np.uint8)
    assert decode(CODE, empty, CODE.syndromes(empty), np.ones(CODE.n, np.float32)).bits.shape == (0, CODE.n)


def test_values_of_unknown_positions_have_no_effect() -> None:
    sent, received, reliability = transmit(16, 0.015, 6)
    punctured = CODE.modulated[:200]
    reliability[punctured] = 0
    syndromes = CODE.syndromes(sent)
    other = received.copy()
    other[:, punctured] ^= 1
    first = decode(CODE, received, syndromes, reliability)
    assert np.array_equal(first.bits, decode(CODE, other, syndromes, reliability).bits)
    assert np.array_equal(first.bits, sent), "punctured values are recovered too"


def test_known_positions_are_never_changed() -> None:
    sent, received, reliability = transmit(16, 0.03, 7)
    known = CODE.modulated
    received[:, known] = sent[:, known]
    reliability[known] = KNOWN
    found = decode(CODE, received, CODE.syndromes(sent), reliability)
    assert np.array_equal(found.bits[:, known], sent[:, known])


@pytest.mark.parametrize("qber", [0.022, 0.026])
def test_revealing_helps_and_a_warm_start_saves_iterations(qber: float) -> None:
    sent, received, reliability = transmit(160, qber, 8)
    order = CODE.modulated[: CODE.punctured][::-1]
    received[:, order] = sent[:, order]
    reliability[order] = 0
    syndromes = CODE.syndromes(sent)
    ends = np.array([0, 114, 227, CODE.punctured])
    once = decode(CODE, received, syndromes, reliability, retries=0)
    steps = decode(CODE, received, syndromes, reliability, order, ends, retries=0)
    assert np.array_equal(steps.converged[steps.stage == 0], once.converged[steps.stage == 0])
    assert (once.converged & (steps.stage > 0)).sum() <= 0.2 * once.converged.sum(), "few are given up too early"
    assert steps.converged.sum() > once.converged.sum()
    patient = decode(CODE, received, syndromes, reliability, order, ends, patience=ITERATIONS, retries=0)
    assert steps.iterations.sum() < 0.8 * patient.iterations.sum()
    assert steps.converged.sum() >= patient.converged.sum() - 1
    late = np.flatnonzero(patient.converged & (patient.stage == 1))
    assert late.size > 10
    reliability[order[:114]] = KNOWN
    cold = decode(CODE, received[late], syndromes[late], reliability, retries=0)
    warm_iterations = patient.iterations[late] - ITERATIONS
    assert warm_iterations.mean() < cold.iterations.mean()
