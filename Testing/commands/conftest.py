"""Models, volumes and series for the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_fixtures import GEOMETRY, Shift
from dicom_fixtures import make_ct_series
from model_fixtures import a_card

from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.volume import Volume
from ASCONDenoiseLib.models import files
from ASCONDenoiseLib.models.card import Scope
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet


@pytest.fixture(autouse=True)
def the_models(tmp_path_factory, monkeypatch) -> Path:
    """A user's folder with the model "shift-30", and nothing shipped."""
    folder, shipped = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("shipped")
    monkeypatch.setenv("ASCON_MODELS", str(folder))
    monkeypatch.setattr(files, "models_folder", lambda: shipped)
    monkeypatch.setitem(ARCHITECTURES, "shift", Shift)
    network = Shift()
    network.hu.data.fill_(-30)
    save_model(
        network,
        a_card(architecture="shift", scope=Scope(slice_mm=(1.0, 3.0)), metrics={"PSNR, dB": 40.5}),
        folder / "shift-30.safetensors",
    )
    return folder


@pytest.fixture
def a_volume() -> Volume:
    """Odd size, oblique; padding, metal and everything between."""
    voxels = np.random.default_rng(0).integers(-900, 1900, (3, 21, 18)).astype(np.int16)
    voxels[0, :2] = -1024
    voxels[1, :2] = 3071
    return Volume(voxels, GEOMETRY)


@pytest.fixture
def a_file(tmp_path, a_volume) -> Path:
    write_image(a_volume, tmp_path / "scan.nrrd")
    return tmp_path / "scan.nrrd"


@pytest.fixture
def a_series(tmp_path) -> Path:
    make_ct_series(tmp_path / "series", shape=(4, 12, 16))
    return tmp_path / "series"


@pytest.fixture
def a_pair(tmp_path) -> tuple[Path, Path]:
    """A reference within the abdomen window, and the same 30 HU above, still within it."""
    reference = np.random.default_rng(1).integers(-100, 150, (3, 16, 16)).astype(np.int16)
    for name, voxels in (("a.nrrd", reference), ("b.nrrd", reference + np.int16(30))):
        write_image(Volume(voxels, GEOMETRY), tmp_path / name)
    return tmp_path / "a.nrrd", tmp_path / "b.nrrd"


@pytest.fixture(scope="session")
def an_identity_esau_net(tmp_path_factory) -> Path:
    """The real architecture with weights that hand the image through: a child has no "shift"."""
    network = ESAUNet()
    for parameter in network.parameters():
        parameter.data.zero_()
    for layer in (network.stem, network.head, network.last):
        layer.weight.data[0, 0, 1, 1] = 1
    for block in (network.enc1, network.dec3):
        block.identity.weight.data[0, 0] = 1
    path = tmp_path_factory.mktemp("esau") / "identity.safetensors"
    save_model(network, a_card(), path, half=True)
    return path
