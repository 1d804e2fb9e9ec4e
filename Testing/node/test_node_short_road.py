"""The shortest whole road with real programs, for each run of the checks; test_node_road.py has what takes longer."""

from __future__ import annotations

import numpy as np
import pydicom
from dicom_fixtures import make_ct_series
from node_fixtures import SHIFT_HU, storescu, to, wait_for
from pydicom.uid import generate_uid

from ASCONDenoiseLib.io.reading import read_volume


def test_from_dcmtk_through_the_node_to_orthanc(a_node, an_orthanc, tmp_path):
    """Three slices, whose number is announced: no quiet time is waited for, so a slow machine is only slower."""
    study, series = generate_uid(), generate_uid()
    voxels = np.random.default_rng(0).integers(-900, 1900, (3, 32, 32)).astype(np.int16)

    def announce(header, _):
        header.NumberOfSeriesRelatedInstances = 3

    make_ct_series(tmp_path / "s", voxels_hu=voxels, study_uid=study, series_uid=series, edit=announce)
    node = a_node(to(an_orthanc.dicom_port), quiet_s="600")
    sent = storescu(node.config.listen.port, tmp_path / "s")
    assert sent.returncode == 0, sent.stderr
    wait_for(lambda: node.ledger.counts()["done"], 300)
    there = an_orthanc.instances(study)
    assert {one["SeriesDescription"] for one in there} == {"Abdomen 2.5 mm ASCON denoised"}
    (tmp_path / "came").mkdir()
    for one in there:
        (tmp_path / "came" / f"{one['ID']}.dcm").write_bytes(an_orthanc.file(one["ID"]))
    assert np.array_equal(read_volume(tmp_path / "came").voxels, voxels + SHIFT_HU // 2)
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in (tmp_path / "came").iterdir()]
    assert {str(one.SeriesInstanceUID) for one in headers}.isdisjoint({series}) and len(headers) == 3
