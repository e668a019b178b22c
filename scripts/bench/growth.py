"""How the cost grows with chunks, datasets and open files; the goals are absolute."""

import os
import statistics
import subprocess
import threading
import time

import numpy as np

from harness import ARGS, MIB, Mounted, bench, run, small, timed

HEADER = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"


def show(what, figure, goal, ok):
    print(f"| {what} | {figure} | {goal}{'' if ok else ' (missed)'} |", flush=True)


def resident(daemon):
    """Bytes of memory that are the daemon's own."""
    for line in (daemon / "status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no RssAnon in the daemon's status")


def ticks(daemon):
    fields = (daemon / "stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@bench
def a_million_chunks():
    count, parts = 1_000_000, 10
    with Mounted() as fs:
        target = fs.dataset("d")
        small(target, 1000, size=8)
        before = resident(fs.daemon())
        rates = [small(target, count // parts, size=8)[0] for _ in range(parts)]
        ratio = rates[-1] / rates[0]
        words = f"{rates[0]:,.0f}/s and {rates[-1]:,.0f}/s: {ratio:.2f}"
        show("1,000,000 chunks of a row, the first 100,000 and the last", words, "at least 0.9", ratio >= 0.9)
        name = len(f"{time.monotonic_ns()}-0-0000000.npy")
        per_chunk = (resident(fs.daemon()) - before) / count - name
        show("memory a chunk, beyond its name", f"{per_chunk:.0f} bytes", "at most 150", per_chunk <= 150)
        took = timed(lambda: subprocess.run(["ls", "-f", target], stdout=subprocess.DEVNULL, check=True))
        show("`ls -f` of them", f"{took:.2f} s", "under 3 s", took < 3)
        mount = fs.kill_and_mount_again()
        read = timed(lambda: np.load(target / "data.npy", mmap_mode="r")[-1])
        took = mount + read
        show("after SIGKILL: mount, open and read data.npy", f"{took:.2f} s", "under 1 s", took < 1)
        took = timed(lambda: small(target, 1, size=8))
        show("then the first write", f"{took:.2f} s", "under 2 s", took < 2)


@bench
def many_datasets():
    with Mounted() as fs:
        np.save(ARGS.scratch / "row.npy", np.zeros(1))
        row = (ARGS.scratch / "row.npy").read_bytes()
        for n in range(10_000):
            (fs.dataset(f"{n}") / "x.npy").write_bytes(row)
        descriptors = len(os.listdir(fs.daemon() / "fd"))
        show("descriptors after a write into each of 10,000 datasets", descriptors, "bounded", descriptors < 5000)
        run(ARGS.npyfs, "umount", fs.mnt)
        took = timed(lambda: run(ARGS.npyfs, "mount", fs.store, fs.mnt))
        show("mount of 10,000 datasets", f"{took * 1e3:.0f} ms", "under 300 ms", took < 0.3)
        descriptors = len(os.listdir(fs.daemon() / "fd"))
        show("descriptors then", descriptors, "none for a dataset", descriptors < 50)


@bench
def many_handles():
    with Mounted() as fs:
        target, other = fs.dataset("d"), fs.dataset("other")
        small(other, 2000)
        alone = statistics.median(small(other, 5000)[0] for _ in range(3))
        before = resident(fs.daemon())
        head = (HEADER % MIB).ljust(127) + b"\n"
        files = [open(target / f"{n}.npy", "xb", buffering=0) for n in range(1000)]
        for file in files:
            file.write(head)
        stop = threading.Event()

        def feed():
            piece = bytes(16 << 10)
            for _ in range(MIB // len(piece)):
                for file in files:
                    if stop.wait(0.0005):
                        return
                    file.write(piece)

        feeder = threading.Thread(target=feed)
        feeder.start()
        time.sleep(2)
        fed = statistics.median(small(other, 5000)[0] for _ in range(3))
        more = (resident(fs.daemon()) - before) / MIB
        stop.set()
        feeder.join()
        for file in files:
            try:
                file.close()
            except OSError:
                pass  # incomplete, and refused
        show("memory for 1,000 chunks of 1 MiB, fed slowly at once", f"{more:.0f} MiB", "the budget of 64 MiB", more <= 80)
        ratio = fed / alone
        show("another producer meanwhile, against alone", f"{ratio:.2f}", "unhurt", ratio >= 0.7)


@bench
def latency():
    with Mounted() as fs:
        target = fs.dataset("d")
        small(target, 1000)

        def read(seconds):
            times, until = [], time.monotonic() + seconds
            while time.monotonic() < until:
                start = time.perf_counter()
                file = os.open(target / "data.npy", os.O_RDONLY)
                os.pread(file, 4096, 0)
                os.close(file)
                times.append(time.perf_counter() - start)
                time.sleep(0.001)
            return statistics.median(times)

        idle = read(2)
        writers = threading.Thread(target=lambda: small(target, 10_000, producers=4))
        writers.start()
        time.sleep(0.2)
        loaded = read(1.5)
        writers.join()
        words = f"{loaded * 1e6:.0f} us, {idle * 1e6:.0f} us idle: {loaded / idle:.1f}"
        show("open and read data.npy while four producers write", words, "at most 3 times idle", loaded <= 3 * idle)


@bench
def idle():
    with Mounted() as fs:
        small(fs.dataset("d"), 1000)
        daemon = fs.daemon()  # asked for now: it is in a file of the mount
        time.sleep(12)  # two times the sync interval
        before = ticks(daemon)
        time.sleep(10)
        spent = ticks(daemon) - before
        show("time on the processor in 10 s of an idle mount", f"{spent * 10} ms", "none", spent == 0)
