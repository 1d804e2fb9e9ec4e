"""Dask's workers: those of this computer, or those of a cluster that exists."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from ASCONDenoiseLib.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, SpecCluster

CORES_OF_A_WORKER = 4

NEVER = "1000 days"
"""After 15 s, as Dask has it, a worker that died and takes longer to start again is given up: nobody works any more."""

DEATHS = 3
"""A scan whose worker has died so often is not tried again."""


@contextmanager
def cluster_here(workers: int | None, device: str) -> Iterator[Client]:
    """Workers on this computer, each a process: it may die, which costs a retry of its scan.

    They are killed where the block ends with an exception, and what they were writing stays half written.

    Args:
        workers: how many; None: one per GPU, or one per CORES_OF_A_WORKER.
        device: as in `devices.pick_device`.
    """
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    environments = _environments(workers, device)
    here = "127.0.0.1"
    with ExitStack() as open_things:
        open_things.enter_context(environment_kept())
        scratch = open_things.enter_context(tempfile.TemporaryDirectory())
        settings = {
            "distributed.logging.distributed": "critical",
            "distributed.scheduler.allowed-failures": DEATHS - 1,
            "distributed.deploy.lost-worker-timeout": NEVER,
        }
        open_things.enter_context(dask.config.set(settings))
        options = {"host": here, "nthreads": 1, "memory_limit": 0, "local_directory": scratch, "silence_logs": 50}
        with _deaf_to_ctrl_c():
            cluster = SpecCluster(
                scheduler={"cls": Scheduler, "options": {"host": here, "dashboard_address": f"{here}:0"}},
                workers={
                    number: {"cls": Nanny, "options": {**options, "env": environment}}
                    for number, environment in enumerate(environments)
                },
                silence_logs=50,
            )
        open_things.enter_context(cluster)
        try:
            yield open_things.enter_context(Client(cluster))
        except BaseException:
            cluster.sync(_kill, cluster)
            raise


@contextmanager
def cluster_at(address: str) -> Iterator[Client]:
    """The workers of a scheduler that exists.

    Raises:
        InputError: it does not answer.
    """
    from distributed import Client

    with environment_kept():
        try:
            client = Client(address)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, or give the "
                "address that it prints, such as tcp://head:8786."
            ) from None
        with client:
            yield client


async def _kill(cluster: SpecCluster) -> None:
    for nanny in cluster.workers.values():
        await nanny.close(timeout=0.2)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Threads and processes that start in the block never get SIGINT, nor do those that they start.

    A terminal sends it to every process of a command. Windows has no such mask.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing's, whose start takes the mask off again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def environment_kept() -> Iterator[None]:
    """Dask's nannies write OMP_NUM_THREADS=1 and the like into the environment: not for whoever comes after."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _environments(workers: int | None, device: str) -> list[dict[str, str]]:
    """Environment variables of each worker: its GPU where it has one to itself, and its share of the cores."""
    cores = os.cpu_count() or 1
    gpus = _gpus() if device == "auto" else []
    count = workers or len(gpus) or max(1, cores // CORES_OF_A_WORKER)
    threads = {"ASCON_THREADS": str(max(1, cores // count))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(count)]


def _gpus() -> list[str]:
    """Names of the GPUs as CUDA_VISIBLE_DEVICES has them."""
    import torch

    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible or [str(number) for number in range(torch.cuda.device_count())]
