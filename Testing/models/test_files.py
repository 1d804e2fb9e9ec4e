"""Model files: what is saved comes back, and whatever is wrong with a file is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from model_fixtures import a_card
from torch import nn

from ASCONDenoiseLib.errors import InputError, WriteError
from ASCONDenoiseLib.models import files
from ASCONDenoiseLib.models.card import ModelCard, Scope, load_card
from ASCONDenoiseLib.models.files import find_model, import_model, list_models, load_network, save_model, verify
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet

A_CARD = a_card(
    architecture="tiny",
    settings={"channels": 3},
    intended_use="Tests. Nothing clinical, not even at 5 % dose or for µ-CT.",
    scope=Scope(slice_mm=(2.5, 10.0), kernels=("Siemens B40f",), sharp_kernels=False, body_parts=("chest", "abdomen")),
    metrics={"PSNR gain on phantoms, dB": 3.25},
)


def tiny(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.Conv2d(channels, 1, 1))


@pytest.fixture(autouse=True)
def a_tiny_architecture(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", tiny)


@pytest.fixture(autouse=True)
def a_shipped_folder(monkeypatch, tmp_path) -> Path:
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(files, "models_folder", lambda: folder)
    return folder


@pytest.fixture(autouse=True)
def a_user_folder(monkeypatch, tmp_path) -> Path:
    """Not made yet, as on a user's first day."""
    monkeypatch.setenv("ASCON_MODELS", str(tmp_path / "user" / "models"))
    return tmp_path / "user" / "models"


@pytest.fixture
def a_network() -> nn.Module:
    torch.manual_seed(0)
    return tiny(3)


@pytest.fixture
def a_model(tmp_path, a_network) -> Path:
    path = tmp_path / "elsewhere" / "tiny-v0.1.safetensors"
    save_model(a_network, A_CARD, path)
    return path


def rewrite_card(path: Path, **changes: object) -> None:
    """Changes fields of a model's card; None takes the field out."""
    card = path.with_suffix(".json")
    values = {**json.loads(card.read_text(encoding="utf-8")), **changes}
    card.write_text(json.dumps({name: v for name, v in values.items() if v is not None}), encoding="utf-8")


def sign(path: Path) -> None:
    """Makes the card's hash that of the file as it is now."""
    rewrite_card(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what is saved comes back


def test_a_model_comes_back_bit_for_bit(a_model, a_network):
    network, card = load_network(a_model)
    assert card == replace(A_CARD, sha256=hashlib.sha256(a_model.read_bytes()).hexdigest())
    assert not network.training
    for name, weight in a_network.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight), name
    assert sorted(path.name for path in a_model.parent.iterdir()) == ["tiny-v0.1.json", "tiny-v0.1.safetensors"]


def test_16_bit_weights_are_half_the_file_and_come_back_as_32_bit(tmp_path):
    torch.manual_seed(0)
    saved = ESAUNet().to(memory_format=torch.channels_last)
    path = tmp_path / "esau.safetensors"
    card = save_model(saved, replace(A_CARD, architecture="esau_net", settings={}), path, half=True)
    assert path.stat().st_size == pytest.approx(2 * 4_914_230, rel=0.01)
    network, loaded_card = load_network(path)
    assert loaded_card == card
    for name, weight in saved.state_dict().items():
        assert network.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(network.state_dict()[name], weight, rtol=2**-11, atol=2**-25)
    assert any(not torch.equal(network.state_dict()[name], weight) for name, weight in saved.state_dict().items())


def test_saving_changes_neither_the_network_nor_the_outcome(tmp_path, a_network):
    before = {name: weight.clone() for name, weight in a_network.state_dict().items()}
    first = save_model(a_network, A_CARD, tmp_path / "a.safetensors", half=True)
    again = save_model(a_network, A_CARD, tmp_path / "b.safetensors", half=True)
    assert first == again
    for name, weight in a_network.state_dict().items():
        assert weight.dtype == before[name].dtype and torch.equal(weight, before[name])


