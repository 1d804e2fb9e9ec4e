"""What is not ours to change in a header stays byte for byte; what is ours obeys its value representation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_fixtures import make_concatenation, make_ct_series, make_enhanced_ct, some_voxels
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_derivation import Derivation
from ASCONDenoiseLib.io.dicom_reader import read_series
from ASCONDenoiseLib.io.dicom_writer import check_derivable, write_derived_series
from ASCONDenoiseLib.io.volume import DicomSeries

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
LATIN = "MÜNCHEN_0815".encode("latin-1")


def raw(dataset: Dataset, keyword: str, vr: str, content: bytes) -> None:
    """Put bytes into a dataset that pydicom would not write as a value."""
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)


def as_it_is(edit, syntax=ExplicitVRLittleEndian):
    """An edit of a dataset after which pydicom writes raw elements as they are."""

    def settle(dataset: Dataset) -> None:
        dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, dataset._character_set)
        for element in list(dataset._dict.values()):
            for item in element.value if element.VR == "SQ" and not isinstance(element, RawDataElement) else ():
                item._parent_encoding = dataset._character_set
                settle(item)

    def edit_and_settle(dataset: Dataset, number: int = 0) -> None:
        edit(dataset, number)
        settle(dataset)

    return edit_and_settle


def bytes_of(dataset: Dataset, keyword: str) -> bytes:
    element = dataset.get_item(keyword)
    assert isinstance(element, RawDataElement)
    return element.value


def derived(folder, **settings) -> list[Dataset]:
    """The derived series of a source made in `folder`, with its voxels checked."""
    make_ct_series(folder / "source", **settings)
    volume = read_series(folder / "source")
    check_derivable(volume, volume.source)
    files = write_derived_series(volume, volume.source, folder / "derived", Derivation("what was done"))
    assert np.array_equal(read_series(folder / "derived").voxels, volume.voxels)
    return [pydicom.dcmread(file) for file in files]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("declared", ["ISO_IR 192", "ISO_IR 6", "GB18030", ["", "ISO 2022 IR 87"], "ISO_IR 9999", None])
def test_bytes_outside_the_declared_character_set_are_copied(tmp_path, declared, syntax):
    """At the top, in a sequence, and in a sequence inside that; where the bytes are no UTF-8, and not Latin either."""
    shift_jis = "山田太郎".encode("shift-jis")

    def edit(dataset: Dataset, _: int) -> None:
        inner, outer = Dataset(), Dataset()
        raw(inner, "CodeMeaning", "LO", shift_jis)
        raw(outer, "RequestedProcedureDescription", "LO", LATIN)
        outer.RequestedProcedureCodeSequence = [inner]
        dataset.RequestAttributesSequence = [outer]
        for keyword, vr in (("PatientID", "LO"), ("PatientName", "PN"), ("InstitutionName", "LO"), ("StudyID", "SH")):
            raw(dataset, keyword, vr, LATIN)
        raw(dataset, "PatientComments", "LT", shift_jis + b"\r\n" + LATIN)
        if declared is None:
            del dataset.SpecificCharacterSet
        else:
            dataset.SpecificCharacterSet = declared

    for instance in derived(tmp_path, transfer_syntax=syntax, edit=as_it_is(edit, syntax)):
        assert instance.get("SpecificCharacterSet") == declared
        for keyword in ("PatientID", "PatientName", "InstitutionName", "StudyID"):
            assert bytes_of(instance, keyword) == LATIN, keyword
        assert bytes_of(instance, "PatientComments").rstrip() == shift_jis + b"\r\n" + LATIN
        (outer,) = instance.RequestAttributesSequence
        assert bytes_of(outer, "RequestedProcedureDescription") == LATIN
        assert bytes_of(outer.RequestedProcedureCodeSequence[0], "CodeMeaning") == shift_jis


def test_our_words_follow_a_text_that_is_not_of_its_character_set(tmp_path):
    def edit(dataset: Dataset, _: int) -> None:
        raw(dataset, "SeriesDescription", "LO", "Körper 2,5 mm ".encode("latin-1"))
        raw(dataset, "DerivationDescription", "ST", "geschärft ".encode("latin-1"))

    instance = derived(tmp_path, edit=as_it_is(edit))[0]
    assert bytes_of(instance, "SeriesDescription").rstrip() == "Körper 2,5 mm ASCON denoised".encode("latin-1")
    assert bytes_of(instance, "DerivationDescription").rstrip() == "geschärft; what was done".encode("latin-1")


@pytest.mark.parametrize(
    ("content", "number"),
    [(b"3 ", 1003), (b"ANON", 1000), (b"", 1000), (b"2.5 ", 1000), (b"3\\4 ", 1000), (b"2147483647", 2147483647),
     (b"99999999999999", 1000), (b"-5", 995), (b"1e999 ", 1000), (b"\xff\xfe", 1000)],
)  # fmt: skip
def test_a_series_number_of_any_kind(tmp_path, content, number):
    instance = derived(tmp_path, edit=as_it_is(lambda dataset, _: raw(dataset, "SeriesNumber", "IS", content)))[0]
    assert instance.SeriesNumber == (1000 if number == 2147483647 else number)


def test_values_that_are_none_are_copied_where_they_are_text(tmp_path):
    def edit(dataset: Dataset, _: int) -> None:
        raw(dataset, "PatientWeight", "DS", b"72,5")
        raw(dataset, "Exposure", "IS", b"n/a ")
        raw(dataset, "PatientBirthDate", "DA", b"01.02.70")
        raw(dataset, "ContrastBolusVolume", "DS", b"1.00E2")

    for instance in derived(tmp_path, edit=as_it_is(edit)):
        assert bytes_of(instance, "PatientWeight") == b"72,5"
        assert bytes_of(instance, "Exposure") == b"n/a "
        assert bytes_of(instance, "PatientBirthDate") == b"01.02.70"
        assert bytes_of(instance, "ContrastBolusVolume") == b"1.00E2"


@pytest.mark.parametrize("vr", ["UN", "LO", "OB"])
@pytest.mark.parametrize(
    "keyword",
    ["SeriesDescription", "DerivationCodeSequence", "ContributingEquipmentSequence", "ImageType", "ContentDate"],
)
def test_an_element_of_a_wrong_vr_is_written_with_its_own(tmp_path, keyword, vr):
    for instance in derived(tmp_path, edit=as_it_is(lambda dataset, _: raw(dataset, keyword, vr, b"some bytes"))):
        written = instance[keyword].VR
        assert written == pydicom.datadict.dictionary_VR(Tag(keyword))


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("number", [0, 3])
def test_what_a_derived_series_must_refer_to_is_asked_for_before_the_work(tmp_path, keyword, number):
    file = make_ct_series(tmp_path / "source")[number]
    dataset = pydicom.dcmread(file)
    del dataset[keyword]
    pydicom.dcmwrite(file, dataset)
    volume = read_series(tmp_path / "source")
    assert np.array_equal(volume.voxels, some_voxels())
    with pytest.raises(InputError, match=rf"{file.name} has no {keyword}, so .*: save the result as \.nrrd"):
        check_derivable(volume, volume.source)


def test_sequences_without_end_are_refused_before_the_work(tmp_path):
    def nest(dataset: Dataset, _: int) -> None:
        for _ in range(60):
            item = Dataset()
            dataset.ProcedureCodeSequence = [item]
            dataset = item

    make_ct_series(tmp_path / "source", edit=nest)
    volume = read_series(tmp_path / "source")
    with pytest.raises(InputError, match=r"0001\.dcm has sequences within sequences, 41 deep"):
        check_derivable(volume, volume.source)


def test_values_that_no_ct_image_holds_are_refused_before_the_work(tmp_path):
    make_ct_series(tmp_path / "source", voxels_hu=np.full((2, 4, 4), 33000), signed=False)
    volume = read_series(tmp_path / "source")
    with pytest.raises(InputError, match="more than a 16-bit CT image can hold"):
        check_derivable(replace(volume, voxels=volume.voxels + 70000), volume.source)


def test_an_uneven_source_is_the_reason_given(tmp_path):
    """As the panel's export meets it: Slicer shows an uneven series as an even volume."""
    make_ct_series(tmp_path / "even")
    uneven = make_ct_series(
        tmp_path / "uneven", series_uid="1.2.3", positions_mm=[(-100, -90.5, 30.25 + z) for z in (0, 2.5, 5, 10)]
    )
    volume = read_series(tmp_path / "even")
    source = pydicom.dcmread(uneven[0])
    with pytest.raises(
        InputError, match=r"series 1\.2\.3 lie unevenly, 2\.5 to 5 mm apart, .* Save the result as \.nrrd"
    ):
        check_derivable(volume, DicomSeries(source.SeriesInstanceUID, "", tuple(uneven), 4))


