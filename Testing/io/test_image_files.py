"""Image files: exact round trips, refusals with a sentence, complete files or none."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_fixtures import oblique_direction, some_voxels

from ASCONDenoiseLib.errors import InputError, WriteError
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.results import destination
from ASCONDenoiseLib.io.volume import Geometry, Volume

AXIAL = Geometry(spacing_mm=(0.703125, 0.8, 2.5), origin_mm=(-123.456789012345, 1 / 3, -218.360001))
OBLIQUE = Geometry((0.7031251234567, 0.8 / 3, 2.5 / 7), (-123.4, 1 / 3, 1e-7), oblique_direction())
FORMATS = (".nrrd", ".nii", ".nii.gz", ".mha")


@pytest.fixture
def a_volume() -> Volume:
    return Volume(some_voxels((5, 23, 31)), OBLIQUE)


def numbers(geometry: Geometry) -> np.ndarray:
    return np.array([*geometry.spacing_mm, *geometry.origin_mm, *geometry.direction])


@pytest.mark.parametrize("geometry", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_geometry_survives_a_round_trip(tmp_path, suffix, geometry):
    write_image(Volume(some_voxels((5, 23, 31)), geometry), tmp_path / f"a{suffix}")
    back = numbers(read_volume(tmp_path / f"a{suffix}").geometry)
    if suffix == ".mha" or (suffix == ".nrrd" and geometry is AXIAL):
        assert np.array_equal(back, numbers(geometry))
    elif suffix == ".nrrd":  # stores spacing times direction, so the two are rounded when they are parted
        np.testing.assert_allclose(back, numbers(geometry), rtol=4e-16, atol=4e-16)
    else:  # stores float32
        np.testing.assert_allclose(back, numbers(geometry), rtol=1.2e-7, atol=1.2e-7)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "float32", "float64", ">i2"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_dtype_and_values_survive_a_round_trip(tmp_path, suffix, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        voxels = np.random.default_rng(1).normal(0, 1000, (2, 3, 5)).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        voxels = np.random.default_rng(1).integers(limits.min, limits.max, (2, 3, 5), endpoint=True).astype(dtype)
        voxels[0, 0, :2] = limits.min, limits.max
    write_image(Volume(voxels, AXIAL), tmp_path / f"a{suffix}")
    back = read_volume(tmp_path / f"a{suffix}").voxels
    assert back.dtype == dtype.newbyteorder("=")
    assert np.array_equal(back, voxels)


def test_voxel_positions_are_those_that_simpleitk_sees(tmp_path, a_volume):
    write_image(a_volume, tmp_path / "a.mha")
    image = sitk.ReadImage(str(tmp_path / "a.mha"))
    axes = np.array(a_volume.geometry.direction).reshape(3, 3)
    for i, j, k in [(0, 0, 0), (30, 0, 0), (0, 22, 0), (0, 0, 4), (7, 11, 2)]:
        here = a_volume.geometry.origin_mm + axes @ (np.array(a_volume.geometry.spacing_mm) * (i, j, k))
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((i, j, k)), here, atol=1e-12)
        assert image[i, j, k] == a_volume.voxels[k, j, i]


@pytest.mark.parametrize("name", ["A.NRRD", "A.Nrrd", "A.MHA", "A.NII", "A.NII.GZ"])
def test_suffixes_in_capitals(tmp_path, name, a_volume):
    destination(tmp_path / name).write(a_volume, {})
    assert {file.name for file in tmp_path.iterdir()} == {name, f"{name}.json"}
    assert np.array_equal(read_volume(tmp_path / name).voxels, a_volume.voxels)


@pytest.mark.parametrize("suffix", FORMATS[:3:2])
def test_files_are_compressed(tmp_path, suffix):
    write_image(Volume(np.zeros((8, 64, 64), np.int16), AXIAL), tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size < 8 * 64 * 64 * 2 / 10


def test_detached_headers_are_read(tmp_path, a_volume):
    for name in ("a.mhd", "a.nhdr"):
        image = sitk.GetImageFromArray(a_volume.voxels)
        sitk.WriteImage(image, str(tmp_path / name))
        assert np.array_equal(read_volume(tmp_path / name).voxels, a_volume.voxels)


def test_two_dimensional_image_is_one_slice(tmp_path):
    pixels = some_voxels((1, 7, 9))
    sitk.WriteImage(sitk.GetImageFromArray(pixels[0]), str(tmp_path / "a.nrrd"))
    assert np.array_equal(read_volume(tmp_path / "a.nrrd").voxels, pixels)


@pytest.mark.parametrize(
    ("unit", "mm"), [("mm", 1.0), ("um", 0.001), ("\u00b5m", 0.001), ("microns", 0.001), ("cm", 10.0), ("m", 1000.0)]
)
def test_units_of_length(tmp_path, unit, mm):
    """ITK takes every length for mm. A comment that mentions units is none."""
    write_image(Volume(some_voxels(), AXIAL), tmp_path / "a.nrrd")
    write_image(Volume(some_voxels(), AXIAL), tmp_path / "a.mha")
    nrrd, mha = (tmp_path / "a.nrrd").read_bytes(), (tmp_path / "a.mha").read_bytes()
    line = f'# space units: "km"\nspace units: "{unit}" "{unit}" "{unit}"\nencoding'
    (tmp_path / "a.nrrd").write_bytes(nrrd.replace(b"encoding", line.encode(), 1))
    (tmp_path / "a.mha").write_bytes(mha.replace(b"ElementType", f"DistanceUnits = {unit}\nElementType".encode(), 1))
    for name in ("a.nrrd", "a.mha"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_allclose(volume.geometry.spacing_mm, np.array(AXIAL.spacing_mm) * mm, rtol=1e-12)
        np.testing.assert_allclose(volume.geometry.origin_mm, np.array(AXIAL.origin_mm) * mm, rtol=1e-12)
        assert volume.geometry.direction == AXIAL.direction
        assert np.array_equal(volume.voxels, some_voxels())


@pytest.mark.parametrize(
    ("suffix", "line"),
    [
        (".nrrd", b"axis mins: " + b"7" * 2000),  # ITK would write beyond its memory
        (".mha", b"BinaryDataByteOrderMSB = 10 8"),  # ITK would take it for true
        (".mha", b"CompressedData = yes"),
    ],
)
def test_fields_that_itk_takes_for_something_else_are_refused(tmp_path, suffix, line):
    path = tmp_path / f"a{suffix}"
    write_image(Volume(some_voxels(), AXIAL), path)
    before = b"encoding" if suffix == ".nrrd" else b"ElementType"
    path.write_bytes(path.read_bytes().replace(before, line + b"\n" + before, 1))
    with pytest.raises(InputError, match="cannot be read as"):
        read_volume(path)


@pytest.mark.parametrize("units", ['"furlong" "furlong" "furlong"', '"mm" "mm" "um"'])
def test_units_of_length_that_are_not_known_are_refused(tmp_path, units):
    write_image(Volume(some_voxels(), AXIAL), tmp_path / "a.nrrd")
    content = (tmp_path / "a.nrrd").read_bytes().replace(b"encoding", f"space units: {units}\nencoding".encode(), 1)
    (tmp_path / "a.nrrd").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.nrrd is measured in .*, which is not known here: save it again in mm"):
        read_volume(tmp_path / "a.nrrd")


# ---- a file appears complete or not at all ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("disk full"), OSError("disk full"), KeyboardInterrupt()])
def test_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch, a_volume, error):
    (tmp_path / "a.nrrd").write_bytes(b"older")

    def write_half(image, name, **_):
        Path(name).write_bytes(b"half")
        assert Path(name).parent == tmp_path  # a rename within one folder cannot leave half a file
        raise error

    monkeypatch.setattr(sitk, "WriteImage", write_half)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else WriteError):
        destination(tmp_path / "a.nrrd").write(a_volume, {}, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a.nrrd"]
    assert (tmp_path / "a.nrrd").read_bytes() == b"older"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/a.nrrd", "The folder .*nowhere does not exist: make it or choose another"),
        ("folder.nrrd", r"folder\.nrrd is a folder: choose another file name"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused_with_a_sentence(tmp_path, name, message):
    (tmp_path / "folder.nrrd").mkdir()
    with pytest.raises(InputError, match=message):
        destination(tmp_path / name).check(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, bool])
def test_a_type_that_not_all_formats_have_is_refused_with_a_sentence(tmp_path, dtype):
    with pytest.raises(InputError, match=f"Voxels of type {np.dtype(dtype)} cannot be written: use int16 or float32"):
        write_image(Volume(np.zeros((2, 3, 4), dtype), AXIAL), tmp_path / "a.nrrd")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5), (0, 3, 4)])
def test_only_volumes_are_written(tmp_path, shape):
    with pytest.raises(InputError, match="are no volume"):
        write_image(Volume(np.zeros(shape, np.int16), AXIAL), tmp_path / "a.nrrd")
    assert not list(tmp_path.iterdir())


# ---- bad input -------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, suffix: str, voxels=None, compressed: bool = True) -> Path:
    path = tmp_path / f"a{suffix}"
    image = sitk.GetImageFromArray(some_voxels((5, 23, 31)) if voxels is None else voxels)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


@pytest.mark.parametrize("kept", [0.02, 0.6, 0.99])
@pytest.mark.parametrize(
    ("suffix", "compressed"),
    [(".nrrd", True), (".nrrd", False), (".nii", False), (".nii.gz", True), (".mha", True), (".mha", False)],
)
def test_truncated_file_is_refused(tmp_path, suffix, compressed, kept):
    path = written(tmp_path, suffix, compressed=compressed)
    assert read_volume(path).voxels.shape == (5, 23, 31)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=rf"a{suffix} cannot be read as {suffix}: it is truncated, damaged"):
        read_volume(path)


def missing(tmp_path):
    return tmp_path / "none.nrrd"


def empty(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    return tmp_path / "a.nii.gz"


def garbage(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(np.random.default_rng(0).bytes(5000))
    return tmp_path / "a.nrrd"


def not_gzip(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no gzip stream" * 100)
    return tmp_path / "a.nii.gz"


def corrupt_gzip(tmp_path):
    content = bytearray(written(tmp_path, ".nii.gz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(content)
    return tmp_path / "a.nii.gz"


def other_format(tmp_path):
    written(tmp_path, ".mha").rename(tmp_path / "b.nrrd")
    return tmp_path / "b.nrrd"


def raw_file_missing(tmp_path):
    path = written(tmp_path, ".mhd", compressed=False)
    path.with_suffix(".raw").unlink()
    return path


def time_series(tmp_path):
    image = sitk.GetImageFromArray(some_voxels((5, 23, 31)))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / "a.nii.gz"))
    return tmp_path / "a.nii.gz"


def colours(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 3), np.uint8), isVector=True), str(tmp_path / "a.nrrd"))
    return tmp_path / "a.nrrd"


def complex_numbers(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.complex64)), str(tmp_path / "a.nii"))
    return tmp_path / "a.nii"


def with_value(value):
    def make(tmp_path):
        voxels = np.zeros((2, 3, 4), np.float32)
        voxels[1, 2, 3] = value
        return written(tmp_path, ".nrrd", voxels)

    return make


BAD_INPUTS = {
    "missing": (missing, r"none\.nrrd does not exist or is not accessible: check the path"),
    "empty": (empty, r"a\.nii\.gz is empty \(0 bytes\): copy it again"),
    "garbage": (garbage, r"a\.nrrd cannot be read as \.nrrd: .* Copy it again"),
    "not gzip": (not_gzip, r"a\.nii\.gz cannot be read as \.nii\.gz"),
    "corrupt gzip": (corrupt_gzip, r"a\.nii\.gz cannot be read as \.nii\.gz"),
    "other format": (other_format, r"b\.nrrd cannot be read as \.nrrd: .* or in another format"),
    "raw file missing": (raw_file_missing, r"a\.mhd cannot be read as \.mhd"),
    "time series": (time_series, r"a\.nii\.gz holds 4-D data of 31 x 23 x 5 x 2 .* export the volume alone"),
    "colours": (colours, r"a\.nrrd holds 3-D data of 4 x 3 x 2 with 3 value\(s\) per voxel"),
    "complex": (complex_numbers, r"a\.nii holds 3-D data of 4 x 3 x 2 with 2 value\(s\) per voxel"),
    "NaN": (with_value(np.nan), r"a\.nrrd holds values that are not finite"),
    "infinity": (with_value(-np.inf), r"a\.nrrd holds values that are not finite"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_refused_with_a_sentence_and_in_silence(tmp_path, capfd, case):
    make, message = BAD_INPUTS[case]
    path = make(tmp_path)
    capfd.readouterr()
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    assert str(caught.value).endswith(".")
    assert capfd.readouterr() == ("", "")


def test_big_endian_nifti_is_read_and_checked_for_truncation(tmp_path):
    voxels = some_voxels((3, 5, 7))
    header = bytearray(352)
    struct.pack_into(">i", header, 0, 348)
    struct.pack_into(">8h", header, 40, 3, 7, 5, 3, 1, 1, 1, 1)
    struct.pack_into(">hh", header, 70, 4, 16)
    struct.pack_into(">8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into(">f", header, 108, 352)
    header[344:348] = b"n+1\0"
    content = bytes(header) + voxels.astype(">i2").tobytes()
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    assert np.array_equal(read_volume(path).voxels, voxels)
    path.write_bytes(content[:-2])
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(path)
