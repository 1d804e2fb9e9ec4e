"""What an independent reader makes of a file: voxels in HU and place, by other code than the product's.

DICOM without compression, NRRD and MetaImage are read here by hand, after PS3.5 chapter 8 and the formats'
descriptions; compressed DICOM by GDCM, or by pydicom where GDCM refuses; NIfTI by nibabel. `Unsure` is raised where an
oracle does not know the construct: then nothing is said against the product.
"""

from __future__ import annotations

import copy
import gzip
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array


class Unsure(Exception):
    """The oracle does not read this."""


@dataclass(frozen=True)
class Seen:
    """A volume as an oracle sees it.

    Attributes:
        voxels: (S, H, W), float64.
        affines: 4x4 in LPS, mm: one of them is right. Several where a format has several and leaves the choice.
    """

    voxels: np.ndarray
    affines: tuple[np.ndarray, ...]


# -------------------------------------------------------------------------------------------------------------- DICOM


def dicom_frame(file: Path, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """HU (H, W) and 4x4 LPS of one image, its third column the normal. Raises Unsure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(file, force=True)
            stored = _stored(file, dataset, frame)
            slope, intercept = (float(_value(dataset, frame, f"Rescale{what}")) for what in ("Slope", "Intercept"))
            return stored * slope + intercept, _dicom_affine(dataset, frame)
    except Unsure:
        raise
    except Exception as error:
        raise Unsure(f"{type(error).__name__}: {error}") from error


def _stored(file: Path, dataset: Dataset, frame: int) -> np.ndarray:
    """Stored values, by the plain definition where they lie as they are."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return plain_frame(dataset, frame)
    if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unsure("GDCM and pydicom take other compressed pixels for colours")
    try:
        return _by_gdcm(dataset)[frame]
    except RuntimeError:  # GDCM refuses
        return np.atleast_3d(pixel_array(file, index=frame).astype(np.float64))[:, :, 0]


def plain_frame(dataset: Dataset, frame: int) -> np.ndarray:
    """One uncompressed frame after PS3.5 8.1.1: words of BitsAllocated, of which BitsStored end at HighBit."""
    rows, columns, allocated = dataset.Rows, dataset.Columns, dataset.BitsAllocated
    stored, high = dataset.get("BitsStored", allocated), dataset.get("HighBit")
    high = stored - 1 if high is None else high
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or not stored - 1 <= high < allocated:
        raise Unsure(f"{stored} bits up to bit {high} of {allocated}")
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    size = rows * columns * allocated // 8
    words = np.frombuffer(dataset.PixelData[frame * size : (frame + 1) * size], f"{order}u{allocated // 8}")
    values = (words.astype(np.int64) >> (high + 1 - stored)) & ((1 << stored) - 1)
    if dataset.PixelRepresentation == 1:
        values = np.where(values >> (stored - 1), values - (1 << stored), values)
    return values.reshape(rows, columns)


def _by_gdcm(dataset: Dataset) -> np.ndarray:
    """Stored values: GDCM rescales where there is one place for slope and intercept, so its work is undone."""
    plain = copy.copy(dataset)
    for element in list(plain.elements()):  # GDCM takes for ever over sequences that lie in each other
        if element.VR == "SQ":
            del plain[element.tag]
    with tempfile.TemporaryDirectory() as folder:
        pydicom.dcmwrite(f"{folder}/plain.dcm", plain)
        image = sitk.ReadImage(f"{folder}/plain.dcm", sitk.sitkFloat64, imageIO="GDCMImageIO")
    values = sitk.GetArrayFromImage(image)
    slope, intercept = (dataset.get("RescaleSlope"), dataset.get("RescaleIntercept"))
    if slope is None or intercept is None:
        raise Unsure("rescale by frame in compressed files")
    return np.rint((values - float(intercept)) / float(slope))


def _value(dataset: Dataset, frame: int, keyword: str) -> object:
    """An attribute of the frame, of all frames, or of the header."""
    per_frame = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    for groups in (*per_frame, *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]):
        for macro in groups:
            if macro.VR == "SQ" and macro.value and macro.value[0].get(keyword) is not None:
                return macro.value[0].get(keyword)
    return dataset.get(keyword)


