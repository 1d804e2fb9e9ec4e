"""The headers of a DICOM source, one per slice, and the bytes of what is not ours to change.

The frames of an enhanced multi-frame source become single-frame headers, which every viewer reads. An element that
nobody changes is written with the bytes of the source: also where they are no text of the declared character set, or
no valid value at all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.tag import BaseTag, Tag

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_elements import as_one_text, code, is_of_pixels, put
from ASCONDenoiseLib.io.volume import DicomSeries

# What an enhanced image says about its frames as a set; a single-frame image has no place for it.
_REMOVED_ENHANCED = """
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence DimensionOrganizationSequence
    DimensionIndexSequence DimensionOrganizationType ConcatenationUID InConcatenationNumber
    InConcatenationTotalNumber ConcatenationFrameOffsetNumber SOPInstanceUIDOfConcatenationSource
    RepresentativeFrameNumber AcquisitionContextSequence VolumetricProperties VolumeBasedCalculationTechnique
    PixelPresentation ContentQualification
""".split()

# Functional groups whose attributes mean the same at the top of a single-frame CT image.
_FLATTENED = """
    PixelMeasuresSequence PlanePositionSequence PlaneOrientationSequence PixelValueTransformationSequence
    FrameVOILUTSequence FrameAnatomySequence IrradiationEventIdentificationSequence CTAcquisitionTypeSequence
    CTAcquisitionDetailsSequence CTTableDynamicsSequence CTPositionSequence CTGeometrySequence
    CTReconstructionSequence CTExposureSequence CTXRayDetailsSequence
    UnassignedSharedConvertedAttributesSequence UnassignedPerFrameConvertedAttributesSequence
