"""HU of DICOM images: exact for every transfer syntax, rescale and padding."""

from __future__ import annotations

import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_fixtures import COMPRESSED, bundled, edit_file, encode_frame, make_ct_series, some_voxels
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.reading import read_volume

NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", NATIVE + COMPRESSED, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize(("signed", "bits"), [(True, 16), (False, 16), (False, 12)])
def test_lossless_transfer_syntaxes(a_folder, syntax, signed, bits):
    make_ct_series(a_folder, shape=(2, 13, 11), signed=signed, bits_stored=bits, transfer_syntax=syntax)
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels((2, 13, 11)))


def test_jpeg_ls(a_folder):
    """The stream of pydicom's JPEG-LS file in a CT header; oracle: the same image uncompressed."""
    stream = pydicom.dcmread(bundled("MR_small_jpeg_ls_lossless.dcm"))
    pixels = pydicom.dcmread(bundled("MR_small.dcm")).pixel_array
    (file,) = make_ct_series(a_folder, voxels_hu=pixels[None].astype(np.int16) - 1024)
    dataset = pydicom.dcmread(file)
    dataset.PixelData = encapsulate(list(generate_frames(stream.PixelData, number_of_frames=1)))
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.save_as(file)
    assert np.array_equal(read_volume(a_folder).voxels[0], pixels - 1024)


def test_rescale_that_differs_per_slice(a_folder):
    voxels = np.stack([np.full((3, 4), value, np.int16) for value in (-1000, 40, 3071)])
    make_ct_series(a_folder, voxels_hu=voxels, slope=(1.0, 2.0, 0.5), intercept=(-1024.0, 0.0, -1.0))
    volume = read_volume(a_folder)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, voxels)


@pytest.mark.parametrize(
    ("voxels", "slope", "intercept", "dtype"),
    [
        ([-1024, 0, 3071, 32767], 1.0, 0.0, np.int16),
        ([0, 55, -99, 1100], 1.1, 0.0, np.int16),  # 50 * 1.1 is 55.00000000000001 in floating point
        ([-1024.0, 0.5, 100.25, 2000], 0.25, 0.0, np.float32),
        ([-1024, 0, 3071, 64511], 1.0, -1024.0, np.float32),  # above int16
        ([-33792, 0, 100, 1000], 1.0, -1024.0, np.float32),  # below int16
    ],
)
def test_int16_where_all_values_are_integers_that_fit(a_folder, voxels, slope, intercept, dtype):
    """The odd slice comes last, after slices that were int16."""
    first = np.array([0, 1, 2, 3]) * (11.0 if slope == 1.1 else 1.0)
    voxels = np.stack([first, np.asarray(voxels, float)]).reshape(2, 2, 2)
    signed = voxels.max() < 60000
    make_ct_series(a_folder, voxels_hu=voxels, slope=slope, intercept=intercept, signed=signed)
    back = read_volume(a_folder).voxels
    assert back.dtype == dtype
    assert np.array_equal(back, voxels)


@pytest.mark.parametrize(("signed", "upper_bits"), [(True, 0x0000), (False, 0x0000), (False, 0xA000)])
def test_bits_above_bits_stored_are_ignored(a_folder, signed, upper_bits):
    """Old files keep overlays there, and a negative value need not be sign-extended (PS3.5, 8.1.1)."""
    voxels = np.random.default_rng(0).integers(-1024, 1024, (1, 6, 5))
    intercept = 0.0 if signed else -1024.0
    (file,) = make_ct_series(a_folder, voxels_hu=voxels, signed=signed, bits_stored=12, intercept=intercept)
    dataset = pydicom.dcmread(file)
    words = np.frombuffer(dataset.PixelData, "<u2") & 0x0FFF
    dataset.PixelData = (words | upper_bits).astype("<u2").tobytes()
    dataset.save_as(file)
    assert np.array_equal(read_volume(a_folder).voxels, voxels)


def with_words(file, words: np.ndarray, syntax: str, **header) -> None:
    """Put 16-bit words (H, W) into a file of 12 stored bits, in any transfer syntax, and set attributes."""
    dataset = pydicom.dcmread(file)
    compressor = {JPEG2000Lossless: "JPEG2000", JPEG2000: "JPEG2000", JPEGLosslessSV1: "JPEG"}.get(syntax)
    dataset.file_meta.TransferSyntaxUID = syntax
    if compressor:
        dataset.PixelData = encapsulate([encode_frame(words, compressor)])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData = words.astype("<u2").tobytes()
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    dataset.save_as(file)


def twelve_bits(a_folder, signed: bool):
    """A file of one slice, its HU (1, H, W) and its stored words (H, W), the sign not extended."""
    hu = np.random.default_rng(0).integers(-1024, 1024, (1, 24, 20))
    intercept = 0.0 if signed else -1024.0
    (file,) = make_ct_series(a_folder, voxels_hu=hu, signed=signed, bits_stored=12, intercept=intercept)
    return file, hu, np.frombuffer(pydicom.dcmread(file).PixelData, "<u2").reshape(24, 20) & 0x0FFF


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1])
@pytest.mark.parametrize("signed", [True, False])
def test_overlays_in_the_upper_bits_are_no_hu(a_folder, signed, syntax):
    """Oracle: the HU before the overlay came in. GDCM itself reads 4096 HU too many from JPEG 2000."""
    file, hu, words = twelve_bits(a_folder, signed)
    overlay = np.where(np.add.outer(np.arange(24), np.arange(20)) % 7 == 0, 0x5000, 0).astype(np.uint16)
    with_words(file, words | overlay, syntax)
    assert np.array_equal(read_volume(a_folder).voxels, hu)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1])
