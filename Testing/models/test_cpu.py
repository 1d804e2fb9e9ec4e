"""What torch computes with on the CPU, and how many threads a volume gets."""

from __future__ import annotations

import logging
import types

import numpy as np
import pytest
import torch
from torch import nn

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models import cpu
from ASCONDenoiseLib.models.inference import denoise
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet

SLOW = "without an optimised library"
USERS = ("ASCON_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture
def threads(monkeypatch):
    """torch's number of threads, which starts as 8 and which nobody has decided; no thread is really made."""
    state = types.SimpleNamespace(number=8, seen=[])
    for name in USERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: state.number)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: setattr(state, "number", number))
    return state


@pytest.fixture
def a_pace(monkeypatch, threads):
    """A clock and a network of which a slice takes as long as `pace.seconds` has it for the threads in use."""
    pace = types.SimpleNamespace(now=0.0, seconds={8: 1.0, 4: 1.0, 1: 1.0})
    monkeypatch.setattr(cpu, "time", types.SimpleNamespace(monotonic=lambda: pace.now))

    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            threads.seen.append(threads.number)
            pace.now += pace.seconds[threads.number] * (5 if len(threads.seen) == 1 else 1)  # the first one is slow
            return x - 0.01

    pace.network = Network()
    return pace


def run(pace: types.SimpleNamespace, slices: int = 30, **options: object) -> np.ndarray:
    return denoise(np.zeros((slices, 16, 16), np.float32), pace.network, device="cpu", **options).voxels


@pytest.mark.parametrize(
    ("seconds", "tried", "kept"),
    [
        ({8: 1.0, 4: 2.0, 1: 8.0}, [8, 8, 8, 4], 8),  # an idle machine loses one slice's time
        ({8: 1.0, 4: 0.9, 1: 0.1}, [8, 8, 8, 4, 4], 8),  # less than WORTH may be chance
        ({8: 2.0, 4: 1.0, 1: 1.1}, [8, 8, 8, 4, 4, 1, 1], 4),
        ({8: 9.0, 4: 3.0, 1: 1.0}, [8, 8, 8, 4, 4, 1, 1], 1),
    ],
)
def test_the_first_slices_tell_how_many_threads_are_fastest(a_pace, threads, caplog, seconds, tried, kept):
    a_pace.seconds = seconds
    with caplog.at_level(logging.INFO):
        voxels = run(a_pace)
    assert threads.seen == tried + [kept] * (30 - len(tried))
    assert threads.number == 8  # as before, for whatever comes next
    assert f"{kept} of 8 threads were fastest" in caplog.text
    assert (voxels == voxels[0, 0, 0]).all()


def test_a_hiccup_of_one_slice_decides_nothing():
    trial = cpu.thread_trial(2)
    assert [next(trial), trial.send(9.0), trial.send(30.0)] == [2, 2, 2]
    assert trial.send(1.0) == 1  # of two slices with all threads the faster counts
    with pytest.raises(StopIteration) as end:
        trial.send(1.9)
    assert end.value.value == 2


def test_two_threads_have_one_step_only():
    trial = cpu.thread_trial(2)
    assert [next(trial), *(trial.send(2.0) for _ in range(3)), trial.send(1.0)] == [2, 2, 2, 1, 1]
    with pytest.raises(StopIteration) as end:
        trial.send(1.0)
    assert end.value.value == 1


@pytest.mark.parametrize("options", [{"slices": 23}, {"slices": 46, "batch": 2}, {"slices": 1}])
def test_few_slices_are_not_worth_a_trial(a_pace, threads, options):
    a_pace.seconds = {8: 9.0}
    run(a_pace, **options)
    assert set(threads.seen) == {8}


