"""Derived CT series: what they say, that they hold every HU, and that strangers (dciodvfy, GDCM) agree."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_fixtures import make_ct_series, make_enhanced_ct, oblique_direction, some_voxels
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_derivation import Derivation, is_ours
from ASCONDenoiseLib.io.dicom_reader import read_series
from ASCONDenoiseLib.io.dicom_writer import check_new_folder, write_derived_series
from ASCONDenoiseLib.io.volume import Volume

DERIVATION = Derivation(
    description="ASCON 0.1.0 noise reduction: model ascon-default 1.0, SHA-256 0123abcd, strength 0.80, cpu, fp32",
    software_version="0.1.0",
)


@pytest.fixture
def a_volume(tmp_path: Path) -> Volume:
    make_ct_series(tmp_path / "source")
    return read_series(tmp_path / "source")


def denoised(volume: Volume) -> Volume:
    """Other voxels than the source's: -1024 stays, the rest moves by -3..3 HU."""
    change = np.random.default_rng(1).integers(-3, 4, volume.voxels.shape).astype(np.int16)
    return replace(volume, voxels=np.where(volume.voxels <= -1020, volume.voxels, volume.voxels + change))


def derive(volume: Volume, folder: Path, derivation: Derivation = DERIVATION) -> list[Dataset]:
    """Writes and reads back the derived instances, in the order of the slices."""
    return [pydicom.dcmread(path) for path in write_derived_series(volume, volume.source, folder, derivation)]


def sources(volume: Volume) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in volume.source.files]


# --- Voxels and geometry


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"signed": False, "bits_stored": 12},
        {"signed": False, "bits_stored": 16, "intercept": -8192.0},
        {"slope": 2.0, "intercept": -1024.0},
        {"slope": [1.0, 2.0, 1.0, 1.0], "intercept": [-1024.0, -1024.0, 0.0, -1000.0]},
        {"direction": oblique_direction(), "spacing_mm": (0.683, 0.7, 1.25)},
        {"transfer_syntax": ImplicitVRLittleEndian, "padding": -2000},
        {"transfer_syntax": ExplicitVRBigEndian, "padding": -2000},
        {"transfer_syntax": JPEG2000Lossless},
        {"transfer_syntax": RLELossless},
        {"file_order": [3, 1, 0, 2]},
        {"shape": (1, 7, 9)},
    ],
    ids=str,
)
def test_round_trip_keeps_every_hu_and_the_geometry(tmp_path: Path, layout: dict) -> None:
    source_hu = some_voxels(layout.pop("shape", (4, 12, 10))) // 4 * 4
    make_ct_series(tmp_path / "source", voxels_hu=source_hu, **layout)
    source = read_series(tmp_path / "source")
    voxels = denoised(source).voxels.copy()
    voxels[0].flat[:6] = (-32768, -2048, -1025, 3071, 3072, 32767)
    volume = replace(source, voxels=voxels)

    derive(volume, tmp_path / "derived")

    again = read_series(tmp_path / "derived")
    assert again.voxels.dtype == np.int16
    np.testing.assert_array_equal(again.voxels, voxels)
    assert again.geometry == source.geometry


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), oblique_direction()], ids=["axial", "oblique"])
def test_an_independent_reader_sees_the_same_volume(tmp_path: Path, direction: tuple[float, ...]) -> None:
    make_ct_series(tmp_path / "source", direction=direction, signed=False, bits_stored=12)
    volume = denoised(read_series(tmp_path / "source"))
    volume.voxels[1, 0, :3] = (-2048, 3071, 5000)
    write_derived_series(volume, volume.source, tmp_path / "derived", DERIVATION)

    reader = sitk.ImageSeriesReader()
    (series_uid,) = reader.GetGDCMSeriesIDs(str(tmp_path / "derived"))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "derived"), series_uid))
    image = reader.Execute()

    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.voxels)
    np.testing.assert_allclose(image.GetSpacing(), volume.geometry.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), volume.geometry.origin_mm, atol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), volume.geometry.direction, atol=1e-6)


