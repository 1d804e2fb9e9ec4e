"""Reading DICOM: exact HU and geometry from every kind of CT folder, and a sentence for every kind of bad one."""

from __future__ import annotations

import os
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_fixtures import (
    COMPRESSED,
    SAGITTAL,
    bundled,
    edit_file,
    make_ct_series,
    make_enhanced_ct,
    oblique_direction,
    some_voxels,
)
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io import dicom_pixels
from ASCONDenoiseLib.io.reading import read_volume


def test_facts_and_source(a_folder):
    uid = generate_uid()
    files = make_ct_series(a_folder, series_uid=uid)
    volume = read_volume(str(a_folder))
    assert volume.description == {
        "modality": "CT",
        "kernel": "STANDARD",
        "kvp": "120",
        "slice_thickness_mm": "2.5",
        "body_part": "ABDOMEN",
        "series_description": "Abdomen 2.5 mm",
        "manufacturer_model": "Scanner 1",
    }
    assert (volume.source.series_uid, volume.source.description) == (uid, "Abdomen 2.5 mm")
    assert (volume.source.files, volume.source.n_slices, volume.source.frames) == (tuple(files), 4, ())


def test_a_malformed_fact_does_not_stop_the_reading(a_folder):
    for file in make_ct_series(a_folder):
        file.write_bytes(file.read_bytes().replace(b"DS\x04\x00120 ", b"DS\x04\x0012kV"))
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, some_voxels())
    assert volume.description["kvp"] == "12kV"


# ---- enhanced multi-frame --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *COMPRESSED], ids=lambda syntax: syntax.keyword)
def test_enhanced_multi_frame(a_folder, syntax):
    voxels = some_voxels((5, 9, 14))
    voxels[3] = voxels[3] // 2 * 2
    file = make_enhanced_ct(
        a_folder / "enhanced",
        voxels_hu=voxels,
        direction=oblique_direction(),
        frame_order=(4, 2, 0, 1, 3),
        intercept=(-1024.0, -1000.0, 0.0, 10.0, -1024.0),
        slope=(1.0, 1.0, 1.0, 2.0, 1.0),
        transfer_syntax=syntax,
        padding=-2000,
    )
    for path in (a_folder, file):
        volume = read_volume(path)
        assert np.array_equal(volume.voxels, voxels)
        np.testing.assert_allclose(volume.geometry.spacing_mm, (0.7, 0.8, 2.5), atol=1e-9)
        np.testing.assert_allclose(volume.geometry.direction, oblique_direction(), atol=1e-9)
        assert volume.geometry.origin_mm == (-100.0, -90.5, 30.25)
        assert (volume.source.files, volume.source.n_slices) == ((file,), 5)
        assert volume.source.frames == (3, 4, 2, 5, 1)
        assert volume.padding_hu == -3024.0
        assert (volume.description["kernel"], volume.description["kvp"]) == ("STANDARD", "120")


def test_orientation_and_spacing_per_frame(a_folder):
    def move_to_frames(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.PlaneOrientationSequence = shared.PlaneOrientationSequence
            group.PixelMeasuresSequence = shared.PixelMeasuresSequence
        del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence

    file = make_enhanced_ct(a_folder / "a.dcm", direction=SAGITTAL, edit=move_to_frames)
    volume = read_volume(file)
    assert np.array_equal(volume.voxels, some_voxels())
    assert volume.geometry.spacing_mm == (0.7, 0.8, 2.5)
    assert volume.geometry.direction == SAGITTAL


# ---- what else lies in folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_name", ["{:04d}.dcm", "{:04d}.IMA", "IM{:05d}", "1.2.840.{}", "slice {}.x.DCM"])
def test_file_names(a_folder, file_name):
    make_ct_series(a_folder, file_name=file_name)
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels())


