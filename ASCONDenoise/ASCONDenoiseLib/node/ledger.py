"""The ledger of a node: what has come, what is to be done, what has been sent. SQLite, in WAL mode.

Objects are files; the ledger says which series they belong to and how far each is:

    receiving -> waiting -> denoising -> sending -> done
                    |           |           |
                left alone    failed      failed

Every change is one transaction. A step is begun by saying so and ended by saying so; a node that was killed in between
does it again (`resume`). What the first time has left behind does not count: each attempt has a folder of its own.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.errors import Failure
from ASCONDenoiseLib.node.facts import SeriesFacts

RECEIVING, WAITING, DENOISING, SENDING, DONE = "receiving", "waiting", "denoising", "sending", "done"
LEFT_ALONE, FAILED = "left alone", "failed"
STATES = (RECEIVING, WAITING, DENOISING, SENDING, DONE, LEFT_ALONE, FAILED)
OVER = (DONE, LEFT_ALONE, FAILED)

_TOO_LATE = "More of it came after it had started anew once, and it is not taken up again."

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    sop_uid TEXT PRIMARY KEY,
    series_uid TEXT NOT NULL,
    pixels TEXT NOT NULL,
    bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS objects_of_series ON objects (series_uid);
CREATE TABLE IF NOT EXISTS series (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    series_uid TEXT UNIQUE NOT NULL,
    state TEXT NOT NULL,
    facts TEXT NOT NULL,
    came_at REAL NOT NULL,
    restarts INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    faults INTEGER NOT NULL DEFAULT 0,
    note TEXT NOT NULL DEFAULT '',
    model TEXT,
    strength REAL NOT NULL DEFAULT 1,
    receivers TEXT NOT NULL DEFAULT '[]',
    record TEXT NOT NULL DEFAULT '{}',
    over_up_s REAL,
    originals_gone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS deliveries (
    series_uid TEXT NOT NULL,
    destination TEXT NOT NULL,
    state TEXT NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    since_up_s REAL NOT NULL,
    note TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (series_uid, destination));
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), up_s REAL NOT NULL);
INSERT OR IGNORE INTO clock VALUES (1, 0);
"""


@dataclass(frozen=True)
class Series:
    """A series as the ledger has it.

    Attributes:
        number: of arrival.
        came_at: seconds since 1970 by this computer's clock; shown, and nothing else depends on it.
        restarts: how often slices came when it had been begun already.
        attempts: of denoising it, for whatever reason; each has a number of its own.
        faults: attempts that failed though the series may be right.
        note: why it failed or is left alone; what else must be told.
        model, strength, receivers: of the rule that fitted.
        record: of its result.
        objects: how many have come.
    """

    number: int
    series_uid: str
    state: str
    facts: SeriesFacts
    came_at: float
    restarts: int
    attempts: int
    faults: int
    note: str
    model: str | None
    strength: float
    receivers: tuple[str, ...]
    record: dict[str, Any]
    objects: int


@dataclass(frozen=True)
class Delivery:
    """A result on its way to a destination.

    Attributes:
        sent: how many of its files, in the order of their names, have been taken.
        tries: that failed.
        since_up_s: the node's hours when it began; see `Ledger.up_s`.
    """

    series_uid: str
    destination: str
    state: str
    sent: int
    tries: int
    since_up_s: float
    note: str
    attempts: int
    number: int


