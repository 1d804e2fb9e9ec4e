"""The frame of all commands: failures, interruptions, the log, the console, commands of other packages."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import types
from pathlib import Path

import pydicom
import pytest
from command_fixtures import run_json
from folder_contents import files_in

from ASCONDenoiseLib.commands import cli, progress_bar
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.models import files
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.files import find_model


def raises(error: BaseException):
    def function(*args, **kwargs):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("division by zero"), "Unexpected error, ZeroDivisionError: division by zero"),
        (
            ValueError("array must not contain infs\nor NaNs"),
            "Unexpected error, ValueError: array must not contain infs",
        ),
        (MemoryError(), "There is not enough memory"),
        (OSError(28, "No space left on device", "disk"), "disk: No space left on device."),
    ],
)
def test_a_failure_is_a_line_and_exit_code_1(a_file, tmp_path, monkeypatch, capsys, error, words):
    monkeypatch.setattr(files, "load_network", raises(error))
    command = ["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--model", "shift-30"]
    assert cli.main(command) == 1
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err and err.count("\n") == 1
    assert cli.main([*command, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert sorted(files_in(tmp_path)) == ["scan.nrrd"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["read", "file", "digest", "rename"])
def test_whatever_stops_the_writing_of_a_file_leaves_nothing(a_file, tmp_path, monkeypatch, capsys, where, error):
    """Ctrl-C or a full disk, with an old result in place."""
    out = tmp_path / "out.nrrd"
    out.write_text("precious")
    before = files_in(tmp_path)
    if where == "read":
        monkeypatch.setattr("ASCONDenoiseLib.models.scan.read_volume", raises(error))
    elif where == "file":
        import SimpleITK as sitk

        def half_a_file(image, name, **options):
            Path(name).write_bytes(b"half")
            raise error

        monkeypatch.setattr(sitk, "WriteImage", half_a_file)
    elif where == "digest":
        digest = hashlib.file_digest

        def not_of_the_result(file, kind):
            if Path(file.name) == a_file:
                return digest(file, kind)
            raise error

        monkeypatch.setattr(hashlib, "file_digest", not_of_the_result)
    else:
        rename = os.replace

        def not_onto_the_result(source, target):
            if Path(target) == out:
                raise error
            rename(source, target)

        monkeypatch.setattr(os, "replace", not_onto_the_result)
    code = cli.main(["denoise", str(a_file), str(out), "--model", "shift-30", "--force"])
    message = capsys.readouterr().err
    monkeypatch.undo()
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert ("Interrupted" if code == 130 else "o space left" if where == "read" else "could not be written") in message
    assert files_in(tmp_path) == before


def test_an_interrupted_series_leaves_nothing(a_series, tmp_path, monkeypatch, capsys):
    write, written = pydicom.dcmwrite, []

    def third_time_interrupted(path, *args, **kwargs):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args, **kwargs)

    before = files_in(tmp_path)
    monkeypatch.setattr(pydicom, "dcmwrite", third_time_interrupted)
    assert cli.main(["denoise", str(a_series), str(tmp_path / "out"), "--model", "shift-30"]) == 130
    assert len(written) == 2 and files_in(tmp_path) == before and not (tmp_path / "out").exists()


def test_the_log(a_file, tmp_path, monkeypatch, capsys):
    log = tmp_path / "runs.log"
    command = ["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--model", "shift-30", "--log", str(log)]
    assert cli.main(command) == 0
    assert cli.main(command) == 2  # exists already
    monkeypatch.setattr(files, "load_network", raises(ZeroDivisionError("oh")))
    assert cli.main([*command, "--force"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    text = log.read_text()
    entries = [
        line
        for line in text.splitlines()
        if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|ERROR) ascon: ", line)
    ]
    assert [line.split("ascon: ")[1].split(" ")[0] for line in entries[:3]] == ["ascon", "model", "wrote"]
    assert load_card(find_model("shift-30")).sha256 in text
    assert "exists already" in text and "ZeroDivisionError: oh" in text and 'cli.py", line' in text


def test_the_log_holds_nothing_of_other_libraries(tmp_path, monkeypatch, a_file):
    import logging

    def noisy(*args):
        logging.getLogger("pydicom").warning("PatientName DOE^JANE is odd")
        logging.getLogger("ASCONDenoiseLib.models.inference").warning("batch halved")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "load_network", noisy)
    log = tmp_path / "a.log"
    command = ["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--model", "shift-30", "--log", str(log)]
    assert cli.main(command) == 130
    assert "DOE" not in log.read_text() and "batch halved" in log.read_text() and "interrupted" in log.read_text()


def test_a_terminal_gets_a_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = Console()
    monkeypatch.setenv("COLUMNS", "80")
    clock = iter([100.0, 100.05, 104.0, 106.0])
    monkeypatch.setattr(progress_bar, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    console.progress(1, 4)
    console.progress(2, 4)  # too soon to be drawn
    console.progress(3, 4)
    console.progress(4, 4)
    console.answer("done")
    out, err = capsys.readouterr()
    drawn = [line.rstrip() for line in err.split("\r") if line]
    assert out == "done\n" and [line.partition("| ")[2] for line in drawn] == [
        "slice 1/4",
        "slice 3/4, 0:02 left",
        "slice 4/4, 0:00 left",
        "",
    ]
    assert drawn[1].startswith(" 75% |######")


def install(folder: Path, monkeypatch, code: str, name: str = "extra") -> None:
    """A distribution with an entry point for `name`, as pip would leave it."""
    info = folder / f"{name}_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ascon.commands]\n{name} = {name}_plugin:add\n")
    (folder / f"{name}_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, f"{name}_plugin", raising=False)


def test_another_package_adds_a_command(tmp_path, monkeypatch, capsys):
    install(tmp_path, monkeypatch, (Path(__file__).parent / "extra_command.py").read_text())
    assert cli.main(["extra", "3"]) == 0
    assert capsys.readouterr().out == "counted to 3\n"
    code, lines = run_json(capsys, "extra", "2")
    assert code == 0 and lines[-1] == {"event": "result", "warnings": [], "counted": 2} and len(lines) == 3
    assert cli.main(["extra", "many"]) == 2
    assert cli.main(["--help"]) == 0
    assert "do more" in capsys.readouterr().out


@pytest.mark.parametrize(
    "code",
    [
        "import a_package_that_is_not_there",
        "raise SystemExit(3)",
        "def add(subparsers): raise RuntimeError('no')",
        "def add(subparsers): subparsers.add_parser('denoise')",
        "add = None",
        "def add(subparsers, more): pass",
    ],
)
def test_a_broken_plug_in_costs_only_its_own_command(tmp_path, monkeypatch, capsys, code):
    install(tmp_path, monkeypatch, code)
    assert cli.main(["models", "list"]) == 0
    out, err = capsys.readouterr()
    assert "shift-30" in out and err.count("\n") <= 1
    if sys.version_info >= (3, 11) and "denoise" not in code:
        assert "the command extra is not available" in err


def test_a_plug_in_without_work_is_refused_with_a_sentence(tmp_path, monkeypatch, capsys):
    install(tmp_path, monkeypatch, "def add(subparsers): subparsers.add_parser('extra')")
    assert cli.main(["extra"]) == 2
    assert "another package" in capsys.readouterr().err
