"""kill -9 while the node receives, denoises or sends: after a restart each series comes through exactly once."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from dicom_fixtures import make_ct_series
from node_fixtures import SHIFT_HU, NodeProcess, Orthanc, configuration, free_port, storescu, to, wait_for
from pydicom.uid import generate_uid

from ASCONDenoiseLib.io.reading import read_volume

pytestmark = pytest.mark.slow  # real programs on real ports, minutes in all; a busy machine makes them late


class Killed:
    """A node process, its ledger as another process sees it, and a series for it."""

    def __init__(self, folder: Path, model: Path, orthanc: Orthanc):
        self.folder, self.orthanc, self.port = folder, orthanc, free_port()
        self.node = NodeProcess(configuration(folder, self.port, model, to(orthanc.dicom_port), quiet_s="6"))

    def series(self, slices: int, side: int = 32) -> None:
        self.study, self.uid = generate_uid(), generate_uid()
        self.voxels = np.random.default_rng(0).integers(-900, 1900, (slices, side, side)).astype(np.int16)
        uids = {"study_uid": self.study, "series_uid": self.uid}
        self.files = make_ct_series(self.folder / "s", voxels_hu=self.voxels, **uids)

    def asked(self, sql: str) -> list[tuple]:
        with sqlite3.connect(f"file:{self.folder / 'data' / 'node.sqlite'}?mode=ro", uri=True, timeout=10) as db:
            return db.execute(sql).fetchall()

    def is_in(self, state: str) -> bool:
        return self.asked("SELECT state FROM series") == [(state,)]

    def sent(self) -> int:
        return sum(row[0] for row in self.asked("SELECT sent FROM deliveries"))

    def came_through_once(self) -> None:
        """All slices, of one series, with the right HU; and nothing half is left."""
        wait_for(lambda: self.is_in("done"), 400)
        there = self.orthanc.post("/tools/find", Level="Instance", Query={"StudyInstanceUID": self.study})
        assert len(there) == len(self.files)
        assert len(self.orthanc.post("/tools/find", Level="Series", Query={"StudyInstanceUID": self.study})) == 1
        (self.folder / "came").mkdir()
        for one in there:
            (self.folder / "came" / f"{one}.dcm").write_bytes(self.orthanc.file(one))
        assert np.array_equal(read_volume(self.folder / "came").voxels, self.voxels + SHIFT_HU // 2)
        results = self.folder / "data" / "results" / self.uid
        assert len([path for path in results.iterdir() if path.is_dir()]) == 1
        assert not list(self.folder.glob("data/*/*/.*"))


@pytest.fixture
def a_killed(tmp_path, a_model, an_orthanc) -> Iterator[Killed]:
    killed = Killed(tmp_path, a_model, an_orthanc)
    yield killed
    killed.node.end()


def killed_when(killed: Killed, what: Callable[[], object]) -> None:
    wait_for(what, 400, every_s=0.005)
    killed.node.kill()
    killed.node.start(killed.port)


def test_while_receiving(a_killed):
    """The scanner sends on until all is taken, as scanners do."""
    a_killed.series(120)
    a_killed.node.start(a_killed.port)
    stopped = threading.Event()

    def scanner() -> None:
        while not stopped.is_set() and storescu(a_killed.port, *a_killed.files).returncode:
            time.sleep(0.2)

    thread = threading.Thread(target=scanner)
    thread.start()
    for count in (5, 60):
        killed_when(a_killed, lambda count=count: a_killed.asked("SELECT COUNT(*) FROM objects")[0][0] >= count)
    thread.join(200)
    stopped.set()
    assert a_killed.asked("SELECT COUNT(*) FROM objects") == [(120,)]
    a_killed.came_through_once()


def test_what_was_answered_with_success_is_there_after_the_kill(a_killed):
    a_killed.series(60)
    a_killed.node.start(a_killed.port)
    answered: list[str] = []
    thread = threading.Thread(target=lambda: answered.append(storescu(a_killed.port, *a_killed.files).stderr))
    thread.start()
    wait_for(lambda: a_killed.asked("SELECT COUNT(*) FROM objects")[0][0] >= 20, every_s=0.005)
    a_killed.node.kill()
    thread.join()
    successes = answered[0].count("Received Store Response (Success)")
    a_killed.node.start(a_killed.port)
    kept = a_killed.asked("SELECT COUNT(*) FROM objects")[0][0]
    assert 19 <= successes <= kept <= successes + 1  # the last one may be killed between keeping and answering
    assert len(list((a_killed.folder / "data" / "incoming" / a_killed.uid).glob("*.dcm"))) == kept


def test_while_denoising(a_killed):
    """Once before the network runs, once while it does, once while the result is written."""
    a_killed.series(150, 64)
    a_killed.node.start(a_killed.port)
    assert storescu(a_killed.port, *a_killed.files).returncode == 0
    killed_when(a_killed, lambda: a_killed.is_in("denoising"))
    log = a_killed.node.log
    for number, words in ((1, "model tiny"), (2, "model tiny")):
        killed_when(a_killed, lambda number=number, words=words: log.read_text().count(words) >= number)
    results = a_killed.folder / "data" / "results" / a_killed.uid
    killed_when(a_killed, lambda: list(results.glob(".*/*.dcm")) or a_killed.sent())
    a_killed.came_through_once()
    assert a_killed.asked("SELECT attempts >= 4, faults FROM series") == [(1, 0)]


def test_while_sending(a_killed):
    a_killed.series(120)
    a_killed.node.start(a_killed.port)
    assert storescu(a_killed.port, *a_killed.files).returncode == 0
    for count in (3, 60):
        killed_when(a_killed, lambda count=count: a_killed.sent() >= count)
    a_killed.came_through_once()
    assert a_killed.asked("SELECT attempts FROM series") == [(1,)]