def test_the_card_is_readable_text(a_model):
    text = a_model.with_suffix(".json").read_text(encoding="utf-8")
    names = [line.split('"')[1] for line in text.splitlines() if line.startswith('  "')]
    assert names == sorted(asdict(A_CARD))
    assert "µ-CT" in text
    assert ModelCard.from_json(text) == load_card(a_model) == load_card(a_model.with_suffix(".json"))


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ({}, Scope()),
        ({"slice_mm": None, "doses": None, "kernels": [], "sharp_kernels": None, "body_parts": []}, Scope()),
        ({"slice_mm": [3, 3]}, Scope(slice_mm=(3.0, 3.0))),
        ({"doses": [0.1, 1]}, Scope(doses=(0.1, 1.0))),
        ({"sharp_kernels": True, "kernels": ["FC13", "FC52"]}, Scope(kernels=("FC13", "FC52"), sharp_kernels=True)),
    ],
)
def test_a_scope_may_leave_out_what_is_not_known(a_model, text, scope):
    rewrite_card(a_model, scope=text)
    card = load_card(a_model)
    assert card.scope == scope
    assert ModelCard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("sources", "dose", "doses", "scope"),
    [
        (["a.nrrd", "b.nrrd"], 0.25, None, Scope(slice_mm=(1.0, 2.0), doses=(0.25, 0.25))),
        (["a.nrrd", "b.nrrd", "phantom of an abdomen"], 0.25, (0.1, 0.5), Scope(slice_mm=(1.0, 2.0), doses=(0.1, 0.5))),
        (["a.nrrd"], None, None, Scope(slice_mm=(1.0, 1.0))),  # measured pairs
        (["phantom of an abdomen"], 0.25, (0.1, 0.5), Scope()),
    ],
)
def test_training_writes_what_its_scans_tell(sources, dose, doses, scope):
    from ASCONTrainingLib.config.settings import TrainConfig
    from ASCONTrainingLib.data.set_index import Index, PreparedVolume
    from ASCONTrainingLib.trainer import model_card

    scans = [(f"{n}", "train", (0.7, 0.7, n), dose, source) for n, source in enumerate(sources, 1)]
    scans.append(("t", "test", (0.7, 0.7, 20.0), 0.05, "t.nrrd"))
    volumes = [PreparedVolume(name, name, split, (4, 64, 64), mm, part, of) for name, split, mm, part, of in scans]
    index = Index("simulate", {}, {}, len(volumes), tuple(volumes))
    assert model_card.scope(index, TrainConfig(doses=doses)) == scope


def test_shipped_cards_are_as_cards_are_written():
    paths = sorted((Path(files.__file__).parents[2] / "Resources" / "Models").glob("*.json"))
    assert paths
    for path in paths:
        assert load_card(path).to_json().encode() == path.read_bytes()