def test_other_files_are_skipped(a_folder):
    make_ct_series(a_folder / "deep" / "er")
    (a_folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM index")
    (a_folder / "notes.txt").write_text("a note")
    (a_folder / "empty.log").touch()
    (a_folder / "README").write_text("a note without suffix")
    (a_folder / "Thumbs.db").write_bytes(bytes(600))
    (a_folder / ".DS_Store").write_bytes(bytes(600))
    (a_folder / "autorun.inf").write_bytes(bytes(600))
    (a_folder / "__MACOSX").mkdir()
    (a_folder / "__MACOSX" / "0001.dcm").write_bytes(b"resource fork")
    (a_folder / "deep" / "._0001.dcm").write_bytes(b"resource fork")
    (a_folder / ".cache").mkdir()
    make_ct_series(a_folder / ".cache")
    index = pydicom.dcmread(make_ct_series(a_folder / "index", shape=(1, 4, 4))[0])
    index.file_meta.MediaStorageSOPClassUID = index.SOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    index.save_as(a_folder / "renamed_dicomdir.dcm")
    shutil.rmtree(a_folder / "index")
    report = pydicom.dcmread(a_folder / "deep" / "er" / "0001.dcm")
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    report.Modality, report.SOPClassUID = "SR", "1.2.840.10008.5.1.4.1.1.88.22"
    report.SeriesInstanceUID = generate_uid()
    report.save_as(a_folder / "report.dcm")
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels())


def test_localizers_are_set_aside(a_folder):
    """In a series of their own, inside the series, and inside it without the mark but in another plane."""
    uid = generate_uid()
    localizer = {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER"), "direction": SAGITTAL}
    make_ct_series(a_folder / "a", series_uid=uid)
    make_ct_series(a_folder / "b", shape=(2, 30, 8), **localizer)
    make_ct_series(a_folder / "c", shape=(2, 30, 8), series_uid=uid, **localizer)
    make_ct_series(a_folder / "d", shape=(2, 30, 8), series_uid=uid, direction=SAGITTAL)
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, some_voxels())
    assert {file.parent.name for file in volume.source.files} == {"a"}


def test_screenshots_are_set_aside(a_folder):
    uid = generate_uid()
    make_ct_series(a_folder / "a", series_uid=uid)
    (file,) = make_ct_series(a_folder / "b", shape=(1, 64, 64), series_uid=uid)
    edit_file(file, SOPClassUID=SecondaryCaptureImageStorage, ImagePositionPatient=None, RescaleSlope=None)
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels())


def test_duplicates_are_dropped(a_folder):
    files = make_ct_series(a_folder)
    shutil.copy(files[1], a_folder / "copy of 2.dcm")
    shutil.copy(files[3], a_folder / "0000.dcm")
    edit_file(a_folder / "0000.dcm", SOPInstanceUID=generate_uid())
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, some_voxels())
    assert [file.name for file in volume.source.files] == ["0001.dcm", "0002.dcm", "0003.dcm", "0000.dcm"]


def test_one_of_several_series_is_chosen_by_its_uid(a_folder):
    soft, sharp, head = generate_uid(), generate_uid(), generate_uid()
    make_ct_series(a_folder / "1", series_uid=soft, series_description="Soft", shape=(5, 6, 7))
    make_ct_series(a_folder / "1", series_uid=sharp, series_description="Sharp", file_name="s{}", shape=(3, 6, 7))
    make_ct_series(a_folder / "2", series_uid=head, series_description="T1", modality="MR", shape=(4, 6, 7))
    assert np.array_equal(read_volume(a_folder, sharp).voxels, some_voxels((3, 6, 7)))
    assert np.array_equal(read_volume(a_folder, soft).voxels, some_voxels((5, 6, 7)))
    with pytest.raises(InputError) as caught:
        read_volume(a_folder)
    assert str(caught.value) == (
        f"{a_folder} holds 2 CT series: choose one by its UID. It holds:\n"
        f"  {soft}  CT  Soft  5 images\n  {head}  MR  T1  4 images\n  {sharp}  CT  Sharp  3 images"
    )
    with pytest.raises(InputError, match=f"holds no CT slices of series {head}: choose another UID"):
        read_volume(a_folder, head)
    with pytest.raises(InputError, match=r"holds no CT slices of series 1\.2\.3: choose another UID"):
        read_volume(a_folder, "1.2.3")


def interleaved(folder, **by_half) -> None:
    """One series whose slices differ, every second one, in an attribute."""
    ((keyword, values),) = by_half.items()
    make_ct_series(folder, shape=(6, 8, 7), edit=lambda dataset, k: setattr(dataset, keyword, values[k % 2]))


