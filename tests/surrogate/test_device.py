"""Transfers and batching, on the stand-in of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from caligo_surrogate import device
from caligo_surrogate.device import MAX_CHUNK, MIN_CHUNK, Device

from caligo.errors import InvalidArgument, ResourceExhausted


def squares(x: torch.Tensor) -> torch.Tensor:
    return x.square()


ROWS = np.arange(5000, dtype=np.float32).reshape(2500, 2)


def test_transfer_is_float32_both_ways():
    tensor = Device("cpu").to_device(np.array([[0.1]], dtype=np.float64))
    assert tensor.dtype == torch.float32
    assert Device("cpu").to_host(tensor.double()).dtype == np.float32


def test_auto_takes_what_there_is():
    assert Device("auto").is_gpu == torch.cuda.is_available()
    assert Device("cpu").name == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_says_so():
    with pytest.raises(InvalidArgument, match="device"):
        Device("cuda")


@pytest.mark.parametrize("limit", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_container_has_no_more_than_its_limit(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(device, "_CONTROL_GROUP", tmp_path)
    machine = Device("cpu").total_bytes()
    assert machine > 2**28
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    for text, total in (("max", machine), (str(2**62), machine), (str(2**28), 2**28)):
        (tmp_path / limit).write_text(text + "\n")
        assert Device("cpu").total_bytes() == total


def test_pieces_follow_the_memory_that_the_device_has(MockGPUBackend):
    backend = MockGPUBackend(memory=10 * 100 * 1000)
    np.testing.assert_array_equal(backend.in_chunks(squares, ROWS, bytes_per_row=1000), ROWS**2)
    assert {shape[0] for shape, _ in backend.uploads} == {100}
    assert len(backend.downloads) == 25


def test_pieces_are_no_larger_than_useful(MockGPUBackend):
    backend = MockGPUBackend()
    backend.in_chunks(squares, ROWS, bytes_per_row=1)
    assert max(shape[0] for shape, _ in backend.uploads) == MAX_CHUNK


def test_out_of_memory_halves_the_piece(MockGPUBackend):
    backend = MockGPUBackend(capacity=150)
    np.testing.assert_array_equal(backend.in_chunks(squares, ROWS, bytes_per_row=1), ROWS**2)
    assert {shape[0] for shape, _ in backend.uploads} <= {128, len(ROWS) % 128}


def test_out_of_memory_has_a_floor(MockGPUBackend):
    with pytest.raises(ResourceExhausted, match=str(MIN_CHUNK)):
        MockGPUBackend(capacity=MIN_CHUNK - 1).in_chunks(squares, ROWS, bytes_per_row=1)