@pytest.mark.parametrize("signed", [True, False])
def test_values_in_the_upper_bits(a_folder, signed, syntax):
    file, hu, words = twelve_bits(a_folder, signed)
    with_words(file, words << 4, syntax, HighBit=15)
    assert np.array_equal(read_volume(a_folder).voxels, hu)
    with_words(file, words << 4 | 1, syntax, HighBit=15)
    with pytest.raises(InputError, match=r"0001\.dcm says that its pixels lie in the upper bits \(HighBit 15"):
        read_volume(a_folder)


@pytest.mark.parametrize(
    "header",
    [
        {"BitsStored": 17},
        {"BitsStored": 0},
        {"HighBit": 16},
        {"HighBit": 5},
        {"BitsAllocated": 12},
        {"PixelRepresentation": 2},
    ],
    ids=str,
)
def test_bits_that_cannot_be(a_folder, header):
    file, _, words = twelve_bits(a_folder, False)
    with_words(file, words, ExplicitVRLittleEndian, **header)
    with pytest.raises(InputError, match=r"0001\.dcm says of its pixels what cannot be \(BitsAllocated"):
        read_volume(a_folder)


def test_lossy_values_beyond_the_bits_of_the_header_are_refused(a_folder):
    """Lossy compression keeps no overlays: to ignore the upper bits would turn bone into air."""
    file, _, words = twelve_bits(a_folder, False)
    with_words(file, words + np.uint16(3000), JPEG2000)
    with pytest.raises(InputError, match=r"0001\.dcm holds pixel values beyond the 12 bits that its header announces"):
        read_volume(a_folder)


def test_a_file_that_is_deflated_as_a_whole(a_folder):
    make_ct_series(a_folder, transfer_syntax=DeflatedExplicitVRLittleEndian)
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels())


def test_a_rescale_beyond_all_numbers_is_refused(a_folder):
    edit_file(make_ct_series(a_folder)[1], RescaleIntercept="1e300")
    with pytest.raises(InputError, match=r"0002\.dcm has a rescale that makes no HU of its values"):
        read_volume(a_folder)


def test_a_rescale_slope_of_zero_is_refused(a_folder):
    edit_file(make_ct_series(a_folder)[1], RescaleSlope="0")
    with pytest.raises(InputError, match=r"0002\.dcm has a RescaleSlope of 0, which makes all HU alike"):
        read_volume(a_folder)


@pytest.mark.parametrize(
    ("signed", "vr", "raw", "expected_hu"),
    [
        (True, "SS", -2000, -3024.0),
        (True, "US", 63536, -3024.0),  # the same bits in the wrong VR, as some scanners write them
        (False, "US", 0, -1024.0),
        (False, "SS", -1, 64511.0),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
def test_padding_value(a_folder, syntax, signed, vr, raw, expected_hu):
    voxels = some_voxels().astype(np.float32)
    voxels[:, :2] = expected_hu
    make_ct_series(a_folder, voxels_hu=voxels, signed=signed, padding=raw, padding_vr=vr, transfer_syntax=syntax)
    volume = read_volume(a_folder)
    assert volume.padding_hu == expected_hu
    assert np.array_equal(volume.voxels, voxels)


def test_padding_that_differs_per_slice(a_folder):
    """Each slice keeps its own value exactly; padding_hu is that of most slices."""
    voxels = some_voxels()
    for voxel_slice, hu in zip(voxels, (-2024, -3024, -3024, -3024), strict=True):
        voxel_slice[:, :3] = hu
    make_ct_series(a_folder, voxels_hu=voxels, padding=(-2000, -2000, -2000, -3024), intercept=(-24, -1024, -1024, 0))
    volume = read_volume(a_folder)
    assert volume.padding_hu == -3024.0
    assert np.array_equal(volume.voxels, voxels)


@pytest.mark.parametrize(
    ("value", "limit", "expected_hu"),
    [
        (-2000, -1990, (-3024.0, -3014.0)),
        (0, 24, (-1024.0, -1000.0)),
        (24, 0, (-1024.0, -1000.0)),  # either may be the higher one
        (-2000, -2000, -3024.0),
        (-2000, 1024, -3024.0),  # a limit of 0 HU cannot be meant
        (-2000, 32767, -3024.0),  # nor can one that takes in everything
    ],
)
def test_a_range_of_padding_values(a_folder, value, limit, expected_hu):
    for file in make_ct_series(a_folder, padding=value):
        dataset = pydicom.dcmread(file)
        dataset.add_new("PixelPaddingRangeLimit", "SS", limit)
        dataset.save_as(file)
    assert read_volume(a_folder).padding_hu == expected_hu


def test_no_padding_value(a_folder):
    make_ct_series(a_folder)
    assert read_volume(a_folder).padding_hu is None


def test_lossy_files_are_read_in_silence(a_folder, capfd):
    """12-bit JPEG, whose decoder complains on stderr while it works; oracle: ITK's own reading of the file."""
    source = pydicom.dcmread(bundled("JPEG-lossy.dcm"))
    water = np.zeros((1, source.Rows, source.Columns))
    (file,) = make_ct_series(a_folder, voxels_hu=water, signed=False, bits_stored=12)
    dataset = pydicom.dcmread(file)
    dataset.PixelData = source.PixelData
    dataset.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    dataset.save_as(file)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(bundled("JPEG-lossy.dcm")))
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        voxels = read_volume(a_folder).voxels
    assert capfd.readouterr() == ("", "")
    assert np.array_equal(voxels, expected.astype(np.int16) - 1024)
