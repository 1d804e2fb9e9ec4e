"""The intake of a node: nothing is lost, nothing half kept, nothing taken for what it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_fixtures import edit_file, make_ct_series
from folder_contents import files_in
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from ASCONDenoiseLib.node import intake as intake_file
from ASCONDenoiseLib.node.intake import NO_MATCH, NO_ROOM, NOT_UNDERSTOOD, OTHER_CONTENT, Intake, Refused
from ASCONDenoiseLib.node.ledger import DENOISING, DONE, LEFT_ALONE, RECEIVING, SENDING, WAITING, Ledger


@pytest.fixture
def an_intake(tmp_path) -> Intake:
    return Intake(tmp_path / "node", _ledger(tmp_path / "node"), 0)


def _ledger(folder: Path) -> Ledger:
    folder.mkdir(exist_ok=True)
    return Ledger(folder / "node.sqlite")


def take(intake: Intake, file: Path) -> None:
    intake.take(file.read_bytes(), uid_of(file), "SCANNER")


def uid_of(file: Path) -> str:
    return str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)


def series_of(file: Path) -> str:
    return str(pydicom.dcmread(file, stop_before_pixels=True).SeriesInstanceUID)


def test_an_object_is_on_the_disk_before_the_ledger_and_both_before_success(an_intake, tmp_path, monkeypatch):
    """Flushed are: the file, then the folder that has its name; only then does the ledger know of it."""
    file = make_ct_series(tmp_path / "a", shape=(1, 8, 8))[0]
    told = []
    fsync, add = os.fsync, Ledger.add

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        told.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Ledger, "add", lambda *args: (told.append("ledger"), add(*args))[1])
    take(an_intake, file)
    folder = an_intake.originals(series_of(file))
    kept = folder / f"{uid_of(file)}.dcm"
    of_file = [place for place in told if Path(place).parent == folder]
    assert len(of_file) == 1 and ".partial" in of_file[0]
    assert told[-2:] == [str(folder), "ledger"] and str(folder.parent) in told
    assert kept.read_bytes() == file.read_bytes()


def test_the_same_object_again_is_taken_and_changes_nothing(an_intake, tmp_path):
    file = make_ct_series(tmp_path / "a", shape=(1, 8, 8))[0]
    take(an_intake, file)
    before = files_in(an_intake.folder / "incoming")
    edit_file(file, PatientName="Another^Name")  # as an archive corrects it
    take(an_intake, file)
    assert files_in(an_intake.folder / "incoming") == before and an_intake.taken == 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_the_same_pixels_in_another_transfer_syntax_are_the_same(an_intake, tmp_path, syntax):
    """As a PACS sends them back."""
    uids = {"series_uid": "1.2.3", "study_uid": "1.2", "frame_of_reference_uid": "1.4"}
    first = make_ct_series(tmp_path / "a", shape=(1, 16, 16), **uids)[0]
    second = make_ct_series(tmp_path / "b", shape=(1, 16, 16), transfer_syntax=syntax, **uids)[0]
    edit_file(second, SOPInstanceUID=uid_of(first))
    take(an_intake, first)
    take(an_intake, second)
    assert an_intake.taken == 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_other_pixels_under_the_same_uid_are_refused_with_a_sentence(an_intake, tmp_path, syntax):
    first = make_ct_series(tmp_path / "a", shape=(1, 16, 16))[0]
    voxels = np.zeros((1, 16, 16), np.int16)
    other = make_ct_series(tmp_path / "b", voxels_hu=voxels, transfer_syntax=syntax, series_uid=series_of(first))[0]
    edit_file(other, SOPInstanceUID=uid_of(first))
    take(an_intake, first)
    with pytest.raises(Refused, match="with other pixels: the first one stays") as refused:
        take(an_intake, other)
    assert refused.value.status == OTHER_CONTENT
    kept = an_intake.originals(series_of(first)) / f"{uid_of(first)}.dcm"
    assert kept.read_bytes() == first.read_bytes()
    assert not [name for name in files_in(an_intake.folder) if Path(name).name.startswith(".")]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_object_is_refused_wherever_it_is_cut(an_intake, tmp_path, syntax, kept):
    file = make_ct_series(tmp_path / "a", shape=(1, 32, 32), transfer_syntax=syntax)[0]
    content = file.read_bytes()
    uid = uid_of(file)
    with pytest.raises(Refused) as refused:
        an_intake.take(content[: int(len(content) * kept)], uid, "SCANNER")
    assert refused.value.status in (NOT_UNDERSTOOD, NO_MATCH)
    assert files_in(an_intake.folder / "incoming") == {} and not an_intake.taken


def test_no_object_leaves_its_folder(an_intake, tmp_path):
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        for bad in ("../../../etc/passwd", "1.2/../3", "", "1..2", "1." + "2" * 70):
            file = make_ct_series(tmp_path / "a", shape=(1, 8, 8))[0]
            header = pydicom.dcmread(file)
            header[keyword]._value = bad
            buffer = BytesIO()
            with pytest.raises((Refused, ValueError)):
                pydicom.dcmwrite(buffer, header, enforce_file_format=False)
                an_intake.take(buffer.getvalue(), bad, "SCANNER")
    assert files_in(an_intake.folder / "incoming") == {}


def test_a_request_that_names_another_object_is_refused(an_intake, tmp_path):
    file = make_ct_series(tmp_path / "a", shape=(1, 8, 8))[0]
    with pytest.raises(Refused) as refused:
        an_intake.take(file.read_bytes(), "1.2.3", "SCANNER")
    assert refused.value.status == NO_MATCH


def test_a_full_disk_is_said_to_the_sender_and_nothing_half_is_kept(tmp_path):
    """A real one: a file system of 1 MB."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        ledger = Ledger(tmp_path / "node.sqlite")
        intake = Intake(small, ledger, 0)
        files = make_ct_series(tmp_path / "a", shape=(12, 256, 256))  # 128 kB each
        taken = 0
        for file in files:
            try:
                take(intake, file)
                taken += 1
            except Refused as refused:
                assert refused.status == NO_ROOM
                break
        assert 3 <= taken <= 8
        there = list((small / "incoming").glob("*/*"))
        assert len(there) == taken and all(one.read_bytes() == _original(files, one) for one in there)
        there[0].unlink()
        with pytest.raises(Refused):
            take(intake, files[taken]), take(intake, files[taken + 1])
    finally:
        subprocess.run(["umount", str(small)], check=False)