@pytest.mark.parametrize(
    ("keyword", "values"),
    [("ConvolutionKernel", ("B30f", "B70f")), ("KVP", ("80", "140")), ("TemporalPositionIdentifier", (1, 2))],
)
def test_two_reconstructions_or_phases_that_interleave_are_no_volume(a_folder, keyword, values):
    """They form an even stack."""
    interleaved(a_folder, **{keyword: values})
    with pytest.raises(
        InputError, match=rf"slices of different {keyword} \(.*0001\.dcm: {values[0]}, .*: {values[1]}\)"
    ):
        read_volume(a_folder)


@pytest.mark.parametrize(
    ("keyword", "values", "note"),
    [
        ("SliceThickness", ("1", "5"), "The slices have different thicknesses: 1, 5 mm."),
        ("AcquisitionNumber", (1, 2), "Slices of acquisitions 1, 2 alternate along the stack"),
        ("FrameOfReferenceUID", ("1.2", "1.3"), "The slices have different FrameOfReferenceUID"),
    ],
)
def test_what_is_odd_about_the_slices_is_noted(a_folder, keyword, values, note):
    interleaved(a_folder, **{keyword: values})
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, some_voxels((6, 8, 7)))
    (said,) = volume.notes
    assert said.startswith(note)


def test_two_phases_of_one_place_are_told_apart(a_folder):
    uid = generate_uid()
    make_ct_series(a_folder, series_uid=uid, file_name="a{}.dcm")
    edit = lambda dataset, _: setattr(dataset, "AcquisitionNumber", 2)  # noqa: E731
    make_ct_series(a_folder, series_uid=uid, file_name="b{}.dcm", voxels_hu=some_voxels(seed=1), edit=edit)
    with pytest.raises(InputError, match=r"a1\.dcm and .*b1\.dcm \(AcquisitionNumber 1 and 2\): two reconstructions"):
        read_volume(a_folder)


@pytest.mark.parametrize(
    "positions_mm", [[(0, 0, 0)] * 4, [(k, 2 * k, 0) for k in range(4)]], ids=["alike", "in plane"]
)
def test_positions_that_were_lost(a_folder, positions_mm):
    make_ct_series(a_folder, positions_mm=positions_mm)
    with pytest.raises(InputError, match=r"All 4 images of .* lie in one plane .* positions were lost"):
        read_volume(a_folder)


def test_the_only_ct_series_needs_no_choice(a_folder):
    make_ct_series(a_folder / "a")
    make_ct_series(a_folder / "b", modality="PT")
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels())


# ---- cost ------------------------------------------------------------------------------------------------------------


def test_headers_are_read_first_and_pixels_once(a_folder, monkeypatch):
    files = make_ct_series(a_folder)
    calls = []
    read_header, decode = pydicom.dcmread, dicom_pixels.pixel_array

    def count_header(file, *, stop_before_pixels, **settings):
        calls.append(f"header of {file.name}")
        assert stop_before_pixels
        return read_header(file, stop_before_pixels=True, **settings)

    def count_pixels(file, **settings):
        calls.append(f"pixels of {file.name}")
        return decode(file, **settings)

    monkeypatch.setattr(pydicom, "dcmread", count_header)
    monkeypatch.setattr(dicom_pixels, "pixel_array", count_pixels)
    names = [file.name for file in files]
    read_volume(a_folder)
    assert calls == [f"header of {name}" for name in names] + [f"pixels of {name}" for name in names]


