"""Warnings about volumes that a model is not for: each has a volume that gets it and a neighbour that does not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.card import ModelCard, Scope, load_card
from ASCONDenoiseLib.models.files import find_model
from ASCONDenoiseLib.models.suitability import sample, warnings, warnings_of
from ASCONDenoiseLib.physics.phantoms import abdomen, chest

MM = (0.7, 0.7, 3.0)
CT = {"modality": "CT", "kernel": "STANDARD", "body_part": "ABDOMEN", "name": "3: Abdomen 3 mm"}
SHIFTS = {"contrast medium": -9.4, "soft tissue": -6.3}


@pytest.fixture(scope="module")
def a_body() -> np.ndarray:
    """An abdomen with the noise of a low dose, int16."""
    truth = abdomen(7, (4, 128, 128), (2.8, 2.8, 3.0)).voxels_hu
    return np.rint(truth + np.random.default_rng(0).normal(0, 40, truth.shape)).astype(np.int16)


@pytest.fixture(scope="module")
def the_card() -> ModelCard:
    """Of the shipped model, as if it were one of few slices, kernels and parts of the body."""
    scope = Scope((2.5, 10.0), (0.1, 0.5), ("GE STANDARD",), False, SHIFTS, ("chest", "abdomen", "pelvis"))
    return replace(load_card(find_model()), scope=scope)


def test_the_shipped_models_say_what_they_have_seen(a_body):
    for name in ("best", "fast"):
        scope = load_card(find_model(name)).scope
        assert scope.slice_mm and scope.doses and scope.kernels and scope.body_parts and scope.sharp_kernels is False
        assert warnings(a_body, MM, CT, load_card(find_model(name))) == []


def test_nothing_is_said_of_a_ct(a_body, the_card):
    assert warnings(a_body, MM, CT, the_card) == []
    assert warnings(a_body, MM, {}, the_card) == []  # a file that says nothing about itself
    lungs = chest(7, (4, 128, 128), (2.8, 2.8, 3.0)).voxels_hu
    assert warnings(lungs, MM, CT, the_card) == []


def test_nothing_is_said_of_a_liver_without_air_around_it_nor_of_a_lung_alone(a_body):
    rng = np.random.default_rng(1)
    assert warnings(rng.normal(60, 40, (3, 64, 64)), MM, CT) == []
    assert warnings(rng.normal(-870, 60, (3, 64, 64)), MM, CT) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hu: np.maximum(hu, -1024) + 1024, "No value is below 0"),  # stored values without their rescaling
        (lambda hu: np.clip(hu + 1000, 0, 3000) / 3000, "span too little"),
        (lambda hu: np.clip(hu + 1000, 0, 3000) / 1500 - 1, "span too little"),
        (lambda hu: hu * 0, "(0 to 0) span too little"),
        (lambda hu: hu * 0 - 500 + 300 * (np.indices(hu.shape).sum(0) % 2), "Hardly any voxel"),
    ],
    ids=["stored", "0 to 1", "-1 to 1", "empty", "neither air nor tissue"],
)
def test_values_that_are_not_hu(a_body, change, words):
    (sentence,) = warnings(change(a_body), MM, CT)
    assert words in sentence


def test_not_a_number_is_left_out(a_body):
    holes = a_body.astype(np.float32)
    holes[:, :5] = np.nan
    assert warnings(holes, MM, CT) == []
    assert warnings(np.full((1, 4, 4), np.nan), MM, CT) == []


@pytest.mark.parametrize("modality", ["MR", "PT", "OT"])
def test_another_modality_is_named(a_body, modality):
    (sentence,) = warnings(a_body, MM, CT | {"modality": modality})
    assert f"This is {modality}, not CT" in sentence


def test_a_name_that_says_denoised(a_body):
    for name, text in (("name", "scan denoised"), ("series_description", "Denoised (ASCON)")):
        (sentence,) = warnings(a_body, MM, CT | {name: text})
        assert "denoised already" in sentence
    assert warnings(a_body, MM, CT | {"name": "ASCON low-dose abdomen"}) == []


@pytest.mark.parametrize(("mm", "warned"), [(0.625, True), (2.4, True), (2.499, False), (2.5, False), (10, False)])
def test_slices_thinner_than_those_seen(a_body, the_card, mm, warned):
    found = warnings(a_body, (0.7, 0.7, mm), CT, the_card)
    assert ["thinner" in sentence and "2.5 mm or more" in sentence for sentence in found] == [True] * warned


@pytest.mark.parametrize(("mm", "warned"), [(15, False), (15.1, True), (25, True)])
def test_slices_much_thicker_than_those_seen(a_body, the_card, mm, warned):
    found = warnings(a_body, (0.7, 0.7, mm), CT, the_card)
    assert ["much thicker" in sentence and "10 mm or less" in sentence for sentence in found] == [True] * warned


SHARP = ["LUNG", "BONE", "BONEPLUS", "EDGE", "B60f", "B70f", "B80s", "I70f", "Br64", "Bl60", "Hr68", "FC30", "FC52"]
SHARP += ["FC86", "YA", "D", "L", "lung"]
SMOOTH = ["STANDARD", "SOFT", "CHST", "B20f", "B31f", "B40f", "B50f", "I40f", "Br40", "Hr44", "FC08", "FC13", "A", "B"]


@pytest.mark.parametrize("kernel", SHARP + SMOOTH)
def test_kernels_sharper_than_those_seen(a_body, the_card, kernel):
    found = warnings(a_body, MM, CT | {"kernel": kernel}, the_card)
    assert ["sharper" in sentence for sentence in found] == [True] * (kernel in SHARP)


@pytest.mark.parametrize(("seen", "warned"), [(True, False), (None, False), (False, True)])
def test_a_sharp_kernel_is_warned_of_only_where_none_was_seen(a_body, the_card, seen, warned):
    card = replace(the_card, scope=Scope(sharp_kernels=seen))
    assert len(warnings(a_body, MM, CT | {"kernel": "BONE"}, card)) == warned


def test_a_sharp_kernel_is_warned_of_with_the_shifts_that_the_card_tells(a_body, the_card):
    (sentence,) = warnings(a_body, MM, CT | {"kernel": "B70f"}, the_card)
    assert "contrast medium -9.4 HU, soft tissue -6.3 HU" in sentence and "full strength" in sentence
    silent = replace(the_card, scope=replace(the_card.scope, sharp_kernel_shift_hu={}))
    (sentence,) = warnings(a_body, MM, CT | {"kernel": "B70f"}, silent)
    assert "sharper" in sentence and "Expect" not in sentence


def turned(degrees: float, *, about: str) -> tuple[float, ...]:
    """An axial direction turned about the patient's left-right (x) or long axis (z)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (1, 0, 0, 0, c, -s, 0, s, c) if about == "x" else (c, -s, 0, s, c, 0, 0, 0, 1)


AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0, 0, 0, 1), (1, 0, 0, 0, 0, 1, 0, -1, 0), (0, 0, 1, 1, 0, 0, 0, -1, 0)


@pytest.mark.parametrize(
    ("direction", "word"),
    [
        (CORONAL, "coronal"),
        (tuple(-x for x in CORONAL), "coronal"),
        (SAGITTAL, "sagittal"),
        (turned(50, about="x"), "oblique"),
        (turned(30, about="x"), ""),  # a tilted gantry
        (turned(170, about="x"), ""),  # stored from head to feet
        (turned(90, about="z"), ""),
        (AXIAL, ""),
    ],
)
def test_slices_that_are_not_axial(a_body, the_card, direction, word):
    found = warnings(a_body, MM, CT, the_card, direction=direction)
    assert [word in sentence and "axial" in sentence for sentence in found] == [True] * bool(word)


@pytest.mark.parametrize(("x", "y", "warned"), [(0.7, 0.7, 0), (0.7, 1.0, 0), (0.7, 3.0, 1), (5.0, 0.7, 1)])
def test_pixels_that_are_not_square(a_body, the_card, x, y, warned):
    found = warnings(a_body, (x, y, 3.0), CT, the_card)
    assert ["not square" in sentence for sentence in found] == [True] * warned


def test_a_volume_is_judged_by_all_that_is_known_of_it(a_body, the_card):
    volume = Volume(a_body, Geometry(MM, direction=CORONAL), description={"kernel": "B70f", "modality": "CT"})
    assert [s.split()[1] for s in warnings_of(volume, "denoised.nrrd", the_card)] == ["its", "slices", "kernel"]
    assert [s.split()[1] for s in warnings_of(volume, "scan.nrrd")] == ["slices"]


@pytest.mark.parametrize(("part", "warned"), [("HEAD", True), ("BRAIN", True), ("KNEE", True), ("CHEST", False)])
def test_parts_of_the_body_that_were_not_seen(a_body, the_card, part, warned):
    found = warnings(a_body, MM, CT | {"body_part": part}, the_card)
    assert [part in sentence for sentence in found] == [True] * warned


@pytest.mark.parametrize(
    ("seen", "head", "knee"),
    [
        ((), False, False),
        (("chest",), True, True),
        (("chest", "head"), False, True),
        (("Limbs",), True, False),
        (("brain", "knee"), False, False),
    ],
)
def test_heads_and_limbs_are_warned_of_one_by_one(a_body, the_card, seen, head, knee):
    card = replace(the_card, scope=Scope(body_parts=seen))
    for part, warned in (("HEAD", head), ("KNEE", knee), ("CHEST", False)):
        assert len(warnings(a_body, MM, CT | {"body_part": part}, card)) == warned, part


def test_a_model_of_which_nothing_is_known_is_not_warned_about(a_body, the_card):
    """Whatever its card says in words."""
    known = CT | {"kernel": "BONE", "body_part": "HEAD"}
    free = replace(the_card, scope=Scope())
    assert len(warnings(a_body, (0.7, 0.7, 0.5), known, the_card)) == 3
    assert warnings(a_body, (0.7, 0.7, 0.5), known, free) == warnings(a_body, (0.7, 0.7, 50), known, free) == []


def test_the_gravest_comes_first_and_words_are_translated(a_body, the_card):
    known = {"modality": "MR", "name": "denoised", "kernel": "BONE"}
    found = warnings(a_body, (1, 1, 1), known, the_card, lambda text: "* " + text)
    assert [sentence.split()[:2] for sentence in found] == [["*", word] for word in ("This", "By", "Its", "The")]


def test_a_sample_is_a_view_of_every_part():
    voxels = np.zeros((300, 512, 512), np.int16)
    part = sample(voxels)
    assert part.base is voxels and part.size < 200_000 and 8 <= len(part) <= 9
    assert sample(voxels[:1]).shape == (1, 128, 128)


def test_sample_and_whole_agree_on_real_ct(the_card):
    data = os.environ.get("ASCON_TEST_DATA")
    if not data:
        pytest.skip("ASCON_TEST_DATA names no folder with real CT")
    from ASCONDenoiseLib.io.reading import read_volume

    files = [path for folder in ("train", "validation") for path in sorted(Path(data, folder).glob("*.nii*"))]
    assert files
    for path in files:
        volume = read_volume(path)
        assert warnings(sample(volume.voxels), volume.geometry.spacing_mm, volume.description, the_card) == [], (
            path.name
        )
