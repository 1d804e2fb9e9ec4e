"""The whole road on loopback: dcmtk is the scanner, Orthanc the PACS, the node between them."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_fixtures import make_ct_series, make_enhanced_ct
from node_fixtures import SHIFT_HU, NodeProcess, Orthanc, configuration, free_port, need, storescu, to, wait_for
from pydicom.config import IGNORE, disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.node.ledger import DONE, FAILED, LEFT_ALONE, RECEIVING
from ASCONDenoiseLib.node.service import Node

pytestmark = pytest.mark.slow  # real programs on real ports, minutes in all; a busy machine makes them late


def some_hu(slices: int = 4, seed: int = 0) -> np.ndarray:
    """Within what the tiny model shifts: no padding, no metal."""
    return np.random.default_rng(seed).integers(-900, 1900, (slices, 32, 32)).astype(np.int16)


def a_series(folder: Path, slices: int = 4, seed: int = 0, **options) -> tuple[str, str, list[Path]]:
    """A study, its one series, and its files."""
    study, series = generate_uid(), generate_uid()
    files = make_ct_series(folder, voxels_hu=some_hu(slices, seed), study_uid=study, series_uid=series, **options)
    return study, series, files


def state_of(node: Node, series: str) -> str:
    try:
        return node.ledger.series(series).state
    except KeyError:
        return ""


def comes_to(node: Node, series: str, state: str, seconds: float = 120) -> str:
    """The note of a series, once it is in a state."""
    wait_for(lambda: state_of(node, series) == state, seconds)
    return node.ledger.series(series).note


def port_of(node: Node) -> int:
    return node.config.listen.port


# ---- what goes right


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_series_comes_back_denoised_as_ascon_denoise_does_it(a_node, an_orthanc, a_model, tmp_path, syntax):
    node = a_node(to(an_orthanc.dicom_port))
    study, series, _ = a_series(tmp_path / "s", transfer_syntax=syntax)
    options = {RLELossless: ("-xr",), JPEG2000Lossless: ("-xv",)}.get(syntax, ())
    assert storescu(port_of(node), tmp_path / "s", options=options).returncode == 0
    comes_to(node, series, DONE)
    there = an_orthanc.instances(study)
    assert len(there) == 4 and {one["SeriesDescription"] for one in there} == {"Abdomen 2.5 mm ASCON denoised"}
    for one in there:
        (tmp_path / f"{one['ID']}.dcm").write_bytes(an_orthanc.file(one["ID"]))
    (tmp_path / "came").mkdir()
    for file in tmp_path.glob("*.dcm"):
        file.rename(tmp_path / "came" / file.name)
    voxels = read_volume(tmp_path / "came").voxels
    assert np.array_equal(voxels, some_hu() + SHIFT_HU // 2)
    if syntax == ExplicitVRLittleEndian:
        arguments = ["denoise", tmp_path / "s", tmp_path / "by_command", "--model", a_model, "--strength", "0.5"]
        assert cli.main([*map(str, arguments), "--quiet"]) == 0
        assert np.array_equal(voxels, read_volume(tmp_path / "by_command").voxels)


def test_an_enhanced_series_comes_back_too(a_node, an_orthanc, tmp_path):
    node = a_node(to(an_orthanc.dicom_port))
    file = make_enhanced_ct(tmp_path / "s" / "enhanced.dcm", voxels_hu=some_hu())
    header = pydicom.dcmread(file)
    assert storescu(port_of(node), tmp_path / "s").returncode == 0
    comes_to(node, str(header.SeriesInstanceUID), DONE)
    assert len(an_orthanc.instances(str(header.StudyInstanceUID))) == 4


def test_the_same_series_twice_gives_one_result_and_results_have_uids_of_their_own_right(a_node, an_orthanc, tmp_path):
    """Sent again while it waits, after it is done, and by a node that knows nothing: the PACS has it once."""
    node = a_node(to(an_orthanc.dicom_port))
    study, series, files = a_series(tmp_path / "s")
    for _ in range(2):
        assert storescu(port_of(node), tmp_path / "s").returncode == 0
    comes_to(node, series, DONE)
    first = {one["SOPInstanceUID"] for one in an_orthanc.instances(study)}
    assert storescu(port_of(node), tmp_path / "s").returncode == 0
    time.sleep(3)
    assert node.ledger.series(series).attempts == 1 and state_of(node, series) == DONE
    node.purge()
    node.ledger.tick(1e9)
    node.purge()
    assert state_of(node, series) == ""
    assert not list(node.intake.folder.glob("incoming/*/*")) and not list(node.intake.folder.glob("results/*"))
    assert storescu(port_of(node), tmp_path / "s").returncode == 0
    comes_to(node, series, DONE)
    assert {one["SOPInstanceUID"] for one in an_orthanc.instances(study)} == first and len(first) == 4


def test_interleaved_series_and_twenty_associations_at_once(a_node, an_orthanc, tmp_path):
    """20 scanners, each sending a slice of each of 4 series in turn; the 5th series comes whole, meanwhile."""
    node = a_node(to(an_orthanc.dicom_port), quiet_s="6")
    studies = [a_series(tmp_path / f"s{i}", slices=20, seed=i) for i in range(4)]
    whole = a_series(tmp_path / "whole", slices=20)
    threads = [
        threading.Thread(target=storescu, args=(port_of(node), *(files[k] for _, _, files in studies)))
        for k in range(20)
    ]
    threads.append(threading.Thread(target=storescu, args=(port_of(node), tmp_path / "whole")))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, (study, series, _) in enumerate([*studies, whole]):
        comes_to(node, series, DONE)
        assert len(an_orthanc.instances(study)) == 20, i
        assert node.ledger.series(series).restarts == 0


def test_a_series_of_a_thousand_slices(a_node, an_orthanc, tmp_path):
    node = a_node(to(an_orthanc.dicom_port))
    study, series, _ = a_series(tmp_path / "s", slices=1000)
    started = time.monotonic()
    assert storescu(port_of(node), tmp_path / "s").returncode == 0
    print(f"1000 objects in {time.monotonic() - started:.1f} s")
    comes_to(node, series, DONE, 480)
    assert an_orthanc.get("/statistics")["CountInstances"] >= 1000
    assert len(an_orthanc.post("/tools/find", Level="Instance", Query={"StudyInstanceUID": study})) == 1000


def test_a_series_that_announces_its_count_is_complete_at_once(a_node, tmp_path):
    node = a_node()
    object.__setattr__(node.config, "quiet_s", 600.0)

    def announce(header, _):
        header.NumberOfSeriesRelatedInstances = 4

    _, series, files = a_series(tmp_path / "s", edit=announce)
    storescu(port_of(node), *files[:3])
    time.sleep(1)
    assert state_of(node, series) == RECEIVING
    storescu(port_of(node), files[3])
    comes_to(node, series, DONE)


def test_late_slices_start_it_anew_once(a_node, an_orthanc, tmp_path, caplog):
    caplog.set_level("INFO")
    node = a_node(to(an_orthanc.dicom_port))
    study, series, files = a_series(tmp_path / "s", slices=6)
    storescu(port_of(node), *files[:4])
    comes_to(node, series, DONE)
    assert len(an_orthanc.instances(study)) == 4
    storescu(port_of(node), files[4])
    wait_for(lambda: len(an_orthanc.instances(study)) == 5)
    comes_to(node, series, DONE)
    assert "starts anew, once" in caplog.text
    assert storescu(port_of(node), files[5]).returncode == 0
    time.sleep(3)
    one = node.ledger.series(series)
    assert one.state == DONE and one.objects == 6 and "not taken up again" in one.note
    assert len({one["SeriesInstanceUID"] for one in an_orthanc.instances(study)}) == 1


def test_rules_leave_alone_and_what_no_rule_fits_too(a_node, tmp_path):
    node = a_node(rules='[[rules]]\nname = "sharp"\nkernel = "B70*"\nleave_alone = true\n')

    def sharp(header, _):
        header.ConvolutionKernel = "B70f"

    _, series, _ = a_series(tmp_path / "sharp", edit=sharp)
    storescu(port_of(node), tmp_path / "sharp")
    assert comes_to(node, series, LEFT_ALONE) == "The rule sharp says so."


def test_no_loop_where_the_pacs_forwards_everything_to_the_node(a_node, an_orthanc, tmp_path):
    """Orthanc sends back what it got from the node, and the originals besides."""
    node = a_node(to(an_orthanc.dicom_port))
    study, series, _ = a_series(tmp_path / "s")
    storescu(port_of(node), tmp_path / "s")
    storescu(an_orthanc.dicom_port, tmp_path / "s", called="ORTHANC")
    comes_to(node, series, DONE)
    peer = {"AET": "ASCON", "Host": "127.0.0.1", "Port": port_of(node)}
    an_orthanc.put("/modalities/node", peer)
    ids = [one["ID"] for one in an_orthanc.instances(study)]
    assert len(ids) == 8
    an_orthanc.post("/modalities/node/store", Resources=ids, Synchronous=True, LocalAet="ORTHANC")
    ours = next(one for one in node.ledger.latest(10) if one.series_uid != series).series_uid
    assert comes_to(node, ours, LEFT_ALONE) == "It was made by ASCON."
    time.sleep(3)
    assert state_of(node, series) == DONE and node.ledger.series(series).attempts == 1
    assert len(an_orthanc.instances(study)) == 8


# ---- what goes wrong


def test_a_gap_is_refused_as_ascon_denoise_does_and_the_original_stays(a_node, tmp_path):
    node = a_node()
    _, series, files = a_series(tmp_path / "s", slices=6)
    storescu(port_of(node), *files[:2], *files[3:])
    note = comes_to(node, series, FAILED)
    assert (
        "lacks 1 slice" in note and cli.main(["denoise", str(node.intake.originals(series)), str(tmp_path / "o")]) == 2
    )
    assert len(list(node.intake.originals(series).iterdir())) == 5
    storescu(port_of(node), files[2])  # and the slice that was missing mends it
    comes_to(node, series, DONE)


def test_a_sender_that_breaks_off_in_the_middle_of_an_object(a_node, tmp_path):
    """A proxy lets half of the third object through, then hangs up; all comes again later."""
    node = a_node()
    series = generate_uid()
    files = make_ct_series(tmp_path / "s", shape=(4, 128, 128), series_uid=series)
    size = files[0].stat().st_size
    cut = _proxy(port_of(node), int(2.5 * size))
    assert storescu(cut, *files).returncode != 0
    wait_for(lambda: state_of(node, series) not in ("", RECEIVING))
    there = list(node.intake.originals(series).iterdir())
    assert len(there) == 2 and all(pydicom.dcmread(file).PixelData for file in there)
    assert storescu(port_of(node), *files).returncode == 0
    wait_for(lambda: node.ledger.series(series).objects == 4 and state_of(node, series) == DONE)
    assert len(list(node.intake.result(series, node.ledger.series(series).attempts).glob("*.dcm"))) == 4


def _proxy(port: int, n_bytes: int) -> int:
    """Passes so many bytes on, then breaks off both ways."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        client, _ = server.accept()
        upstream = socket.create_connection(("127.0.0.1", port))

        def back() -> None:
            while data := _received(upstream):
                client.sendall(data)

        threading.Thread(target=back, daemon=True).start()
        left = n_bytes
        while left > 0 and (data := _received(client)):
            upstream.sendall(data[:left])
            left -= len(data)
        for one in (client, upstream, server):
            one.close()

    threading.Thread(target=run, daemon=True).start()
    return int(server.getsockname()[1])


