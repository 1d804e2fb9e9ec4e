"""The node: receives, decides, denoises and sends, each in a thread of its own, with the ledger between them.

What it says of a series in the log is its UID, never whose it is.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from ASCONDenoiseLib.errors import AsconError, Cancelled, Failure, InputError
from ASCONDenoiseLib.io.atomic import flush_folder
from ASCONDenoiseLib.models.files import find_model
from ASCONDenoiseLib.node import ledger as states
from ASCONDenoiseLib.node.config import Destination, NodeConfig
from ASCONDenoiseLib.node.facts import choose
from ASCONDenoiseLib.node.intake import Intake
from ASCONDenoiseLib.node.ledger import Delivery, Ledger, Series
from ASCONDenoiseLib.node.pictures import draw
from ASCONDenoiseLib.node.receiver import Receiver
from ASCONDenoiseLib.node.sender import NotThere, send
from ASCONDenoiseLib.node.tls import connecting
from ASCONDenoiseLib.node.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
HOUSEKEEPING_S = 30.0
FIRST_DELAY_S, LONGEST_DELAY_S = 5.0, 3600.0
"""Before another try; each is twice as long as the one before."""

DAY_S = 86400.0


class Node:
    """Works from `start` to `stop`.

    Attributes:
        config: of the node.
        ledger: of the node.
        intake: of the node.
        worker: the process that denoises.
        progress: series UID, slices done, of all, of what is being denoised; None between series.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        worker: WorkerProcess | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        first_delay_s: float = FIRST_DELAY_S,
    ):
        self.config = config
        folder = made(config.storage.folder)
        self._claim = _claimed(folder / "node.lock")
        self.ledger = Ledger(folder / "node.sqlite")
        self.intake = Intake(folder, self.ledger, config.storage.least_free_gb * 1e9, monotonic)
        self.worker = worker or WorkerProcess()
        self.progress: tuple[str, int, int] | None = None
        self._receiver = Receiver(config.listen, self.intake)
        self._monotonic = monotonic
        self._first_delay_s = first_delay_s
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._not_before: dict[str, float] = {}  # series UID or name of a destination -> monotonic seconds

    def start(self) -> None:
        """Raises InputError where it cannot listen, or where a model or a certificate is missing."""
        for rule in self.config.rules:
            if not rule.leave_alone:
                find_model(rule.model)
        for one in self.config.destinations:
            if one.tls is not None:
                connecting(one.tls)
        adopted, resumed = self.intake.adopt(), self.ledger.resume()
        if adopted:
            logger.warning("%d objects were on the disk and not in the ledger: they are now", adopted)
        for series_uid in resumed:
            logger.info("series %s was being denoised when the node ended: again", series_uid)
        self._remove_unfinished()
        now = self._monotonic()
        self.intake.last = {one.series_uid: now for one in self.ledger.in_state(states.RECEIVING)}
        self._receiver.start()
        work = [("deciding", self._decide_all), ("denoising", self._denoise_next), ("housekeeping", self._keep_house)]
        work += [(f"sending to {one.name}", partial(self._send_next, one)) for one in self.config.destinations]
        for name, step in work:
            thread = threading.Thread(target=self._repeat, args=(name, step), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        listen = self.config.listen
        logger.info("node %s listens at %s:%d", listen.ae_title, listen.address, listen.port)

    def stop(self) -> None:
        """Ends within seconds; what is unfinished goes on after the next start."""
        self._stopping.set()
        self._receiver.stop()
        self.worker.end()
        for thread in self._threads:
            thread.join(15)
        self.ledger.close()
        self._claim.close()

    def alive(self) -> list[str]:
        """Names of the threads that should work and do not."""
        return [thread.name for thread in self._threads if not thread.is_alive()]

    def speed(self) -> float:
        """Slices a second of the last series that was denoised; 0 where there is none."""
        records = (one.record for one in self.ledger.latest(20))
        return next((record["slices"] / record["seconds"] for record in records if record.get("seconds")), 0.0)

    def open_associations(self) -> int:
        return self._receiver.open_associations()

    def _repeat(self, name: str, step: Callable[[], bool]) -> None:
        """Take a step again and again, at once where it found something to do. Nothing ends it but `stop`."""
        while not self._stopping.is_set():
            found = False
            try:
                found = step()
            except Exception:
                if self._stopping.is_set():
                    return
                logger.exception("%s failed", name)
                self._stopping.wait(5)
            if not found:
                self._stopping.wait(LOOK_EVERY_S)

    # ---- deciding

    def _decide_all(self) -> bool:
        now = self._monotonic()
        for one in self.ledger.in_state(states.RECEIVING):
            quiet_s = now - self.intake.last.setdefault(one.series_uid, now)
            if quiet_s >= self.config.quiet_s or 0 < one.facts.announced <= one.objects:
                self._decide(one)
        return False

    def _decide(self, one: Series) -> None:
        self.intake.last.pop(one.series_uid, None)
        reason, rule = one.facts.why_never(), choose(self.config.rules, one.facts)
        if not reason and rule is None:
            reason = "No rule fits it."
        if not reason and rule is not None and rule.leave_alone:
            reason = f"The rule {rule.name or 'without name'} says so."
        if reason or rule is None:
            self.ledger.decide(one.series_uid, states.LEFT_ALONE, reason)
            logger.info("series %s (%d objects) is left alone: %s", one.series_uid, one.objects, reason)
            return
        receivers = self.config.receivers(rule)
        self.ledger.decide(
            one.series_uid, states.WAITING, model=rule.model, strength=rule.strength, receivers=receivers
        )
        logger.info("series %s (%d objects) waits to be denoised: rule %s", one.series_uid, one.objects, rule.name)

    # ---- denoising

    def _denoise_next(self) -> bool:
        """Whether there was something to do."""
        one = self.ledger.begin(self._delayed)
        if one is None:
            return False
        output = self.intake.result(one.series_uid, one.attempts)
        try:
            record = self._denoised(one, output)
        except InputError as error:
            self._gave_up(one, str(error), again=False)
        except Cancelled:
            logger.info("series %s: its denoising was ended, since more of it has come", one.series_uid)
        except Exception as error:
            if self._stopping.is_set():
                return False
            self._gave_up(one, _sentence(error), again=one.faults + 1 < self.config.attempts)
        else:
            if self.ledger.denoised(one.series_uid, one.attempts, record):
                logger.info("series %s was denoised, %d slices", one.series_uid, record["slices"])
            else:
                logger.info("series %s: what was made of it does not count, more of it has come", one.series_uid)
        finally:
            self.progress = None
        return True

    def _denoised(self, one: Series, output: Path) -> dict[str, object]:
        """The record of a result that lies on the disk."""
        output.parent.mkdir(parents=True, exist_ok=True)

        def progress(done: int, total: int) -> None:
            self.progress = one.series_uid, done, total
            if self.ledger.series(one.series_uid).state != states.DENOISING:
                self.worker.cancel()

        result = self.worker.do(
            "denoise_series",
            progress,
            input=str(self.intake.originals(one.series_uid)),
            output=str(output),
            series_uid=one.series_uid,
            model=one.model,
            strength=one.strength,
            device=self.config.device,
            precision=self.config.precision,
            repeatable=True,
        )
        flush_folder(output)
        flush_folder(output.parent)
        with suppress(AsconError, OSError):  # a picture is no reason to keep a result back
            draw(self.intake.originals(one.series_uid), output, self.picture(one))
        for old in output.parent.iterdir():
            if old.is_dir() and old != output:
                shutil.rmtree(old, ignore_errors=True)
        return dict(result["record"])

    def _gave_up(self, one: Series, sentence: str, *, again: bool) -> None:
        self.ledger.gave_up(one.series_uid, one.attempts, sentence, again=again)
        delay_s = self._delay(one.series_uid, one.faults) if again else 0
        after = f"; again in {delay_s:.0f} s" if again else ": it is not denoised"
        logger.warning("series %s%s: %s", one.series_uid, after, sentence)

    def picture(self, one: Series) -> Path:
        """The PNG of a result: before, after, difference."""
        return self.intake.folder / "results" / one.series_uid / "picture.png"

    # ---- sending

    def _send_next(self, destination: Destination) -> bool:
        if self._delayed(destination.name):
            return False
        ready = [one for one in self.ledger.deliveries(destination.name) if not self._delayed(one.series_uid)]
        if not ready:
            return False
        delivery = ready[0]
        files = sorted(self.intake.result(delivery.series_uid, delivery.attempts).glob("*.dcm"))
        try:
            if not files:
                raise Failure("Its result is gone from the node's folder: send the series again.")
            send(
                destination,
                self.config.listen.ae_title,
                files[delivery.sent :],
                lambda number: self._sent(delivery, delivery.sent + number, len(files)),
                self._stopping.is_set,
            )
            self._not_before.pop(destination.name, None)
        except Exception as error:
            if self._stopping.is_set():
                return False
            give_up = not files or self.ledger.up_s() - delivery.since_up_s > destination.give_up_days * DAY_S
            self.ledger.not_sent(delivery, _sentence(error), give_up=give_up)
            whose = destination.name if isinstance(error, NotThere) else delivery.series_uid
            delay_s = self._delay(whose, delivery.tries)
            after = "not sent" if give_up else f"sent again in {delay_s:.0f} s"
            logger.warning("series %s is %s: %s", delivery.series_uid, after, _sentence(error))
        return True

    def _sent(self, delivery: Delivery, number: int, total: int) -> bool:
        counts = self.ledger.sent(delivery, number, all_of_it=number == total)
        if counts and number == total:
            logger.info("series %s was sent to %s, %d images", delivery.series_uid, delivery.destination, total)
        return counts

    # ---- time

    def _delay(self, what: str, times: int) -> float:
        """Seconds before the next try, after so many that failed."""
        delay_s = min(self._first_delay_s * 2 ** min(times, 20), LONGEST_DELAY_S)
        self._not_before[what] = self._monotonic() + delay_s
        return delay_s

    def _delayed(self, what: str) -> bool:
        return self._monotonic() < self._not_before.get(what, 0)

    def _keep_house(self) -> bool:
        """Lets the node's own clock run on, and removes what has been kept for long enough."""
        started = self._monotonic()
        self._stopping.wait(HOUSEKEEPING_S)
        self.ledger.tick(self._monotonic() - started)
        self.purge()
        return True

    def purge(self) -> None:
        """Remove originals and results whose time is over."""
        storage = self.config.storage
        for series_uid in self.ledger.over_since(storage.keep_originals_days * DAY_S, with_originals=True):
            self.intake.purge(series_uid)
        longest = max(storage.keep_originals_days, storage.keep_results_days)
        for series_uid in self.ledger.over_since(longest * DAY_S, with_originals=False):
            self.ledger.forget(series_uid)
            shutil.rmtree(self.intake.folder / "results" / series_uid, ignore_errors=True)

    def _remove_unfinished(self) -> None:
        """What a killed worker left of results."""
        for left in (self.intake.folder / "results").glob("*/.*"):
            shutil.rmtree(left, ignore_errors=True)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, AsconError) else f"Unexpected error, {type(error).__name__}: {error}."


def made(folder: Path) -> Path:
    """The folder of a node, which is there from now on. InputError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"The node's folder {folder} cannot be written ({error.strerror}): let this user write there, or choose "
        "another one in [storage]."
    )


def _claimed(path: Path) -> IO[str]:
    """An open file that says that a node uses the folder. InputError where another one does."""
    try:
        file = path.open("a+")
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        pass
    except OSError:
        file.close()
        raise InputError(f"Another node uses the folder {path.parent}: end it, or choose another folder.") from None
    return file