@pytest.mark.parametrize(
    ("card", "weight", "half", "reason"),
    [
        (replace(A_CARD, architecture="transformer"), 0, False, 'architecture "transformer"'),
        (replace(A_CARD, settings={"channels": 4}), 0, False, "do not fit"),
        (replace(A_CARD, training_data=["phantoms", 1]), 0, False, 'wrong value for "training_data"'),
        (A_CARD, float("nan"), False, "diverged"),
        (A_CARD, 1e5, True, "not finite in 16 bits"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, a_network, card, weight, half, reason):
    with torch.no_grad():
        a_network[0].weight[0, 0, 0, 0] += weight
    with pytest.raises(InputError, match=reason):
        save_model(a_network, card, tmp_path / "new" / "x.safetensors", half=half)
    assert not (tmp_path / "new").exists()


def test_an_interrupted_save_leaves_the_old_model(monkeypatch, a_model, a_network):
    before = contents(a_model.parent)
    with torch.no_grad():
        a_network[0].weight += 1

    def disk_full(self: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(WriteError, match="could not be written .*No space left"):
        save_model(a_network, A_CARD, a_model)
    assert contents(a_model.parent) == before


# ---- whatever is wrong is refused


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def one_bit_changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def torch_file(path: Path) -> None:
    torch.save(tiny(3).state_dict(), path)


def old_torch_file(path: Path) -> None:
    torch.save(tiny(3).state_dict(), path, _use_new_zipfile_serialization=False)


def pickle_file(protocol: int):
    def write(path: Path) -> None:
        path.write_bytes(pickle.dumps({"stem.weight": [0.0] * 99}, protocol=protocol))

    return write


def picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def header_is_no_json(path: Path) -> None:
    path.write_bytes((40).to_bytes(8, "little") + b"{" + b"x" * 39)


def header_lacks_offsets(path: Path) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def no_card(path: Path) -> None:
    path.with_suffix(".json").unlink()


def no_file(path: Path) -> None:
    path.unlink()


def card_is_no_json(path: Path) -> None:
    path.with_suffix(".json").write_text("name: tiny")


def card_is_a_list(path: Path) -> None:
    path.with_suffix(".json").write_text("[1]")


def card_is_binary(path: Path) -> None:
    path.with_suffix(".json").write_bytes(b"\xff\xfe\x00")


def card_with(**changes: object):
    return lambda path: rewrite_card(path, **changes)


WRONG_FILES = [
    (cut, "cut short"),
    (cut_in_header, r"cut short \(60 bytes\)"),
    (empty, "is empty"),
    (appended, "longer than its header says"),
    (one_bit_changed, "SHA-256 is [0-9a-f]{64}, the card says [0-9a-f]{64}"),
    (torch_file, "is a pickle .*can run code .*only safetensors"),
    (old_torch_file, "is a pickle .*can run code .*only safetensors"),
    *((pickle_file(protocol), "is a pickle .*can run code .*only safetensors") for protocol in (2, 3, 4, 5)),
    *((pickle_file(protocol), "is not a safetensors file") for protocol in (0, 1)),
    (picture, "is not a safetensors file"),
    (header_is_no_json, "damaged header"),
    (header_lacks_offsets, "damaged header"),
    (no_card, r"card .*tiny-v0.1.json is missing"),
    (no_file, "no model file"),
    (card_is_no_json, "tiny-v0.1.json is not valid JSON"),
    (card_is_a_list, "not a JSON object"),
    (card_is_binary, "cannot be read"),
    (card_with(dose=None, limits=None), "lacks dose, limits"),
    (card_with(colour="red", price=3), "does not know: colour, price"),
    (card_with(version=0.1), 'wrong value for "version": 0.1. It should be text'),
    (card_with(settings=[]), 'wrong value for "settings"'),
    (card_with(training_data="phantoms"), 'wrong value for "training_data"'),
    (card_with(window_hu=[2000, -1000]), 'wrong value for "window_hu"'),
    (card_with(window_hu=[-1000]), 'wrong value for "window_hu"'),
    (card_with(sha256=""), 'wrong value for "sha256"'),
    (card_with(scope=None), "lacks scope"),
    (card_with(scope=["chest"]), 'wrong value for "scope": .* should be an object'),
    (card_with(scope={"colour": "red", "slice_mm": [1, 2]}), "does not know: scope.colour"),
    (card_with(scope={"slice_mm": [5, 2.5]}), r'wrong value for "scope.slice_mm": \[5, 2.5\]. .* the lower one first'),
    (card_with(scope={"slice_mm": 5}), 'wrong value for "scope.slice_mm"'),
    (card_with(scope={"slice_mm": ["1", "2"]}), 'wrong value for "scope.slice_mm"'),
    (card_with(scope={"slice_mm": [0, 2]}), 'wrong value for "scope.slice_mm"'),
    (card_with(scope={"slice_mm": [1, float("inf")]}), 'wrong value for "scope.slice_mm"'),
    (card_with(scope={"slice_mm": [float("nan"), 2]}), 'wrong value for "scope.slice_mm"'),
    (card_with(scope={"doses": [0.1, 25]}), 'wrong value for "scope.doses"'),
    (card_with(scope={"kernels": "STANDARD"}), 'wrong value for "scope.kernels"'),
    (card_with(scope={"sharp_kernels": 0}), 'wrong value for "scope.sharp_kernels": 0. It should be true, false'),
    (card_with(scope={"body_parts": [1]}), 'wrong value for "scope.body_parts"'),
    (card_with(sha256="0" * 64), "SHA-256"),
]
WRONG_IDS = [f"{i}-{message[:30]}" for i, (_, message) in enumerate(WRONG_FILES)]


@pytest.mark.parametrize(("spoil", "message"), WRONG_FILES, ids=WRONG_IDS)
@pytest.mark.parametrize("use", [verify, load_network, import_model])
def test_a_wrong_model_is_refused(monkeypatch, a_model, a_user_folder, use, spoil, message):
    spoil(a_model)
    monkeypatch.setattr(pickle, "Unpickler", None)  # whoever opens a pickle fails otherwise than with an InputError
    monkeypatch.setattr(pickle, "loads", None)
    with pytest.raises(InputError, match=message) as raised:
        use(a_model)
    assert "tiny-v0.1" in str(raised.value)
    assert not a_user_folder.exists()


def other_window(path: Path) -> None:
    rewrite_card(path, window_hu=[-1024, 3071])


def weight_missing(path: Path) -> None:
    rewrite_weights(path, lambda weights: weights.pop("2.bias"))


def weight_unknown(path: Path) -> None:
    rewrite_weights(path, lambda weights: weights.update({"3.bias": torch.zeros(1)}))


def weight_of_other_shape(path: Path) -> None:
    rewrite_weights(path, lambda weights: weights.update({"0.bias": torch.zeros(4)}))


def weight_not_finite(path: Path) -> None:
    rewrite_weights(path, lambda weights: weights["0.bias"].fill_(float("inf")))


def rewrite_weights(path: Path, change) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    sign(path)


def overlapping_tensors(path: Path) -> None:
    """A hostile header that only the safetensors library notices."""
    entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    header = f'{{"a": {entry}, "b": {entry}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    sign(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_window, r"trained on the window \(-1024.0, 3071.0\) HU"),
        (card_with(architecture="transformer"), 'architecture "transformer", .* knows esau_net, .*tiny'),
        (card_with(settings={"width": 3}), "settings in the card .* do not fit tiny"),
        (card_with(settings={"channels": 4}), r"0.weight has shape \(3, 1, 3, 3\) instead of \(4, 1, 3, 3\)"),
        (weight_missing, "2.bias is missing"),
        (weight_unknown, "3.bias is unknown"),
        (weight_of_other_shape, r"0.bias has shape \(4,\) instead of \(3,\)"),
        (weight_not_finite, "not finite"),
        (overlapping_tensors, "is damaged"),
    ],
)
def test_a_model_that_verifies_but_does_not_fit_is_not_loaded(a_model, spoil, message):
    spoil(a_model)
    verify(a_model)
    with pytest.raises(InputError, match=message):
        load_network(a_model)


def test_a_header_that_starts_like_a_pickle_is_no_pickle(a_model):
    """A header of 1152 = 0x0480 bytes begins with the bytes of a pickle of protocol 4."""
    data = a_model.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].ljust(0x0480)
    a_model.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert a_model.read_bytes()[:2] == b"\x80\x04"
    sign(a_model)
    load_network(a_model)