@pytest.mark.parametrize("make", [make_ct_series, make_enhanced_ct])
def test_memory_is_the_result_and_a_few_slices(a_folder, make):
    make(a_folder, shape=(64, 128, 96))
    read_volume(a_folder)  # imports and caches
    tracemalloc.start()
    volume = read_volume(a_folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one_slice, one_header = 128 * 96 * 8, 20_000  # bytes; a slice in float64
    assert peak < volume.voxels.nbytes + 8 * one_slice + 64 * one_header


# ---- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_bundled_files_read_as_itk_reads_them(name):
    volume, image = read_volume(bundled(name)), sitk.ReadImage(bundled(name))
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.geometry.origin_mm, image.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(volume.geometry.direction, image.GetDirection(), atol=1e-4)  # 4 decimals in one header
    np.testing.assert_allclose(volume.geometry.spacing_mm[:2], image.GetSpacing()[:2], atol=1e-9)
    assert volume.geometry.spacing_mm[2] == 5.0


def real_data(name: str) -> Path:
    folder = os.environ.get("ASCON_TEST_DATA")
    if not folder:
        pytest.skip("ASCON_TEST_DATA names no folder with real CT")
    return Path(folder) / name


def test_real_series_equals_the_nifti_of_the_same_scan():
    from_dicom = read_volume(real_data("dicom/hcc007a_liver_10mm"))
    from_nifti = read_volume(real_data("train/hcc007a_liver_10mm.nii.gz"))
    assert from_dicom.voxels.dtype == from_nifti.voxels.dtype == np.int16
    assert np.array_equal(from_dicom.voxels, from_nifti.voxels)
    np.testing.assert_allclose(from_dicom.geometry.spacing_mm, from_nifti.geometry.spacing_mm, rtol=1.2e-7)
    np.testing.assert_allclose(from_dicom.geometry.origin_mm, from_nifti.geometry.origin_mm, rtol=1.2e-7)
    np.testing.assert_allclose(from_dicom.geometry.direction, from_nifti.geometry.direction, atol=1.2e-7)
    assert from_dicom.padding_hu == -2000.0


def test_real_implicit_vr_series_reads_as_itk_reads_it():
    folder = real_data("dicom/pancreas001_philips_implicit_vr")
    volume = read_volume(folder)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.geometry.origin_mm, image.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(volume.geometry.spacing_mm, image.GetSpacing(), atol=1e-9)


# ---- bad input -------------------------------------------------------------------------------------------------------


def at_heights(*heights_mm):
    def make(folder):
        make_ct_series(folder, shape=(len(heights_mm), 4, 5), positions_mm=[(0, 0, z) for z in heights_mm])

    return make


def nothing(folder):
    folder.mkdir()


def only_a_note(folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("a note")


def not_dicom(folder):
    make_ct_series(folder)
    (folder / "0002.dcm").write_bytes(np.random.default_rng(0).bytes(4000))


def empty_file(folder):
    make_ct_series(folder)
    (folder / "0002.dcm").write_bytes(b"")


def garbage_header(folder):
    make_ct_series(folder)
    (folder / "0003.dcm").write_bytes(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(4000))


def cut(part: float, **settings):
    def make(folder):
        file = make_ct_series(folder, shape=(4, 64, 60), **settings)[2]
        content = file.read_bytes()
        file.write_bytes(content[: int(part * len(content))])

    return make


def cut_enhanced(folder):
    file = make_enhanced_ct(folder / "0003.dcm", shape=(4, 64, 60))
    content = file.read_bytes()
    file.write_bytes(content[: int(0.8 * len(content))])


def frame_left_out(folder):
    file = make_enhanced_ct(folder / "0003.dcm", transfer_syntax=JPEGLosslessSV1)
    frames = list(generate_frames(pydicom.dcmread(file).PixelData, number_of_frames=4))
    edit_file(file, PixelData=encapsulate(frames[:3]))


def fewer_places_than_frames(folder):
    def promise(dataset):
        dataset.NumberOfFrames = 4
        dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:3]

    make_enhanced_ct(folder / "0003.dcm", edit=promise)


def edited(slice_number: int, **values):
    def make(folder):
        edit_file(make_ct_series(folder)[slice_number], **values)

    return make


def dangling_link(folder):
    make_ct_series(folder)
    (folder / "0009.dcm").symlink_to(folder / "nowhere")


def tilted(folder):
    tan = np.tan(np.radians(12.5))
    make_ct_series(folder, positions_mm=[(0, 2.5 * k * tan, 2.5 * k) for k in range(4)])


def zigzag(folder):
    make_ct_series(folder, positions_mm=[(0, 0, 0), (3, 0, 2.5), (0, 0, 5), (0, 0, 7.5)])


def two_phases(folder):
    uid = generate_uid()
    make_ct_series(folder, series_uid=uid, file_name="a{}.dcm")
    make_ct_series(folder, series_uid=uid, file_name="b{}.dcm", voxels_hu=some_voxels(seed=1))


def malformed(tag: bytes, value: bytes):
    """The value of an explicit-VR element of slice 2, overwritten in the file by one of the same length."""

    def make(folder):
        file = make_ct_series(folder)[1]
        content = file.read_bytes()
        at = content.index(tag) + len(tag) + 4  # VR and length
        file.write_bytes(content[:at] + value + content[at + len(value) :])

    return make


def two_planes(folder):
    uid = generate_uid()
    make_ct_series(folder, series_uid=uid, file_name="a{}.dcm", shape=(6, 8, 8))
    make_ct_series(folder, series_uid=uid, file_name="b{}.dcm", shape=(5, 8, 8), direction=SAGITTAL)


def two_sizes(folder):
    uid = generate_uid()
    make_ct_series(folder, series_uid=uid, file_name="a{}.dcm", shape=(2, 8, 8))
    make_ct_series(folder, series_uid=uid, file_name="b{}.dcm", shape=(2, 8, 9), origin_mm=(-100, -90.5, 35.25))


def two_multi_frame_files(folder):
    uid = generate_uid()
    make_enhanced_ct(folder / "a.dcm", series_uid=uid)
    make_enhanced_ct(folder / "b.dcm", series_uid=uid, origin_mm=(-100, -90.5, 40.25))


def only_localizers(folder):
    make_ct_series(folder, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), series_description="Scout")


