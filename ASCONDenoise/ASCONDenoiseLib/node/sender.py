"""The sending side of a node: C-ECHO, and C-STORE of the files of a result. pynetdicom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from ASCONDenoiseLib.errors import Failure
from ASCONDenoiseLib.node.config import Destination
from ASCONDenoiseLib.node.tls import connecting

CONNECT_S, ANSWER_S = 10.0, 60.0
WARNINGS = range(0xB000, 0xC000)
"""Status of a C-STORE that was taken with a remark (PS3.4, B.2.3)."""


class NotThere(Failure):
    """A destination cannot be reached, or does not talk to us: nothing of this series is to blame."""


def echo(destination: Destination, ae_title: str) -> None:
    """C-ECHO. NotThere where it is not answered with success."""
    with _association(destination, ae_title, [str(Verification)]) as association:
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
    tls = None
    if destination.tls is not None:
        tls = connecting(destination.tls), destination.tls.server_name or destination.host
    association = ae.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        tls_args=tls,
    )
    if not association.is_established:
        if association.is_rejected:
            raise NotThere(f"{_place(destination)} refused us: does it know the AE title {ae_title}?")
        how = "with these certificates " if tls else ""
        raise NotThere(f"{_place(destination)} cannot be reached {how}at {destination.host}:{destination.port}.")
    try:
        if not association.accepted_contexts:
            raise NotThere(f"{_place(destination)} takes no CT images.")
        yield association
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def _place(destination: Destination) -> str:
    return f"{destination.name} ({destination.ae_title.strip()})"


def _in_words(status: int | None) -> str:
    if status is None:
        return ""
    return f" (status 0x{status:04X}{', it has no room' if 0xA700 <= status < 0xA800 else ''})"
