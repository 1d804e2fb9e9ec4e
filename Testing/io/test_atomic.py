"""Files and folders appear complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ASCONDenoiseLib.errors import InputError, WriteError
from ASCONDenoiseLib.io.atomic import atomic_file, atomic_folder, check_parent, file_suffix, remove_partial


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("name", ["scan.nii.gz", "card.json", "noSuffix"])
def test_a_file_takes_its_place_at_the_end(tmp_path, name, fsync):
    path = tmp_path / name
    path.write_text("before")
    with atomic_file(path, fsync=fsync) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
        assert partial.name.startswith(".") and partial.name.endswith(name[name.find(".") :] if "." in name else "")
    assert path.read_text() == "after" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("x"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_nothing_is_left_of_what_failed(tmp_path, make, error):
    path = tmp_path / "there"
    if make is atomic_file:
        path.write_text("before")
    else:
        path.mkdir()
        (path / "inside").write_text("before")
    expected = WriteError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught, make(path) as partial:
        (partial if make is atomic_file else partial / "inside").write_text("half")
        raise error
    if isinstance(error, OSError):
        assert str(path) in str(caught.value) and "No space left" in str(caught.value)
    assert os.listdir(tmp_path) == ["there"]
    assert (path if make is atomic_file else path / "inside").read_text() == "before"


def test_a_file_system_that_cannot_flush_folders_does_no_harm(tmp_path, monkeypatch):
    flush = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with atomic_file(tmp_path / "last.pt", fsync=True) as partial:
        partial.write_text("new")
    assert (tmp_path / "last.pt").read_text() == "new" and os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_of_two_that_write_a_new_file_at_once_the_later_is_refused(tmp_path, monkeypatch, hard_links):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "scan.nii.gz"
    with (
        pytest.raises(InputError, match=r"scan\.nii\.gz exists by now, .* another process wrote it"),
        atomic_file(path, replace=False) as later,
    ):
        later.write_text("later")
        with atomic_file(path, replace=False) as earlier:
            earlier.write_text("earlier")
        assert path.read_text() == "earlier"
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["scan.nii.gz"]


@pytest.mark.parametrize("meanwhile", ["nothing", "empty", "full", "file"])
def test_a_new_folder_takes_the_place_of_none_that_holds_something(tmp_path, meanwhile):
    folder = tmp_path / "series"

    def make() -> None:
        with atomic_folder(folder, replace=False) as partial:
            (partial / "ours").touch()
            if meanwhile in ("empty", "full"):
                folder.mkdir()
            if meanwhile == "full":
                (folder / "theirs").touch()
            if meanwhile == "file":
                folder.touch()

    if meanwhile in ("nothing", "empty"):
        make()
        assert os.listdir(folder) == ["ours"]
    else:
        with pytest.raises(InputError, match="series exists by now"):
            make()
        assert folder.is_file() if meanwhile == "file" else os.listdir(folder) == ["theirs"]
    assert os.listdir(tmp_path) == ["series"]


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
@pytest.mark.parametrize("name", ["L" * 245, "L" * 255, "\u00e4" * 127, "L" * 248 + ".nii.gz", "L" * 250 + ".nrrd"])
def test_names_up_to_the_longest_that_there_are(tmp_path, make, name):
    path = tmp_path / name
    check_parent(path)
    for content in ("one", "two"):
        with make(path) as partial:
            (partial if make is atomic_file else partial / "file").write_text(content)
    assert os.listdir(tmp_path) == [name]
    left = make(path)
    left.__enter__().touch()
    remove_partial(path)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["L" * 256, "\u00e4" * 128])
def test_a_longer_name_is_refused_before_the_work(tmp_path, name):
    with pytest.raises(InputError, match="is too long: it has 256 bytes .* Choose a shorter one"):
        check_parent(tmp_path / name)


def test_a_folder_replaces_what_was_there(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "old").write_text("old")
    with atomic_folder(folder) as partial:
        (partial / "new").write_text("new")
        assert os.listdir(folder) == ["old"]
    assert os.listdir(folder) == ["new"] and os.listdir(tmp_path) == ["results"]


def test_two_files_appear_together_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), atomic_file(tmp_path / "a") as a, atomic_file(tmp_path / "b") as b:
        a.write_text("a")
        b.write_text("b")
        raise KeyError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a[1].nii.gz", "series"])
def test_what_is_unfinished_can_be_removed_at_the_end_of_a_process(tmp_path, name):
    (tmp_path / ".other.partial").touch()
    folder, file = atomic_folder(tmp_path / name), atomic_file(tmp_path / name)
    (folder.__enter__() / "inside").touch()
    file.__enter__().touch()
    remove_partial(tmp_path / name)
    assert os.listdir(tmp_path) == [".other.partial"]


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.nii.gz", ".nii.gz"), ("A.B.NII.GZ", ".nii.gz"), ("x.y.Mha", ".mha"), ("IM0001", "")]
)
def test_file_suffix(name, suffix):
    assert file_suffix(Path("folder.nii.gz") / name) == suffix