def test_the_source_encoding_stays_where_it_holds_every_value(tmp_path: Path) -> None:
    make_ct_series(tmp_path / "source", signed=False, bits_stored=12, intercept=-1024.0)
    volume = denoised(read_series(tmp_path / "source"))
    volume.voxels[0, 0, :2] = (-1024, 3071)  # the ends of 12 bits
    first = derive(volume, tmp_path / "derived")[0]
    assert (first.RescaleIntercept, first.RescaleSlope) == (-1024, 1)
    assert (first.PixelRepresentation, first.BitsStored, first.HighBit) == (0, 12, 11)
    assert first.pixel_array[0, :2].tolist() == [0, 4095]


@pytest.mark.parametrize("hu", [-1025, 3072])
def test_a_value_outside_the_source_encoding_makes_the_whole_series_plain_hu(tmp_path: Path, hu: int) -> None:
    make_ct_series(tmp_path / "source", signed=False, bits_stored=12, intercept=-1024.0)
    volume = denoised(read_series(tmp_path / "source"))
    volume.voxels[2, 3, 4] = hu
    instances = derive(volume, tmp_path / "derived")
    for instance, slice_hu in zip(instances, volume.voxels, strict=True):
        assert (instance.RescaleIntercept, instance.RescaleSlope) == (0, 1)
        assert (instance.PixelRepresentation, instance.BitsStored, instance.HighBit) == (1, 16, 15)
        np.testing.assert_array_equal(instance.pixel_array, slice_hu)


def test_slices_stored_in_different_ways_become_plain_hu(tmp_path: Path) -> None:
    make_ct_series(
        tmp_path / "source", intercept=[-1024.0, -1000.0, -900.0, -1024.0], padding=[-976, -1000, -1100, -976]
    )
    volume = denoised(read_series(tmp_path / "source"))
    for instance, slice_hu in zip(derive(volume, tmp_path / "derived"), volume.voxels, strict=True):
        assert (instance.RescaleIntercept, instance.RescaleSlope, instance.PixelPaddingValue) == (0, 1, -2000)
        np.testing.assert_array_equal(instance.pixel_array, slice_hu)


