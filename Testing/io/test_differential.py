"""Our voxels and geometry beside those of strangers: GDCM (in SimpleITK), DCMTK and pydicom's own rescale.

On every CT file of pydicom's wheel and of ASCON_TEST_DATA, and on files made here of which readers are known to make
different things. `-s` prints the tables that docs/reading.md sums up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import fuzz_oracles
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_fixtures import encode_frame, make_ct_series
from fuzz_dicom import Slice, said_to_be
from fuzz_judge import affine_of
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.reading import read_volume

LOCALIZERS = {"CT2N/6293", "CT2N/6924"}
"""Refused, and rightly so: their pixels are readable, but an overview is no slice with HU to denoise."""


def ct_files() -> list[Path]:
    """Of pydicom's wheel, and of the real CTs."""
    files = [Path(file) for file in get_testdata_files()]
    if data := os.environ.get("ASCON_TEST_DATA"):
        files += sorted(Path(data).glob("**/*.dcm"))
    return [file for file in files if file.is_file() and is_ct(file)]


def is_ct(file: Path) -> bool:
    header = attempt(lambda: pydicom.dcmread(file, stop_before_pixels=True))
    if isinstance(header, Exception):
        return False
    return header.get("Modality") == "CT" and "Rows" in header and "ImagePositionPatient" in header


