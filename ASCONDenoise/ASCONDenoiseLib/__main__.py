"""`python -m ASCONDenoiseLib ...` is `ascon ...`, for a Python without the command, such as Slicer's."""

import sys

from ASCONDenoiseLib.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