""".split()


_TEXTS = frozenset("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
"""Value representations whose bytes are the same in either byte order."""

_WHOSE = (Tag("AccessionNumber"), Tag("StudyID"))
"""With all of group 0010, what says whose images these are: kept even where it has the VR of a number."""

_DEEPEST = 40
"""Sequences within sequences; what the standard defines has less than ten."""


@dataclass
class SourceHeader:
    """The header of one slice of a source, without pixels, to be changed and then written.

    Attributes:
        file: where it comes from.
        header: the single-frame header.
        kept: each element of it and of its items, as it was read: its place, its bytes, and its value, None where the
            bytes make none.
        replaced: bytes to write instead of an element's value.
    """

    file: Path
    header: Dataset
    kept: list[tuple[Dataset, RawDataElement, Any]] = field(default_factory=list)
    replaced: dict[BaseTag, bytes] = field(default_factory=dict)

    def keep(self) -> None:
        """Take down the bytes of all elements; one whose bytes make no value leaves the header until `restore`.

        Looking at each has pydicom settle, by the source's signedness, what "US or SS" of an implicit VR source means.
        """
        self._keep(self.header, 0)

    def _keep(self, dataset: Dataset, depth: int) -> None:
        if depth > _DEEPEST:
            raise InputError(f"{self.file} has sequences within sequences, {depth} deep: save the result as .nrrd.")
        for tag in list(dataset.keys()):
            raw = dataset.get_item(tag)
            try:
                element = dataset[tag]
                if element.VR == "SQ" and _vr_of(raw) in _TEXTS:
                    raise ValueError("a text that is said to be a sequence")
                items = list(element.value or ()) if element.VR == "SQ" else ()
            except Exception:  # pydicom raises nearly anything on garbage
                del dataset[tag]
                vr = _vr_of(raw)
                is_text = raw.VR in (None, *_TEXTS) or tag.group == 0x0010 or tag in _WHOSE
                if isinstance(raw, RawDataElement) and vr in _TEXTS and is_text:
                    self.kept.append((dataset, _raw(tag, vr, raw.value or b""), None))
                continue
            for item in items:
                self._keep(item, depth + 1)
            is_bytes = isinstance(raw, RawDataElement) and (raw.is_little_endian or element.VR in _TEXTS)
            if is_bytes and element.VR != "SQ" and len(element.VR) == 2:
                self.kept.append((dataset, _raw(tag, element.VR, raw.value or b""), element.value))

    def restore(self) -> None:
        """Give the unchanged elements their bytes back; last of all, since looking at one decodes it again."""
        correct_ambiguous_vr(self.header, True)
        for dataset, raw, value in self.kept:
            if value is None and (raw.tag not in dataset or dataset[raw.tag].is_empty):
                if raw.value and not is_of_pixels(raw.tag):
                    dataset[raw.tag] = raw
            elif raw.tag in dataset and (raw.VR, value) == (dataset[raw.tag].VR, dataset[raw.tag].value):
                dataset[raw.tag] = raw
        for tag, content in self.replaced.items():
            self.header[tag] = _raw(tag, self.header[tag].VR, content)
        for dataset in [self.header, *{id(dataset): dataset for dataset, _, _ in self.kept}.values()]:
            dataset.set_original_encoding(False, True)  # so that pydicom writes raw elements as they are

    def append(self, keyword: str, text: str, longest: int, joint: str) -> None:
        """Set a text to what the source says, cut to the room there is, a joint, and our words (ASCII)."""
        value = as_one_text(self.header.get(keyword))
        room = longest - len(joint) - len(text)
        tag = Tag(keyword)
        raw = next((raw for dataset, raw, _ in self.kept if dataset is self.header and raw.tag == tag), None)
        put(self.header, keyword, (value[:room].strip() + joint + text) if value.strip() and room > 0 else text)
        if "\ufffd" in value and raw is not None and room > 0:  # not in the declared character set: its bytes stay
            self.replaced[tag] = bytes(raw.value or b"").strip(b" \0")[:room].strip() + (joint + text).encode("ascii")


def single_frame_headers(source: DicomSeries) -> Iterator[SourceHeader]:
    """The source's headers, one per slice in the order of the slices, each with its `SourceImageSequence` set.

    Raises:
        InputError: a file is gone or changed, or lacks what a derived series must refer to.
    """
    files = source.files if len(source.files) == source.n_slices else source.files * source.n_slices
    numbers = source.frames or (1,) * len(files)
    for file, slices in groupby(zip(files, numbers, strict=True), key=lambda pair: pair[0]):
        try:
            for one in _headers_of(file, source.series_uid, tuple(number for _, number in slices)):
                one.keep()
                yield one
        except InputError:
            raise
        except Exception as error:  # pydicom raises nearly anything on garbage
            raise InputError(
                f"{file} has a header that no derived series can take over: save the result as .nrrd."
            ) from error


def _headers_of(path: Path, series_uid: str, numbers: tuple[int, ...]) -> Iterator[SourceHeader]:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except OSError as error:
        raise InputError(f"{path} can no longer be read: restore it, its tags are needed.") from error
    if as_one_text(header.get("SeriesInstanceUID")) != series_uid:
        raise InputError(f"{path} no longer belongs to series {series_uid}: read the series again.")
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"):
        if not as_one_text(header.get(keyword)).strip():
            raise InputError(
                f"{path} has no {keyword}, so no derived series can refer to it: save the result as .nrrd, or export "
                "the series again."
            )
    if "PerFrameFunctionalGroupsSequence" in header:
        yield from _frames(path, header, numbers)
    else:
        put(header, "SourceImageSequence", [_reference(header)])
        yield SourceHeader(path, header)


def _frames(path: Path, enhanced: Dataset, numbers: tuple[int, ...]) -> Iterator[SourceHeader]:
    """Headers of single-frame CT images from the frames (from 1) of an enhanced multi-frame image."""
    shared = enhanced.get("SharedFunctionalGroupsSequence") or [Dataset()]
    per_frame = enhanced.PerFrameFunctionalGroupsSequence
    for keyword in _REMOVED_ENHANCED:
        enhanced.pop(keyword, None)
    for number in numbers:
        header, own = copy.deepcopy(enhanced), per_frame[number - 1]
        for groups in (shared[0], own):
            # A group of several items (two X-ray sources) has no single-frame equivalent.
            for keyword in _FLATTENED:
                with suppress(Exception):  # a group that cannot be read
                    if keyword in groups and len(groups[keyword].value) == 1:
                        header.update(copy.deepcopy(groups[keyword].value[0]))
        put(header, "ImageType", ["DERIVED", "SECONDARY", "AXIAL"])  # the enhanced fourth value has other terms
        put(header, "InstanceNumber", number)
        _translate_units(header, own)
        put(header, "SourceImageSequence", [_reference(enhanced, number)])
        yield SourceHeader(path, header)


def _translate_units(header: Dataset, groups: Dataset) -> None:
    """Enhanced CT keeps exposure as decimals and times per frame; single-frame CT has older attributes for them."""
    for enhanced, single in {
        "ExposureTimeInms": "ExposureTime",
        "XRayTubeCurrentInmA": "XRayTubeCurrent",
        "ExposureInmAs": "Exposure",
    }.items():
        with suppress(Exception):  # absent, or its bytes make no number
            put(header, single, round(float(header[enhanced].value)))
        header.pop(enhanced, None)
    with suppress(Exception):
        content = (groups.get("FrameContentSequence") or [Dataset()])[0]
        if content.get("TemporalPositionIndex") is not None:
            put(header, "TemporalPositionIdentifier", int(content.TemporalPositionIndex))
        if content.get("FrameAcquisitionNumber") is not None:
            put(header, "AcquisitionNumber", int(content.FrameAcquisitionNumber))
        acquired = as_one_text(content.get("FrameAcquisitionDateTime") or header.get("AcquisitionDateTime"))
        if len(acquired) >= 14:
            put(header, "AcquisitionDate", acquired[:8])
            put(header, "AcquisitionTime", acquired[8:].partition("+")[0].partition("-")[0])


def _reference(header: Dataset, frame_number: int | None = None) -> Dataset:
    """An item of SourceImageSequence (PS3.3 C.7.6.1.1.4) pointing at `header`'s instance."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frame_number is not None:
        item.ReferencedFrameNumber = frame_number
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    return item


def _raw(tag: BaseTag, vr: str, content: bytes) -> RawDataElement:
    """An element of explicit VR to be written as it is; its length must be even."""
    padded = content + (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(content) % 2)
    return RawDataElement(tag, vr, len(padded), padded, 0, False, True)


def _vr_of(element: Any) -> str:
    """VR of an element that cannot be looked at: the dictionary's, since its own may be what is wrong."""
    with suppress(KeyError):
        return str(pydicom.datadict.dictionary_VR(element.tag))
    return element.VR or "UN"
