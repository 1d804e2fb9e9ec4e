"""NIfTI: what is stored is what is read, where Slicer (ITK) sees it; both of its geometries survive."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_fixtures import oblique_direction, some_voxels

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume

SIZES = np.array([0.8, 0.9, 2.5])
FORMS = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units", *(
    f"q{name}" for name in ("uatern_b", "uatern_c", "uatern_d", "offset_x", "offset_y", "offset_z")
))  # fmt: skip


def matrix(direction=None, offset_mm=(25.0, -31.5, 100.25)) -> np.ndarray:
    """Voxel to RAS, (4, 4); oblique by default."""
    result = np.eye(4)
    result[:3, :3] = np.reshape(oblique_direction() if direction is None else direction, (3, 3)) * SIZES
    result[:3, 3] = offset_mm
    return result


def save(
    path: Path,
    voxels: np.ndarray | None = None,
    *,
    sform: np.ndarray | None = None,
    qform: np.ndarray | None = None,
    codes: tuple[int, int] = (1, 1),
    kind=nibabel.Nifti1Image,
    **fields,
) -> Path:
    """Write (S, H, W) voxels by nibabel, its header as it is told: codes of sform and qform, then any field."""
    voxels = some_voxels() if voxels is None else voxels
    image = kind(voxels.transpose(), None, dtype=voxels.dtype)
    image.header["pixdim"][:4] = [1, *SIZES]
    image.header.set_xyzt_units("mm")
    if qform is not None:
        image.header.set_qform(qform, codes[1])
    if sform is not None:
        image.header.set_sform(sform, codes[0])
    for name, value in fields.items():
        image.header[name] = value
    header, data = image.header, voxels.astype(voxels.dtype.newbyteorder(image.header.endianness)).tobytes()
    header["vox_offset"] = len(header.binaryblock) + 4
    if "scl_slope" not in fields:
        header["scl_slope"] = 1
        header["scl_inter"] = 0
    content = header.binaryblock + bytes(4) + data
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def assert_lies_where_itk_says(volume: Volume, path: Path) -> None:
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(volume.geometry.spacing_mm, image.GetSpacing(), rtol=1e-7)
    np.testing.assert_allclose(volume.geometry.origin_mm, image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(volume.geometry.direction, image.GetDirection(), atol=1e-6)
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("codes", [(s, q) for s in (0, 1, 2, 3, 4) for q in (0, 1, 2)])
@pytest.mark.parametrize("direction", [np.eye(3), oblique_direction()], ids=["axial", "oblique"])
def test_of_two_forms_the_one_is_used_that_itk_uses_and_both_survive(tmp_path, direction, codes):
    """Oracle: ITK's own reading. The two lie 40 mm apart."""
    sform, qform = matrix(direction, (25, -31.5, 140.25)), matrix(direction)
    path = save(tmp_path / "a.nii.gz", sform=sform, qform=qform, codes=codes)
    volume = read_volume(path)
    assert_lies_where_itk_says(volume, path)
    told = " ".join(volume.notes)
    assert ("qform and sform differ by up to 40 mm" in told) == (min(codes) > 0)
    assert ("does not say where it lies" in told) == (codes == (0, 0))
    write_image(replace(volume, voxels=volume.voxels + np.int16(1)), tmp_path / "b.nii")
    before, after = nibabel.load(path).header, nibabel.load(tmp_path / "b.nii").header
    assert all(np.array_equal(before[name], after[name]) for name in FORMS)
    assert_lies_where_itk_says(read_volume(tmp_path / "b.nii"), tmp_path / "b.nii")


def test_forms_that_no_longer_fit_the_volume_are_not_written(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", sform=matrix(), codes=(3, 0)))
    moved = replace(volume, geometry=replace(volume.geometry, origin_mm=(1.0, 2.0, 3.0)))
    write_image(moved, tmp_path / "b.nii")
    assert sitk.ReadImage(str(tmp_path / "b.nii")).GetOrigin() == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("flip", [1, -1])
def test_a_left_handed_volume(tmp_path, flip):
    qform = matrix() @ np.diag([1, 1, flip, 1])
    path = save(tmp_path / "a.nii", qform=qform)
    assert_lies_where_itk_says(read_volume(path), path)


def test_what_is_written_lies_where_itk_would_have_written_it(tmp_path):
    """Oracle: the header that SimpleITK writes for the same geometry."""
    geometry = Geometry((0.7, 0.8, 2.5), (-100.0, 90.5, 30.25), oblique_direction())
    write_image(Volume(some_voxels(), geometry), tmp_path / "ours.nii.gz")
    image = sitk.GetImageFromArray(some_voxels())
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(tmp_path / "itk.nii.gz"))
    ours, itk = (nibabel.load(tmp_path / name).header for name in ("ours.nii.gz", "itk.nii.gz"))
    for name in set(FORMS) - {"xyzt_units"}:  # ITK says seconds, too, for a time axis that is not there
        one, other = np.ravel(ours[name])[:4].astype(float), np.ravel(itk[name])[:4].astype(float)
        np.testing.assert_allclose(one, other, atol=2e-6, err_msg=name)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ours.nii.gz"))), some_voxels())


