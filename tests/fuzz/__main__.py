"""python -m tests.fuzz: runs programs of a range of seeds, and prints the smallest form of each that fails."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from tests.fuzz import generate
from tests.fuzz.program import Invalid, Statistics, difference
from tests.fuzz.shrink import Shrinker

MARK = "\x01"  # begins a line that a worker writes for its parent
STUCK_SECONDS = 120  # the process is killed where it says nothing for so long
CHUNK = 500  # programs in one process: one that crashes ends its own chunk alone


def run_range(first: int, count: int, kind: str, shrink_seconds: float) -> tuple[Statistics, int]:
    statistics, failures = Statistics(), 0
    for seed in range(first, first + count):
        print(f"{MARK}@{seed}", flush=True)
        program = generate.make(seed, kind)
        try:
            found = difference(program, statistics, lambda: print(MARK + "~", flush=True))
        except Invalid as error:
            print(f"seed {seed}: {error}", flush=True)
            failures += 1
            continue
        if found is None:
            continue
        failures += 1
        print(f"seed {seed}: {found}", flush=True)
        if shrink_seconds:
            small, found = Shrinker(program, found, shrink_seconds).run()
            print(f"--- the smallest form of seed {seed}: {found}\n{small.source()}---", flush=True)
    print(f"{MARK}={' '.join(str(value) for value in vars(statistics).values())}", flush=True)
    return statistics, failures


def run_chunk(first: int, count: int, arguments: argparse.Namespace) -> tuple[Statistics, int]:
    """One chunk in a process of its own; how many of its programs failed."""
    total = Statistics()
    command = [sys.executable, "-m", "tests.fuzz", "--worker", "--seed", str(first), "--programs", str(count),
               "--shrink", str(arguments.shrink), "--kind", arguments.kind]  # fmt: skip
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    seed, failures, in_eager, is_stuck = first, 0, False, threading.Event()

    def kill() -> None:
        is_stuck.set()
        worker.kill()

    stuck = threading.Timer(0, kill)  # in C code that no signal interrupts
    for line in worker.stdout:
        stuck.cancel()
        stuck = threading.Timer(STUCK_SECONDS + arguments.shrink, kill)
        stuck.daemon = True
        stuck.start()
        in_eager = line.startswith(MARK + "@")
        if in_eager:
            seed = int(line[2:])
        elif line.startswith(MARK + "="):
            total.add(Statistics(*map(int, line[2:].split())))
        elif not line.startswith(MARK):
            failures += line.startswith("seed ")
            print(line, end="", flush=True)
    stuck.cancel()
    if worker.wait() != 0:  # negative: a signal
        if is_stuck.is_set() and in_eager:
            print(f"program {seed} does not end in eager mode", flush=True)
            total.endless += 1
        else:
            print(f"seed {seed}: the process ended with {worker.returncode}", flush=True)
            failures += 1
        if seed + 1 < first + count:
            rest, failed = run_chunk(seed + 1, first + count - seed - 1, arguments)
            total.add(rest)
            failures += failed
    return total, failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=generate.KINDS, default="general", help="trained: results are differentiated")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds for making a failing program small; 0: not")
    parser.add_argument("--show", action="store_true", help="print the program of the seed instead of running it")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.show:
        print(generate.make(arguments.seed, arguments.kind).source())
        return 0
    if arguments.worker:
        warnings.simplefilter("ignore")
        run_range(arguments.seed, arguments.programs, arguments.kind, arguments.shrink)
        return 0
    os.environ["PYTHONHASHSEED"] = "0"
    start, failures, total = time.monotonic(), 0, Statistics()
    end = arguments.seed + arguments.programs
    with ThreadPoolExecutor(arguments.jobs) as pool:
        chunks = {
            pool.submit(run_chunk, first, min(CHUNK, end - first), arguments): first
            for first in range(arguments.seed, end, CHUNK)
        }
        for chunk in as_completed(chunks):
            statistics, failed = chunk.result()
            total.add(statistics)
            failures += failed
            if len(chunks) > 1:
                first = chunks[chunk]
                print(f"seeds {first} to {min(first + CHUNK, end) - 1}: {failed} differences; {statistics}", flush=True)
    last, seconds = end - 1, time.monotonic() - start
    print(f"{arguments.programs} {arguments.kind} programs, seeds {arguments.seed} to {last}: {failures} differences, "
          f"{seconds:.0f} s; {total}")  # fmt: skip
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
