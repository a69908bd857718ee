"""The shipped pool: what the files hold is what the distributions and the manifest say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from caligo_simulator.protocol.reconciliation import CodeFileError, codes, modulated_bits, payload_bits
from caligo_simulator.protocol.reconciliation.codes import Code
from caligo_simulator.protocol.reconciliation.plans import error_rates

from tools.codes.build import MODULATED_DEGREE, mother_code, payload_degrees, rank
from tools.codes.distributions import payload_distribution
from tools.codes.peg import node_degrees

POOL = [(n, rate) for n in codes.FRAME_SIZES for rate in codes.RATES]


def matrix(code: Code) -> sp.csr_matrix:
    ones = np.ones(code.check_variables.size, np.int64)
    return sp.csr_matrix((ones, code.check_variables, code.check_start), shape=(code.m, code.n))


@pytest.mark.parametrize(("n", "rate"), POOL)
def test_structure(n: int, rate: float) -> None:
    code = codes.load(n, rate)
    h = matrix(code)
    assert h.shape == (round(n * (1 - rate)), n)
    assert h.max() == 1, "no double edge"
    degrees = np.asarray(h.sum(axis=0)).ravel()
    payload = degrees[code.payload]
    assert np.array_equal(np.sort(payload), payload_degrees(n, rate, payload_distribution(n, rate)))
    as_published = node_degrees(payload_distribution(n, rate), code.payload.size)
    assert np.count_nonzero(payload > 3) == np.count_nonzero(as_published > 3)
    if n > 4096:
        assert np.count_nonzero(payload == 2) < code.m
    assert (degrees[code.modulated] == MODULATED_DEGREE).all()
    checks = np.asarray(h.sum(axis=1)).ravel()
    assert checks.max() - checks.min() <= 4
    shared = sp.triu(h @ h.T, 1).data
    four_cycles = int((shared * (shared - 1) // 2).sum())
    assert four_cycles == codes.manifest()[codes.name(n, rate)]["four_cycles"]
    if rate <= 0.75:
        assert four_cycles == 0, "where there is room for it, no two checks share two variables"
        shares = np.asarray(h[:, code.payload].sum(axis=1)).ravel()
        assert shares.max() - shares.min() <= 1, "every check has its share of the payload, modulated positions or not"


@pytest.mark.parametrize(("n", "rate"), POOL)
def test_positions(n: int, rate: float) -> None:
    code = codes.load(n, rate)
    assert code.modulated.size == modulated_bits(n)
    assert code.payload.size == payload_bits(n)
    assert np.array_equal(np.sort(np.concatenate([code.payload, code.modulated])), np.arange(n))
    assert code.punctured == min(code.modulated.size, code.m // MODULATED_DEGREE)
    assert error_rates(n)[rate].punctured[-1] == code.punctured, "the measurement belongs to this code"


@pytest.mark.parametrize(("n", "rate"), POOL)
def test_punctured_columns_mask_as_many_syndrome_bits(n: int, rate: float) -> None:
    """No check sees two of them, hence they are independent: p private bits hide p bits of the syndrome."""
    code = codes.load(n, rate)
    columns = matrix(code)[:, code.modulated[: code.punctured]]
    assert np.asarray(columns.sum(axis=1)).max() <= 1
    transposed = columns.T.tocsr()
    start = transposed.indptr.astype(np.int32)
    nothing = np.zeros(0, np.int32)
    assert rank(Code(code.m, start, transposed.indices.astype(np.int32), nothing, 0)) == code.punctured


@pytest.mark.parametrize("rate", [0.5, 0.75, 0.95])
def test_rank_is_the_one_stated(rate: float) -> None:
    code = codes.load(4096, rate)
    assert rank(code) == codes.manifest()[codes.name(4096, rate)]["rank"] == code.m


def test_rank_of_a_matrix_with_dependent_rows() -> None:
    start = np.array([0, 2, 4, 6], np.int32)
    variables = np.array([0, 1, 1, 2, 0, 2], np.int32)
    assert rank(Code(4, start, variables, np.zeros(0, np.int32), 0)) == 2


@pytest.mark.parametrize("rate", [0.85, 0.95])
def test_files_can_be_made_again(rate: float) -> None:
    seed = codes.manifest()[codes.name(4096, rate)]["seed"]
    again = mother_code(4096, rate, payload_distribution(4096, rate), seed)
    shipped = codes.load(4096, rate)
    assert np.array_equal(again.check_start, shipped.check_start)
    assert np.array_equal(again.check_variables, shipped.check_variables)
    assert np.array_equal(again.modulated, shipped.modulated)


def test_files_are_small() -> None:
    sizes = [path.stat().st_size for path in codes.DATA.iterdir()]
    assert max(sizes) < 2 << 20
    assert sum(p.stat().st_size for p in codes.DATA.glob("ldpc_4096_*.npz")) < 2 << 20


@pytest.fixture
def pool_copy(tmp_path: Path) -> Path:
    for path in (codes.DATA / "manifest.json", codes.DATA / f"{codes.name(4096, 0.9)}.npz"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_a_good_copy_loads(pool_copy: Path) -> None:
    assert codes.load(4096, 0.9, pool_copy).m == 410


def test_one_flipped_bit_is_noticed(pool_copy: Path) -> None:
    path = pool_copy / f"{codes.name(4096, 0.9)}.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CodeFileError, match="checksum"):
        codes.load(4096, 0.9, pool_copy)


def test_missing_files_are_named(pool_copy: Path) -> None:
    with pytest.raises(CodeFileError, match="ldpc_4096_50"):
        codes.load(4096, 0.5, pool_copy)
    with pytest.raises(CodeFileError, match=r"0\.42"):
        codes.load(4096, 0.42, pool_copy)
    with pytest.raises(CodeFileError, match="manifest"):
        codes.load(4096, 0.5, pool_copy / "nowhere")
