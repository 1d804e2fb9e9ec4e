"""The fuzzer's inputs by the hundred: each ends in the right volume or in a sentence. And the fuzzer itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import fuzz
import fuzz_dicom
import fuzz_images
import fuzz_judge
import numpy as np
import pytest

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io import reading


def check(count: int, seed: int) -> Counter[str]:
    """Counts of ends; fails where one is not allowed."""
    results = list(fuzz.run(count, seed))
    assert not [fuzz.described(result) for result in results if result["end"] not in fuzz.ALLOWED]
    ends = Counter(result["end"] for result in results)
    assert sum(ends.values()) == count
    return ends


def test_200_inputs() -> None:
    ends = check(200, seed=0)
    assert min(ends["EXACT"], ends["REFUSED"]) >= 30  # else it would not try much
    assert ends["NOT MADE"] <= 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_2000_inputs(seed: int) -> None:
    check(2000, seed)


def test_an_input_is_made_again_from_its_numbers(tmp_path: Path) -> None:
    for number in range(20):
        first, second = (fuzz.case(7, number) for _ in range(2))
        assert first == second
        assert first.make()[1] == second.make()[1]
    assert len({str(fuzz.case(seed, 0)) for seed in range(20)}) > 15


@pytest.mark.parametrize("base", [*fuzz_dicom.base_names(), *fuzz_images.base_names()])
def test_what_is_not_spoiled_is_read_exactly(tmp_path: Path, base: str) -> None:
    end, detail, _ = fuzz.outcome(fuzz.Case(base, ()), tmp_path, command=True)
    if base == "philips_headphantom_gantry_tilt":
        assert end == "REFUSED" and "sheared" in detail
    else:
        assert (end, detail) == ("EXACT", "")


def _raises(error: Exception):
    def read(path):
        raise error

    return read


def _with_other(**changes):
    def read(path):
        volume = reading.read_volume(path)
        return replace(volume, **{name: change(getattr(volume, name)) for name, change in changes.items()})

    return read


def _leaves_a_file(path):
    Path(path, "left.txt").write_text("left")
    return reading.read_volume(path)


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (_raises(KeyError("Rows")), "EXCEPTION"),
        (_raises(InputError("Something is wrong.")), "UNNAMED"),
        (_with_other(voxels=lambda voxels: voxels + np.int16(1)), "VOXELS"),
        (_with_other(voxels=lambda voxels: voxels[:, ::-1]), "VOXELS"),
        (_with_other(geometry=lambda geometry: replace(geometry, origin_mm=(0.0, 0.0, 0.0))), "GEOMETRY"),
        (_with_other(geometry=lambda geometry: replace(geometry, spacing_mm=(0.7, 0.7, 2.5))), "GEOMETRY"),
        (_with_other(source=lambda source: replace(source, files=source.files[:2], n_slices=2)), "SLICE GONE"),
        (_leaves_a_file, "FILE LEFT"),
    ],
)
def test_the_fuzzer_sees_a_planted_fault(tmp_path: Path, monkeypatch, read, kind: str) -> None:
    monkeypatch.setattr(fuzz_judge, "read_volume", read)
    assert fuzz.outcome(fuzz.Case("signed", ()), tmp_path)[0] == kind


def test_a_child_that_dies_or_hangs_is_a_finding_and_the_rest_goes_on(tmp_path: Path, monkeypatch) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys, time\n"
        "first = int(sys.argv[sys.argv.index('--first') + 1])\n"
        "if first == 1: os.abort()\n"
        "if first == 2: time.sleep(60)\n"
        'print(\'{"number": %d, "end": "EXACT"}\' % first, flush=True)\n'
        "sys.exit(3 if first == 0 else 0)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(child))
    monkeypatch.setattr(fuzz, "HANG_S", 1.0)
    assert [result["end"] for result in fuzz.run(4)] == ["EXACT", "CRASH", "HANG", "EXACT"]
