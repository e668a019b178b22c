"""What the measurements share: mounts, runs in turn, and rows of a table."""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path

MIB = 1 << 20


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--npyfs", type=Path, required=True)
    parser.add_argument("--empty", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*")
    return parser.parse_args()


ARGS = options()
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
BENCHES = {}


def bench(function):
    BENCHES[function.__name__] = function
    return function


class Mounted:
    """A fresh store at a fresh mount point, for as long as the `with` lasts."""

    def __init__(self, *words):
        self.words = words

    def __enter__(self):
        self.root = ARGS.scratch / f"mount{time.monotonic_ns()}"
        self.store, self.mnt = self.root / "store", self.root / "mnt"
        self.store.mkdir(parents=True)
        self.mnt.mkdir()
        run(ARGS.npyfs, "mount", self.store, self.mnt, *self.words)
        return self

    def __exit__(self, *_):
        run(ARGS.npyfs, "umount", self.mnt)
        shutil.rmtree(self.root)

    def dataset(self, name):
        (self.mnt / name).mkdir(exist_ok=True)
        return self.mnt / name

    def daemon(self):
        return Path("/proc") / (self.mnt / ".npyfs/daemon").read_text().strip()

    def kill_and_mount_again(self):
        """How long it takes until it is mounted again."""
        os.kill(int(self.daemon().name), signal.SIGKILL)
        while "npyfs" in Path("/proc/self/mountinfo").read_text() and self.answers():
            time.sleep(0.01)
        return timed(lambda: run(ARGS.npyfs, "mount", self.store, self.mnt, *self.words))

    def answers(self):
        try:
            os.stat(self.mnt)
            return True
        except OSError:
            return False


class Served:
    """Another filesystem in the foreground."""

    def __init__(self, *command):
        self.command = command

    def __enter__(self):
        self.mnt = ARGS.scratch / f"served{time.monotonic_ns()}"
        self.mnt.mkdir()
        command = [str(word).replace("@MNT", str(self.mnt)) for word in self.command]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not os.path.ismount(self.mnt):
            if self.process.poll() is not None:
                raise SystemExit(f"{command[0]} did not mount")
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        run("umount", self.mnt)
        self.process.wait()


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pair(a, b, rounds=None):
    """Medians of two measurements that run in turn; each is called with the number of the round."""
    rounds = rounds or ROUNDS
    a(-1), b(-1)
    figures = [(a(n), b(n)) for n in range(rounds)]
    return statistics.median(x for x, _ in figures), statistics.median(y for _, y in figures)


def row(what, ours, theirs, against, ratio, goal, ok):
    mark = "" if ok else " (missed)"
    print(f"| {what} | {ours} | {theirs} | {against} | {ratio:.2f} | {goal}{mark} |", flush=True)


def time_of(what, against, limit, ours, theirs):
    ratio = ours / theirs
    row(what, seconds(ours), seconds(theirs), against, ratio, f"at most {limit}", ratio <= limit)


def rate_of(what, against, limit, ours, theirs):
    ratio = ours / theirs
    row(what, f"{ours:,.0f}/s", f"{theirs:,.0f}/s", against, ratio, f"at least {limit}", ratio >= limit)


def slower(what, against, limit, a, b, rounds=None):
    """Times: ours may be at most `limit` times theirs."""
    time_of(what, against, limit, *pair(a, b, rounds))


def faster(what, against, limit, a, b, rounds=None):
    """Rates: ours must be at least `limit` times theirs."""
    rate_of(what, against, limit, *pair(a, b, rounds))


def seconds(value):
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.2f} s"


def small(directory, n, producers=1, size=1024, *words):
    """Rate and median time, in microseconds, of chunks of `size` bytes of rows."""
    stamp = time.monotonic_ns()
    jobs = [
        subprocess.Popen(
            [str(ARGS.bin / "chunks"), str(directory), f"{stamp}-{p}", str(n), str(size), *words],
            stdout=subprocess.PIPE,
            text=True,
        )
        for p in range(producers)
    ]
    figures = []
    for job in jobs:
        out, _ = job.communicate()
        if job.returncode:
            raise SystemExit("chunks failed")
        figures.append([float(word) for word in out.split()])
    return sum(rate for rate, _ in figures), statistics.median(median for _, median in figures)
