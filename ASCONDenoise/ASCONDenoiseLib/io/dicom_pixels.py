"""The pixels of DICOM images: decoded from every transfer syntax, rescaled to HU, put into one volume."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import iter_pixels, pixel_array

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_headers import PIXEL_MODULE, DicomImage, damaged, n_frames
from ASCONDenoiseLib.io.silence import silence_stderr

_PYDICOM_DECODES = (uid.RLELossless, uid.JPEG2000Lossless, uid.JPEG2000)  # the rest of the compressed: GDCM


def read_voxels(images: list[DicomImage], slots: list[int], name: str) -> np.ndarray:
    """Decode each file once into voxels (S, H, W) in HU.

    Args:
        images: those of one file follow each other.
        slots: slice number of each image; several images of one slice are duplicates and must agree.
        name: of the series, for messages.

    Raises:
        InputError: a file cannot be decoded, lacks a frame, or two images of a slice differ.
    """
    first = images[0]
    voxels = np.empty((max(slots) + 1, int(first.get("Rows")), int(first.get("Columns"))), np.int16)
    filled: dict[int, DicomImage] = {}
    for file, group in groupby(zip(images, slots, strict=True), key=lambda pair: pair[0].file):
        wanted = {image.frame: (image, slot) for image, slot in group}
        for frame, stored in enumerate(_decoded_frames(file, next(iter(wanted.values()))[0].header)):
            if frame not in wanted:
                continue
            image, slot = wanted.pop(frame)
            hu = _to_hu(stored, image)
            if slot in filled:
                if not np.array_equal(voxels[slot], hu):
                    raise InputError(
                        f"{name} has two different images at one place, {filled[slot].file} and {file}: two "
                        "reconstructions or phases share the series, so put each in its own folder."
                    )
                continue
            if hu.dtype == np.float32:
                voxels = voxels.astype(np.float32, copy=False)
            voxels[slot] = hu
            filled[slot] = image
        if wanted:
            raise damaged(file)
    return voxels


def _to_hu(stored: np.ndarray, image: DicomImage) -> np.ndarray:
    """Stored values -> HU, int16 where they are integers that fit, else float32."""
    hu = image.to_hu(stored)
    whole: np.ndarray = np.rint(hu)
    limits = np.iinfo(np.int16)
    if np.abs(hu - whole).max() < 1e-6 and limits.min <= whole.min() and whole.max() <= limits.max:
        return whole.astype(np.int16)
    return hu.astype(np.float32)


def _decoded_frames(file: Path, header: Dataset) -> Iterator[np.ndarray]:
    """Stored values of each frame (H, W): pydicom where it can decode, else SimpleITK's GDCM (JPEG, JPEG-LS)."""
    syntax = header.file_meta.get("TransferSyntaxUID", uid.ImplicitVRLittleEndian)
    try:
        if syntax.is_encapsulated and syntax not in _PYDICOM_DECODES:
            frames = _gdcm_frames(file)
        elif n_frames(header) > 1:
            frames = iter_pixels(file, raw=True)
        else:  # iter_pixels of pydicom 3.0 fails on JPEG 2000 whose stream and header differ in sign
            frames = iter([pixel_array(file, raw=True, index=0)])
        for stored in frames:
            if stored.shape != (header.Rows, header.Columns):
                raise damaged(file)
            yield stored
    except InputError:
        raise
    except Exception as error:  # each decoder has its own exceptions
        raise InputError(
            f"The pixels of {file} ({syntax.name}) cannot be decoded: the file is truncated or damaged, or its "
            "compression is unknown here. Copy it again, or export it uncompressed."
        ) from error


def _gdcm_frames(file: Path) -> Iterator[np.ndarray]:
    """Each frame goes through a temporary file that holds its pixels and nothing of the patient."""
    import SimpleITK as sitk

    dataset = pydicom.dcmread(file)
    single = Dataset()
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    single.file_meta.MediaStorageSOPClassUID = single.SOPClassUID = uid.SecondaryCaptureImageStorage
    single.file_meta.MediaStorageSOPInstanceUID = single.SOPInstanceUID = uid.generate_uid()
    for keyword in PIXEL_MODULE:
        setattr(single, keyword, dataset.get(keyword))
    with tempfile.TemporaryDirectory() as folder:
        for frame in generate_frames(dataset.PixelData, number_of_frames=n_frames(dataset)):
            single.PixelData = encapsulate([frame])
            single["PixelData"].VR = "OB"
            pydicom.dcmwrite(f"{folder}/frame.dcm", single, enforce_file_format=True)
            with silence_stderr():
                image = sitk.ReadImage(f"{folder}/frame.dcm", imageIO="GDCMImageIO")
            yield sitk.GetArrayFromImage(image)[0]