def _received(one: socket.socket) -> bytes:
    try:
        return one.recv(1024)
    except OSError:
        return b""


def test_strangers_are_refused_and_logged_without_a_patient(a_node, tmp_path, caplog):
    node = a_node()
    a_series(tmp_path / "s", slices=1)
    for wrong, words in (({"caller": "STRANGER"}, "Calling"), ({"called": "OTHER"}, "Called")):
        refused = storescu(port_of(node), tmp_path / "s", **wrong)
        assert refused.returncode != 0 and "Association Accepted" not in refused.stderr
        assert "Rejected Permanent, Source: Service User" in refused.stderr
        assert f"Reason: {words} AE Title Not Recognized" in refused.stderr
    assert "STRANGER at 127.0.0.1" in caplog.text and "OTHER" in caplog.text
    object.__setattr__(node.config.listen, "networks", ("192.168.4.0/24",))
    assert storescu(port_of(node), tmp_path / "s").returncode != 0
    assert "a connection from 127.0.0.1 was refused" in caplog.text
    assert "Phantom" not in caplog.text and not list(node.intake.folder.glob("incoming/*"))


def test_echo(a_node):
    node = a_node()
    command = [need("echoscu", "dcmtk"), "-aet", "SCANNER", "-aec", "ASCON", "127.0.0.1", str(port_of(node))]
    assert subprocess.run(command, timeout=20, check=False).returncode == 0