class Ledger:
    """May be used by all threads."""

    def __init__(self, path: Path):
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_TABLES)
        except sqlite3.Error as error:
            raise Failure(
                f"{path} cannot be used as the node's ledger ({error}): check its disk, and that this user may "
                "write it. A damaged one can be moved away: what lies in the node's folder is taken down anew."
            ) from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _change(self, *, flush: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction; sqlite3.Error as it comes, and nothing has changed then.

        Without `flush` it outlives the process at once, and a power cut with the next change that is flushed.
        """
        with self._lock:
            self._db.execute(f"PRAGMA synchronous={'FULL' if flush else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # ---- receiving

    def pixels_of(self, sop_uid: str) -> str | None:
        """The digest that an object came with; None where there is none of this UID."""
        rows = self._rows("SELECT pixels FROM objects WHERE sop_uid = ?", sop_uid)
        return rows[0]["pixels"] if rows else None

    def add(self, sop_uid: str, series_uid: str, pixels: str, n_bytes: int, facts: SeriesFacts, now: float) -> str:
        """Take down an object that is on the disk; returns what must be logged of a series that was begun already.

        It is not flushed: after a power cut, what lies on the disk is taken down again (`Intake.adopt`).
        """
        with self._change(flush=False) as db:
            db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (sop_uid, series_uid, pixels, n_bytes))
            row = db.execute("SELECT * FROM series WHERE series_uid = ?", (series_uid,)).fetchone()
            if row is None:
                db.execute(
                    "INSERT INTO series (series_uid, state, facts, came_at) VALUES (?, ?, ?, ?)",
                    (series_uid, RECEIVING, json.dumps(asdict(facts)), now),
                )
                return ""
            if facts.is_slice and not json.loads(row["facts"])["is_slice"]:
                text = json.dumps(asdict(facts))
                db.execute("UPDATE series SET facts = ? WHERE series_uid = ?", (text, series_uid))
            state = row["state"]
            if state == RECEIVING:
                return ""
            if row["originals_gone"]:
                self._restart(db, series_uid, restarts=0, originals_gone=0, facts=json.dumps(asdict(facts)))
                return "it has come again after its time, and is taken for new"
            if state in (WAITING, FAILED, LEFT_ALONE):
                self._restart(db, series_uid)
                return f"more of it came when it was {state}: it starts anew"
            if row["restarts"]:
                self._set(db, series_uid, note=_TOO_LATE)
                return "" if row["note"] == _TOO_LATE else _TOO_LATE
            self._restart(db, series_uid, restarts=1)
            return f"more of it came when it was {state}: it starts anew, once"

    # ---- deciding and denoising

    def decide(self, series_uid: str, state: str, note: str = "", **values: Any) -> None:
        """A series that was being received is to be denoised, with its model, strength and receivers, or left alone."""
        with self._change() as db:
            if state in OVER:
                values["over_up_s"] = self.up_s()
            self._set(db, series_uid, RECEIVING, state=state, note=note, **values)

    def begin(self, delayed: Callable[[str], bool] = lambda _: False) -> Series | None:
        """The series that has waited longest and is not `delayed`; it is being denoised from now on."""
        with self._change() as db:
            for one in self.in_state(WAITING):
                if not delayed(one.series_uid):
                    self._set(db, one.series_uid, state=DENOISING, attempts=one.attempts + 1)
                    return self.series(one.series_uid)
        return None

    def denoised(self, series_uid: str, attempt: int, record: dict[str, Any]) -> bool:
        """Its result lies on the disk and is to be sent; False where more has come meanwhile and it does not count."""
        with self._change() as db:
            text = json.dumps(record)
            if not self._set(db, series_uid, DENOISING, attempt, state=SENDING, record=text, note=""):
                return False
            one = self.series(series_uid)
            for name in one.receivers:
                db.execute(
                    "INSERT OR REPLACE INTO deliveries (series_uid, destination, state, since_up_s) "
                    "VALUES (?, ?, ?, ?)",
                    (series_uid, name, WAITING, self.up_s()),
                )
            self._settle(db, series_uid)
            return True

    def gave_up(self, series_uid: str, attempt: int, note: str, *, again: bool) -> None:
        """An attempt failed; it is to be tried `again`, or the series has failed."""
        with self._change() as db:
            over = {"faults": self.series(series_uid).faults + 1} if again else {"over_up_s": self.up_s()}
            self._set(db, series_uid, DENOISING, attempt, state=WAITING if again else FAILED, note=note, **over)

    # ---- sending

    def deliveries(self, destination: str) -> list[Delivery]:
        """What waits for a destination, in the order in which it came."""
        rows = self._rows(
            "SELECT d.*, s.attempts, s.number FROM deliveries d JOIN series s USING (series_uid) "
            "WHERE d.destination = ? AND d.state = ? AND s.state = ? ORDER BY s.number",
            destination,
            WAITING,
            SENDING,
        )
        return [Delivery(**dict(row)) for row in rows]

    def all_deliveries(self, series_uid: str) -> list[Delivery]:
        """Of a series, in any state."""
        rows = self._rows(
            "SELECT d.*, s.attempts, s.number FROM deliveries d JOIN series s USING (series_uid) WHERE series_uid = ?",
            series_uid,
        )
        return [Delivery(**dict(row)) for row in rows]

    def sent(self, delivery: Delivery, sent: int, *, all_of_it: bool) -> bool:
        """So many of its files have been taken; False where the result does not count any more."""
        with self._change() as db:
            one, state = delivery.series_uid, DONE if all_of_it else WAITING
            counts = "EXISTS (SELECT 1 FROM series WHERE series_uid = ? AND attempts = ? AND state = ?)"
            changed = db.execute(
                "UPDATE deliveries SET sent = ?, state = ?, note = '' "
                f"WHERE series_uid = ? AND destination = ? AND {counts}",
                (sent, state, one, delivery.destination, one, delivery.attempts, SENDING),
            )
            self._settle(db, delivery.series_uid)
            return bool(changed.rowcount)

    def not_sent(self, delivery: Delivery, note: str, *, give_up: bool) -> None:
        """A try failed."""
        with self._change() as db:
            db.execute(
                "UPDATE deliveries SET tries = tries + 1, note = ?, state = ? WHERE series_uid = ? AND destination = ?",
                (note, FAILED if give_up else WAITING, delivery.series_uid, delivery.destination),
            )
            self._settle(db, delivery.series_uid)

    def _settle(self, db: sqlite3.Connection, series_uid: str) -> None:
        """A series whose deliveries are all over is over, too."""
        rows = db.execute("SELECT state, destination FROM deliveries WHERE series_uid = ?", (series_uid,)).fetchall()
        if any(row["state"] == WAITING for row in rows):
            return
        failed = [row["destination"] for row in rows if row["state"] == FAILED]
        note = f"Not taken by {', '.join(failed)}." if failed else ""
        self._set(db, series_uid, SENDING, state=FAILED if failed else DONE, note=note, over_up_s=self.up_s())

    # ---- looking

    def series(self, series_uid: str) -> Series:
        """KeyError where there is none."""
        found = self._series("WHERE series_uid = ?", series_uid)
        if not found:
            raise KeyError(series_uid)
        return found[0]

    def in_state(self, *states: str) -> list[Series]:
        """In the order in which they came."""
        return self._series(f"WHERE state IN ({', '.join('?' * len(states))}) ORDER BY number", *states)

    def latest(self, count: int) -> list[Series]:
        """The last that came, the newest first."""
        return self._series("ORDER BY number DESC LIMIT ?", count)

    def counts(self) -> dict[str, int]:
        """How many series are in each state."""
        rows = self._rows("SELECT state, COUNT(*) AS n FROM series GROUP BY state")
        return dict.fromkeys(STATES, 0) | {row["state"]: row["n"] for row in rows}

    def _series(self, where: str, *values: Any) -> list[Series]:
        rows = self._rows(
            "SELECT *, (SELECT COUNT(*) FROM objects o WHERE o.series_uid = series.series_uid) AS objects "
            f"FROM series {where}",
            *values,
        )
        return [_as_series(dict(row)) for row in rows]

    # ---- the node's own time, restart, retention

    def up_s(self) -> float:
        """Seconds that nodes have run on this ledger: a clock that no one can set."""
        return float(self._rows("SELECT up_s FROM clock")[0]["up_s"])

    def tick(self, seconds: float) -> None:
        """The node has run on."""
        with self._change() as db:
            db.execute("UPDATE clock SET up_s = up_s + ?", (seconds,))

    def resume(self) -> list[str]:
        """After a restart: what was being denoised waits again. Returns its UIDs."""
        with self._change() as db:
            rows = db.execute("SELECT series_uid FROM series WHERE state = ?", (DENOISING,)).fetchall()
            db.execute("UPDATE series SET state = ? WHERE state = ?", (WAITING, DENOISING))
        return [row["series_uid"] for row in rows]

    def retry(self, series_uid: str | None = None) -> list[str]:
        """What has failed is received anew, without new objects: it is decided and denoised again. Returns its UIDs.

        What has lost its originals meanwhile stays as it is.
        """
        with self._change() as db:
            rows = db.execute(
                "SELECT series_uid FROM series "
                "WHERE state = ? AND originals_gone = 0 AND (? IS NULL OR series_uid = ?)",
                (FAILED, series_uid, series_uid),
            ).fetchall()
            for row in rows:
                self._restart(db, row["series_uid"])
        return [row["series_uid"] for row in rows]

    def over_since(self, seconds: float, *, with_originals: bool) -> list[str]:
        """UIDs of the series that have been over for so long, by `up_s`; all, or those whose originals are here."""
        condition = "originals_gone = 0 AND" if with_originals else ""
        rows = self._rows(f"SELECT series_uid FROM series WHERE {condition} over_up_s <= ?", self.up_s() - seconds)
        return [row["series_uid"] for row in rows]

    def drop_objects(self, series_uid: str) -> bool:
        """The originals of a series that is over are to go; False where it is not over any more."""
        with self._change() as db:
            gone = "UPDATE series SET originals_gone = 1 WHERE series_uid = ? AND over_up_s IS NOT NULL"
            if not db.execute(gone, (series_uid,)).rowcount:
                return False
            db.execute("DELETE FROM objects WHERE series_uid = ?", (series_uid,))
            return True

    def forget(self, series_uid: str) -> None:
        """All that is known of a series that is over."""
        with self._change() as db:
            for table in ("objects", "deliveries", "series"):
                db.execute(f"DELETE FROM {table} WHERE series_uid = ?", (series_uid,))

    def _restart(self, db: sqlite3.Connection, series_uid: str, **to: Any) -> None:
        db.execute("DELETE FROM deliveries WHERE series_uid = ?", (series_uid,))
        self._set(db, series_uid, state=RECEIVING, note="", faults=0, over_up_s=None, **to)

    def _set(
        self,
        db: sqlite3.Connection,
        series_uid: str,
        state_now: str | None = None,
        attempt: int | None = None,
        **to: Any,
    ) -> bool:
        """Set columns of a series, where it is in a state, or at an attempt; whether it was."""
        columns = ", ".join(f"{name} = ?" for name in to)
        where, values = "series_uid = ?", [*(_stored(value) for value in to.values()), series_uid]
        if state_now is not None:
            where, values = f"{where} AND state = ?", [*values, state_now]
        if attempt is not None:
            where, values = f"{where} AND attempts = ?", [*values, attempt]
        return bool(db.execute(f"UPDATE series SET {columns} WHERE {where}", values).rowcount)


def _stored(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _as_series(row: dict[str, Any]) -> Series:
    row["facts"] = SeriesFacts(**json.loads(row["facts"]))
    row["receivers"], row["record"] = tuple(json.loads(row["receivers"])), json.loads(row["record"])
    del row["over_up_s"], row["originals_gone"]
    return Series(**row)
