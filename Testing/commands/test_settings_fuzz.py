"""Settings that are parsed from text, with anything in them: a result or a sentence, never "Unexpected error".

FUZZ_EXAMPLES says how many values each test tries; the slow check tries more.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import GEOMETRY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.volume import Volume
from ASCONDenoiseLib.models.card import ModelCard
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.set_index import read_index
from ASCONTrainingLib.data.splits import read_split

EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 20)),
    derandomize=True,
    database=None,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# fmt: off
ODD = (
    "", " ", "0", "-0", "-1", "0.5", "1", "2", "3", "1e-300", "1e-5", "1e5", "1e300", "1e999", "-1e999", "nan", "inf",
    "-inf", "1,5", "1_0", "0x1", "٣", "½", "true", "null", "[]", "{}", '""', "[1, 2]", "[[0.5, 16, 1]]", "[" * 2000,
    '{"a": 1}', "NaN", "Infinity", "9" * 30, "9" * 5000, "1e-999", "a", "=", "..", "\x00", "\\", "é", "-", "--",
    "fp32", "cuda:99", "mps",
)
# fmt: on
TEXTS = st.sampled_from(ODD) | st.text(max_size=8) | st.floats().map(repr) | st.integers().map(str)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(ODD) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and what is said of `ascon ...`; 0 or 2, or the test fails."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    assert code in (0, 2) and "Unexpected error" not in err.getvalue(), (arguments, code, err.getvalue())
    assert code == 0 or err.getvalue().strip()
    return code, err.getvalue()


@pytest.fixture
def a_small_file(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).integers(-200, 200, (2, 16, 16)).astype(np.int16)
    write_image(Volume(voxels, GEOMETRY), tmp_path / "scan.nrrd")
    return tmp_path / "scan.nrrd"


@EXAMPLES
@given(option=st.sampled_from(["strength", "batch", "device", "precision", "model", "series"]), text=TEXTS)
def test_denoise(a_small_file: Path, option: str, text: str) -> None:
    run(
        "denoise", a_small_file, a_small_file.with_name("out.nrrd"), "--force", "--model=shift-30", f"--{option}={text}"
    )


SIMULATE = ["dose", "photons", "electronic-noise", "bowtie-edge", "current-modulation", "seed", "geometry", "kernel"]


@EXAMPLES
@given(option=st.sampled_from(SIMULATE), text=TEXTS)
def test_simulate(a_small_file: Path, option: str, text: str) -> None:
    out = a_small_file.with_name("out.nrrd")
    run("simulate", a_small_file, out, "--force", "--dose=0.5", "--photons=1e5", "--kernel=soft", f"--{option}={text}")


@EXAMPLES
@given(option=st.sampled_from(["clusters", "points", "seed", "slice", "batch", "format"]), text=TEXTS)
def test_cluster(a_small_file: Path, option: str, text: str) -> None:
    run("cluster", a_small_file, a_small_file.with_name("out"), "--model=shift-30", f"--{option}={text}")


@EXAMPLES
@given(option=st.sampled_from(["window", "test", "reference", "test-series"]), text=TEXTS)
def test_evaluate(a_small_file: Path, option: str, text: str) -> None:
    run("evaluate", "--reference", a_small_file, "--test", a_small_file, f"--{option}={text}")


NAMES = [f"{place}{f.name}" for place, c in (("", TrainConfig),) for f in fields(c)]
NAMES += [f"{place}.{f.name}" for place in ("mac", "loss", "optimizer") for f in fields(getattr(TrainConfig(), place))]


@EXAMPLES
@given(name=st.sampled_from([*NAMES, "", ".", "mac..use_local", "mac.use_local.x", "no_such", "loss."]), text=TEXTS)
def test_training_settings(tmp_path: Path, name: str, text: str) -> None:
    code, said = run("train", "--out", tmp_path / "run", "--data", tmp_path / "missing", f"--set={name}={text}")
    assert code == 2 and len(said) < 2000


@EXAMPLES
@given(content=JSON, wrapped=st.booleans())
def test_training_settings_in_a_file(tmp_path: Path, content: object, wrapped: bool) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": content, "data": content} if wrapped else content))
    code, _ = run("train", "--config", path, "--out", tmp_path / "run", "--data", tmp_path / "missing")
    assert code == 2


@EXAMPLES
@given(name=st.sampled_from([f.name for f in fields(TrainConfig)]), value=JSON)
def test_a_field_of_a_settings_file(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {name: value}}))
    assert run("train", "--config", path, "--out", tmp_path / "run", "--data", tmp_path / "missing")[0] == 2


def _refused(read, path: Path) -> None:
    """Either it is read, or the error names the file."""
    try:
        read(path)
    except InputError as error:
        assert str(path) in str(error)


@EXAMPLES
@given(content=JSON | st.dictionaries(st.sampled_from(["train", "validation", "test"]), JSON))
def test_split_files(tmp_path: Path, content: object) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    _refused(read_split, path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"train": ' * 5000, "\ufeff{}", "9" * 10_000, ""])
@pytest.mark.parametrize("kind", ["split", "index", "config"])
def test_json_files_of_strange_shape(tmp_path: Path, text: str, kind: str) -> None:
    path = tmp_path / f"{kind}.json"
    path.write_text(text, encoding="utf-8")
    if kind == "config":
        assert run("train", "--config", path, "--out", tmp_path / "run", "--data", tmp_path / "missing")[0] == 2
    else:
        _refused(read_split if kind == "split" else lambda path: read_index(path.parent), path)


INDEX = ["format", "kind", "simulated", "settings", "max_background", "planned", "volumes"]


@EXAMPLES
@given(content=JSON | st.fixed_dictionaries({"format": st.just(1), **{name: JSON for name in INDEX[1:]}}))
def test_the_index_of_a_set(tmp_path: Path, content: object) -> None:
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index\.json"):
        read_index(tmp_path)


CARD_FIELDS = [f.name for f in fields(ModelCard)]


@EXAMPLES
@given(name=st.sampled_from([*CARD_FIELDS, "no_such"]), value=JSON)
def test_model_cards(the_models: Path, name: str, value: object) -> None:
    """A card with one field changed, through `models list`, `models show` and `denoise`."""
    card = the_models / "shift-30.json"
    right = card.read_text(encoding="utf-8")
    try:
        card.write_text(json.dumps(json.loads(right) | {name: value}), encoding="utf-8")
        run("models", "list")
        run("models", "show", "shift-30")
        run("models", "import", the_models / "shift-30.safetensors")
    finally:
        card.write_text(right, encoding="utf-8")


@EXAMPLES
@given(option=st.sampled_from(["channels", "base", "x", "kernel", "width", "depth"]), value=JSON)
def test_settings_of_a_network_in_its_card(a_small_file: Path, the_models: Path, option: str, value: object) -> None:
    card = the_models / "shift-30.json"
    right = card.read_text(encoding="utf-8")
    try:
        changed = {"architecture": "esau_net", "settings": {option: value}}
        card.write_text(json.dumps(json.loads(right) | changed), encoding="utf-8")
        code, _ = run("denoise", a_small_file, a_small_file.with_name("o.nrrd"), "--model=shift-30")
        assert code == 2
    finally:
        card.write_text(right, encoding="utf-8")


@pytest.mark.slow
def test_many_examples() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__]
    done = subprocess.run(command, env=os.environ | {"FUZZ_EXAMPLES": "300"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