def test_an_object_that_is_no_ct_is_refused_or_kept(a_node, tmp_path):
    """By the setting; a CT beside it takes no harm."""
    study, series, files = a_series(tmp_path / "s")
    mr = generate_uid()

    others = make_ct_series(tmp_path / "mr", shape=(2, 8, 8), series_uid=mr, modality="MR", edit=_mr)
    refusing = a_node()
    storescu(port_of(refusing), *others)  # which stops at the first that is refused
    storescu(port_of(refusing), *files)
    comes_to(refusing, series, DONE)
    assert state_of(refusing, mr) == ""


def _mr(header, _):
    header.SOPClassUID = pydicom.uid.MRImageStorage


def test_an_object_that_is_no_ct_is_kept_and_left_alone_where_that_is_wanted(a_node, tmp_path):
    mr = generate_uid()
    make_ct_series(tmp_path / "mr", shape=(2, 8, 8), series_uid=mr, modality="MR", edit=_mr)
    node = a_node(listen='other_objects = "keep"')
    assert storescu(port_of(node), tmp_path / "mr").returncode == 0
    assert "MR" in comes_to(node, mr, LEFT_ALONE)
    assert len(list(node.intake.originals(mr).iterdir())) == 2


def test_the_pacs_is_down_for_a_while(a_node, tmp_path, caplog):
    orthanc = Orthanc(tmp_path / "orthanc")
    node = a_node(to(orthanc.dicom_port))
    study, series, _ = a_series(tmp_path / "s")
    storescu(port_of(node), tmp_path / "s")
    wait_for(lambda: [d.tries for d in node.ledger.all_deliveries(series) if d.tries >= 2])
    assert "cannot be reached" in node.ledger.all_deliveries(series)[0].note
    orthanc.start()
    comes_to(node, series, DONE)
    assert len(orthanc.instances(study)) == 4
    orthanc.stop()
    study2, series2, _ = a_series(tmp_path / "s2")
    storescu(port_of(node), tmp_path / "s2")
    wait_for(lambda: [d.tries for d in node.ledger.all_deliveries(series2) if d.tries])
    orthanc.start()
    comes_to(node, series2, DONE)
    assert len(orthanc.instances(study2)) == 4 and len(orthanc.instances(study)) == 4
    orthanc.stop()


