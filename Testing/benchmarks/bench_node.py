"""The node under load, beside dcmtk's storescp in the same run; and its memory over many series.

    python Testing/benchmarks/bench_node.py [objects=200] [series=50]

Objects are 512 x 512, 0.5 MB, sent by dcmtk's storescu over one association and over four. While they come, the node
denoises a long series with the default model, for either side of the comparison. storescp does not flush its files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("ASCONDenoise", "ASCONTraining", "Testing")]

from dicom_fixtures import make_ct_series  # noqa: E402
from node_fixtures import NodeProcess, a_tiny_model, configuration, free_port, need, storescu, wait_for  # noqa: E402

from ASCONDenoiseLib.models.files import find_model  # noqa: E402


def seconds(port: int, files: list[Path], associations: int, called: str = "ASCON") -> float:
    """That sending takes."""
    codes: list[int] = []
    parts = [files[i::associations] for i in range(associations)]
    threads = [
        threading.Thread(target=lambda part=part: codes.append(storescu(port, *part, called=called).returncode))
        for part in parts
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * associations
    return time.perf_counter() - started


def throughput(folder: Path, n_objects: int) -> None:
    port, other = free_port(), free_port()
    rules = f'[[rules]]\nmodality = "CT"\nmodel = "{find_model()}"\n'
    node = NodeProcess(configuration(folder, port, find_model(), "", top="destinations = []", rules=rules))
    node.start(port)
    received = folder / "storescp"
    received.mkdir()
    storescp = subprocess.Popen([need("storescp", "dcmtk"), "--fork", "-od", str(received), str(other)])
    try:
        make_ct_series(folder / "long", shape=(400, 256, 256))
        storescu(port, folder / "long")
        wait_for(lambda: "models.cpu: torch" in node.log.read_text(), 300)  # the network runs from here on
        for associations in (1, 4):
            mine, theirs = [], []
            for number in range(3):
                files = make_ct_series(folder / f"s{associations}{number}", shape=(n_objects, 512, 512))
                mine.append(seconds(port, files, associations))
                theirs.append(seconds(other, files, associations, called="ANY"))
                shutil.rmtree(folder / f"s{associations}{number}")
            assert "was denoised" not in node.log.read_text(), "the long series was too short"
            node_rate, scp_rate = n_objects / min(mine), n_objects / min(theirs)
            print(
                f"{associations} association(s): node {node_rate:.0f} objects/s, storescp {scp_rate:.0f} objects/s, "
                f"ratio {node_rate / scp_rate:.2f}"
            )
    finally:
        storescp.kill()
        node.kill()


def memory(folder: Path, n_series: int) -> None:
    a_tiny_model(folder / "tiny.safetensors")
    port = free_port()
    node = NodeProcess(configuration(folder, port, folder / "tiny.safetensors", "", top="destinations = []"))
    node.start(port)
    assert node.process is not None
    print("series   node MB   worker MB")
    try:
        for number in range(1, n_series + 1):
            make_ct_series(folder / "s", shape=(20, 128, 128))
            storescu(port, folder / "s")
            shutil.rmtree(folder / "s")
            wait_for(lambda number=number: node.log.read_text().count("was denoised") == number, 300)
            if number in (1, 5) or number % 10 == 0:
                worker = _children(node.process.pid)[0]
                print(f"{number:6}   {_resident_mb(node.process.pid):7.1f}   {_resident_mb(worker):9.1f}", flush=True)
    finally:
        node.end()


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] or [
        int(text) for task in Path(f"/proc/{pid}/task").iterdir() for text in (task / "children").read_text().split()
    ]


def _resident_mb(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    counts = [int(argument) for argument in sys.argv[1:]] + [200, 50][len(sys.argv) - 1 :]
    for work, count in zip((throughput, memory), counts, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            work(Path(folder), count)
