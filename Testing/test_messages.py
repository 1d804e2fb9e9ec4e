"""What the panel says, word for word, and that it passes through the translator."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model_fixtures import a_card

from ASCONDenoiseLib import messages as wording
from ASCONDenoiseLib.imaging.clustering import READINGS_HU
from ASCONDenoiseLib.imaging.strength import NoiseByStrength
from ASCONDenoiseLib.models.card import Scope, load_card
from ASCONDenoiseLib.models.files import find_model


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"event": "progress", "done": 120, "total": 300, "seconds_left": 4.2}, "slice 120 of 300, 4 s left"),
        ({"event": "progress", "done": 1, "total": 300, "seconds_left": None}, "slice 1 of 300"),
        ({"event": "progress", "done": 2, "total": 300, "seconds_left": 600.0}, "slice 2 of 300, 10 min left"),
        ({"event": "stage", "stage": "torch"}, "starting PyTorch"),
        ({"event": "stage", "stage": "model"}, "loading the model"),
        ({"event": "stage", "stage": "embedding"}, "laying out the t-SNE plot"),
        ({"event": "started", "device": "cpu"}, ""),
    ],
)
def test_progress(event, text):
    assert wording.progress(event) == text


def test_progress_of_what_are_not_only_slices():
    event = {"event": "progress", "done": 300, "total": 328, "seconds_left": 9.6}
    assert wording.progress(event, slices=False) == "step 300 of 328, 10 s left"


CLUSTER = {
    "label": 3,
    "reading": "mixed: fat, soft tissue",
    "colour": (1, 2, 3),
    "voxels": 1000,
    "volume_ml": 12.345,
    "mean_before_hu": -12.6,
    "sd_before_hu": 31.4,
    "mean_after_hu": -12.4,
    "sd_after_hu": 20.6,
    "noise_removed_hu": 18.25,
}


def test_a_cluster_is_a_row_and_a_suggested_name():
    header, row = wording.cluster_rows([CLUSTER])
    assert row == ("3 mixed: fat, soft tissue", "12.3", "-13 ± 31", "-12 ± 21", "18.2")
    assert len(header) == len(row) and "uggested" in header[0]
    assert wording.segment_name(CLUSTER) == "3 mixed: fat, soft tissue (suggested)"


def test_every_reading_passes_through_the_translator():
    said = []

    def translate(text):
        said.append(text)
        return text.upper() if "{" not in text else text

    for name in READINGS_HU:
        assert wording.reading(name, translate) == name.upper()
    assert wording.reading("mixed: air, edge of lung or gas", translate) == "mixed: AIR, EDGE OF LUNG OR GAS"
    assert "mixed: {names}" in said


def test_how_well_clusters_part():
    numbers = {"silhouette": 0.314159, "davies_bouldin": 1.2, "intra_inter": 0.456}
    text = wording.separation(numbers)
    assert "Silhouette 0.31" in text and "Davies-Bouldin 1.20" in text and "intra/inter 0.46" in text
    assert wording.separation(None) == "There is one cluster only."


def test_outcome_ends_with_model_device_time_and_strength():
    facts = {
        "model": {"name": "M", "version": "1.2", "sha256": "0"},
        "device": "cuda:0 NVIDIA H100, then cpu",
        "seconds": 12.34,
        "notes": ["out of memory on cuda:0: batch halved to 2"],
    }
    assert wording.outcome(facts, 0.75) == (
        "Out of memory on cuda:0: batch halved to 2. "
        "Done: M 1.2 on cuda:0 NVIDIA H100, then cpu, 12.3 s, strength 75\N{NO-BREAK SPACE}%"
    )


def test_what_a_strength_means():
    noise = NoiseByStrength((31.4, 20.0, 12.0))
    words = "75\N{NO-BREAK SPACE}%: 31 \N{RIGHTWARDS ARROW} 16 HU of noise in soft tissue"
    assert wording.noise_at(0.75, noise) == words


def test_card_shows_everything_and_runs_no_markup():
    card = a_card(
        name="<script>",
        training_data=["A & B"],
        intended_use="Research",
        limits=["Not for children"],
        metrics={"abdomen": {"psnr_db": 44.1234, "slices": 20}},
        sha256="ab" * 32,
    )
    page = wording.card_html(card)
    assert "<script>" not in page and "&lt;script&gt;" in page and "A &amp; B" in page
    for words in ("Not for children", "Research", "abdomen: psnr_db 44.12, slices 20", "ab" * 32, "Apache-2.0"):
        assert words in page


def test_a_card_shows_what_is_known_of_its_scope():
    kernels = ("GE STANDARD", "Siemens B40f", "Toshiba FC13", "Philips B")
    shifts = {"contrast medium": -9.4, "soft tissue": -6.3}
    scope = Scope((2.5, 10.0), (0.1, 0.5), kernels, False, shifts, ("chest", "abdomen", "pelvis"))
    card = replace(load_card(find_model()), scope=scope)
    lines = [
        "slices of 2.5 to 10 mm",
        "0.1 to 0.5 of the normal dose",
        "kernels: GE STANDARD, Siemens B40f, Toshiba FC13, Philips B",
        "no kernels for lung or bone",
        "on such a kernel it shifted, at full strength: contrast medium -9.4 HU, soft tissue -6.3 HU",
        "parts of the body: chest, abdomen, pelvis",
    ]
    assert wording.scope_lines(card.scope) == lines
    assert "Seen in training" in wording.card_html(card) and "<br>".join(lines) in wording.card_html(card)
    assert "Seen in training" not in wording.card_html(replace(card, scope=Scope()))
    some = Scope(slice_mm=(3.0, 3.0), sharp_kernels=True)
    assert wording.scope_lines(some) == ["slices of 3 mm", "kernels for lung or bone too"]
    assert all(line.isupper() for line in wording.scope_lines(Scope(sharp_kernels=False), str.upper))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("User declined package installation", "asked again"),
        ("OSError: [WinError 206] The filename or extension is too long", "too long for Windows"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ProxyError('Cannot connect to proxy.', OSError('407 Proxy Authentication Required'))", "HTTPS_PROXY"),
        ("SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED", "certificate"),
        ("Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "Go online"),
        ("ERROR: No matching distribution found for torch>=2.2", "Go online"),
        ("PermissionError: [WinError 5] Access is denied", "Restart"),
        ("line one\nthe last line.", "(the last line)"),
        ("", "log has the details"),
    ],
)
def test_installation_failure(said, words):
    assert words in wording.installation_failure(said)


def test_every_sentence_is_translated():
    heard = []

    def translate(text):
        heard.append(text)
        return text.upper()

    assert wording.installation_failure("No space left", translate).isupper()
    assert wording.progress({"event": "stage", "stage": "torch"}, translate) == "STARTING PYTORCH"
    assert "starting PyTorch" in heard
