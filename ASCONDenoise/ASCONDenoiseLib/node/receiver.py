"""The listening side of a node: C-ECHO and C-STORE, for those whom the configuration lets in. pynetdicom."""

from __future__ import annotations

import logging
import socketserver
import ssl
import threading
from typing import Any, cast

from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from ASCONDenoiseLib.io.dicom_headers import CT_CLASSES
from ASCONDenoiseLib.node.config import Listen
from ASCONDenoiseLib.node.intake import NOT_UNDERSTOOD, Intake, Refused
from ASCONDenoiseLib.node.ports import cannot_listen
from ASCONDenoiseLib.node.tls import in_words, listening

logger = logging.getLogger(__name__)

TRANSFER_SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
)
"""What the reader decodes."""

HANDSHAKE_S = 10.0
IDLE_S = 60.0
"""Seconds that a sender may be silent."""

LONGEST_PDU = 128 * 1024
"""Bytes; dcmtk's longest."""

_STRANGER = (1, 1, 3)
"""A-ASSOCIATE-RJ: permanent, by the user, calling AE title not recognised (PS3.8, table 9-21)."""


class _Server(ThreadedAssociationServer):
    """Refuses strangers' computers before a word of DICOM. TLS is agreed on in the thread of its connection, so that
    one that is silent holds up nobody."""

    listen: Listen
    tls: ssl.SSLContext | None = None
    daemon_threads = True
    request_queue_size = 128

    def shutdown(self) -> None:
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def service_actions(self) -> None:
        """Called a few times a second; pynetdicom's collects garbage, which Python does by itself."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if self.listen.lets_in(client_address[0]):
            return True
        logger.warning("a connection from %s was refused: no network of the configuration", client_address[0])
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            try:
                request.settimeout(HANDSHAKE_S)
                request = self.tls.wrap_socket(request, server_side=True)
                request.settimeout(self.ae.network_timeout)
            except OSError as error:
                logger.warning("a connection from %s was refused: TLS fails, %s", client_address[0], in_words(error))
                self.shutdown_request(request)
                return
        super().process_request_thread(request, client_address)


class Receiver:
    """Listens from `start` to `stop`."""

    def __init__(self, listen: Listen, intake: Intake):
        self._listen = listen
        self._intake = intake
        self._server: _Server | None = None
        self._ae = AE(listen.ae_title)
        self._ae.maximum_associations = listen.associations
        self._ae.require_called_aet = True
        self._ae.maximum_pdu_size = LONGEST_PDU
        self._ae.network_timeout = self._ae.acse_timeout = self._ae.dimse_timeout = IDLE_S

    def start(self) -> None:
        """Raises InputError where it cannot listen there."""
        tls = None if self._listen.tls is None else listening(self._listen.tls)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _: 0x0000),
        ]
        try:
            server = self._ae.make_server(
                (self._listen.address, self._listen.port),
                evt_handlers=handlers,
                contexts=self._contexts(),
                server_class=_Server,
            )
        except (OSError, OverflowError) as error:
            raise cannot_listen("The node", self._listen.address, self._listen.port, error) from None
        assert isinstance(server, _Server)
        server.listen, server.tls = self._listen, tls
        threading.Thread(target=server.serve_forever, args=(0.1,), name="listening", daemon=True).start()
        self._server = server

    def stop(self) -> None:
        """No new associations; those that are open end."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None
        self._ae.shutdown()

    def open_associations(self) -> int:
        return len(self._ae.active_associations)

    def _contexts(self) -> list[PresentationContext]:
        kinds: list[Any] = list(CT_CLASSES)
        if self._listen.other_objects == "keep":
            kinds += [one.abstract_syntax for one in AllStoragePresentationContexts if one.abstract_syntax not in kinds]
        syntaxes: list[Any] = list(TRANSFER_SYNTAXES)
        return [build_context(Verification), *(build_context(kind, syntaxes) for kind in kinds)]

    def _requested(self, event: evt.Event) -> None:
        asked: Any = event.assoc.requestor.primitive
        caller = str(asked.calling_ae_title)
        if not self._listen.knows(caller):
            event.assoc.acse.send_reject(*_STRANGER)
            event.assoc.kill()  # waits until that is sent: else the connection may end before
            self._rejected(event)

    def _rejected(self, event: evt.Event) -> None:
        asked: Any = event.assoc.requestor.primitive
        logger.warning(
            "an association of %s at %s, which called %s, was refused",
            asked.calling_ae_title,
            event.assoc.requestor.address,
            asked.called_ae_title,
        )

    def _store(self, event: evt.Event) -> int | Dataset:
        """Status of a C-STORE."""
        try:
            sender, request = str(event.assoc.requestor.ae_title).strip(), cast(C_STORE, event.request)
            self._intake.take(event.encoded_dataset(), str(request.AffectedSOPInstanceUID), sender)
            return 0x0000
        except Refused as refused:
            logger.warning("%s", refused)
            return _status(refused.status, str(refused))
        except Exception:
            logger.exception("an object could not be taken")
            return _status(NOT_UNDERSTOOD, "Unexpected error")


def _status(status: int, sentence: str) -> Dataset:
    answer = Dataset()
    answer.Status, answer.ErrorComment = status, sentence[:64]
    return answer