def magnetic_resonance(folder):
    make_ct_series(folder, modality="MR", series_description="T1")


def unknown_compression(folder):
    file = make_ct_series(folder, transfer_syntax=JPEG2000Lossless)[0]
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    dataset.save_as(file)


BAD_FOLDERS = {
    "empty folder": (nothing, r"ct holds no DICOM images: give a folder with one file per slice"),
    "no DICOM in it": (only_a_note, r"ct holds no DICOM images: give a folder"),
    "not DICOM": (not_dicom, r"0002\.dcm is no DICOM file, or a damaged one: copy it again, or leave it out"),
    "empty file": (empty_file, r"0002\.dcm is no DICOM file, or a damaged one: copy it again, or leave it out"),
    "garbage": (garbage_header, r"0003\.dcm is truncated or damaged: copy it again"),
    "cut in the header": (cut(0.05), r"0003\.dcm is truncated or damaged: copy it again"),
    "cut in the pixels": (cut(0.9), r"pixels of .*0003\.dcm \(Explicit .*\) cannot be decoded: .*Copy it"),
    "cut before the pixels": (edited(2, PixelData=None), r"pixels of .*0003\.dcm .* cannot be decoded"),
    "cut JPEG 2000": (cut(0.9, transfer_syntax=JPEG2000Lossless), r"pixels of .*0003\.dcm \(JPEG 2000 .* cannot be"),
    "cut RLE": (cut(0.9, transfer_syntax=RLELossless), r"pixels of .*0003\.dcm \(RLE .* cannot be"),
    "cut JPEG": (cut(0.9, transfer_syntax=JPEGLosslessSV1), r"pixels of .*0003\.dcm \(JPEG Lossless.* cannot be"),
    "cut multi-frame": (cut_enhanced, r"pixels of .*0003\.dcm .* cannot be decoded"),
    "frame left out": (frame_left_out, r"0003\.dcm is truncated or damaged: copy it again"),
    "frames without a place": (fewer_places_than_frames, r"0003\.dcm has no valid ImagePosition"),
    "unknown compression": (unknown_compression, r"0001\.dcm \(MPEG2 .* its compression is unknown here"),
    "unreadable": (dangling_link, r"0009\.dcm cannot be opened: check its permissions or remove it"),
    "not CT": (magnetic_resonance, r"ct holds no CT slices: give a CT series .*\n  [\d.]+  MR  T1  4 images"),
    "only localizers": (only_localizers, r"ct holds no CT slices: .*\n  [\d.]+  CT  Scout  4 images"),
    "one slice missing": (at_heights(0, 2, 4, 8, 10), r"lacks 1 slice\(s\), at 6 mm along the slice normal \(2 mm"),
    "two gaps": (at_heights(0, 4, 6, 8, 14, 16), r"lacks 3 slice\(s\), at 2, 10, 12 mm along"),
    "uneven spacing": (at_heights(0, 2, 4, 5.3, 7.3, 9.3), r"unevenly spaced: 2 mm in general, but 1\.3 mm after 4 mm"),
    "two spacings": (at_heights(0, 5, 10, 15, 17, 19, 21), r"unevenly spaced: 2 mm .* but 5 mm after 0, 5, 10 mm"),
    "gantry tilt": (tilted, r"sheared by 12\.5 degrees \(gantry tilt\): .*regrid it"),
    "beside the line": (zigzag, r"slices beside the line through the others, by up to 3\.0 mm at 2\.5 mm"),
    "two phases": (two_phases, r"two different images at one place, .*a1\.dcm and .*b1\.dcm: .* in its own folder"),
    "two planes": (two_planes, r"holds stacks of different orientation \(6 and 5 images\): put each in its own folder"),
    "two sizes": (two_sizes, r"b1\.dcm has Columns 9 and .*a1\.dcm has 8: the slices of a volume must agree"),
    "two pixel spacings": (edited(1, PixelSpacing=["0.8", "0.9"]), r"0002\.dcm has PixelSpacing 0\.8, 0\.9 and"),
    "two multi-frame files": (two_multi_frame_files, r"b\.dcm and .*a\.dcm belong to one series and hold"),
    "no position": (edited(1, ImagePositionPatient=None), r"0002\.dcm has no valid ImagePositionPatient"),
    "no orientation": (edited(1, ImageOrientationPatient=None), r"0002\.dcm has no valid ImageOrientationPatient"),
    "bad orientation": (
        lambda folder: make_ct_series(folder, direction=(1.0, 1.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0)),
        r"0001\.dcm has an ImageOrientationPatient that is not two unit vectors",
    ),
    "zero pixel spacing": (
        lambda folder: make_ct_series(folder, spacing_mm=(0.0, 0.8, 2.5)),
        r"0001\.dcm has a PixelSpacing of zero or less",
    ),
    "malformed position": (malformed(b"\x20\0\x32\0", b"x100"), r"0002\.dcm has no valid ImagePositionPatient"),
    "malformed spacing": (malformed(b"\x28\0\x30\0", b"0,8"), r"0002\.dcm has no valid PixelSpacing"),
    "no rescale": (edited(3, RescaleIntercept=None), r"0004\.dcm has no valid RescaleIntercept, which places or"),
    "not HU": (edited(0, RescaleType="EDW"), r"0001\.dcm holds values of type EDW, not HU: choose the series with HU"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder_is_refused_with_a_sentence_and_in_silence(a_folder, case, capfd):
    make, message = BAD_FOLDERS[case]
    make(a_folder)
    before = sorted(a_folder.rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=message) as caught:
            read_volume(a_folder)
    assert capfd.readouterr() == ("", "")
    assert "Phantom" not in str(caught.value) and "PHANTOM" not in str(caught.value)
    assert sorted(a_folder.rglob("*")) == before


def test_protected_file(a_folder, monkeypatch):
    files = make_ct_series(a_folder)
    open_file = Path.open

    def refuse(path, *args, **kwargs):
        if path == files[1]:
            raise PermissionError(13, "Permission denied")
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"0002\.dcm cannot be opened: check its permissions"):
        read_volume(a_folder)


def test_single_files_that_are_no_ct(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG" + bytes(200))
    with pytest.raises(InputError, match=r"a\.png is no DICOM file"):
        read_volume(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"(?s)MR_small\.dcm holds no CT slices.*  MR  "):
        read_volume(bundled("MR_small.dcm"))
    with pytest.raises(InputError, match=r"rtplan\.dcm holds no DICOM images"):
        read_volume(bundled("rtplan.dcm"))


def test_warnings_of_pydicom_are_neither_shown_nor_logged(a_folder, caplog):
    """They can quote header values; this one quotes a NumberOfFrames of 0."""
    file = make_ct_series(a_folder)[0]
    edit_file(file, NumberOfFrames=0)
    with pytest.warns(UserWarning, match="Number of Frames"):
        dicom_pixels.pixel_array(file)
    assert caplog.records
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_volume(a_folder).voxels, some_voxels())
    assert not caplog.records
