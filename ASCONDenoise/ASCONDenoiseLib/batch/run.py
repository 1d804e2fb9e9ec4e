"""A batch: what is to be done, handed out to Dask's workers, a row for each scan.

`distributed` schedules: a cluster on this computer, or one that exists. A worker that dies costs a retry of its scan.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.batch.done import Done, How
from ASCONDenoiseLib.batch.find import Scan, find_scans
from ASCONDenoiseLib.batch.table import write_tables
from ASCONDenoiseLib.batch.work import FAILED, LEFT_ALONE, THERE, Row, denoise_one
from ASCONDenoiseLib.errors import Cancelled
from ASCONDenoiseLib.io.atomic import remove_partial
from ASCONDenoiseLib.models.files import find_model, verify
from ASCONDenoiseLib.models.suitability import done_before
from ASCONDenoiseLib.node.config import Rule
from ASCONDenoiseLib.node.facts import SeriesFacts, choose

if TYPE_CHECKING:
    from distributed import Client

CORES_OF_A_WORKER = 4
AHEAD = 2
"""Scans that a worker is given at once: the next is there when one is done."""

THUMBNAILS = "thumbnails"


@dataclass(frozen=True)
class BatchSettings:
    """What is done with scans that no rule is about, and where.

    Attributes:
        rules: as the node's; the first that fits decides, and with rules, what none fits is left alone.
        workers: processes; None: one per GPU, or one per CORES_OF_A_WORKER.
        scheduler: address of a cluster that exists; None: one is started here.
    """

    model: str | None = None
    strength: float = 1.0
    device: str = "auto"
    precision: str = "auto"
    rules: tuple[Rule, ...] | None = None
    workers: int | None = None
    scheduler: str | None = None


@dataclass(frozen=True)
class _Task:
    source: str
    request: dict[str, Any]
    thumbnail: str


def run_batch(
    source: Path,
    output: Path,
    settings: BatchSettings,
    progress: Callable[[int, int], None] = lambda *_: None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Denoise all below `source` into `output`, whose tables are written on the way.

    Args:
        source: a folder.
        output: a folder, new or that of an earlier run, which goes on.
        settings: of the batch.
        progress: called with scans that are over, of all.
        note: called with remarks.

    Returns:
        A row for each scan, in the order in which they were found.

    Raises:
        InputError: source, model or rules cannot be used.
        Cancelled: Ctrl-C twice; the tables hold what was done.
    """
    output.mkdir(parents=True, exist_ok=True)
    scans = list(find_scans(source, output.resolve()))
    done, rows, tasks = Done(output), {}, []
    models: dict[str | None, str] = {}
    for number, scan in enumerate(scans):
        name = (scan.path if scan.series_uid is None else scan.path / scan.series_uid).relative_to(source).as_posix()
        rule = _rule(scan, settings)
        if isinstance(rule, str):
            rows[number] = Row(name, LEFT_ALONE, reason=rule)
            continue
        if rule.model not in models:
            models[rule.model] = verify(find_model(rule.model)).sha256
        there = done.result_of(scan, How.of(models[rule.model], rule.strength))
        if there is not None:
            rows[number] = Row(name, THERE, str(there), strength=rule.strength)
        else:
            tasks.append((number, _task(name, scan, rule, output, settings, number)))
    if scans:
        progress(len(rows), len(scans))
    if tasks:
        with _interruptible(note) as interrupted, _cluster(settings, output) as client:
            for number, row in _work(client, tasks, interrupted):
                rows[number] = row
                progress(len(rows), len(scans))
                if len(rows) % 100 == 0:
                    write_tables([rows[i] for i in sorted(rows)], output)
    ordered = [rows[i] for i in sorted(rows)]
    write_tables(ordered, output)
    return ordered


def _rule(scan: Scan, settings: BatchSettings) -> Rule | str:
    """What is done with a scan, or why nothing is."""
    known = dict(scan.known)
    if sentence := done_before(known):
        return sentence
    if settings.rules is None:
        return Rule(model=settings.model, strength=settings.strength)
    rule = choose(settings.rules, SeriesFacts("", known, True, False))
    if rule is None:
        return "No rule fits it."
    return f"The rule {rule.name or 'without name'} says so." if rule.leave_alone else rule


