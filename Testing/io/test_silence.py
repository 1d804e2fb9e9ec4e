"""What libraries print is discarded, and only while it is asked for."""

from __future__ import annotations

import os

from ASCONDenoiseLib.io.silence import silence_stderr


def test_stderr_is_hidden_and_given_back(capfd):
    with silence_stderr(), silence_stderr():
        os.write(2, b"noise of a C library")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
