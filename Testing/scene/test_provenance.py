"""How a node came about, kept in its attributes and in a saved scene."""

from __future__ import annotations

import numpy as np
from scene_fixtures import a_result, a_volume, slicer

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.scene.provenance import INPUT_ROLE, provenance, provenance_sentence, set_provenance, set_strength
from ASCONDenoiseLib.scene.volumes import make_like
from ASCONDenoiseLib.scene.voxels import new_image

RESULT = {
    "id": 4,
    "event": "result",
    "device": "cuda:0 NVIDIA H100",
    "precision": "fp32",
    "strength": 0.75,
    "seconds": 12.3456,
    "notes": ["out of memory: batch halved to 2", "another"],
    "model": {"name": "ASCON", "version": "0.1", "sha256": "ab" * 32, "path": "somewhere/model.safetensors"},
    "times": {"total": 13.0},
}


def test_provenance_says_how_a_volume_came_about_and_is_saved_with_the_scene(a_scene, tmp_path):
    source = a_volume(a_scene)
    result = a_result(a_scene, source)
    set_provenance(result, source, RESULT)
    found = provenance(result)
    created = found.pop("ASCON.Created")
    assert created[:2] == "20" and "T" in created
    assert found.pop("ASCON.SoftwareVersion")
    assert found == {
        "ASCON.Device": "cuda:0 NVIDIA H100",
        "ASCON.Precision": "fp32",
        "ASCON.Strength": "0.75",
        "ASCON.Seconds": "12.35",
        "ASCON.Notes": "out of memory: batch halved to 2 another",
        "ASCON.ModelName": "ASCON",
        "ASCON.ModelVersion": "0.1",
        "ASCON.ModelSha256": "ab" * 32,
    }
    assert provenance_sentence(result) == (
        f"Denoised by ASCON {__version__}: ASCON 0.1 (sha256 {'ab' * 32}), device cuda:0 NVIDIA H100, precision fp32, "
        "strength 0.75, out of memory: batch halved to 2 another"
    )
    assert provenance_sentence(source) == f"Processed by ASCON {__version__}"
    assert result.GetNodeReference(INPUT_ROLE) is source
    assert provenance(source) == {}
    set_strength(result, 0.5)
    assert provenance(result)["ASCON.Strength"] == "0.5"

    a_scene.SetURL(str(tmp_path / "scene.mrml"))
    assert a_scene.Commit()
    again = slicer.vtkMRMLScene()
    again.SetURL(str(tmp_path / "scene.mrml"))
    again.Import()
    loaded = again.GetFirstNodeByName("scan denoised")
    assert provenance(loaded) == provenance(result)
    assert loaded.GetNodeReference(INPUT_ROLE).GetName() == "scan"


def test_provenance_of_a_volume_that_is_written_again_is_that_of_the_last_time(a_scene):
    source, output = a_volume(a_scene), a_volume(a_scene, name="mine")
    set_provenance(output, source, RESULT)
    set_provenance(output, source, {"dose": 0.25})
    assert set(provenance(output)) == {"ASCON.Created", "ASCON.SoftwareVersion", "ASCON.Dose"}
    make_like(output, source, new_image((4, 5, 6), np.int16))
    assert provenance(output) == {}


def test_warnings_come_last_in_the_sentence(a_scene):
    source = a_volume(a_scene)
    result = a_result(a_scene, source)
    set_provenance(result, source, RESULT | {"notes": [], "warnings": ["Its slices are coronal.", "It is a head."]})
    assert provenance(result)["ASCON.Warnings"] == "Its slices are coronal. It is a head."
    assert provenance_sentence(result).endswith("strength 0.75. Its slices are coronal. It is a head.")
    set_provenance(result, source, RESULT | {"warnings": []})
    assert provenance_sentence(result).endswith("another")
