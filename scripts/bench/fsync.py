"""Chunks of 64 KiB with fsync through npyfs, against plain files written and fsynced in the same
filesystem: rates with 1 and with 8 producers, alternating runs, medians, as a Markdown table.

    python3 scripts/bench/fsync.py NPYFS_BINARY [DIRECTORY]
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time

SECONDS = 1.5
ROUNDS = 5
BODY = os.urandom(64 << 10)
TEXT = b"{'descr': '<f4', 'fortran_order': False, 'shape': (64, 256), }"
HEADER = b"\x93NUMPY\x01\x00\x76\x00" + TEXT + b" " * (117 - len(TEXT)) + b"\n"


def produce(directory, producer, start, counts):
    chunk = HEADER + BODY
    start.wait()
    until = time.monotonic() + SECONDS
    n = 0
    while time.monotonic() < until:
        fd = os.open(f"{directory}/p{producer}-{n}.npy", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, chunk)
        os.fsync(fd)
        os.close(fd)
        n += 1
    counts.put(n)


def rate(directory, producers):
    """Chunks a second that all producers together have on the disk."""
    os.mkdir(directory)
    start, counts = multiprocessing.Barrier(producers), multiprocessing.Queue()
    running = [
        multiprocessing.Process(target=produce, args=(directory, n, start, counts))
        for n in range(producers)
    ]
    for process in running:
        process.start()
    total = sum(counts.get() for _ in running)
    for process in running:
        process.join()
    return total / SECONDS


def main():
    binary = os.path.abspath(sys.argv[1])
    where = sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory(dir=where) as scratch:
        store, mount, plain = (f"{scratch}/{name}" for name in ("store", "mnt", "plain"))
        for path in (store, mount, plain):
            os.mkdir(path)
        subprocess.run([binary, "mount", store, mount], check=True)
        try:
            print("| producers | plain files, fsync/s | npyfs, fsync/s | ratio (median, lowest to highest) |")
            print("| --- | --- | --- | --- |")
            for producers in (1, 8):
                rates = []
                for n in range(ROUNDS):
                    pair = [rate(f"{it}/{producers}-{n}", producers) for it in (plain, mount)]
                    rates.append(pair)
                ratios = sorted(ours / theirs for theirs, ours in rates)
                theirs, ours = (statistics.median(it) for it in zip(*rates))
                print(
                    f"| {producers} | {theirs:.0f} | {ours:.0f} "
                    f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
                    flush=True,
                )
        finally:
            subprocess.run([binary, "umount", mount], check=True)


main()
