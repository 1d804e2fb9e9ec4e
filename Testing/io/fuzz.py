"""Fuzzer of what comes in: spoiled DICOM series, NIfTI, NRRD and MetaImage files, read by the product.

    .venv/bin/python Testing/io/fuzz.py --count 2000 --seed 0

prints how many inputs came to which end, and every finding with the mutations that it needs; exit code 1 where there
is one. `--first N --count 1 --keep FOLDER` makes one input again and leaves its files. Input N of a seed is always the
same one, with the same data of ASCON_TEST_DATA.

Allowed ends: the volume is right (EXACT), or InputError in a sentence that names the file (REFUSED). UNCONFIRMED is a
volume whose voxels or place no independent reader tells. Everything else is a finding: another exception, a process
that dies or is silent for 20 s, a file left behind or changed, a slice that is gone without a note, and voxels or a
geometry that the independent reader of `fuzz_oracles` sees otherwise. What is read from DICOM is also written as a
derived series, unchanged, and read again; every eighth input goes through the command besides.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import selectors
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import fuzz_dicom
import fuzz_images
from fuzz_judge import Finding, judge

HANG_S = float(os.environ.get("FUZZ_HANG_S", 20))
MEMORY_BYTES = 8 << 30


@dataclass(frozen=True)
class Case:
    """One input, made again from its numbers.

    Attributes:
        base: what it began as.
        mutations: (function, seed of its random numbers), in order.
    """

    base: str
    mutations: tuple[tuple[Callable[[Any, random.Random], str], int], ...]

    def make(self) -> tuple[fuzz_dicom.Series | fuzz_images.ImageFile, list[str]]:
        """The input, and what was done to it."""
        is_image = self.base.startswith(".")
        spoiled = fuzz_images.base_image(self.base) if is_image else fuzz_dicom.base_series(self.base)
        return spoiled, [mutate(spoiled, random.Random(seed)) for mutate, seed in self.mutations]


def case(seed: int, number: int) -> Case:
    """Input `number` of a seed: one to three mutations of a series (two thirds) or an image file."""
    rng = random.Random(f"{seed}/{number}")
    module = fuzz_images if rng.random() < 1 / 3 else fuzz_dicom
    base = rng.choice(module.base_names())
    chosen = [rng.choice(module.MUTATIONS) for _ in range(rng.choice((1, 1, 2, 3)))]
    return Case(base, tuple((mutate, rng.randrange(1 << 30)) for mutate in chosen))


def outcome(one: Case, work: Path, *, command: bool = False) -> tuple[str, str, list[str]]:
    """End, detail and mutations of one input. An input that cannot be written counts as "NOT MADE".

    Args:
        one: the input.
        work: an empty folder.
        command: through the command too.
    """
    done: list[str] = []
    try:
        spoiled, done = one.make()
        path = spoiled.write(work / "in")
    except Exception as error:  # pydicom refuses to write some values, and some mutations do not go together
        return "NOT MADE", type(error).__name__, done
    try:
        return *judge(path, work, n_files=len(getattr(spoiled, "slices", "1")), command=command), done
    except Finding as finding:
        return finding.kind, str(finding), done
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "EXCEPTION", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})", done


def smaller(one: Case, kind: str) -> Case:
    """The same without the mutations that the finding does not need."""
    for index in range(len(one.mutations) - 1, -1, -1):
        fewer = Case(one.base, one.mutations[:index] + one.mutations[index + 1 :])
        with tempfile.TemporaryDirectory() as work:
            if outcome(fewer, Path(work))[0] == kind:
                one = fewer
    return one


# ------------------------------------------------------------------------------------------------- processes, results


def run(count: int, seed: int = 0, first: int = 0) -> Iterator[dict[str, Any]]:
    """Results of inputs `first` and on, from a child: what dies or hangs there is a result too."""
    number, end = first, first + count
    while number < end:
        command = [sys.executable, __file__, "--child", "--seed", str(seed), "--first", str(number)]
        child = subprocess.Popen([*command, "--count", str(end - number)], stdout=subprocess.PIPE, text=True)
        try:
            for result in _lines(child):
                yield result
                number = result["number"] + 1
        finally:
            child.kill()
            code = child.wait()
        if number < end:
            kind = "HANG" if code == -9 else "CRASH"
            yield {
                "number": number,
                "end": kind,
                "detail": f"exit code {code}",
                "base": case(seed, number).base,
                "done": [],
            }
            number += 1


def _lines(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What a child reports, until it ends or is silent for too long; the first line may take longer, for imports."""
    assert child.stdout
    patience_s = 6 * HANG_S
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while selector.select(patience_s):
            if not (line := child.stdout.readline()):
                return
            patience_s = HANG_S
            if line.startswith("{"):
                yield json.loads(line)


def _child(seed: int, first: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))  # a header may announce any size
    fuzz_dicom.base_names()
    print("ready", flush=True)
    for number in range(first, first + count):
        one = case(seed, number)
        with tempfile.TemporaryDirectory() as work:
            end, detail, done = outcome(one, Path(work), command=number % 8 == 0)
        if end not in ALLOWED:
            _, done = smaller(one, end).make()
        result = {"number": number, "end": end, "detail": detail, "base": one.base, "done": done}
        print(json.dumps(result), flush=True)


ALLOWED = ("EXACT", "REFUSED", "UNCONFIRMED", "NOT MADE")


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what the product reads.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the input --first to this new folder, and stop")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.keep:
        spoiled, done = case(args.seed, args.first).make()
        print(f"{spoiled.write(args.keep)}: {'; '.join(done)}")
        return 0
    if args.child:
        _child(args.seed, args.first, args.count)
        return 0
    ends: Counter[str] = Counter()
    for result in run(args.count, args.seed, args.first):
        ends[result["end"]] += 1
        if result["end"] not in ALLOWED:
            print(described(result), flush=True)
    print(", ".join(f"{n} {end}" for end, n in ends.most_common()))
    return int(any(end not in ALLOWED for end in ends))


def described(result: dict[str, Any]) -> str:
    """A finding on one line."""
    return f"{result['end']} #{result['number']} {result['base']}: {'; '.join(result['done'])} -> {result['detail']}"


if __name__ == "__main__":
    sys.exit(main())