def _dicom_affine(dataset: Dataset, frame: int) -> np.ndarray:
    """PS3.3 C.7.6.2.1.1; PixelSpacing is that of the rows, then that of the columns."""
    i, j = np.array(_value(dataset, frame, "ImageOrientationPatient"), float).reshape(2, 3)
    between_rows, between_columns = np.array(_value(dataset, frame, "PixelSpacing"), float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = i * between_columns, j * between_rows, np.cross(i, j)
    affine[:3, 3] = np.array(_value(dataset, frame, "ImagePositionPatient"), float)
    return affine


# ------------------------------------------------------------------------------------------------------------- images


def image(path: Path) -> Seen:
    """The volume in a NIfTI, NRRD or MetaImage file. Raises Unsure."""
    reader = {".nrrd": _nrrd, ".mha": _meta_image, ".nii": _nifti, ".gz": _nifti}.get(path.suffix)
    if reader is None:
        raise Unsure(path.suffix)
    try:
        return reader(path)
    except Unsure:
        raise
    except Exception as error:
        raise Unsure(f"{type(error).__name__}: {error}") from error


def _nifti(path: Path) -> Seen:
    """By nibabel; the affine is the sform's or the qform's, or made of the spacings where neither is coded."""
    loaded = nibabel.load(path)
    header = loaded.header
    if loaded.dataobj.offset < 352 and not header["magic"].tobytes().startswith(b"ni1"):
        raise Unsure("vox_offset below 352, which nibabel follows into the header")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        codes = np.frombuffer(file.read(256)[252:], header["qform_code"].dtype)  # nibabel's header has them mended
    if not set(codes.tolist()) <= set(range(6)):
        raise Unsure("codes of places that nibabel takes for none")
    voxels = np.asarray(loaded.dataobj, np.float64)
    voxels = voxels.reshape(voxels.shape[:3] if voxels.ndim > 3 else (*voxels.shape, *(1,) * (3 - voxels.ndim)))
    spacing = np.diag([*np.abs(np.append(header["pixdim"][1 : 1 + min(3, loaded.ndim)], [1, 1])[:3]), 1.0])
    coded = [
        affine for affine in (loaded.get_sform(coded=True)[0], loaded.get_qform(coded=True)[0]) if affine is not None
    ]
    mm = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)
    affines = coded or [loaded.affine, spacing, np.diag([-1, -1, 1, 1]) @ spacing]
    to_lps = np.diag([-1.0, -1, 1, 1])
    return Seen(voxels.T, tuple(np.diag([mm, mm, mm, 1]) @ to_lps @ affine for affine in affines))


TYPES = {"short": "i2", "float": "f4", "ushort": "u2", "MET_SHORT": "i2", "MET_FLOAT": "f4", "MET_USHORT": "u2"}
NRRD_KNOWN = {
    "type",
    "dimension",
    "sizes",
    "encoding",
    "endian",
    "space",
    "space directions",
    "space origin",
    "kinds",
    "content",
}
MHA_KNOWN = {
    *("ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "TransformMatrix", "Offset"),
    *("CenterOfRotation", "AnatomicalOrientation", "ElementSpacing", "DimSize", "ElementType", "ElementDataFile"),
}


def _nrrd(path: Path) -> Seen:
    head, _, data = path.read_bytes().partition(b"\n\n")
    lines = head.decode("ascii").split("\n")
    fields = _fields([line for line in lines[1:] if not line.startswith("#")], ": ", NRRD_KNOWN)
    if not lines[0].startswith("NRRD000"):
        raise Unsure(lines[0])
    data = gzip.decompress(data) if fields["encoding"] == "gzip" else data
    voxels = _voxels(data, fields["type"], fields["endian"] == "big", fields["sizes"])
    flip = {"left-posterior-superior": (1, 1), "right-anterior-superior": (-1, -1)}[fields["space"]]
    affine = np.eye(4)
    affine[:3, :3] = np.array([_vector(text) for text in fields["space directions"].split()]).T
    affine[:3, 3] = _vector(fields["space origin"])
    return Seen(voxels, (np.diag([*flip, 1, 1]) @ affine,))


def _meta_image(path: Path) -> Seen:
    head, local, data = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    fields = _fields(head.decode("ascii").splitlines(), " = ", MHA_KNOWN)
    if not local or fields.get("CompressedData", "False") != "False" or fields["BinaryData"] != "True":
        raise Unsure("not LOCAL, or compressed, or text")
    big = fields.get("BinaryDataByteOrderMSB", "False") == "True"
    voxels = _voxels(data, fields["ElementType"], big, fields["DimSize"])
    affine = np.eye(4)
    axes = np.array(fields["TransformMatrix"].split(), float).reshape(3, 3)  # a line for each axis
    affine[:3, :3] = axes.T * np.array(fields["ElementSpacing"].split(), float)
    affine[:3, 3] = np.array(fields["Offset"].split(), float)
    return Seen(voxels, (affine,))


def _fields(lines: list[str], mark: str, known: set[str]) -> dict[str, str]:
    """Name -> value; Unsure where a name is not known here or comes twice."""
    pairs = [line.split(mark, 1) for line in lines if line]
    fields = {name: value.strip() for name, value in pairs}
    if len(fields) < len(pairs) or fields.keys() - known:
        raise Unsure(f"fields twice or {fields.keys() - known}")
    return fields


def _voxels(data: bytes, kind: str, big: bool, sizes: str) -> np.ndarray:
    w, h, s = (int(n) for n in sizes.split())
    dtype = np.dtype(TYPES[kind]).newbyteorder(">" if big else "<")
    return np.frombuffer(data[: w * h * s * dtype.itemsize], dtype).reshape(s, h, w).astype(np.float64)


def _vector(text: str) -> list[float]:
    match = re.fullmatch(r"\((.*),(.*),(.*)\)", text)
    if match is None:
        raise Unsure(text)
    return [float(number) for number in match.groups()]
