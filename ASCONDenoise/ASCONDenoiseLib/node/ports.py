"""Why a program cannot listen at an address, in words."""

from __future__ import annotations

import errno

from ASCONDenoiseLib.errors import InputError

_REMEDIES = {
    errno.EADDRINUSE: "another program listens there, a node perhaps: end it, or choose another port",
    errno.EADDRNOTAVAIL: "this computer has no such address: choose one of its own, or 0.0.0.0 for all",
    errno.EACCES: "ports below 1024 need a right: choose another, or give the service CAP_NET_BIND_SERVICE",
}


def cannot_listen(what: str, address: str, port: int, error: Exception) -> InputError:
    """The error for a user.

    Args:
        what: would listen: "The node".
        address: in vain.
        port: in vain.
        error: of the system.
    """
    number = getattr(error, "errno", None)
    why = _REMEDIES.get(number or 0, f"{error}: choose another address or port")
    return InputError(f"{what} cannot listen at {address}:{port}: {why}.")