def _task(name: str, scan: Scan, rule: Rule, output: Path, settings: BatchSettings, number: int) -> _Task:
    place = output / scan.place
    tries = 1
    while os.path.lexists(place):  # a result made in another way: it stays
        tries += 1
        stem, suffix = scan.place.name.partition(".")[::2] if scan.series_uid is None else (scan.place.name, "")
        place = output / scan.place.with_name(f"{stem}-{tries}{'.' + suffix if suffix else ''}")
    request = {
        "input": str(scan.path.resolve()),
        "output": str(place.resolve()),
        "series_uid": scan.series_uid or None,
        "model": rule.model,
        "strength": rule.strength,
        "device": settings.device,
        "precision": settings.precision,
    }
    return _Task(name, request, str((output / THUMBNAILS / f"{number:06}.png").resolve()))


def _work(client: Client, tasks: list[tuple[int, _Task]], interrupted: threading.Event) -> Iterator[tuple[int, Row]]:
    """Hand out the tasks, a few ahead of the work; none any more once interrupted."""
    from distributed import as_completed

    waiting = iter(tasks)
    running: dict[Any, tuple[int, _Task]] = {}

    def hand_out(count: int) -> list[Any]:
        new = []
        for number, task in waiting if count and not interrupted.is_set() else ():
            future = client.submit(denoise_one, task.source, task.request, task.thumbnail, pure=False)
            running[future] = number, task
            new.append(future)
            if len(new) == count:
                break
        return new

    def wanted() -> int:
        return max(1, AHEAD * len(client.scheduler_info(n_workers=-1)["workers"])) - len(running)

    finished = as_completed(hand_out(wanted()))
    try:
        for future in finished:
            number, task = running.pop(future)
            error = future.exception()
            yield number, Row(task.source, FAILED, reason=_died(error)) if error else future.result()
            finished.update(hand_out(max(wanted(), 0)))
    except (KeyboardInterrupt, GeneratorExit):
        client.close(timeout=1)
        for _, task in running.values():
            remove_partial(Path(task.request["output"]))
        raise


def _died(error: BaseException) -> str:
    return f"The process that denoised it died, again and again ({type(error).__name__}): too little memory?"


@contextmanager
def _interruptible(note: Callable[[str], None]) -> Iterator[threading.Event]:
    """Ctrl-C sets the event, and a second one ends the work at once."""
    interrupted = threading.Event()

    def handle(*_: object) -> None:
        if interrupted.is_set():
            raise Cancelled("Interrupted; nothing is half written, and the same command goes on.")
        interrupted.set()
        note("what is running is finished; Ctrl-C again ends at once")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _cluster(settings: BatchSettings, output: Path) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    with ExitStack() as open_things:
        open_things.enter_context(environment_kept())
        if settings.scheduler:
            yield open_things.enter_context(Client(settings.scheduler))
            return
        count, threads = _workers(settings)
        scratch = open_things.enter_context(tempfile.TemporaryDirectory())
        quiet = {"distributed.logging.distributed": "critical", "distributed.scheduler.allowed-failures": 2}
        open_things.enter_context(dask.config.set(quiet))
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            local_directory=scratch,
            memory_limit=0,
            silence_logs=50,
            env={"ASCON_THREADS": str(threads)},
        )
        yield open_things.enter_context(Client(open_things.enter_context(cluster)))


@contextmanager
def environment_kept() -> Iterator[None]:
    """Dask's nannies write OMP_NUM_THREADS=1 and the like into this process's environment: not for those who come after."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _workers(settings: BatchSettings) -> tuple[int, int]:
    """How many processes, and threads of each."""
    cores = os.cpu_count() or 1
    if settings.workers is not None:
        return settings.workers, max(1, cores // settings.workers)
    gpus = _gpus() if settings.device == "auto" else 0
    count = gpus or max(1, cores // CORES_OF_A_WORKER)
    return count, max(1, cores // count)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
