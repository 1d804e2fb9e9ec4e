"""dciodvfy, of dicom3tools, on derived series: no error that the source lacks, for ten kinds of source.

The habits of four vendors are those that public series of theirs show: what they leave out, how they mark padding, how
they store HU, which private blocks and character sets they use.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_fixtures import make_ct_series, make_enhanced_ct, some_voxels
from fuzz_dicom import deflated
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from ASCONDenoiseLib.io.dicom_reader import read_series
from ASCONDenoiseLib.io.dicom_writer import Derivation, write_derived_series
from ASCONDenoiseLib.io.volume import Volume, like

pytestmark = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="install dicom3tools")


def ge(dataset: Dataset, _: int) -> None:
    """63536 as US for padding of signed pixels, GEMS blocks of private attributes, times with fractions."""
    dataset.Manufacturer, dataset.ManufacturerModelName = "GE MEDICAL SYSTEMS", "LightSpeed VCT"
    dataset.private_block(0x0009, "GEMS_IDEN_01", create=True).add_new(0x01, "LO", "CT_LIGHTSPEED")
    dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x10, "US", 400)
    dataset.ContentTime, dataset.GantryDetectorTilt = "101112.345000", "0.000000"
    dataset.ScanOptions, dataset.FilterType, dataset.ExposureTime = "HELICAL MODE", "BODY FILTER", 1
    del dataset.AcquisitionNumber, dataset.PositionReferenceIndicator
    dataset.PositionReferenceIndicator = "SN"


def siemens(dataset: Dataset, number: int) -> None:
    """12 bits unsigned, kernel with its strength, a CSA header of 20 kB, window values twice."""
    dataset.Manufacturer, dataset.ManufacturerModelName = "SIEMENS", "SOMATOM Definition AS+"
    dataset.ConvolutionKernel = ["I30f", "3"]
    dataset.WindowCenter, dataset.WindowWidth = ["40", "-600"], ["400", "1200"]
    dataset.WindowCenterWidthExplanation = ["WINDOW1", "WINDOW2"]
    dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"SV10" + bytes(20_000))
    dataset.add_new("SmallestImagePixelValue", "US", 0)
    dataset.add_new("LargestImagePixelValue", "US", 4095)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    dataset.ImageComments, dataset.InstanceNumber = f"slice {number}", number + 1


def philips(dataset: Dataset, _: int) -> None:
    """Implicit VR with private elements whose creator is missing, empty type 2, SpacingBetweenSlices of no meaning."""
    dataset.Manufacturer, dataset.ManufacturerModelName = "Philips", "Brilliance 64"
    dataset.ReferringPhysicianName = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.SpacingBetweenSlices = "0"
    dataset.add_new(0x00E11039, "LO", "no creator")
    dataset.private_block(0x01F1, "ELSCINT1", create=True).add_new(0x01, "CS", "HELIX")
    dataset.ProcedureCodeSequence = [Dataset()]
    dataset.ProcedureCodeSequence[0].CodeValue = "CTABD"
    dataset.ProcedureCodeSequence[0].CodingSchemeDesignator = "99PHILIPS"
    dataset.ProcedureCodeSequence[0].CodeMeaning = "CT abdomen"


def canon(dataset: Dataset, _: int) -> None:
    """TOSHIBA blocks, several values of exposure, FC kernel, names in Japanese."""
    dataset.Manufacturer, dataset.ManufacturerModelName = "TOSHIBA", "Aquilion ONE"
    dataset.ConvolutionKernel, dataset.ScanOptions = "FC18", "HELICAL_CT"
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "YAMADA^TARO=山田^太郎=やまだ^たろう"
    dataset.private_block(0x7005, "TOSHIBA_MEC_CT3", create=True).add_new(0x06, "DS", "0")
    dataset.RevolutionTime, dataset.DataCollectionDiameter = 0.5, "400"
    dataset.add_new("ExposureTimeInuS", "DS", "500000")


def latin(dataset: Dataset, _: int) -> None:
    dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jürgen"
    dataset.InstitutionName, dataset.SeriesDescription = "Hôpital Général", "Abdomen natif à 2,5 mm"


def undeclared(dataset: Dataset, _: int) -> None:
    """Cyrillic and no character set: bytes that nobody can read, and that are the patient's all the same."""
    del dataset.SpecificCharacterSet
    for keyword, text in (("PatientName", "Иванов^Иван"), ("InstitutionName", "Больница 1")):
        value = text.encode("iso8859_5")
        value += b" " * (len(value) % 2)
        tag = pydicom.tag.Tag(keyword)
        vr = dictionary_VR(tag)
        dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True, True)