def by_gdcm(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """HU (H, W) and 4x4 LPS."""
    image = sitk.ReadImage(str(file), imageIO="GDCMImageIO")
    return sitk.GetArrayFromImage(image)[0].astype(np.float64), affine_of_image(image)


def affine_of_image(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def by_dcmtk(file: Path, folder: Path) -> np.ndarray:
    """HU (H, W): made plain by DCMTK, then read by the definition of the standard."""
    for tool in ("dcmdjpeg", "dcmdjpls", "dcmdrle", "dcmconv"):
        plain = folder / f"{tool}.dcm"
        done = subprocess.run([tool, str(file), str(plain)], capture_output=True, check=False)
        if done.returncode == 0 and not pydicom.dcmread(plain).file_meta.TransferSyntaxUID.is_encapsulated:
            dataset = pydicom.dcmread(plain)
            return fuzz_oracles.plain_frame(dataset, 0) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    raise RuntimeError("DCMTK does not decode it")


def by_pydicom(file: Path) -> np.ndarray:
    dataset = pydicom.dcmread(file)
    hu: np.ndarray = pydicom.pixels.apply_rescale(dataset.pixel_array, dataset)
    return hu


def ours(file: Path) -> np.ndarray:
    return read_volume(file).voxels[0].astype(np.float64)


def attempt(read: Callable, *arguments):
    """What it returns, or the exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(*arguments)
    except Exception as error:
        return error


def verdict(read: object, truth: np.ndarray) -> str:
    if isinstance(read, Exception):
        return "refuses"
    assert isinstance(read, np.ndarray)
    if read.shape != truth.shape:
        return "other size"
    wrong = np.mean(np.abs(read - truth) > 1e-3)
    return "right" if wrong == 0 else f"{wrong:.0%} wrong"


def test_every_ct_file_is_read_as_gdcm_reads_it() -> None:
    """Voxels, origin and axes of each file alone; the two localizers are refused."""
    files = ct_files()
    for file in files:
        name = "/".join(file.parts[-2:])
        if name in LOCALIZERS:
            with pytest.raises(InputError, match="holds no CT slices"):
                read_volume(file)
            continue
        volume, (theirs, affine) = read_volume(file), by_gdcm(file)
        np.testing.assert_array_equal(volume.voxels[0], theirs, err_msg=name)
        np.testing.assert_allclose(affine_of(volume.geometry)[:, [0, 1, 3]], affine[:, [0, 1, 3]], atol=1e-4)
    print(f"\n{len(files)} CT files, of which we refuse {len(LOCALIZERS)} localizers; the others as GDCM reads them")
    assert len(files) >= 14


@pytest.mark.skipif("ASCON_TEST_DATA" not in os.environ, reason="set ASCON_TEST_DATA to the folder of real CTs")
def test_every_real_series_is_stacked_as_gdcm_stacks_it() -> None:
    folders = sorted({file.parent for file in Path(os.environ["ASCON_TEST_DATA"]).glob("**/*.dcm")})
    for folder in folders:
        if "tilt" in folder.name:
            with pytest.raises(InputError, match="sheared"):
                read_volume(folder)
            continue
        volume, reader = read_volume(folder), sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(image))
        np.testing.assert_allclose(affine_of(volume.geometry), affine_of_image(image), atol=1e-3)
    assert len(folders) >= 4


# --------------------------------------------------------------------- files of which readers make different things


def overlay(dataset: Dataset, _: int) -> None:
    """12 bits stored, and an overlay in bit 12 of every third pixel."""
    pixels = np.frombuffer(dataset.PixelData, "<u2").copy()
    pixels[::3] |= np.uint16(1 << 12)
    dataset.PixelData = pixels.tobytes()


def upper_bits(dataset: Dataset, _: int) -> None:
    """The value in bits 4 to 15."""
    pixels = np.frombuffer(dataset.PixelData, "<u2")
    dataset.PixelData, dataset.HighBit = (pixels << 4).astype("<u2").tobytes(), 15


def not_extended(dataset: Dataset, _: int) -> None:
    """Signed 12 bits whose sign does not reach the upper four."""
    pixels = np.frombuffer(dataset.PixelData, "<u2")
    dataset.PixelData = (pixels & 0x0FFF).astype("<u2").tobytes()


def compressed(dataset: Dataset, _: int) -> None:
    """As JPEG 2000, all 16 bits of the words."""
    words = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    dataset.PixelData = pydicom.encaps.encapsulate([encode_frame(words, "JPEG2000")])
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset["PixelData"].VR = "OB"


def padded(dataset: Dataset, _: int) -> None:
    dataset.PixelData += bytes(40)


UNSIGNED, SIGNED = {"signed": False, "bits_stored": 12}, {"bits_stored": 12, "intercept": 0.0}
MADE: dict[str, tuple[dict, list[Callable[[Dataset, int], None]], str | None]] = {
    "overlay above BitsStored": (UNSIGNED, [overlay], None),
    "overlay, JPEG 2000": (UNSIGNED, [overlay, compressed], None),
    "value in the upper bits": (UNSIGNED, [upper_bits], None),
    "upper bits, JPEG 2000": (UNSIGNED, [upper_bits, compressed], None),
    "sign not extended": (SIGNED, [not_extended], None),
    "sign not extended, JPEG 2000": (SIGNED, [not_extended, compressed], None),
    "said to be implicit, is not": ({}, [], "1.2.840.10008.1.2"),
    "40 bytes behind the pixels": ({}, [padded], None),
}
"""Name -> layout, changes of the dataset, another transfer syntax in the meta information."""


def made(name: str, folder: Path) -> tuple[Path, np.ndarray]:
    """The file and its HU (H, W)."""
    layout, changes, syntax = MADE[name]
    hu = np.random.default_rng(0).integers(-1000, 1000, (1, 12, 10)).astype(np.int16)
    (file,) = make_ct_series(folder / name, voxels_hu=hu, **layout)
    one = Slice(file.name, pydicom.dcmread(file))
    for change in changes:
        change(one.dataset, 0)
    if syntax:
        one.edits.append(said_to_be(one, syntax))
    file.write_bytes(one.content())
    return file, hu[0].astype(np.float64)


def test_where_readers_differ_we_are_right_or_refuse(tmp_path: Path) -> None:
    print(f"\n{'':32}{'we':12}{'GDCM':12}{'DCMTK':15}pydicom")
    for name in MADE:
        file, truth = made(name, tmp_path)
        we = verdict(attempt(ours, file), truth)
        gdcm = attempt(lambda file: by_gdcm(file)[0], file)
        dcmtk = verdict(attempt(by_dcmtk, file, tmp_path), truth) if shutil.which("dcmconv") else "not installed"
        print(f"{name:32}{we:12}{verdict(gdcm, truth):12}{dcmtk:15}{verdict(attempt(by_pydicom, file), truth)}")
        assert we in ("right", "refuses"), name
        if we == "refuses":
            assert isinstance(attempt(ours, file), InputError)


@pytest.mark.skipif(shutil.which("dcmconv") is None, reason="install dcmtk")
def test_dcmtk_agrees_on_every_file_that_it_decodes(tmp_path: Path) -> None:
    """All of them but JPEG 2000, for which Debian's DCMTK has no decoder."""
    asked = 0
    for file in ct_files():
        theirs = attempt(by_dcmtk, file, tmp_path)
        if "/".join(file.parts[-2:]) not in LOCALIZERS and not isinstance(theirs, Exception):
            np.testing.assert_array_equal(ours(file), theirs, err_msg=str(file))
            asked += 1
    assert asked >= 10
