"""Writing a set: it goes on where it stopped, and leaves nothing half."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from ct_folder_fixtures import FOUR, assert_holds, mayo_2016_tree

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data import set_writer
from ASCONTrainingLib.data.prepare import prepare_mayo2016
from ASCONTrainingLib.data.set_index import read_index
from ASCONTrainingLib.data.simulated import prepare_simulated
from ASCONTrainingLib.data.training_set import EvaluationSet, TrainingSet


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_interrupted_preparation_goes_on_and_gives_the_same(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    prepare_mayo2016(tmp_path / "in", tmp_path / "whole")

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare_mayo2016(tmp_path / "in", out, progress=interrupt)
    with pytest.raises(InputError, match="after 2 of 3 volumes"):
        TrainingSet(out, patch=16)
    (out / ".L333.ldct.0a1b2c3d.partial.npy").write_bytes(b"killed while writing")
    kept = {path: path.stat().st_mtime_ns for path in out.glob("L*.npy")}
    assert len(kept) == 6
    log = []
    prepare_mayo2016(tmp_path / "in", out, log=log.append)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert not any(line.startswith(("L067:", "L310:")) for line in log)
    assert files_of(out) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["lost", "truncated"])
def test_lost_file_is_made_again(tmp_path, damage):
    pairs = mayo_2016_tree(tmp_path / "in")
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out" / "L310.ldct.npy"
    path.write_bytes(path.read_bytes()[:-8])
    if damage == "lost":
        path.unlink()
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert_holds(tmp_path / "out", "L310", *pairs["L310", 1, "B30f"])


def test_set_made_otherwise_is_not_touched(tmp_path):
    mayo_2016_tree(tmp_path / "in", patients=("L067",), reconstructions=FOUR[:2])
    out = tmp_path / "out"
    prepare_mayo2016(tmp_path / "in", out, kernel="B30")
    before = files_of(out)
    with pytest.raises(InputError, match="holds a set of 1 volumes that was made with another reconstruction"):
        prepare_mayo2016(tmp_path / "in", out, kernel="D45")
    with pytest.raises(InputError, match="made by mayo2016, not simulate"):
        prepare_simulated(None, out, phantoms=1, phantom_shape=(1, 32, 32))
    assert files_of(out) == before


def test_full_disk_keeps_what_is_done_and_leaves_nothing_half(tmp_path, monkeypatch):
    mayo_2016_tree(tmp_path / "in")
    save, written = set_writer.np.save, []

    def full_after_five(file, array, **settings):
        written.append(file)
        if len(written) > 4:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array, **settings)

    monkeypatch.setattr(set_writer.np, "save", full_after_five)
    with pytest.raises(
        RuntimeError, match=r"L310\.ldct\.npy could not be written .No space left on device.: check free space"
    ):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    monkeypatch.undo()
    assert [v.name for v in read_index(tmp_path / "out").volumes] == ["L067"]
    assert not list((tmp_path / "out").glob(".*"))
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert len(EvaluationSet(tmp_path / "out", "validation")) == 5


def test_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "file" / "out")