SINGLE_FRAME: dict[str, dict] = {
    "GE": {"edit": ge, "padding": 63536, "padding_vr": "US"},
    "Siemens": {"edit": siemens, "signed": False, "bits_stored": 12},
    "Philips, implicit VR": {"edit": philips, "transfer_syntax": ImplicitVRLittleEndian, "signed": False},
    "Canon": {"edit": canon, "intercept": 0.0},
    "RLE": {"transfer_syntax": RLELossless, "edit": siemens, "signed": False, "bits_stored": 12},
    "JPEG 2000": {"transfer_syntax": JPEG2000Lossless, "edit": ge},
    "JPEG lossless": {"transfer_syntax": JPEGLosslessSV1, "padding": -2000},
    "big endian": {"transfer_syntax": ExplicitVRBigEndian, "edit": ge, "padding": -2000},
    "ISO_IR 100": {"edit": latin},
    "no character set": {"edit": undeclared},
}


def jpeg_ls(folder: Path) -> Path:
    """Of a Toshiba scanner; nothing here can write JPEG-LS."""
    if "ASCON_TEST_DATA" not in os.environ:
        pytest.skip("set ASCON_TEST_DATA to the folder of real CTs")
    real = Path(os.environ["ASCON_TEST_DATA"]) / "more" / "dicom" / "nlst101287_toshiba_jpegls"
    shutil.copytree(real, folder)
    return folder


def deflated_series(folder: Path) -> Path:
    """dciodvfy cannot inflate: it gets the series as it was before, which lies in "plain"."""
    make_ct_series(folder.with_name("plain"), series_uid="1.2.826.0.1.3", edit=latin)
    shutil.copytree(folder.with_name("plain"), folder)
    for file in folder.iterdir():
        file.write_bytes(deflated(file.read_bytes()))
    return folder


def a_source(kind: str, folder: Path) -> Path:
    others: dict[str, Callable[[Path], Path]] = {
        "enhanced": lambda folder: make_enhanced_ct(folder / "enhanced.dcm", padding=-2000),
        "JPEG-LS": jpeg_ls,
        "deflated": deflated_series,
    }
    if kind in others:
        return others[kind](folder)
    make_ct_series(folder, voxels_hu=some_voxels() // 4 * 4, **SINGLE_FRAME[kind])
    return folder


def errors(file: Path) -> set[str]:
    """What dciodvfy calls an error, without the numbers of items and frames."""
    result = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, errors="replace", check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert any("CTImage" in line or "EnhancedCT" in line for line in lines), f"no CT image to dciodvfy: {lines}"
    return {line for line in lines if line.startswith(("Error", "Abort"))}


def changed(volume: Volume) -> Volume:
    """By up to 3 HU, as by a denoiser; padding stays."""
    change = np.random.default_rng(0).integers(-3, 4, volume.voxels.shape)
    voxels = np.where(volume.voxels <= -1020, volume.voxels, volume.voxels + change)
    return like(volume, voxels.astype(volume.voxels.dtype))


@pytest.mark.parametrize("plain_hu", [False, True], ids=["source's encoding", "plain HU"])
@pytest.mark.parametrize("kind", [*SINGLE_FRAME, "enhanced", "JPEG-LS", "deflated"])
def test_a_derived_series_has_no_error_that_its_source_lacks(tmp_path: Path, kind: str, plain_hu: bool) -> None:
    source = a_source(kind, tmp_path / "source")
    volume = changed(read_series(source))
    if plain_hu:
        volume.voxels[0, 0, 0] = -20000
    assert volume.source
    files = write_derived_series(volume, volume.source, tmp_path / "derived", Derivation("ASCON, strength 1"))
    np.testing.assert_array_equal(read_series(tmp_path / "derived").voxels, volume.voxels)
    plain = [tmp_path / "plain" / file.name for file in volume.source.files]
    sources = plain if kind == "deflated" else volume.source.files
    theirs = {error for file in sources[:2] for error in errors(file)}
    ours = {error for file in files[:2] for error in errors(file)}
    print(f"{kind}: {len(theirs)} errors in the source, {len(ours)} in the derived series")
    assert ours <= theirs
