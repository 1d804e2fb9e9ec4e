"""Runs commands that need no torch, `evaluate` with two volumes named as arguments; prints the modules loaded."""

import sys

from ASCONDenoiseLib.commands.cli import main

reference, test = sys.argv[1:]
for command in (
    ["--help"],
    ["denoise", "--help"],
    ["models", "list"],
    ["evaluate", "--reference", reference, "--test", test],
):
    assert main(command) == 0
    if command[0] != "evaluate":
        assert "SimpleITK" not in sys.modules and "scipy" not in sys.modules
print(*sys.modules)
