"""DICOM TLS, either side: who shows a certificate of the right authority talks to the node, nobody else does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificate_fixtures import Authority, Certificate
from dicom_fixtures import make_ct_series
from node_fixtures import SHIFT_HU, Orthanc, free_port, need, storescu, to, wait_for
from pydicom.uid import generate_uid

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.node.config import Destination, Tls
from ASCONDenoiseLib.node.ledger import DONE
from ASCONDenoiseLib.node.sender import NotThere, echo, send


@dataclass(frozen=True)
class Papers:
    """The hospital's authority and what it signed; and what another one signed."""

    authority: Path
    node: Certificate
    scanner: Certificate
    expired: Certificate
    elsewhere: Certificate
    stranger: Certificate
    strange_authority: Path


@pytest.fixture(scope="session")
def papers(tmp_path_factory) -> Papers:
    folder = tmp_path_factory.mktemp("certificates")
    ours, other = Authority(folder / "ours"), Authority(folder / "other")
    return Papers(
        authority=ours.certificate,
        node=ours.sign("node"),
        scanner=ours.sign("scanner"),
        expired=ours.sign("expired", days=-1),
        elsewhere=ours.sign("elsewhere", address="DNS:elsewhere.example"),
        stranger=other.sign("stranger"),
        strange_authority=other.certificate,
    )


def shows(certificate: Certificate, authority: Path) -> tuple[str, ...]:
    """Options of dcmtk's programs."""
    return "+tls", str(certificate.key), str(certificate.certificate), "+cf", str(authority)


# ---- receiving: dcmtk is the scanner


@pytest.fixture
def a_listener(a_node, papers):
    """A node that asks for certificates."""
    return a_node(listen=f"[listen.tls]\n{papers.node.toml(papers.authority)}")


def kept(node) -> int:
    return len(list(node.intake.folder.glob("incoming/*/*.dcm")))


def test_a_scanner_with_a_certificate_of_the_authority_sends(a_listener, papers, tmp_path):
    make_ct_series(tmp_path / "s", shape=(2, 16, 16))
    options = shows(papers.scanner, papers.authority)
    assert storescu(a_listener.config.listen.port, tmp_path / "s", options=options).returncode == 0
    assert kept(a_listener) == 2


@pytest.mark.parametrize(
    ("whose", "told"),
    [
        ("stranger", "its certificate is not accepted (unable to get local issuer certificate)"),
        ("expired", "its certificate is not accepted (certificate has expired)"),
        ("none", "it shows no certificate"),
        ("plain", "it does not talk TLS"),
    ],
)
def test_a_scanner_without_the_right_certificate_is_refused(a_listener, papers, tmp_path, caplog, whose, told):
    """A sentence in the log that names no patient, nothing kept; and the next one who is right gets in."""
    make_ct_series(tmp_path / "s", shape=(2, 16, 16))
    if whose in ("none", "plain"):
        wrong = {"none": ("+tla", "+cf", str(papers.authority)), "plain": ()}[whose]
    else:
        wrong = shows(getattr(papers, whose), papers.authority)
    port = a_listener.config.listen.port
    assert storescu(port, tmp_path / "s", options=wrong).returncode != 0
    wait_for(lambda: "was refused" in caplog.text, 30)
    assert f"a connection from 127.0.0.1 was refused: TLS fails, {told}" in caplog.text
    assert "Phantom" not in caplog.text and not kept(a_listener)
    assert storescu(port, tmp_path / "s", options=shows(papers.scanner, papers.authority)).returncode == 0


def test_a_scanner_that_trusts_another_authority_hangs_up(a_listener, papers, tmp_path, caplog):
    make_ct_series(tmp_path / "s", shape=(1, 16, 16))
    options = shows(papers.scanner, papers.strange_authority)
    assert storescu(a_listener.config.listen.port, tmp_path / "s", options=options).returncode != 0
    wait_for(lambda: "it does not know who signed the certificate of this node" in caplog.text, 30)
    assert not kept(a_listener)


def test_scanners_without_certificates_are_taken_where_the_configuration_says_so(a_node, papers, tmp_path):
    lines = papers.node.toml(papers.authority) + "client_certificate = false\n"
    node = a_node(listen=f"[listen.tls]\n{lines}")
    make_ct_series(tmp_path / "s", shape=(1, 16, 16))
    options = ("+tla", "+cf", str(papers.authority))
    assert storescu(node.config.listen.port, tmp_path / "s", options=options).returncode == 0
    assert kept(node) == 1


def test_a_right_certificate_is_no_right_ae_title(a_listener, papers, tmp_path):
    make_ct_series(tmp_path / "s", shape=(1, 16, 16))
    options, port = shows(papers.scanner, papers.authority), a_listener.config.listen.port
    refused = storescu(port, tmp_path / "s", options=options, caller="STRANGER")
    assert refused.returncode != 0 and "Calling AE Title Not Recognized" in refused.stderr
    assert not kept(a_listener)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"certificate": Path("none.crt")}, "none.crt cannot be read (No such file or directory)"),
        ({"key": None}, "needs certificate and key"),
        ({"key": "stranger"}, "no certificate and key"),
    ],
)
def test_files_that_make_no_certificate_are_said(papers, change, told):
    from dataclasses import replace

    from ASCONDenoiseLib.node.tls import listening

    change = {name: papers.stranger.key if value == "stranger" else value for name, value in change.items()}
    good = Tls(papers.node.certificate, papers.node.key, papers.authority)
    listening(good)
    with pytest.raises(InputError) as error:
        listening(replace(good, **change))
    assert told in str(error.value)


