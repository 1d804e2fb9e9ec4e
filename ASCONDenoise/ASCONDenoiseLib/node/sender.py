"""The sending side of a node: C-ECHO, and C-STORE of the files of a result. pynetdicom."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from ASCONDenoiseLib.errors import Failure
from ASCONDenoiseLib.node.config import Destination
from ASCONDenoiseLib.node.tls import connecting, in_words

CONNECT_S, ANSWER_S, SILENCE_S = 10.0, 60.0, 2.0
WARNINGS = range(0xB000, 0xC000)
"""Status of a C-STORE that was taken with a remark (PS3.4, B.2.3)."""


class NotThere(Failure):
    """A destination cannot be reached, or does not talk to us: nothing of this series is to blame."""


def echo(destination: Destination, ae_title: str) -> None:
    """C-ECHO. NotThere where it is not answered with success, or where CT images would not be taken."""
    with _association(destination, ae_title, [str(Verification), str(CTImageStorage)]) as association:
        if CTImageStorage not in [context.abstract_syntax for context in association.accepted_contexts]:
            raise NotThere(f"{_place(destination)} takes no CT images.")
        status = association.send_c_echo()
        if status.get("Status") != 0x0000:
            raise NotThere(f"{_place(destination)} does not answer an echo{_in_words(status.get('Status'))}.")


def send(
    destination: Destination,
    ae_title: str,
    files: Sequence[Path],
    taken: Callable[[int], bool],
    stopped: Callable[[], bool],
) -> None:
    """C-STORE of each file, over one association.

    Args:
        destination: where to.
        ae_title: ours.
        files: CT images.
        taken: called after each with how many of these have been taken; False ends the sending.
        stopped: asked before each.

    Raises:
        NotThere: no association, or it broke.
        Failure: a file was not taken.
        InputError: files for TLS are wrong.
    """
    with _association(destination, ae_title, [str(CTImageStorage)]) as association:
        for number, file in enumerate(files, 1):
            if stopped():
                return
            try:
                status = association.send_c_store(pydicom.dcmread(file)).get("Status")
            except RuntimeError:
                status = None
            if status is None:
                raise NotThere(f"{_place(destination)} broke off.")
            if status != 0x0000 and status not in WARNINGS:
                raise Failure(f"{_place(destination)} did not take an image{_in_words(status)}.")
            if not taken(number):
                return


@contextmanager
def _association(destination: Destination, ae_title: str, kinds: Sequence[str]) -> Iterator[Association]:
    ae = AE(ae_title)
    ae.connection_timeout = CONNECT_S
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWER_S
    for kind in kinds:
        ae.add_requested_context(kind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    tls = None if destination.tls is None else (connecting(destination.tls), _name(destination))
    try:
        association = ae.associate(destination.host, destination.port, ae_title=destination.ae_title, tls_args=tls)
    except (OSError, UnicodeError):  # before anything is sent: the name of the host
        raise _unreached(destination, socket.gaierror()) from None
    if not association.is_established:
        if association.is_rejected:
            raise NotThere(_rejected(destination, ae_title, association))
        raise _unreached(destination, _fault_of_connection(destination))
    try:
        if not association.accepted_contexts:
            raise NotThere(f"{_place(destination)} takes no CT images.")
        yield association
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def _rejected(destination: Destination, ae_title: str, association: Association) -> str:
    """Why it does not want to talk to us (PS3.8, table 9-21)."""
    answer: Any = association.acceptor.primitive
    reason = (answer.result_source, answer.diagnostic) if answer is not None else None
    if reason == (1, 3):
        why = f"it does not know the AE title {ae_title}: enter this node there as a sender."
    elif reason == (1, 7):
        why = f"it is not {destination.ae_title.strip()}: ask for its AE title, and mend the destination."
    else:
        why = f"does it know the AE title {ae_title}, and has it room for one more association?"
    return f"{_place(destination)} refused us: {why}"


def _unreached(destination: Destination, fault: OSError | None) -> NotThere:
    """It cannot be talked to: where and why."""
    if isinstance(fault, socket.gaierror):
        why = f"the name {destination.host} is not known here."
    elif isinstance(fault, ConnectionRefusedError):
        why = "nothing listens there; is it running, and is this its port?"
    elif fault is None:
        why = f"it takes a connection and does not talk DICOM {'with' if destination.tls else 'without'} TLS."
    elif isinstance(fault, ssl.SSLError) or (destination.tls and isinstance(fault, ConnectionError)):
        why = f"TLS fails, {in_words(fault)}."
    elif isinstance(fault, ConnectionError):
        why = "it ends the connection at once; does it let this computer in?"
    else:
        why = f"{fault.strerror or fault}; is this its address, and does a firewall let us through?"
    return NotThere(f"{_place(destination)} cannot be reached at {destination.host}:{destination.port}: {why}")


def _fault_of_connection(destination: Destination) -> OSError | None:
    """What is wrong with a connection to it, where that is not yet DICOM; pynetdicom keeps it to itself."""
    try:
        with ExitStack() as ends:
            address = destination.host, destination.port
            connection = ends.enter_context(socket.create_connection(address, CONNECT_S))
            if destination.tls is not None:
                secure = connecting(destination.tls).wrap_socket(connection, server_hostname=_name(destination))
                connection = ends.enter_context(secure)
            connection.settimeout(SILENCE_S)
            with suppress(TimeoutError):  # it waits for our word, as it should
                if not connection.recv(1):  # TLS 1.3: only now it says what it holds of our certificate
                    raise ConnectionResetError
    except OSError as error:
        return error
    return None


def _name(destination: Destination) -> str:
    """In the certificate of a destination."""
    return (destination.tls.server_name if destination.tls else None) or destination.host


def _place(destination: Destination) -> str:
    return f"{destination.name} ({destination.ae_title.strip()})"


def _in_words(status: int | None) -> str:
    if status is None:
        return ""
    return f" (status 0x{status:04X}{', it has no room' if 0xA700 <= status < 0xA800 else ''})"