def _original(files: list[Path], one: Path) -> bytes:
    return next(file.read_bytes() for file in files if uid_of(file) == one.stem)


def test_a_full_disk_under_the_ledger_keeps_nothing_either(an_intake, tmp_path, monkeypatch):
    import sqlite3

    file = make_ct_series(tmp_path / "a", shape=(1, 8, 8))[0]

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Ledger, "add", full)
    with pytest.raises(Refused) as refused:
        take(an_intake, file)
    assert refused.value.status == NO_ROOM and files_in(an_intake.folder / "incoming") == {}


def test_less_room_than_the_configuration_wants_is_refused(tmp_path):
    intake = Intake(tmp_path / "node", _ledger(tmp_path / "node"), 1e18)
    with pytest.raises(Refused) as refused:
        take(intake, make_ct_series(tmp_path / "a", shape=(1, 8, 8))[0])
    assert refused.value.status == NO_ROOM


def test_what_was_written_and_not_taken_down_is_adopted_after_a_restart(an_intake, tmp_path):
    """Killed between file and ledger; and what was half written is gone."""
    files = make_ct_series(tmp_path / "a", shape=(3, 8, 8))
    take(an_intake, files[0])
    folder = an_intake.originals(series_of(files[0]))
    shutil.copy(files[1], folder / f"{uid_of(files[1])}.dcm")
    (folder / ".x.12345678.partial.dcm").write_bytes(files[2].read_bytes()[:300])
    (folder / f"{uid_of(files[2])}.dcm").write_bytes(files[2].read_bytes()[:-10])
    assert an_intake.adopt() == 1
    assert {path.stem for path in folder.iterdir()} == {uid_of(file) for file in files[:2]}
    assert an_intake._ledger.series(series_of(files[0])).objects == 2


