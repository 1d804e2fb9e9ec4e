"""`ascon ...` that heeds SIGINT even where its parents ignore it."""

import signal
import sys

signal.signal(signal.SIGINT, signal.default_int_handler)
from ASCONDenoiseLib.commands.cli import main  # noqa: E402 - an early SIGINT counts, too

sys.exit(main())
