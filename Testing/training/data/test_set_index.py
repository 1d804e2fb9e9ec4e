"""The index of a training set, and the fingerprints of its scans."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from training_fixtures import VOLUMES, make_random_set

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.set_index import read_index, scan_fingerprints, write_index


def test_index_survives_a_round_trip(a_set):
    folder, _ = a_set
    index = read_index(folder)
    assert [(v.name, v.patient, v.split, v.shape, v.dose) for v in index.volumes] == VOLUMES
    assert index.volumes[0].spacing_mm == (0.7, 0.7, 1.0) and not index.simulated
    assert (
        str(index) == "train 2 patients with 6 slices, validation 1 patient with 3 slices, test 1 patient with 3 slices"
    )
    content = json.loads((folder / "index.json").read_text())
    assert content["simulated"] is False and content["volumes"][0]["slices"] == 4
    write_index(index, folder)
    assert read_index(folder) == index
    assert not list(folder.glob(".*"))


def test_patient_in_two_splits_is_refused_with_counts(tmp_path):
    make_random_set(tmp_path, [(*v[:2], "test" if v[0] == "b" else "train", *v[3:]) for v in VOLUMES])
    index = read_index(tmp_path)
    leaking = replace(
        index, volumes=tuple(replace(v, patient="A" if v.name in "ab" else v.name) for v in index.volumes)
    )
    write_index(leaking, tmp_path)
    with pytest.raises(InputError, match=r"1 patient in more than one split \(A\)"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no index.json"),
        ("{", "is damaged"),
        ('{"dose": 0.25, "seed": 0, "volumes": ["a"]}', "another version"),
        ('{"format": 2}', "another version"),
        ("[]", "another version"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_index(tmp_path)


def test_a_fingerprint_is_of_the_voxels_and_of_nothing_else(tmp_path):
    shape = (5, 40, 56)
    arrays = make_random_set(tmp_path, [("a", "Doe", "train", shape, None), ("b", "Roe", "train", shape, None)])
    volumes = read_index(tmp_path).of("train")
    middle = arrays["a"][1][2]
    expected = hashlib.sha256(b"40x56:" + b"".join(int(v).to_bytes(2, "little", signed=True) for v in middle.flat))
    found = scan_fingerprints(tmp_path, volumes)
    assert list(found.values()) == ["a", "b"] and list(found)[0] == expected.hexdigest()[:16] != list(found)[1]
    renamed = replace(volumes[0], patient="Miller", split="test", source="elsewhere.nrrd", dose=0.5)
    assert list(scan_fingerprints(tmp_path, [renamed])) == list(found)[:1]
    phantom = replace(volumes[1], source="phantom of 5x40x56 voxels")
    assert list(scan_fingerprints(tmp_path, [volumes[0], phantom])) == list(found)[:1]
    named_so = replace(volumes[1], source="phantoms/ACR.nrrd")  # a scan of the user's, in a folder of that name
    assert list(scan_fingerprints(tmp_path, [named_so])) == list(found)[1:]