def test_one_object_over_many_associations_is_taken_once(an_intake, tmp_path):
    file = make_ct_series(tmp_path / "a", shape=(1, 64, 64))[0]
    threads = [threading.Thread(target=take, args=(an_intake, file)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert an_intake.taken == 1 and len(files_in(an_intake.folder / "incoming")) == 1


def test_the_time_of_originals_and_results_is_the_nodes_own(an_intake, tmp_path):
    """What has been over for long enough goes; what comes at that moment, or again later, is not lost."""
    ledger, files = an_intake._ledger, make_ct_series(tmp_path / "a", shape=(2, 8, 8))
    series = series_of(files[0])
    take(an_intake, files[0])
    ledger.decide(series, LEFT_ALONE, "so")
    ledger.tick(100)
    assert ledger.over_since(101, with_originals=True) == [] and ledger.over_since(99, with_originals=True) == [series]
    with an_intake._one_at_a_time(series, "1.2.3"):
        an_intake.purge(series)
    assert len(files_in(an_intake.folder / "incoming")) == 1
    an_intake.purge(series)
    assert files_in(an_intake.folder / "incoming") == {} and ledger.series(series).objects == 0
    take(an_intake, files[0])
    again = ledger.series(series)
    assert again.state == RECEIVING and again.objects == 1
    an_intake.purge(series)
    assert len(files_in(an_intake.folder / "incoming")) == 1


# ---- the ledger


def a_series_in(ledger: Ledger, state: str) -> str:
    from ASCONDenoiseLib.node.facts import SeriesFacts

    facts = SeriesFacts("SCANNER", {"modality": "CT"}, True, False)
    ledger.add("1.1", "1", "digest", 1, facts, 0.0)
    if state == RECEIVING:
        return "1"
    ledger.decide("1", WAITING, receivers=("a", "b"))
    if state != WAITING:
        assert ledger.begin().attempts == 1
    if state in (SENDING, DONE):
        assert ledger.denoised("1", 1, {"slices": 1})
    if state == DONE:
        for name in ("a", "b"):
            ledger.sent(ledger.deliveries(name)[0], 1, all_of_it=True)
    assert ledger.series("1").state == state
    return "1"


@pytest.mark.parametrize("state", [DENOISING, SENDING, DONE])
def test_late_slices_start_a_series_anew_once(tmp_path, state):
    ledger = _ledger(tmp_path / "node")
    a_series_in(ledger, state)
    facts = ledger.series("1").facts
    assert "starts anew, once" in ledger.add("1.2", "1", "d", 1, facts, 0.0)
    assert ledger.series("1").state == RECEIVING and not ledger.all_deliveries("1")
    assert not ledger.denoised("1", 1, {})  # what was being made of it does not count
    ledger.decide("1", WAITING, receivers=())
    assert ledger.begin().attempts == 2
    assert "not taken up again" in ledger.add("1.3", "1", "d", 1, facts, 0.0)
    assert ledger.series("1").state == DENOISING and ledger.series("1").objects == 3
    assert ledger.add("1.4", "1", "d", 1, facts, 0.0) == ""  # said once


def test_a_killed_node_goes_on_where_it_was(tmp_path):
    ledger = _ledger(tmp_path / "node")
    a_series_in(ledger, DENOISING)
    ledger.close()
    ledger = _ledger(tmp_path / "node")
    assert ledger.resume() == ["1"]
    assert ledger.begin().attempts == 2
    assert not ledger.denoised("1", 1, {})
    assert ledger.denoised("1", 2, {})
    delivery = ledger.deliveries("a")[0]
    assert ledger.sent(delivery, 3, all_of_it=False)
    ledger.close()
    ledger = _ledger(tmp_path / "node")
    assert ledger.resume() == [] and ledger.deliveries("a")[0].sent == 3


def test_a_series_is_done_when_all_have_it_and_failed_when_one_gave_up(tmp_path):
    for gives_up, state in ((False, "done"), (True, "failed")):
        ledger = _ledger(tmp_path / f"node{gives_up}")
        a_series_in(ledger, SENDING)
        ledger.sent(ledger.deliveries("a")[0], 1, all_of_it=True)
        assert ledger.series("1").state == SENDING
        if gives_up:
            ledger.not_sent(ledger.deliveries("b")[0], "down", give_up=True)
        else:
            ledger.sent(ledger.deliveries("b")[0], 1, all_of_it=True)
        assert ledger.series("1").state == state
        assert ledger.retry() == (["1"] if gives_up else [])


def test_a_change_that_fails_changes_nothing(tmp_path, monkeypatch):
    ledger = _ledger(tmp_path / "node")
    a_series_in(ledger, DENOISING)
    monkeypatch.setattr(Ledger, "_settle", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ledger.denoised("1", 1, {})
    assert ledger.series("1").state == DENOISING and not ledger.all_deliveries("1")


def test_another_computers_clock_is_nobodys_business(tmp_path, monkeypatch):
    """A clock that jumps by years neither purges nor completes anything."""
    ledger = _ledger(tmp_path / "node")
    now = [100.0]
    intake = Intake(tmp_path / "node", ledger, 0, monotonic=lambda: now[0])
    file = make_ct_series(tmp_path / "a", shape=(1, 8, 8))[0]
    monkeypatch.setattr(intake_file.time, "time", lambda: 4e9)
    take(intake, file)
    monkeypatch.setattr(intake_file.time, "time", lambda: 0.0)
    assert intake.last[series_of(file)] == 100.0
    ledger.decide(series_of(file), LEFT_ALONE)
    assert ledger.over_since(1, with_originals=False) == []