def test_a_destination_that_never_takes_it_is_given_up(a_node, tmp_path):
    node = a_node(to(free_port(), more="give_up_days = 0.5"))
    _, series, _ = a_series(tmp_path / "s")
    storescu(port_of(node), tmp_path / "s")
    wait_for(lambda: [d.tries for d in node.ledger.all_deliveries(series) if d.tries])
    node.ledger.tick(50_000)
    assert comes_to(node, series, FAILED) == "Not taken by pacs."


def test_a_clock_that_jumps_completes_and_delays_nothing(a_node, tmp_path, monkeypatch):
    """time.time goes to 2096 and to 1970 and back while a series comes."""
    node = a_node()
    _, series, files = a_series(tmp_path / "s", slices=3)
    for file, now in zip(files, (4e9, 0.0, 2e9), strict=True):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        storescu(port_of(node), file)
        time.sleep(0.3)
        assert state_of(node, series) == RECEIVING
    comes_to(node, series, DONE)
    assert node.ledger.series(series).record["slices"] == 3 and node.ledger.series(series).restarts == 0


def test_a_worker_that_dies_costs_a_retry_of_its_series(a_node, a_worker, tmp_path):
    import os
    import signal

    node = a_node()
    _, series, _ = a_series(tmp_path / "s", slices=3)
    wait_for(lambda: True)
    storescu(port_of(node), tmp_path / "s")
    comes_to(node, series, DONE)
    _, series, _ = a_series(tmp_path / "s2", slices=400)
    storescu(port_of(node), tmp_path / "s2")
    wait_for(lambda: node.progress and node.progress[0] == series)
    os.kill(a_worker.pid, signal.SIGKILL)
    comes_to(node, series, DONE)
    assert node.ledger.series(series).attempts == 2 and node.ledger.series(series).faults == 1


def test_no_value_of_a_header_gets_into_the_log_of_a_node_process(tmp_path, a_model):
    """Values that are wrong for their attribute, which libraries like to quote; worker and node write one log."""
    wrong = {"PatientBirthDate": "01.02.1934", "PatientSex": "nobody!", "PatientAge": "77years", "StudyTime": "noon"}

    _, series, files = a_series(tmp_path / "s", slices=3)
    for file in files:
        header = pydicom.dcmread(file)
        for keyword, value in wrong.items():
            header.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))
        with disable_value_validation():
            header.save_as(file)
    port = free_port()
    node = NodeProcess(configuration(tmp_path, port, a_model, "", top="destinations = []"))
    node.start(port)
    try:
        assert storescu(port, tmp_path / "s").returncode == 0
        wait_for(lambda: f"series {series} was denoised, 3 slices" in node.log.read_text())
    finally:
        node.end()
    log = node.log.read_text()
    assert not [value for value in (*wrong.values(), "Phantom", "PHANTOM-1") if value in log], log


def test_two_nodes_do_not_share_a_folder(a_node):
    from ASCONDenoiseLib.errors import InputError

    node = a_node()
    with pytest.raises(InputError, match="Another node uses"):
        Node(node.config)