@pytest.mark.parametrize(("slope", "largest_error_hu"), [(1.0, 0.5), (0.25, 0.125), (3.0, 0.5)])
def test_fractional_hu_are_rounded_to_the_finer_of_source_step_and_one_hu(
    tmp_path: Path, slope: float, largest_error_hu: float
) -> None:
    make_ct_series(tmp_path / "source", slope=slope, voxels_hu=some_voxels() // 12 * 12, intercept=-1200.0)
    source = read_series(tmp_path / "source")
    exact_hu = (source.voxels + np.random.default_rng(2).uniform(-5, 5, source.voxels.shape)).astype(np.float32)
    derive(replace(source, voxels=exact_hu), tmp_path / "derived")
    error_hu = np.abs(read_series(tmp_path / "derived").voxels - exact_hu.astype(np.float64)).max()
    assert 0.9 * largest_error_hu < error_hu <= largest_error_hu + 1e-6


@pytest.mark.parametrize(
    ("padding", "padding_vr", "signed", "outlier_hu", "expected", "expected_vr"),
    [
        (-2000, "SS", True, None, -2000, "SS"),
        (63536, "US", True, None, -2000, "SS"),  # as GE and Philips write it
        (0, "US", False, None, 0, "US"),
        (0, "US", False, -1500, -1024, "SS"),  # plain HU: translated
        (-2000, "SS", True, 32767, -3024, "SS"),
        (65535, "US", False, -1500, None, None),  # 64511 HU: no voxel of the result can have it
    ],
)
def test_padding_value_means_the_same_hu(
    tmp_path: Path, padding: int, padding_vr: str, signed: bool, outlier_hu: int | None, expected, expected_vr
) -> None:
    make_ct_series(tmp_path / "source", padding=padding, padding_vr=padding_vr, signed=signed)
    volume = denoised(read_series(tmp_path / "source"))
    if outlier_hu is not None:
        volume.voxels[0, 0, 0] = outlier_hu
    for instance in derive(volume, tmp_path / "derived"):
        assert instance.get("PixelPaddingValue") == expected
        assert {e.VR for e in instance if e.keyword == "PixelPaddingValue"} == ({expected_vr} - {None})


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_lookup_table_keeps_its_meaning_when_pixels_become_signed(tmp_path: Path, syntax: str) -> None:
    def add_lut(dataset: Dataset, _: int) -> None:
        lut = Dataset()
        lut.add_new("LUTDescriptor", "US", [4, 40000, 16])
        lut.add_new("LUTData", "US", [1, 2, 40001, 65535])
        dataset.VOILUTSequence = [lut]

    make_ct_series(tmp_path / "source", signed=False, transfer_syntax=syntax, edit=add_lut)
    volume = denoised(read_series(tmp_path / "source"))
    volume.voxels[0, 0, 0] = -3000
    instance = derive(volume, tmp_path / "derived")[0]
    assert instance.PixelRepresentation == 1
    (lut,) = instance.VOILUTSequence
    assert (lut["LUTDescriptor"].VR, lut.LUTDescriptor) == ("US", [4, 40000, 16])
    data = lut.LUTData if lut["LUTData"].VR == "US" else np.frombuffer(lut.LUTData, "<u2").tolist()
    assert data == [1, 2, 40001, 65535]


# --- What the instances say


def test_a_derived_series_belongs_to_the_study_but_is_itself(a_volume: Volume, tmp_path: Path) -> None:
    before = datetime.now().replace(microsecond=0)
    instances = derive(denoised(a_volume), tmp_path / "derived")
    assert len({i.SOPInstanceUID for i in instances} | {s.SOPInstanceUID for s in sources(a_volume)}) == 8
    (series_uid,) = {i.SeriesInstanceUID for i in instances}
    assert series_uid != a_volume.source.series_uid
    kept = """StudyInstanceUID FrameOfReferenceUID PatientName PatientID PatientBirthDate StudyDate StudyID
        AccessionNumber Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions KVP XRayTubeCurrent
        ExposureTime ConvolutionKernel SliceThickness PixelSpacing ImagePositionPatient ImageOrientationPatient
        InstanceNumber AcquisitionNumber AcquisitionDate AcquisitionTime PatientPosition BodyPartExamined""".split()
    for instance, source in zip(instances, sources(a_volume), strict=True):
        for keyword in kept:
            assert instance[keyword] == source[keyword], keyword
        assert instance.SOPClassUID == instance.file_meta.MediaStorageSOPClassUID == CTImageStorage
        assert instance.SOPInstanceUID == instance.file_meta.MediaStorageSOPInstanceUID
        assert instance.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert instance.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert instance.SeriesDescription == "Abdomen 2.5 mm ASCON denoised"
        assert instance.SeriesNumber == 1003
        assert instance.BurnedInAnnotation == "NO"
        assert instance.DerivationDescription == DERIVATION.description
        (step,) = instance.DerivationCodeSequence
        assert (step.CodeValue, step.CodingSchemeDesignator, step.CodeMeaning) == ("113087", "DCM", "Smoothing")
        (equipment,) = instance.ContributingEquipmentSequence
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == codes.DCM.ModifyingEquipment.value
        assert (equipment.Manufacturer, equipment.SoftwareVersions) == ("ASCON", "0.1.0")
        for event in ("InstanceCreation", "Content", "Series"):
            when = datetime.strptime(instance[f"{event}Date"].value + instance[f"{event}Time"].value, "%Y%m%d%H%M%S.%f")
            assert timedelta(0) <= when - before < timedelta(minutes=1)


def test_codes_have_the_names_of_the_dicom_dictionary(a_volume: Volume, tmp_path: Path) -> None:
    instance = derive(a_volume, tmp_path / "derived")[0]
    for item, code in (
        (instance.DerivationCodeSequence[0], codes.cid7203.Smoothing),
        (
            instance.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0],
            codes.cid7202.SourceImageForImageProcessingOperation,
        ),
        (instance.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0], codes.cid7005.ModifyingEquipment),
    ):
        assert (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == code[:3]


def test_each_slice_refers_to_the_source_image_at_its_place(tmp_path: Path) -> None:
    make_ct_series(tmp_path / "source", file_order=[2, 0, 3, 1])
    volume = read_series(tmp_path / "source")
    uid_at = {tuple(s.ImagePositionPatient): s.SOPInstanceUID for s in sources(volume)}
    hu_of = {
        s.SOPInstanceUID: s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in sources(volume)
    }
    for instance in derive(volume, tmp_path / "derived"):
        (reference,) = instance.SourceImageSequence
        assert reference.ReferencedSOPClassUID == CTImageStorage
        assert reference.ReferencedSOPInstanceUID == uid_at[tuple(instance.ImagePositionPatient)]
        hu = instance.pixel_array * float(instance.RescaleSlope) + float(instance.RescaleIntercept)
        np.testing.assert_array_equal(hu, hu_of[reference.ReferencedSOPInstanceUID])


def test_what_is_only_true_of_the_source_pixels_is_gone(tmp_path: Path) -> None:
    def burden(dataset: Dataset, _: int) -> None:
        block = dataset.private_block(0x0029, "ACME 1.0", create=True)
        block.add_new(0x10, "OB", b"thumbnail!")
        item = Dataset()
        item.private_block(0x0029, "ACME 1.0", create=True).add_new(0x11, "LO", "nested")
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99ACME", "CT"
        dataset.ProcedureCodeSequence = [item]
        dataset.add_new("SmallestImagePixelValue", "SS", -5)
        dataset.add_new("LargestImagePixelValue", "SS", 5)
        dataset.IconImageSequence = [Dataset()]
        dataset.MACParametersSequence = [Dataset()]
        dataset.DigitalSignaturesSequence = [Dataset()]
        for element, vr, value in ((0x10, "US", 12), (0x11, "US", 10), (0x40, "CS", "G"), (0x3000, "OW", bytes(16))):
            dataset.add_new((0x6002, element), vr, value)
        dataset.WindowCenter, dataset.WindowWidth = "50", "350"

    make_ct_series(tmp_path / "source", edit=burden)
    for instance in derive(read_series(tmp_path / "source"), tmp_path / "derived"):
        everything = list(instance.iterall())
        assert not [element for element in everything if element.tag.is_private]
        assert not [element for element in everything if 0x5000 <= element.tag.group <= 0x60FF]
        gone = {"SmallestImagePixelValue", "LargestImagePixelValue", "IconImageSequence", "MACParametersSequence"}
        assert not {e.keyword for e in everything} & (gone | {"DigitalSignaturesSequence"})
        assert instance.ProcedureCodeSequence[0].CodeMeaning == "CT"
        assert (instance.WindowCenter, instance.WindowWidth) == (50, 350)


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", "Ωmega^Zoë^山田"),
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_survive_in_every_character_set(tmp_path: Path, character_set, name: str) -> None:
    def rename(dataset: Dataset, _: int) -> None:
        dataset.SpecificCharacterSet, dataset.PatientName = character_set, name

    make_ct_series(tmp_path / "source", edit=rename)
    volume = read_series(tmp_path / "source")
    instance = derive(volume, tmp_path / "derived", replace(DERIVATION, description="Stärke 1\\2"))[0]
    source = sources(volume)[0]
    assert instance.SpecificCharacterSet == source.SpecificCharacterSet
    assert str(instance.PatientName) == name
    assert instance.PatientName.original_string == source.PatientName.original_string
    assert instance.DerivationDescription == "St?rke 1/2"


def test_earlier_steps_and_special_values_of_the_source_stay(tmp_path: Path) -> None:
    def already_derived(dataset: Dataset, _: int) -> None:
        dataset.ImageType = ["DERIVED", "PRIMARY", "AXIAL", "VMI"]
        dataset.DerivationDescription = "monoenergetic"
        step, equipment = Dataset(), Dataset()
        step.CodeValue, step.CodingSchemeDesignator, step.CodeMeaning = "113097", "DCM", "Multi-energy weighting"
        dataset.DerivationCodeSequence = [step]
        equipment.Manufacturer = "ACME"
        dataset.ContributingEquipmentSequence = [equipment]
        dataset.BurnedInAnnotation, dataset.LossyImageCompression = "YES", "01"
        dataset.SeriesDescription = "d" * 64
        dataset.TimezoneOffsetFromUTC = "-0930"
        del dataset.SeriesNumber

    make_ct_series(tmp_path / "source", edit=already_derived)
    instance = derive(read_series(tmp_path / "source"), tmp_path / "derived")[0]
    assert instance.ImageType == ["DERIVED", "SECONDARY", "AXIAL", "VMI"]
    assert instance.DerivationDescription == f"monoenergetic; {DERIVATION.description}"
    assert [step.CodeValue for step in instance.DerivationCodeSequence] == ["113097", "113087"]
    assert [e.Manufacturer for e in instance.ContributingEquipmentSequence] == ["ACME", "ASCON"]
    assert (instance.BurnedInAnnotation, instance.LossyImageCompression) == ("YES", "01")
    assert instance.SeriesDescription == "d" * 49 + " ASCON denoised"
    assert instance.SeriesNumber == 1000
    there = datetime.now(timezone(timedelta(hours=-9, minutes=-30))).replace(tzinfo=None)
    written = datetime.strptime(instance.ContentDate + instance.ContentTime, "%Y%m%d%H%M%S.%f")
    assert abs(there - written) < timedelta(minutes=1)
    assert instance.ContributingEquipmentSequence[-1].ContributionDateTime.endswith("-0930")


def test_malformed_elements_cost_neither_the_series_nor_a_word(tmp_path: Path, recwarn, caplog, capfd) -> None:
    def extend(dataset: Dataset, _: int) -> None:
        dataset.SpiralPitchFactor, dataset.TimezoneOffsetFromUTC = 0.5, "-0500"

    make_ct_series(tmp_path / "source", edit=extend)
    for file in (tmp_path / "source").iterdir():
        data = file.read_bytes()
        start = data.index(bytes.fromhex("18001193") + b"FD")
        data = data[: start + 6] + b"\x06\x00" + data[start + 8 : start + 14] + data[start + 16 :]  # 6 bytes, not 8
        start = data.index(bytes.fromhex("18005111") + b"IS")
        data = data[: start + 8] + b"2.5 " + data[start + 12 :]  # pydicom quotes what it warns of
        data = data.replace(b"19700101", b"born1970").replace(b"-0500", b"5 h??")
        file.write_bytes(data.replace(b"ORIGINAL\\PRIMARY\\AXIAL", b"ORIGINAL".ljust(22)))
    volume = read_series(tmp_path / "source")
    instance = derive(volume, tmp_path / "derived")[0]
    assert "SpiralPitchFactor" not in instance
    assert (instance.KVP, instance.ImageType) == (120, ["DERIVED", "SECONDARY", "AXIAL"])
    assert instance.get_item("PatientBirthDate").value == b"born1970"
    assert not recwarn.list and not caplog.records and capfd.readouterr() == ("", "")


def test_what_was_lost_in_compression_stays_lost(a_volume: Volume, tmp_path: Path) -> None:
    for file in a_volume.source.files:  # an archive that compressed and didn't say so
        dataset = pydicom.dcmread(file)
        del dataset.PixelData
        dataset.file_meta.TransferSyntaxUID = JPEGLSNearLossless
        dataset.save_as(file)
    for instance in derive(a_volume, tmp_path / "derived"):
        assert (instance.LossyImageCompression, instance.LossyImageCompressionMethod) == ("01", "ISO_14495_1")


@pytest.mark.parametrize(
    ("description", "expected"),
    [("new " * 400, ("new " * 400)[:1024]), ("n" * 800, "n" * 800), ("n" * 500, "o" * 300 + "; " + "n" * 500)],
    ids=["too long", "no room for the old", "both"],
)
def test_our_description_goes_before_an_older_one_where_room_is_short(
    tmp_path: Path, description: str, expected: str
) -> None:
    make_ct_series(tmp_path / "source", edit=lambda d, _: setattr(d, "DerivationDescription", "o" * 300))
    instance = derive(read_series(tmp_path / "source"), tmp_path / "derived", Derivation(description))[0]
    assert instance.DerivationDescription == expected.rstrip(" ")


def test_frames_of_an_enhanced_image_become_single_frame_images(tmp_path: Path) -> None:
    path = make_enhanced_ct(tmp_path / "enhanced.dcm", frame_order=[2, 0, 3, 1], direction=oblique_direction())
    source = pydicom.dcmread(path)
    volume = denoised(read_series(path))
    volume.voxels[0, 0, :2] = (-2048, 5000)
    instances = derive(volume, tmp_path / "derived")
    again = read_series(tmp_path / "derived")
    np.testing.assert_array_equal(again.voxels, volume.voxels)
    assert again.geometry == volume.geometry
    for instance, frame_number in zip(instances, [2, 4, 1, 3], strict=True):
        assert instance.SOPClassUID == CTImageStorage
        (reference,) = instance.SourceImageSequence
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedFrameNumber == instance.InstanceNumber == frame_number
        assert instance.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (instance.KVP, instance.ConvolutionKernel, instance.SliceThickness) == (120, "STANDARD", 2.5)
        assert (instance.AcquisitionDate, instance.AcquisitionTime) == ("20240102", "101112")
        assert "NumberOfFrames" not in instance and "PerFrameFunctionalGroupsSequence" not in instance


def test_exposure_of_an_enhanced_frame_is_translated(tmp_path: Path) -> None:
    def expose(dataset: Dataset) -> None:
        for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
            exposure, content = Dataset(), Dataset()
            exposure.ExposureTimeInms, exposure.XRayTubeCurrentInmA, exposure.ExposureInmAs = (
                500.4,
                200.6,
                100.0 + number,
            )
            content.FrameAcquisitionNumber, content.FrameAcquisitionDateTime = 7, "20240103235959.25-0500"
            groups.CTExposureSequence, groups.FrameContentSequence = [exposure], [content]

    path = make_enhanced_ct(tmp_path / "enhanced.dcm", edit=expose)
    for number, instance in enumerate(derive(read_series(path), tmp_path / "derived"), start=1):
        assert (instance.ExposureTime, instance.XRayTubeCurrent, instance.Exposure) == (500, 201, 100 + number)
        assert instance.AcquisitionNumber == 7
        assert (instance.AcquisitionDate, instance.AcquisitionTime) == ("20240103", "235959.25")


# --- Refusals and failures


def shifted(volume: Volume, **change) -> Volume:
    return replace(volume, geometry=replace(volume.geometry, **change))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: replace(v, voxels=v.voxels[:-1]), "it has 3 slices, the source 4"),
        (
            lambda v: replace(v, voxels=v.voxels[:, :, :-1]),
            "Columns of slice 1 is 10 in the source and 9 in the volume",
        ),
        (lambda v: replace(v, voxels=v.voxels.transpose(0, 2, 1)), "Rows of slice 1 is 12"),
        (lambda v: shifted(v, origin_mm=(-100.0, -90.5, 32.75)), "ImagePositionPatient of slice 1"),
        (lambda v: shifted(v, origin_mm=(-99.3, -90.5, 30.25)), "ImagePositionPatient of slice 1"),  # by one pixel
        (lambda v: shifted(v, spacing_mm=(0.7, 0.8, 5.0)), "ImagePositionPatient of slice 2"),
        (lambda v: shifted(v, spacing_mm=(0.8, 0.7, 2.5)), "PixelSpacing"),
        (lambda v: shifted(v, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)), "ImageOrientationPatient"),
        (lambda v: replace(v, voxels=v.voxels + np.int32(60000)), "more than a 16-bit CT image can hold"),
        (lambda v: replace(v, voxels=np.full(v.voxels.shape, np.nan, np.float32)), "16-bit"),
    ],
)
def test_a_volume_that_is_not_the_sources_is_refused(a_volume: Volume, tmp_path: Path, spoil, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_derived_series(spoil(a_volume), a_volume.source, tmp_path / "derived", DERIVATION)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_source_that_changed_since_is_refused(a_volume: Volume, tmp_path: Path) -> None:
    file = a_volume.source.files[2]
    dataset = pydicom.dcmread(file)
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.save_as(file)
    with pytest.raises(InputError, match=f"{file.name} no longer belongs to series"):
        write_derived_series(a_volume, a_volume.source, tmp_path / "derived", DERIVATION)
    file.unlink()
    with pytest.raises(InputError, match=f"{file.name} can no longer be read"):
        write_derived_series(a_volume, a_volume.source, tmp_path / "derived", DERIVATION)
    assert not (tmp_path / "derived").exists()


def test_only_a_new_or_empty_folder_is_written_to(a_volume: Volume, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for target, message in (
        (full, "not an empty folder"),
        (full / "mine.txt", "not an empty folder"),
        (tmp_path / "missing" / "derived", "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            check_new_folder(target)
        with pytest.raises(InputError, match=message):
            write_derived_series(a_volume, a_volume.source, target, DERIVATION)
    assert (full / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    files = write_derived_series(a_volume, a_volume.source, tmp_path / "empty", DERIVATION)
    assert [file.name for file in files] == ["0001.dcm", "0002.dcm", "0003.dcm", "0004.dcm"]
    assert sorted((tmp_path / "empty").iterdir()) == files


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError("No space left on device"), RuntimeError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failure_leaves_nothing(a_volume: Volume, tmp_path: Path, monkeypatch, failure, raised) -> None:
    real, calls = pydicom.dcmwrite, []

    def failing(path, *args, **kwargs) -> None:
        calls.append(Path(path))
        if len(calls) == 3:
            assert calls[0].exists()  # there is something to clean up
            raise failure
        real(path, *args, **kwargs)

    monkeypatch.setattr(pydicom, "dcmwrite", failing)
    with pytest.raises(raised):
        write_derived_series(a_volume, a_volume.source, tmp_path / "derived", DERIVATION)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


# --- dciodvfy, the validator of dicom3tools


def dciodvfy_errors(path: Path) -> set[str]:
    result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert any("Image" in line for line in lines), f"dciodvfy did not recognise {path.name}: {lines}"
    return {line for line in lines if line.startswith(("Error", "Abort"))}


needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="install dicom3tools")


@needs_dciodvfy
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"signed": False, "bits_stored": 12},
        {"padding": 63536, "padding_vr": "US"},
        {"transfer_syntax": ImplicitVRLittleEndian, "padding": -2000},
        {"transfer_syntax": JPEG2000Lossless},
    ],
    ids=str,
)
@pytest.mark.parametrize("plain_hu", [False, True], ids=["source encoding", "plain HU"])
def test_dciodvfy_finds_no_error(tmp_path: Path, layout: dict, plain_hu: bool) -> None:
    make_ct_series(tmp_path / "source", **layout)
    volume = denoised(read_series(tmp_path / "source"))
    if plain_hu:
        volume.voxels[0, 0, 0] = -20000
    for file in write_derived_series(volume, volume.source, tmp_path / "derived", DERIVATION)[:2]:
        assert dciodvfy_errors(file) == set()


@needs_dciodvfy
def test_dciodvfy_finds_no_error_in_frames_of_an_enhanced_image(tmp_path: Path) -> None:
    volume = read_series(make_enhanced_ct(tmp_path / "enhanced.dcm", padding=-2000))
    for file in write_derived_series(volume, volume.source, tmp_path / "derived", DERIVATION)[:2]:
        assert dciodvfy_errors(file) == set()


@needs_dciodvfy
@pytest.mark.skipif("ASCON_TEST_DATA" not in os.environ, reason="set ASCON_TEST_DATA to the folder of real CTs")
@pytest.mark.parametrize("name", ["hcc007a_liver_10mm", "pancreas001_philips_implicit_vr"])
@pytest.mark.parametrize("plain_hu", [False, True], ids=["source encoding", "plain HU"])
def test_real_series(tmp_path: Path, name: str, plain_hu: bool) -> None:
    volume = denoised(read_series(Path(os.environ["ASCON_TEST_DATA"]) / "dicom" / name))
    if plain_hu:
        volume.voxels[0, 0, 0] = -20000
    files = write_derived_series(volume, volume.source, tmp_path / "derived", DERIVATION)
    again = read_series(tmp_path / "derived")
    np.testing.assert_array_equal(again.voxels, volume.voxels)
    assert again.geometry == volume.geometry
    for source_file, file in list(zip(volume.source.files, files, strict=True))[::4]:
        assert dciodvfy_errors(file) <= dciodvfy_errors(source_file)


def test_uids_follow_from_the_seed_and_the_source_where_there_is_one(tmp_path):
    """The same work done again is the same series to a PACS; another model, strength or source is another."""
    make_ct_series(tmp_path / "a", shape=(3, 8, 8))
    make_ct_series(tmp_path / "b", shape=(3, 8, 8))

    def uids(source: str, seed: str, name: str) -> list[str]:
        volume = read_series(tmp_path / source)
        derivation = Derivation("test", uid_seed=seed)
        files = write_derived_series(volume, volume.source, tmp_path / name, derivation)
        headers = [pydicom.dcmread(file) for file in files]
        return [headers[0].SeriesInstanceUID, *(header.SOPInstanceUID for header in headers)]

    first = uids("a", "model 0.7", "1")
    assert uids("a", "model 0.7", "2") == first and len(set(first)) == 4
    others = [*uids("a", "model 0.8", "3"), *uids("b", "model 0.7", "4"), *uids("a", "", "5"), *uids("a", "", "6")]
    assert len(set(first + others)) == 20
    assert all(pydicom.uid.UID(uid).is_valid and len(uid) <= 64 for uid in first + others)
    assert is_ours(pydicom.dcmread(tmp_path / "1" / "0001.dcm")) and not is_ours(
        pydicom.dcmread(tmp_path / "a/0001.dcm")
    )