# ---- folders, names, import


def test_import_copies_both_files_and_may_be_repeated(a_model, a_user_folder):
    for _ in range(2):
        imported = import_model(a_model)
        assert imported == a_user_folder / a_model.name
        assert contents(a_user_folder) == contents(a_model.parent)
        assert find_model("tiny-v0.1") == imported
    assert import_model(imported) == imported


@pytest.mark.parametrize("where", ["shipped", "imported"])
def test_import_does_not_replace_another_model(a_model, a_network, a_shipped_folder, a_user_folder, where):
    folder = {"shipped": a_shipped_folder, "imported": a_user_folder}[where]
    other = folder / a_model.name
    with torch.no_grad():
        a_network[0].weight += 1
    save_model(a_network, A_CARD, other)
    before = contents(folder)
    with pytest.raises(InputError, match="another model named tiny-v0.1"):
        import_model(a_model)
    assert contents(folder) == before


def test_import_of_a_shipped_model_is_that_model(a_network, a_model, a_shipped_folder, a_user_folder):
    save_model(a_network, A_CARD, a_shipped_folder / a_model.name)
    assert import_model(a_model) == a_shipped_folder / a_model.name
    assert not a_user_folder.exists()


def test_a_failed_import_leaves_nothing(monkeypatch, a_model, a_user_folder):
    def fail(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(WriteError, match="could not be written"):
        import_model(a_model)
    assert contents(a_user_folder) == {}


def test_list_shows_shipped_then_imported_models_and_skips_bad_cards(
    a_network, a_model, a_shipped_folder, a_user_folder, caplog
):
    for name in ("b", "a", "broken"):
        save_model(a_network, replace(A_CARD, name=f"model {name}"), a_shipped_folder / f"{name}.safetensors")
    (a_shipped_folder / "broken.json").write_text("{}")
    import_model(a_model)
    assert [(card.name, path) for card, path in list_models()] == [
        ("model a", a_shipped_folder / "a.safetensors"),
        ("model b", a_shipped_folder / "b.safetensors"),
        ("A test model", a_user_folder / "tiny-v0.1.safetensors"),
    ]
    assert "broken.json lacks" in caplog.text


def test_no_folders_no_models(a_shipped_folder):
    a_shipped_folder.rmdir()
    assert list_models() == []


def test_find_by_name_by_path_and_by_default(monkeypatch, a_network, a_model, a_shipped_folder):
    monkeypatch.setattr(files, "DEFAULT_MODEL", "best-v2.0")
    best = a_shipped_folder / "best-v2.0.safetensors"
    with pytest.raises(InputError, match="default model .*best-v2.0.safetensors is missing"):
        find_model()
    save_model(a_network, A_CARD, best)
    assert find_model() == find_model("ascon-default") == find_model("best-v2.0") == best
    assert find_model(a_model) == find_model(str(a_model)) == a_model


@pytest.mark.parametrize("name", ["tiny", "", "no/such/file.safetensors", "../elsewhere/tiny-v0.1"])
def test_an_unknown_name_is_refused(a_model, a_user_folder, name):
    import_model(a_model)
    with pytest.raises(InputError, match="ascon models list"):
        find_model(name)


@pytest.mark.parametrize(
    ("platform", "variable", "value", "expected"),
    [
        ("linux", "XDG_DATA_HOME", "/data", "/data/ASCON/models"),
        ("linux", "HOME", "/me", "/me/.local/share/ASCON/models"),
        ("darwin", "HOME", "/me", "/me/Library/Application Support/ASCON/models"),
        ("win32", "LOCALAPPDATA", "/Local", "/Local/ASCON/models"),
    ],
)
def test_the_users_folder_is_where_the_platform_keeps_data(monkeypatch, platform, variable, value, expected):
    for name in ("ASCON_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(files.sys, "platform", platform)
    assert files.user_folder() == Path(expected)


def test_models_are_listed_verified_and_imported_without_torch(a_model, a_user_folder):
    """As in Slicer's own process, where torch may not be imported or is not there."""
    code = (
        "import sys; sys.modules.update(torch=None, safetensors=None)\n"
        "from ASCONDenoiseLib.models.files import import_model, list_models, verify\n"
        f"verify({str(a_model)!r}); import_model({str(a_model)!r})\n"
        "print([card.name for card, path in list_models()][-1])"
    )
    library = Path(files.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=library, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "A test model"), run.stderr
    assert (a_user_folder / a_model.name).is_file()


# ---- fast, best, and the automatic choice


@pytest.fixture
def the_shipped_two(a_shipped_folder, monkeypatch) -> Path:
    monkeypatch.setattr(files, "AUTOMATIC_FAST", True)
    for name in (files.DEFAULT_MODEL, files.FAST_MODEL):
        save_model(tiny(3), A_CARD, a_shipped_folder / f"{name}.safetensors")
    return a_shipped_folder


def test_fast_and_best_are_names(the_shipped_two):
    best, fast = (the_shipped_two / f"{name}.safetensors" for name in (files.DEFAULT_MODEL, files.FAST_MODEL))
    assert find_model("best") == find_model(None) == find_model("ascon-default") == best
    assert find_model("fast") == find_model(files.FAST_MODEL) == fast


@pytest.mark.parametrize(
    ("name", "slices", "gpu", "chosen"),
    [
        (None, 300, False, files.FAST_MODEL),
        (None, files.MANY_SLICES, False, files.FAST_MODEL),
        (None, files.MANY_SLICES - 1, False, files.DEFAULT_MODEL),
        (None, 300, True, files.DEFAULT_MODEL),
        ("best", 300, False, files.DEFAULT_MODEL),
        ("fast", 1, True, files.FAST_MODEL),
        (files.DEFAULT_MODEL, 300, False, files.DEFAULT_MODEL),
    ],
)
def test_the_model_for_a_volume(the_shipped_two, name, slices, gpu, chosen):
    path, note = files.choose_model(name, slices, lambda: gpu)
    assert path.stem == chosen
    said = name is None and chosen == files.FAST_MODEL
    assert (f"{slices} slices and there is no GPU" in note) == said and bool(note) == said


def test_the_automatic_choice_leaves_the_fast_model_where_that_is_not_as_good(the_shipped_two, monkeypatch):
    monkeypatch.setattr(files, "AUTOMATIC_FAST", False)
    assert files.choose_model(None, 300, lambda: False) == (find_model("best"), "")
    assert files.choose_model("fast", 300, lambda: False)[0].stem == files.FAST_MODEL


def test_without_a_fast_model_the_default_is_taken_and_said(the_shipped_two):
    (the_shipped_two / f"{files.FAST_MODEL}.safetensors").unlink()

    def never() -> bool:
        raise AssertionError("torch is not needed to know this")

    assert files.choose_model(None, 300, never) == (find_model(None), "")
    path, note = files.choose_model("fast", 300, never)
    assert path == find_model("fast") == find_model(None)
    assert note == f"There is no fast model (ascon-fast) here: {files.DEFAULT_MODEL} was taken."
