"""A batch: what is to be done, handed out to Dask's workers, a row for each scan.

`distributed` schedules: a cluster on this computer, or one that exists. A worker that dies costs a retry of its scan.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.batch.cluster import cluster_at, cluster_here
from ASCONDenoiseLib.batch.done import Done, How
from ASCONDenoiseLib.batch.find import Scan, find_scans
from ASCONDenoiseLib.batch.table import write_tables
from ASCONDenoiseLib.batch.work import FAILED, LEFT_ALONE, THERE, Row, denoise_one, remove_unfinished
from ASCONDenoiseLib.errors import Cancelled, Failure
from ASCONDenoiseLib.models.files import find_model, verify
from ASCONDenoiseLib.models.suitability import done_before
from ASCONDenoiseLib.node.config import Rule
from ASCONDenoiseLib.node.facts import SeriesFacts, choose

if TYPE_CHECKING:
    from distributed import Client

ROWS_BETWEEN_TABLES = 100
THUMBNAILS = "thumbnails"
GOES_ON = "the same command goes on."


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
        Cancelled: Ctrl-C; once lets what runs end, twice does not. The tables hold what was done.
        Failure: the scheduler of a cluster is gone.
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
        running: dict[Any, tuple[int, _Task]] = {}
        try:
            with _interruptible(note) as interrupted, _cluster(settings) as client:
                for number, row in _work(client, tasks, interrupted, running):
                    rows[number] = row
                    progress(len(rows), len(scans))
                    if len(rows) % ROWS_BETWEEN_TABLES == 0:
                        write_tables(_ordered(rows), output)
        except BaseException:
            write_tables(_ordered(rows), output)
            if settings.scheduler is None:  # the workers of a cluster end what they are at
                for _, task in running.values():
                    remove_unfinished(Path(task.request["output"]), Path(task.thumbnail))
            raise
    write_tables(_ordered(rows), output)
    if len(rows) < len(scans):
        raise Cancelled(f"Interrupted with {len(rows)} of {len(scans)} scans done or looked at; {GOES_ON}")
    return _ordered(rows)


def _ordered(rows: dict[int, Row]) -> list[Row]:
    return [rows[number] for number in sorted(rows)]


def _cluster(settings: BatchSettings) -> AbstractContextManager[Client]:
    if settings.scheduler is not None:
        return cluster_at(settings.scheduler)
    return cluster_here(settings.workers, settings.device)


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
        "model": _for_all_workers(rule.model),
        "strength": rule.strength,
        "device": settings.device,
        "precision": settings.precision,
    }
    return _Task(name, request, str((output / THUMBNAILS / f"{number:06}.png").resolve()))


def _for_all_workers(model: str | None) -> str | None:
    """A model's name as it is, and a path so that it means the same in another folder."""
    return str(Path(model).resolve()) if model is not None and Path(model).is_file() else model


def _work(
    client: Client, tasks: list[tuple[int, _Task]], interrupted: threading.Event, running: dict[Any, tuple[int, _Task]]
) -> Iterator[tuple[int, Row]]:
    """Hand out the tasks, one for each worker that there is: its death, or Ctrl-C, concerns no other scan.

    Results are fetched when they are there, since those of a worker that dies are lost.

    Args:
        client: of the workers.
        tasks: with their numbers.
        interrupted: nothing is handed out any more once it is set.
        running: what is handed out and not over; future -> task.

    Raises:
        Failure: the scheduler is gone.
    """
    from distributed import as_completed

    waiting = iter(tasks)

    def hand_out() -> list[Any]:
        count = max(1, len(client.nthreads())) - len(running)
        new = {}
        for number, task in itertools.islice(waiting, 0 if interrupted.is_set() else max(0, count)):
            new[client.submit(denoise_one, task.source, task.request, task.thumbnail, pure=False)] = number, task
        running.update(new)
        return list(new)

    finished = as_completed(hand_out(), with_results=True, raise_errors=False)
    for future, result in finished:
        if future.cancelled():
            raise Failure(f"The Dask scheduler is gone. Start it again; {GOES_ON}")
        number, task = running.pop(future)
        del future  # else Dask keeps its result on the worker, and does the scan again should that die
        finished.update(hand_out())
        yield number, result if isinstance(result, Row) else Row(task.source, FAILED, reason=_died(result[1]))


def _died(error: BaseException) -> str:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return "The process that denoised it died, again and again: too little memory?"
    return f"No worker could begin with it ({type(error).__name__}: {error}): is ASCON installed there?"


@contextmanager
def _interruptible(note: Callable[[str], None]) -> Iterator[threading.Event]:
    """Ctrl-C sets the event, and a second one ends the work at once."""
    interrupted = threading.Event()

    def handle(*_: object) -> None:
        if interrupted.is_set():
            raise Cancelled(f"Interrupted; nothing is half written, and {GOES_ON}")
        interrupted.set()
        note("what is running is finished; Ctrl-C again ends at once")

    if threading.current_thread() is not threading.main_thread():  # which alone may have handlers
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