@pytest.mark.parametrize("name", USERS)
def test_the_users_number_wins(a_pace, threads, monkeypatch, name):
    monkeypatch.setenv(name, "4")
    a_pace.seconds = {8: 9.0, 4: 3.0, 1: 1.0}
    run(a_pace)
    assert set(threads.seen) == {4 if name == "ASCON_THREADS" else 8}  # torch has seen to the others itself
    assert threads.number == 8


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5"])
def test_a_number_of_threads_that_is_none(a_pace, monkeypatch, value):
    monkeypatch.setenv("ASCON_THREADS", value)
    with pytest.raises(InputError, match="ASCON_THREADS is a number of threads"):
        run(a_pace)


def test_cancelling_in_the_middle_of_the_trial_leaves_the_threads_as_they_were(a_pace, threads):
    a_pace.seconds = {8: 9.0, 4: 1.0, 1: 1.0}
    with pytest.raises(Exception, match="Cancelled after 4"):
        run(a_pace, cancelled=lambda: len(threads.seen) == 4)
    assert threads.seen[-1] == 4 and threads.number == 8


def test_the_number_of_threads_moves_a_result_by_less_than_0_001_hu():
    torch.manual_seed(0)
    network = ESAUNet()
    voxels = np.random.default_rng(0).normal(40, 30, (1, 64, 64)).astype(np.float32)
    before, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(denoise(voxels, network, device="cpu").voxels)
    finally:
        torch.set_num_threads(before)
    assert abs(results[0] - results[1]).max() < 0.001


@pytest.mark.parametrize(
    ("settings", "maps", "blas", "fast"),
    [
        ("BLAS_INFO=mkl, BUILD", "", "mkl", True),
        ("BLAS_INFO=open, BUILD", "", "open", True),
        ("BLAS_INFO=accelerate, BUILD", "", "accelerate", True),
        ("BLAS_INFO=generic, BUILD", "", "generic", False),
        ("BLAS_INFO=eigen, BUILD", "", "eigen", False),
        (
            "BLAS_INFO=generic",
            "7f r-xp 1 /usr/lib/x/blas/libblas.so.3.12.0\n",
            "/usr/lib/x/blas/libblas.so.3.12.0",
            False,
        ),
        (
            "BLAS_INFO=generic",
            "7f r-xp 1 /opt/numpy.libs/libscipy_openblas64_.so\n7f r-xp 1 /usr/lib/x/openblas-pthread/libblas.so.3\n",
            "/usr/lib/x/openblas-pthread/libblas.so.3",
            True,
        ),
        ("nothing of it", "", "generic", False),
    ],
)
def test_a_blas_without_optimisation_is_told(monkeypatch, settings, maps, blas, fast):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    monkeypatch.setattr(torch.__config__, "show", lambda: f"PyTorch built with:\n  - Build settings: {settings}")
    monkeypatch.setattr(cpu.Path, "read_text", lambda path: maps)
    assert cpu.torch_blas() == blas
    assert (SLOW in cpu.slow_blas()) is not fast and (f"BLAS: {blas})" in cpu.slow_blas()) is not fast


def test_instruction_sets_are_named(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    monkeypatch.setattr(cpu, "mixed_dtype", lambda device: torch.bfloat16)
    assert cpu.instruction_sets() == "AVX512, AMX, bf16 in use"
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # as in older versions
    monkeypatch.setattr(cpu, "mixed_dtype", lambda device: None)
    for flags, told in (("fpu amx_tile avx2", "AVX512, AMX, bf16 not in use"), ("fpu", "AVX512, bf16 not in use")):
        monkeypatch.setattr(cpu.Path, "read_text", lambda path, flags=flags: f"processor : 0\nflags : {flags}\n")
        assert cpu.instruction_sets() == told


def test_the_log_says_once_what_there_is_to_compute_with(monkeypatch, caplog):
    cpu.log_cpu.cache_clear()
    monkeypatch.setattr(cpu, "slow_blas", lambda: "It is slow.")
    with caplog.at_level(logging.INFO):
        cpu.log_cpu()
        cpu.log_cpu()
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.records[0].getMessage().startswith(f"torch {torch.__version__}, BLAS ")
    assert " processors" in caplog.text
    cpu.log_cpu.cache_clear()