@pytest.mark.parametrize(("unit", "mm"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001), (2 + 8, 1.0), (3 + 16, 0.001)])
def test_units_of_length(tmp_path, unit, mm):
    path = save(tmp_path / "a.nii", sform=matrix(), qform=matrix(), xyzt_units=unit)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.geometry.spacing_mm, SIZES * mm, rtol=1e-6)
    np.testing.assert_allclose(volume.geometry.origin_mm, np.array([-25, 31.5, 100.25]) * mm, rtol=1e-6)
    assert_lies_where_itk_says(volume, path)
    write_image(volume, tmp_path / "b.nii")
    assert nibabel.load(tmp_path / "b.nii").header["xyzt_units"] == unit
    write_image(volume, tmp_path / "b.mha")
    np.testing.assert_allclose(sitk.ReadImage(str(tmp_path / "b.mha")).GetSpacing(), SIZES * mm, rtol=1e-6)


@pytest.mark.parametrize("off", [2e-4, 4e-4])
def test_an_sform_that_was_rounded_is_accepted_noted_and_kept(tmp_path, off):
    """ITK cannot read it; oracle: nibabel's affine."""
    sform = np.diag([-0.8, -0.9, 2.5, 1.0])
    sform[0, 1], sform[1, 2] = off, 2 * off
    volume = read_volume(save(tmp_path / "a.nii", sform=sform))
    assert "off the right angle, accepted as rounding" in volume.notes[0]
    write_image(volume, tmp_path / "b.nii.gz")
    before, after = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "b.nii.gz")
    assert np.array_equal(before.affine, after.affine)
    assert np.array_equal(after.dataobj, before.dataobj)


def test_a_sheared_sform_is_refused_or_told_where_slicer_uses_the_qform(tmp_path):
    sheared = matrix(np.eye(3))
    sheared[1, 2] = 0.6
    with pytest.raises(InputError, match=r"a\.nii is sheared by 13 degrees: its sform has axes .* straight grid"):
        read_volume(save(tmp_path / "a.nii", sform=sheared))
    path = save(tmp_path / "a.nii", sform=sheared, qform=matrix(np.eye(3)))
    volume = read_volume(path)
    assert_lies_where_itk_says(volume, path)
    assert "the qform is used, as 3D Slicer does" in volume.notes[0]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_sheared_volume_cannot_become_nifti(tmp_path, suffix):
    tilt = math.radians(15)
    geometry = Geometry((0.8, 0.8, 2.588), direction=(1, 0, 0, 0, 1, math.sin(tilt), 0, 0, math.cos(tilt)))
    with pytest.raises(
        InputError, match=rf"b\{suffix} cannot be written: the axes of the volume are sheared by 15 deg"
    ):
        write_image(Volume(some_voxels(), geometry), tmp_path / f"b{suffix}")
    assert not list(tmp_path.iterdir())
    for suffix_that_can in (".nrrd", ".mha"):
        write_image(Volume(some_voxels(), geometry), tmp_path / f"b{suffix_that_can}")
        back = read_volume(tmp_path / f"b{suffix_that_can}").geometry
        np.testing.assert_allclose(back.direction, geometry.direction, atol=4e-16)


def test_a_voxel_size_that_is_not_that_of_the_sform_is_told(tmp_path):
    path = save(tmp_path / "a.nii", sform=matrix(np.eye(3)), pixdim=[1, 0.85, 0.9, 2.5, 0, 0, 0, 0])
    volume = read_volume(path)
    assert_lies_where_itk_says(volume, path)
    assert "sform and pixdim differ by up to 0.45 mm; the pixdim is used" in volume.notes[0]


# ---- voxels ----------------------------------------------------------------------------------------------------------


def test_the_file_that_was_named_is_read_and_not_its_neighbour(tmp_path):
    """nifti_clib looks for a.nii first where a.nii.gz was asked for."""
    for name, seed in (("a.nii", 1), ("a.nii.gz", 2), ("a.hdr", 3), ("a.img", 4)):
        save(tmp_path / name, some_voxels(seed=seed))
    assert np.array_equal(read_volume(tmp_path / "a.nii").voxels, some_voxels(seed=1))
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").voxels, some_voxels(seed=2))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_compression_is_seen_in_the_content(tmp_path, suffix):
    content = save(tmp_path / "right.nii").read_bytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content if suffix == ".nii.gz" else gzip.compress(content))
    assert np.array_equal(read_volume(path).voxels, some_voxels())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_values_that_are_not_finite_are_refused(tmp_path, suffix, dtype, value):
    voxels = some_voxels().astype(dtype)
    voxels[1, 2, 3] = value
    with pytest.raises(InputError, match="holds values that are not finite"):
        read_volume(save(tmp_path / f"a{suffix}", voxels))


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "expected_dtype"),
    [
        (np.int16, 1, 0, np.int16),
        (np.int16, 0, 5, np.int16),  # a slope of 0: no scaling (nifti1.h)
        (np.int16, math.nan, math.nan, np.int16),
        (np.uint16, 1, -1024, np.int16),
        (np.int16, 2, -10, np.int16),
        (np.int16, 0.5, 0, np.float32),
        (np.int32, 100, 0, np.float32),
        (np.uint8, 1, 0, np.uint8),
        (np.float32, 2, 1, np.float32),
        (np.float64, 0.1, 0, np.float64),
    ],
)
def test_slope_and_intercept(tmp_path, dtype, slope, intercept, expected_dtype):
    stored = (np.arange(24).reshape(2, 3, 4) * 41 % 251).astype(dtype)
    if dtype == np.int32:
        stored[0, 0, 0] = 40000
    path = save(tmp_path / "a.nii", stored, scl_slope=slope, scl_inter=intercept)
    voxels = read_volume(path).voxels
    assert voxels.dtype == expected_dtype
    np.testing.assert_allclose(voxels, nibabel.load(path).get_fdata().T, rtol=1e-7)


