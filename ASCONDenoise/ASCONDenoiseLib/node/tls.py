"""TLS for DICOM, either side (PS3.15, B.12: TLS 1.2 or newer), as the configuration says."""

from __future__ import annotations

import ssl

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.node.config import Tls


def listening(tls: Tls) -> ssl.SSLContext:
    """For those who connect. InputError where files are missing or wrong."""
    if tls.certificate is None or tls.key is None:
        raise InputError("[listen.tls] needs certificate and key: PEM files of this node.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, tls)
    if tls.client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        if tls.authority is None:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    return context


def connecting(tls: Tls) -> ssl.SSLContext:
    """For a destination, whose certificate is always checked. InputError where files are missing or wrong."""
    context = ssl.create_default_context(cafile=None if tls.authority is None else _existing(tls.authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, tls)
    return context


_IN_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "WRONG_VERSION_NUMBER": "it does not talk TLS",
    "HTTP_REQUEST": "it does not talk TLS",
    "UNEXPECTED_EOF_WHILE_READING": "it ended the connection (does it talk TLS?)",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of this node",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know who signed the certificate of this node",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept the certificate of this node",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that the certificate of this node has expired",
}
"""OpenSSL's reasons for the end of a handshake."""


def in_words(error: OSError) -> str:
    """Why a handshake failed; "it" is the other side."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message.rstrip('.')})"
    if isinstance(error, TimeoutError):
        return "it says nothing"
    reason = getattr(error, "reason", None) or "UNEXPECTED_EOF_WHILE_READING"
    return _IN_WORDS.get(reason, reason.lower().replace("_", " "))


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    try:
        if tls.certificate is not None:
            key = None if tls.key is None else _existing(tls.key)
            context.load_cert_chain(_existing(tls.certificate), key, password="")
        if tls.authority is not None:
            context.load_verify_locations(_existing(tls.authority))
    except (ssl.SSLError, OSError, ValueError) as error:
        files = ", ".join(str(file) for file in (tls.certificate, tls.key, tls.authority) if file is not None)
        raise InputError(f"{files}: no certificate and key (PEM, without password) that fit ({error}).") from None


def _existing(path: object) -> str:
    try:
        with open(str(path), "rb"):
            return str(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
