"""`ascon batch` whose scans take a while or kill their worker: python slow_work.py SOURCE OUT ...

Environment: FLAGS is a folder that says which scan has begun; SECONDS each scan takes; DIES names a scan that kills its
worker, TIMES so often.
"""

import os
import signal
import sys
import time
from pathlib import Path

from ASCONDenoiseLib.batch import run, work
from ASCONDenoiseLib.commands.cli import main


def slow(source, request, thumbnail):
    """`denoise_one`, later; and with what a worker in the middle of its writing would have begun."""
    flags = Path(os.environ["FLAGS"])
    with (flags / Path(source).stem).open("a") as flag:
        flag.write("x")
    if source == os.environ["DIES"]:
        deaths = len(list(flags.glob("death*")))
        if deaths < int(os.environ["TIMES"]):
            (flags / f"death{deaths}").touch()
            place = Path(request["output"])
            place.with_name(f".{place.stem}.12345678.partial{place.suffix}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ["SECONDS"]))
    return work.denoise_one(source, request, thumbnail)


if __name__ == "__main__":
    import slow_work  # the workers import it by this name

    signal.signal(signal.SIGINT, signal.default_int_handler)  # heeded even where the parents ignore it
    run.denoise_one = slow_work.slow
    sys.exit(main(["batch", *sys.argv[1:]]))