def test_the_parts_of_a_concatenation_are_one_volume_and_one_derived_series(tmp_path):
    parts = make_concatenation(tmp_path / "source")
    volume = read_series(tmp_path / "source")
    assert np.array_equal(volume.voxels, some_voxels((6, 12, 10)))
    assert volume.source.files == (parts[0],) * 4 + (parts[1],) * 2
    assert volume.source.frames == (1, 2, 3, 4, 1, 2)
    files = write_derived_series(volume, volume.source, tmp_path / "derived", Derivation("what was done"))
    again = read_series(tmp_path / "derived")
    assert np.array_equal(again.voxels, volume.voxels) and again.geometry == volume.geometry
    references = [pydicom.dcmread(file).SourceImageSequence[0] for file in files]
    uids = [pydicom.dcmread(part).SOPInstanceUID for part in parts]
    assert [uids.index(reference.ReferencedSOPInstanceUID) for reference in references] == [0, 0, 0, 0, 1, 1]
    assert [reference.ReferencedFrameNumber for reference in references] == [1, 2, 3, 4, 1, 2]


def test_a_concatenation_that_lacks_a_part_is_refused(tmp_path):
    make_concatenation(tmp_path / "source")[1].unlink()
    with pytest.raises(
        InputError, match="is a concatenation, one volume in 2 files, of which 1 are here: copy the others"
    ):
        read_series(tmp_path / "source")


def test_attributes_of_an_enhanced_frame_are_copied_byte_for_byte(tmp_path):
    file = make_enhanced_ct(
        tmp_path / "a.dcm", edit=as_it_is(lambda dataset, _: raw(dataset, "PatientID", "LO", LATIN))
    )
    volume = read_series(file)
    files = write_derived_series(volume, volume.source, tmp_path / "derived", Derivation("what was done"))
    assert {bytes_of(pydicom.dcmread(one), "PatientID") for one in files} == {LATIN}