def test_one_volume_of_a_time_axis_of_length_one_and_a_slice(tmp_path):
    path = save(tmp_path / "a.nii", some_voxels()[None])
    assert np.array_equal(read_volume(path).voxels, some_voxels())
    path = save(tmp_path / "b.nii", some_voxels()[0])
    assert np.array_equal(read_volume(path).voxels, some_voxels()[:1])


def test_nifti_2_becomes_nifti_1_which_itk_reads(tmp_path):
    path = save(tmp_path / "a.nii.gz", sform=matrix(), codes=(3, 0), kind=nibabel.Nifti2Image)
    volume = read_volume(path)
    assert np.array_equal(volume.voxels, some_voxels())
    np.testing.assert_allclose(volume.geometry.origin_mm, (-25, 31.5, 100.25), rtol=1e-7)
    write_image(volume, tmp_path / "b.nii.gz")
    written = nibabel.load(tmp_path / "b.nii.gz")
    assert bytes(written.header["magic"]) == b"n+1\0" and written.header["sform_code"] == 3
    np.testing.assert_allclose(written.affine, matrix(), rtol=1.2e-7)
    assert_lies_where_itk_says(volume, tmp_path / "b.nii.gz")


@pytest.mark.parametrize("field", [{"qform_code": 40_000}, {"sform_code": 40_000}, {"qoffset_x": 1e39}])
def test_a_number_of_nifti_2_that_nifti_1_cannot_hold_is_refused(tmp_path, field):
    path = save(tmp_path / "a.nii", sform=matrix(), qform=matrix(), kind=nibabel.Nifti2Image, **field)
    volume = read_volume(path)
    with pytest.raises(InputError, match=r"b\.nii cannot be written: a number .* too large for NIfTI-1\. Choose"):
        write_image(volume, tmp_path / "b.nii")
    assert not (tmp_path / "b.nii").exists()


@pytest.mark.parametrize("shape", [(32768, 1, 1), (1, 32768, 1), (1, 1, 32768)])
def test_sides_up_to_the_longest_that_nifti_1_counts(tmp_path, shape):
    voxels = np.arange(32768, dtype=np.int32).reshape(shape)
    with pytest.raises(InputError, match=r"b\.nii cannot .* holds 32767 voxels along a side and the volume has 32768"):
        write_image(Volume(voxels, Geometry()), tmp_path / "b.nii")
    assert not list(tmp_path.iterdir())
    fits = voxels[tuple(slice(0, 32767) for _ in shape)]
    write_image(Volume(fits, Geometry()), tmp_path / "b.nii")
    assert np.array_equal(read_volume(tmp_path / "b.nii").voxels, fits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pixdim": [1, 0, 0.9, 2.5, 0, 0, 0, 0]}, "no valid voxel size"),
        ({"pixdim": [1, -0.8, 0.9, 2.5, 0, 0, 0, 0]}, "no valid voxel size"),
        ({"pixdim": [1, math.nan, 0.9, 2.5, 0, 0, 0, 0]}, "no valid voxel size"),
        ({"xyzt_units": 5}, "no valid voxel size"),
        ({"srow_x": [math.inf, 0, 0, 0]}, "has a sform that is not finite"),
        ({"srow_x": [0, 0, 0, 0], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 0, 0]}, "or an axis without length"),
        ({"scl_slope": math.inf}, "not finite"),
        ({"scl_slope": 2, "scl_inter": math.nan}, "not finite"),
        ({"datatype": 999}, "cannot be read as"),
        ({"dim": [0, 1, 1, 1, 1, 1, 1, 1]}, "cannot be read as"),
        ({"dim": [9, 1, 1, 1, 1, 1, 1, 1]}, "cannot be read as"),
        ({"dim": [3, 10, -12, 4, 1, 1, 1, 1]}, "cannot be read as"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "cannot be read as"),
        ({"magic": b"ni1"}, r"is half of a pair \(\.hdr and \.img\)"),
        ({"datatype": 128, "dim": [3, 2, 12, 4, 1, 1, 1, 1]}, r"with 3 value\(s\) per voxel"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_headers_that_are_refused(tmp_path, capfd, suffix, fields, message):
    path = save(tmp_path / f"a{suffix}", sform=matrix(np.eye(3)))
    content = bytearray(gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]))
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert capfd.readouterr() == ("", "")
