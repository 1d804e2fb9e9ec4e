"""What makes a source header that of a derived image: what was changed, how, from what and by whom.

DICOM PS3.3 C.7.5.1 General Equipment, C.7.6.1 General Image, C.8.2.1 CT Image, C.12.1 SOP Common.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ASCONDenoiseLib.io.dicom_elements import as_one_text, code, is_of_pixels, items, plain, put, whole_number
from ASCONDenoiseLib.io.dicom_source import SourceHeader

# True of the source's pixels or of that very instance, not of ours. Overlays (60xx) and curves (50xx) go as well.
_REMOVED = """
    SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries
    SmallestImagePixelValueInPlane LargestImagePixelValueInPlane ModalityLUTSequence IconImageSequence
    PlanarConfiguration NumberOfFrames PixelDataProviderURL InstanceCreatorUID ConversionSourceAttributesSequence
    SOPInstanceStatus SOPAuthorizationDateTime MACParametersSequence EncryptedAttributesSequence
    DigitalSignaturesSequence
""".split()

# What a CT image must have, if only empty (type 2); an enhanced source has some of it in other places.
_MAY_BE_EMPTY = """
    StudyDate StudyTime AccessionNumber Manufacturer ReferringPhysicianName PatientName PatientID PatientBirthDate
    PatientSex KVP SliceThickness StudyID AcquisitionNumber PositionReferenceIndicator
""".split()
_LOSSY_METHOD = {
    pydicom.uid.JPEGBaseline8Bit: "ISO_10918_1",
    pydicom.uid.JPEGExtended12Bit: "ISO_10918_1",
    pydicom.uid.JPEGLSNearLossless: "ISO_14495_1",
}

OUR_NAME = "ASCON"
"""In the list of contributing equipment."""


@dataclass(frozen=True)
class Derivation:
    """What was done to the images, for the record inside every instance.

    Attributes:
        description: one sentence: software, model, version, SHA-256 of the weights, strength, device, precision.
        software_version: version of ASCON, for the list of contributing equipment.
        series_suffix: appended to the source's series description.
        series_number_offset: added to the source's series number.
        uid_seed: what was done, model and strength, say: the new UIDs follow from it and the source's, so that the
            same work done again is the same series to an archive. Without one they are new each time.
    """

    description: str
    software_version: str = "unknown"
    series_suffix: str = "ASCON denoised"
    series_number_offset: int = 1000
    uid_seed: str = ""

    def new_uid(self, *source: object) -> str:
        """A UID for what is derived from `source`: its UID, and the number of a frame (PS3.5, B.2)."""
        if not self.uid_seed:
            return generate_uid(prefix=None)
        name = "\n".join(map(str, ("ASCON", self.uid_seed, *source)))
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def is_ours(header: Dataset) -> bool:
    """Whether an instance was derived by ASCON, as its list of contributing equipment says."""
    with suppress(Exception):  # pydicom raises nearly anything on garbage
        equipment = items(header, "ContributingEquipmentSequence")
        return any(as_one_text(item.get("Manufacturer")) == OUR_NAME for item in equipment)
    return False


def describe(source: SourceHeader, derivation: Derivation, series_uid: str, now: datetime) -> None:
    """Turn a source header into that of the derived image, apart from the attributes of its pixels."""
    header = source.header
    # Private attributes may describe the source's pixels (thumbnails, checksums, even vendor-compressed pixel data):
    # only their vendor knows. None is copied; who needs one finds it through SourceImageSequence.
    header.remove_private_tags()
    for tag in [element.tag for element in header if is_of_pixels(element.tag)]:
        del header[tag]
    for keyword in _REMOVED:
        header.pop(keyword, None)
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)

    # Values 4 and beyond tell monoenergetic from other multi-energy images (PS3.3 C.8.2.1.1.1): still true.
    special = header.ImageType[3:] if "ImageType" in header and header["ImageType"].VM > 3 else []
    put(header, "ImageType", ["DERIVED", "SECONDARY", "AXIAL", *special])
    put(header, "Modality", "CT")
    put(header, "SOPClassUID", CTImageStorage)
    original = header.SourceImageSequence[0]
    of_frame = original.get("ReferencedFrameNumber", 0)
    put(header, "SOPInstanceUID", derivation.new_uid(original.ReferencedSOPInstanceUID, of_frame))
    put(header, "SeriesInstanceUID", series_uid)
    put(header, "SeriesNumber", _series_number(header, derivation.series_number_offset))
    source.append("SeriesDescription", plain(derivation.series_suffix, 64), 64, " ")
    with suppress(ValueError, TypeError):  # absent or malformed; else it holds for all times here, ours too
        now = now.astimezone(datetime.strptime(header.get("TimezoneOffsetFromUTC"), "%z").tzinfo)
    for event in ("InstanceCreation", "Content", "Series"):
        put(header, f"{event}Date", now.strftime("%Y%m%d"))
        put(header, f"{event}Time", now.strftime("%H%M%S.%f"))
    if header.get("BurnedInAnnotation") != "YES":  # text burned into the source is in our pixels too
        put(header, "BurnedInAnnotation", "NO")
    lossy = _LOSSY_METHOD.get(header.file_meta.get("TransferSyntaxUID"))
    if lossy and header.get("LossyImageCompression") != "01":  # once lost, always lost (PS3.3 C.7.6.1.1.5)
        put(header, "LossyImageCompression", "01")
        put(header, "LossyImageCompressionMethod", lossy)
    _add_history(source, derivation, now)

    header.preamble = b"\0" * 128
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _series_number(header: Dataset, offset: int) -> int:
    """The source's number and an offset; the offset alone where that is no number, or the sum too large for VR IS."""
    number = whole_number(header.get("SeriesNumber")) or 0
    return number + offset if abs(number + offset) < 2**31 else offset


def _add_history(source: SourceHeader, derivation: Derivation, now: datetime) -> None:
    """Say what was done and by what, after what the source says about earlier steps."""
    header, text = source.header, plain(derivation.description, 1024)
    if len(as_one_text(header.get("DerivationDescription"))) + len(text) > 1022:
        put(header, "DerivationDescription", text)  # no room for both
    else:
        source.append("DerivationDescription", text, 1024, "; ")
    # CID 7203 has no code for noise reduction; of what it has, smoothing is the one that is true. One item per step.
    steps = [*items(header, "DerivationCodeSequence"), code("113087", "Smoothing")]
    put(header, "DerivationCodeSequence", steps)
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code("109103", "Modifying Equipment")]
    equipment.Manufacturer = equipment.ManufacturerModelName = OUR_NAME
    equipment.SoftwareVersions = plain(derivation.software_version, 64)
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f%z")
    equipment.ContributionDescription = text
    put(header, "ContributingEquipmentSequence", [*items(header, "ContributingEquipmentSequence"), equipment])