# ---- sending: dcmtk's storescp is the PACS


@pytest.fixture
def a_pacs(tmp_path) -> Iterator:
    """Starts storescp with options for TLS; returns a destination, whose TLS is yet to be said."""
    started: list[subprocess.Popen[bytes]] = []
    folder = tmp_path / "pacs"
    folder.mkdir()

    def start(*options: str) -> int:
        port = free_port()
        command = [need("storescp", "dcmtk"), *options, "-od", str(folder), str(port)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for(lambda: _listens(port), 30)
        return port

    yield start
    for one in started:
        one.kill()
        one.wait(10)


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def a_destination(port: int, tls: Tls | None, host: str = "127.0.0.1") -> Destination:
    return Destination("pacs", "ANY", host, port, tls)


def test_a_pacs_with_a_certificate_of_the_authority_gets_it(a_pacs, papers, tmp_path):
    port = a_pacs(*shows(papers.scanner, papers.authority))
    pacs = a_destination(port, Tls(papers.node.certificate, papers.node.key, papers.authority))
    echo(pacs, "ASCON")
    files, taken = make_ct_series(tmp_path / "s", shape=(3, 16, 16)), []
    send(pacs, "ASCON", files, lambda number: taken.append(number) or True, lambda: False)
    assert taken == [1, 2, 3] and len(list((tmp_path / "pacs").iterdir())) == 3


@pytest.mark.parametrize(
    ("shown", "mine", "trusted", "told"),
    [
        ("stranger", "node", "authority", "its certificate is not accepted (unable to get local issuer certificate)"),
        ("expired", "node", "authority", "its certificate is not accepted (certificate has expired)"),
        ("elsewhere", "node", "authority", "its certificate is not accepted (IP address mismatch"),
        ("scanner", "stranger", "authority", "it does not know who signed the certificate of this node"),
        ("scanner", None, "authority", "it wants a certificate of this node"),
        (None, "node", "authority", "it ended the connection (does it talk TLS?)"),
    ],
)
def test_a_pacs_that_is_not_trusted_or_does_not_trust_gets_nothing(
    a_pacs, papers, tmp_path, shown, mine, trusted, told
):
    """A sentence that says whose certificate is to blame, and why."""
    port = a_pacs(*(() if shown is None else shows(getattr(papers, shown), papers.authority)))
    own = getattr(papers, mine) if mine else None
    tls = Tls(own and own.certificate, own and own.key, getattr(papers, trusted))
    files = make_ct_series(tmp_path / "s", shape=(1, 16, 16))
    for work in (
        lambda pacs: echo(pacs, "ASCON"),
        lambda pacs: send(pacs, "ASCON", files, lambda _: True, lambda: False),
    ):
        with pytest.raises(NotThere) as error:
            work(a_destination(port, tls))
        assert f"pacs (ANY) cannot be reached at 127.0.0.1:{port}: TLS fails, {told}" in str(error.value)
    assert not list((tmp_path / "pacs").iterdir())


def test_a_certificate_of_another_name_is_taken_where_the_configuration_names_it(a_pacs, papers):
    port = a_pacs(*shows(papers.elsewhere, papers.authority))
    echo(
        a_destination(
            port, Tls(papers.node.certificate, papers.node.key, papers.authority, server_name="elsewhere.example")
        ),
        "ASCON",
    )


def test_a_pacs_with_tls_that_is_called_without(a_pacs, papers):
    port = a_pacs(*shows(papers.scanner, papers.authority))
    with pytest.raises(NotThere, match="cannot be reached"):
        echo(a_destination(port, None), "ASCON")


# ---- the whole road


@pytest.mark.slow
def test_scanner_node_and_orthanc_with_tls_all_the_way(a_node, papers, tmp_path):
    import numpy as np

    from ASCONDenoiseLib.io.reading import read_volume

    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(papers.scanner.certificate),
        "DicomTlsPrivateKey": str(papers.scanner.key),
        "DicomTlsTrustedCertificates": str(papers.authority),
    }
    orthanc = Orthanc(tmp_path / "orthanc", settings)
    orthanc.start()
    try:
        lines = papers.node.toml(papers.authority)
        node = a_node(to(orthanc.dicom_port, more=f"[destinations.tls]\n{lines}"), listen=f"[listen.tls]\n{lines}")
        study, series = generate_uid(), generate_uid()
        voxels = np.random.default_rng(0).integers(-900, 1900, (3, 32, 32)).astype(np.int16)
        make_ct_series(tmp_path / "s", voxels_hu=voxels, study_uid=study, series_uid=series)
        options = shows(papers.scanner, papers.authority)
        assert storescu(node.config.listen.port, tmp_path / "s", options=options).returncode == 0
        wait_for(lambda: node.ledger.counts()[DONE])
        (tmp_path / "came").mkdir()
        for one in orthanc.instances(study):
            (tmp_path / "came" / f"{one['ID']}.dcm").write_bytes(orthanc.file(one["ID"]))
        assert np.array_equal(read_volume(tmp_path / "came").voxels, voxels + SHIFT_HU // 2)
    finally:
        orthanc.stop()
