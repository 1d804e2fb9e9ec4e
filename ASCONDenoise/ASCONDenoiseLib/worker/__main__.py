"""`python -m ASCONDenoiseLib.worker`: the child process; `server` says how to talk to it."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import threading
from typing import BinaryIO

from ASCONDenoiseLib.models.torch_environment import prepare_torch
from ASCONDenoiseLib.worker.server import Server

IDLE_MINUTES = 10.0


def main() -> None:
    """Serves on stdin and stdout; does not return."""
    parser = argparse.ArgumentParser(prog="ASCONDenoiseLib.worker", description="ASCON's child process.")
    parser.add_argument("--idle-minutes", type=float, default=IDLE_MINUTES, help="ends after so long without a job")
    arguments = parser.parse_args()
    prepare_torch()
    requests, answers = _private_streams()
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("ASCONDenoiseLib").setLevel(logging.INFO)  # with what torch computes, for Slicer's log
    server = Server(requests, answers, 60 * arguments.idle_minutes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is meant for Slicer, which closes stdin when it goes
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.end).start())
    server.run()
    os._exit(0)  # no waiting for the reading thread, or for libraries that tidy up


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Stdin and stdout under new numbers; what prints to stdout writes to stderr from now on, and stdin is empty.

    The latter also because Windows lets whoever asks about stdin wait for a pending read of it, as some libraries do
    when they are imported.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, answers


if __name__ == "__main__":
    main()
