"""`ascon batch`: two workers against one, what a series costs beside `ascon denoise`, 10,000 tiny ones, memory.

    python Testing/benchmarks/bench_batch.py [--series 6] [--slices 4] [--tiny 10000]

Series are 256 x 256 DICOM, the model is the default one; workers share the cores between them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / folder) for folder in ("ASCONDenoise", "ASCONTraining", "Testing", "Testing/benchmarks/children")]
sys.path[:0] = PATHS

import psutil  # noqa: E402
import tiny_scan  # noqa: E402
from dicom_fixtures import make_ct_series  # noqa: E402

from ASCONDenoiseLib.batch import run  # noqa: E402
from ASCONDenoiseLib.batch.cluster import cluster_here  # noqa: E402


def own_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def workers_mb() -> float:
    """Of the largest child process."""
    return max((child.memory_info().rss / 1e6 for child in psutil.Process().children(recursive=True)), default=0)


def batch(archive: Path, out: Path, workers: int) -> tuple[float, float, float, list[float]]:
    """Seconds to the first row, for each series once all work, of the network, and a worker's MB at each row."""
    times, memory = [], []

    def progress(done: int, _: int) -> None:
        if done:
            times.append(time.perf_counter())
            memory.append(workers_mb())

    started = time.perf_counter()
    rows = run.run_batch(archive, out, run.BatchSettings(workers=workers), progress)
    assert {row.state for row in rows} == {"done"}, rows
    network = statistics.mean(row.seconds or 0.0 for row in rows[workers:])
    return times[0] - started, (times[-1] - times[workers - 1]) / (len(times) - workers), network, memory


def alone(archive: Path, out: Path) -> float:
    """Seconds that `ascon denoise` takes for all series, a process for each."""
    out.mkdir()
    started = time.perf_counter()
    for folder in sorted(archive.iterdir()):
        command = [sys.executable, "-m", "ASCONDenoiseLib", "denoise", str(folder), str(out / folder.name)]
        subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def tiny(count: int) -> tuple[float, float, float]:
    """Milliseconds each, and MB of this process before and after."""
    tasks = [(i, run._Task(f"{i}", {"output": f"{i}"}, "")) for i in range(count)]
    run.denoise_one, whole = tiny_scan.tiny_scan, run.denoise_one  # type: ignore[assignment]
    with cluster_here(2, "cpu") as client:
        work = run._work(client, tasks, threading.Event(), {})
        next(work)
        before, started = own_mb(), time.perf_counter()
        assert sum(1 for _ in work) == count - 1
        run.denoise_one = whole
        return 1000 * (time.perf_counter() - started) / (count - 1), before, own_mb()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("series", 6), ("slices", 4), ("tiny", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    milliseconds, before, after = tiny(args.tiny)
    print(f"{args.tiny} series that are no work: {milliseconds:.1f} ms each", end="; ")
    print(f"this process grew from {before:.0f} to {after:.0f} MB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(args.series):
            shape = (args.slices, 256, 256)
            make_ct_series(folder / "archive" / f"{number}", shape=shape, series_uid=f"1.2.{number + 1}")
        first, each, network, memory = batch(folder / "archive", folder / "one", 1)
        print(f"one worker: the first series after {first:.1f} s, then {each:.2f} s each", end="; ")
        print(f"{memory[0]:.0f} MB after the first, {memory[-1]:.0f} MB after the last")
        print(f"of that, the network takes {100 * network / each:.0f} %, handing out {milliseconds / 10 / each:.1f} %")
        two = batch(folder / "archive", folder / "two", 2)[1]
        print(f"two workers against one, once all work: {each / two:.2f} times as fast")
        denoise = alone(folder / "archive", folder / "alone") / args.series
        print(f"ascon denoise, started for each series: {denoise / each:.1f} times as long")


if __name__ == "__main__":
    main()
