"""`ascon node init, check, retry` and what keeps a node from starting: each fault is a sentence with a remedy."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from dicom_fixtures import make_ct_series
from node_fixtures import configuration, free_port, to
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.node.check import Step, check
from ASCONDenoiseLib.node.config import read_config
from ASCONDenoiseLib.node.service import Node


@pytest.fixture
def a_pacs() -> Iterator[Callable[..., int]]:
    """Starts PACSs of pynetdicom; returns their ports."""
    started = []

    def start(*kinds: str, calling: str = "", called: bool = True, answer: int = 0) -> int:
        ae, port = AE("ORTHANC"), free_port()
        ae.supported_contexts = []
        for kind in kinds or (Verification, CTImageStorage):
            ae.add_supported_context(kind)
        ae.require_calling_aet = [calling] if calling else []
        ae.require_called_aet = called
        handlers = [(evt.EVT_C_ECHO, lambda _: answer)]
        started.append(ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers))
        return port

    yield start
    for server in started:
        server.shutdown()


@pytest.fixture
def checked(tmp_path, a_model, a_worker) -> Callable[..., dict[str, Step]]:
    """The steps of a configuration, by their names; the arguments are those of `configuration`."""

    def run(destinations: str, model: Path | None = None, **more: str) -> dict[str, Step]:
        config = configuration(tmp_path, free_port(), model or a_model, destinations, **more)
        return {step.name: step for step in check(read_config(config), a_worker)}

    return run


def the_fault(steps: dict[str, Step]) -> Step:
    """The one step that fails; a sentence with a remedy."""
    bad = [step for step in steps.values() if not step.good]
    assert len(bad) == 1, bad
    assert bad[0].told[-1] in ".?" and "Errno" not in bad[0].told
    return bad[0]


def test_where_all_is_well_each_step_says_so(checked, a_pacs, tmp_path):
    steps = checked(to(a_pacs()))
    assert all(step.good for step in steps.values()), steps
    assert list(steps) == [
        *("storage", "free space", "listening", "status page", "rules", "model", "a slice with it", "echo pacs"),
    ]
    assert "denoised on cpu" in steps["a slice with it"].told and steps["model"].told.startswith("tiny ")
    assert not list((tmp_path / "data").iterdir())  # nothing is left of trying


def test_a_destination_that_is_down(checked):
    fault = the_fault(checked(to(free_port())))
    assert fault.name == "echo pacs" and "nothing listens there; is it running, and is this its port?" in fault.told


@pytest.mark.parametrize(
    ("pacs", "title", "told"),
    [
        ({"calling": "SOMEBODY"}, "ORTHANC", "does not know the AE title ASCON: enter this node there as a sender"),
        ({}, "ORTHANK", "refused us: it is not ORTHANK: ask for its AE title"),
        ({"answer": 0x0122}, "ORTHANC", "does not answer an echo (status 0x0122)"),
    ],
)
def test_a_destination_that_does_not_want_us(checked, a_pacs, pacs, title, told):
    assert told in the_fault(checked(to(a_pacs(**pacs), ae_title=title))).told


def test_a_destination_that_takes_no_ct_images(checked, a_pacs):
    assert "takes no CT images" in the_fault(checked(to(a_pacs(Verification)))).told


@pytest.mark.parametrize("name", ["pacs.nowhere.invalid", "pacs..nowhere"])
def test_a_destination_whose_name_nobody_knows(checked, a_pacs, monkeypatch, name):
    ask = socket.getaddrinfo

    def asked(host, *args, **options):
        if host == "pacs.nowhere.invalid":  # without waiting for a real name server
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    lines = to(a_pacs()).replace('"127.0.0.1"', f'"{name}"')
    assert f"the name {name} is not known here" in the_fault(checked(lines)).told


def test_something_that_is_no_dicom_at_all(checked):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            for _ in range(2):
                server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        assert "it ends the connection at once" in the_fault(checked(to(server.getsockname()[1]))).told


def test_a_folder_that_cannot_be_written(checked, a_pacs, tmp_path, a_model):
    (tmp_path / "data").write_text("a file is in the way")
    fault = the_fault(checked(to(a_pacs())))
    assert fault.name == "storage" and "cannot be written" in fault.told and "choose another" in fault.told
    with pytest.raises(InputError, match="cannot be written"):
        Node(read_config(tmp_path / "node.toml"))


def test_a_disk_that_is_too_full(checked, a_pacs):
    fault = the_fault(checked(to(a_pacs()), least_free_gb="1e9"))
    assert fault.name == "free space" and "make room" in fault.told


def test_a_model_that_is_missing(checked, a_pacs, tmp_path):
    """The node does not start either: each series would fail."""
    steps = checked(to(a_pacs()), model=tmp_path / "none.safetensors")
    assert the_fault(steps).name == "model" and "`ascon models list` shows the models" in the_fault(steps).told
    assert "a slice with it" not in steps
    node = Node(read_config(tmp_path / "node.toml"))
    with pytest.raises(InputError, match="There is no model file"):
        node.start()
    node.stop()


def test_a_device_that_is_missing(checked, a_pacs):
    fault = the_fault(checked(to(a_pacs()), device="gpu"))
    assert fault.name == "a slice with it" and 'no device called "gpu". Choose auto, cpu' in fault.told


def test_a_port_that_is_taken(checked, a_pacs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fault = the_fault(checked(to(a_pacs()), page_port=str(taken.getsockname()[1])))
        assert fault.name == "status page" and "another program listens there" in fault.told


def test_an_address_of_another_computer(checked, a_pacs):
    fault = the_fault(checked(to(a_pacs()), address="192.0.2.1"))
    assert fault.name == "listening" and "this computer has no such address" in fault.told


# ---- through the command


def test_init_check_and_what_a_newcomer_reads(tmp_path, capsys):
    file = tmp_path / "node.toml"
    assert cli.main(["node", "init", str(file)]) == 0
    assert cli.main(["node", "init", str(file)]) == 2
    assert "is there already" in capsys.readouterr().err
    port = free_port()
    text = file.read_text().replace('# model = "ascon-esaunet-v0.3"', 'model = "none"')
    text = text.replace("192.168.4.10", "127.0.0.1").replace("port = 104", f"port = {port}")
    file.write_text(text)
    assert cli.main(["node", "check", "--config", str(file)]) == 1
    said = capsys.readouterr()
    assert "storage               good" in said.out and "model                 FAILS" in said.out
    assert "echo pacs" in said.err and "Traceback" not in said.err
    assert cli.main(["node", "check", "--config", str(file), "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["event"] == "error" and "nothing listens there" in told["message"]


def test_the_node_without_a_configuration_says_where_to_get_one(capsys):
    assert cli.main(["node"]) == 2
    assert "`ascon node init FILE` writes one" in capsys.readouterr().err


def test_retry_takes_up_what_has_failed_and_says_what_it_cannot(tmp_path, a_model, capsys):
    file = configuration(tmp_path, free_port(), a_model, "", top="destinations = []")
    retry = ["node", "retry", "--config", str(file)]
    node = Node(read_config(file))
    source = make_ct_series(tmp_path / "s", shape=(1, 8, 8), series_uid="1.2.3")[0]
    node.intake.take(source.read_bytes(), str(pydicom.dcmread(source).SOPInstanceUID), "SCANNER")
    node.ledger.decide("1.2.3", "waiting")
    one = node.ledger.begin()
    node.ledger.gave_up("1.2.3", one.attempts, "so", again=False)
    assert cli.main(retry) == 2 and "Another node uses the folder" in capsys.readouterr().err
    node.stop()
    assert cli.main([*retry, "--series", "9.9"]) == 2
    assert "send it again to the node" in capsys.readouterr().err
    assert cli.main(retry) == 0 and "1 series are taken up again" in capsys.readouterr().out
    node = Node(read_config(file))
    assert node.ledger.series("1.2.3").state == "receiving"
    node.ledger.decide("1.2.3", "waiting")
    node.ledger.gave_up("1.2.3", node.ledger.begin().attempts, "so", again=False)
    node.intake.purge("1.2.3")
    node.stop()
    assert cli.main([*retry, "--series", "1.2.3"]) == 2 and "originals" in capsys.readouterr().err
