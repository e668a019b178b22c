"""npyfs against its alternatives: each row is the ratio of two things done in turn."""

import json
import shutil
import statistics
import subprocess
import time

import numpy as np

from harness import ARGS, MIB, ROUNDS, Mounted, Served, bench, faster, rate_of, run, slower, small, time_of, timed


def array_file(name, mib, order="C"):
    path = ARGS.scratch / name
    if not path.exists():
        values = np.random.default_rng(0).random((mib * MIB // 8 // 128, 128))
        np.save(path, np.asfortranarray(values) if order == "F" else values)
    path.read_bytes()[:1]
    return path


def copies(fs, plain, source, parallel=1, datasets=1):
    """The two sides of a cp: into a mount, and into a directory of the same filesystem.

    Both are removed after each round: memory that a page cache gets for the first time is slower
    than what was freed before, and neither side is to have that advantage.
    """

    def many(targets):
        jobs = [subprocess.Popen(["cp", str(source), str(target)]) for target in targets]
        if any(job.wait() for job in jobs):
            raise SystemExit("cp failed")

    def ours(n):
        folders = [fs.dataset(f"d{n}-{i}") for i in range(datasets)]
        took = timed(lambda: many([folders[i % datasets] / f"{i}.npy" for i in range(parallel)]))
        for folder in folders:
            shutil.rmtree(folder)
        return took

    def theirs(n):
        folder = plain / f"{source.name}-{parallel}-{datasets}-{n}"
        folder.mkdir()
        took = timed(lambda: many([folder / f"{i}.npy" for i in range(parallel)]))
        shutil.rmtree(folder)
        return took

    return ours, theirs


@bench
def copy():
    plain = ARGS.scratch / "plain"
    plain.mkdir(exist_ok=True)
    for mib in (256, 2048):
        source = array_file(f"{mib}.npy", mib)
        with Mounted("-o", "allow_delete=all") as fs:
            slower(f"cp of a {mib} MiB chunk", "cp to ext4", 1.3, *copies(fs, plain, source))


@bench
def copies_at_once():
    plain = ARGS.scratch / "plain"
    plain.mkdir(exist_ok=True)
    source = array_file("256.npy", 256)
    for datasets, limit in ((4, 1.5), (1, 2.2)):
        with Mounted("-o", "allow_delete=all") as fs:
            ours, theirs = copies(fs, plain, source, 4, datasets)
            words = "one dataset" if datasets == 1 else "four datasets"
            slower(f"four cps of 256 MiB at once into {words}", "the same to ext4", limit, ours, theirs)


@bench
def beside():
    """Chunks of 1 KiB while a cp of 2 GiB goes into the same dataset."""
    source = ARGS.scratch / "2048-flat.npy"
    np.save(source, np.random.default_rng(0).random(2048 * MIB // 8))
    with Mounted("-o", "allow_delete=all") as fs:

        def rows(folder):
            return json.loads((folder / ".npyfs/status.json").read_text())["rows"]

        def both(n):
            alone, shared = fs.dataset(f"alone{n}"), fs.dataset(f"shared{n}")
            rate = small(shared, 10_000)[0]
            took = timed(lambda: run("cp", source, alone / "x.npy"))
            shutil.rmtree(alone)
            command = [str(ARGS.bin / "chunks"), str(shared), "y", "10000000", "1024"]
            producer = subprocess.Popen(command)
            time.sleep(0.2)
            before = rows(shared)
            took_beside = timed(lambda: run("cp", source, shared / "x.npy"))
            came = rows(shared) - before - 2048 * MIB // 8
            producer.kill()
            producer.wait()
            shutil.rmtree(shared)
            return came / 128 / took_beside, rate, took_beside, took

        both(-1)
        figures = [both(n) for n in range(ROUNDS)]
    rate_beside, rate, took_beside, took = (statistics.median(column) for column in zip(*figures))
    rate_of("1 KiB chunks beside a cp of 2 GiB into the same dataset", "their rate alone", 0.5, rate_beside, rate)
    time_of("a cp of 2 GiB beside 1 KiB chunks into the same dataset", "the cp alone", 2, took_beside, took)


@bench
def small_chunks():
    other = ARGS.bin / "passthrough_ll"
    if other.exists():
        for producers, limit in ((1, 4), (4, 3)):
            source = ARGS.scratch / "passthrough"
            shutil.rmtree(source, ignore_errors=True)
            source.mkdir()

            def theirs(peer):
                rate = small(peer.mnt, 5000 // producers, producers)[0]
                # It keeps a descriptor of every file that it knows.
                for entry in peer.mnt.iterdir():
                    entry.unlink()
                return rate

            with Mounted() as fs, Served(other, "-f", "-o", f"source={source}", "@MNT") as peer:
                faster(
                    f"1 KiB chunks, {producers} producer{'s' * (producers > 1)}",
                    "libfuse's passthrough_ll",
                    limit,
                    lambda n: small(fs.dataset("d"), 20_000 // producers, producers)[0],
                    lambda n: theirs(peer),
                )
    with Mounted() as fs, Served(ARGS.empty, "@MNT") as peer:
        slower(
            "median time of one such chunk",
            "an empty FUSE filesystem",
            1.3,
            lambda n: small(fs.dataset("d"), 10000)[1] * 1e-6,
            lambda n: small(peer.mnt, 10000)[1] * 1e-6,
        )


@bench
def peers():
    """10,000 chunks of 64 KiB, from files to one array."""
    import h5py
    import zarr
    from npy_append_array import NpyAppendArray

    count, rows = 10_000, 64
    spool = ARGS.scratch / "spool-source"
    spool.mkdir(exist_ok=True)
    chunk = np.random.default_rng(1).random((rows, 128))
    np.save(spool / "0.npy", chunk)
    for i in range(1, count):
        shutil.copyfile(spool / "0.npy", spool / f"{i}.npy")

    def ours(fs, n):
        target = fs.dataset(f"d{n}")
        took = timed(lambda: run("cp", "-r", f"{spool}/.", target))
        shutil.rmtree(target)
        return took

    def spooled(n):
        folder = ARGS.scratch / "spool"
        def work():
            run("cp", "-r", spool, folder)
            with NpyAppendArray(str(ARGS.scratch / "append.npy"), delete_if_exists=True) as out:
                for i in range(count):
                    out.append(np.load(folder / f"{i}.npy"))
        took = timed(work)
        shutil.rmtree(folder)
        return took

    def hdf5(n):
        def work():
            with h5py.File(ARGS.scratch / "x.h5", "w") as out:
                data = out.create_dataset("x", (0, 128), maxshape=(None, 128), chunks=(rows, 128), dtype="f8")
                for i in range(count):
                    data.resize(((i + 1) * rows, 128))
                    data[i * rows :] = np.load(spool / f"{i}.npy")
        return timed(work)

    def zarred(n):
        def work():
            path = ARGS.scratch / "x.zarr"
            shutil.rmtree(path, ignore_errors=True)
            out = zarr.create_array(store=str(path), shape=(0, 128), chunks=(rows, 128), dtype="f8", compressors=None)
            for i in range(count):
                out.append(np.load(spool / f"{i}.npy"))
        return timed(work)

    rounds = min(ROUNDS, 3)
    for name, peer in (("spool and npy-append-array", spooled), ("h5py resize and write", hdf5), ("zarr append", zarred)):
        with Mounted("-o", "allow_delete=all") as fs:
            slower("10,000 chunks of 64 KiB to one array", name, 1.0, lambda n: ours(fs, n), peer, rounds)


@bench
def reading():
    source = array_file("1024.npy", 1024)
    for words, mode in (((), "as root"), (("--cached",), "cached")):
        with Mounted(*words) as fs:
            target = fs.dataset("d")
            shutil.copyfile(source, target / "x.npy")
            backing = fs.store / "d" / "data.npy"
            shown = target / "data.npy"

            def mapped(path):
                return timed(lambda: np.load(path, mmap_mode="r").sum())

            def loaded(path):
                return timed(lambda: np.load(path))

            if mode == "as root":
                slower("a sum over a mapping of 1 GiB", "the backing file", 1.03, lambda n: mapped(shown), lambda n: mapped(backing))
            limit = 1.8 if mode == "as root" else 1.3
            slower(f"np.load of 1 GiB, {mode}", "the backing file", limit, lambda n: loaded(shown), lambda n: loaded(backing))


@bench
def opening():
    with Mounted() as fs, Served(ARGS.empty, "@MNT") as peer:
        np.save(fs.dataset("d") / "x.npy", np.zeros(496))

        def opens(path):
            def work():
                for _ in range(2000):
                    np.load(path, mmap_mode="r")
            return timed(work) / 2000

        slower("opening data.npy", "the empty filesystem", 1.2, lambda n: opens(fs.mnt / "d/data.npy"), lambda n: opens(peer.mnt / "data.npy"))


@bench
def rsync():
    source = ARGS.scratch / "rsync-source"
    source.mkdir(exist_ok=True)
    values = np.random.default_rng(2).random((1024, 128))
    for i in range(1000):
        np.save(source / f"{i}.npy", values)
    plain = ARGS.scratch / "plain"
    plain.mkdir(exist_ok=True)
    with Mounted("-o", "allow_delete=all") as fs:

        def theirs(n):
            took = timed(lambda: run("rsync", "-a", f"{source}/", f"{plain}/rsync{n}/"))
            shutil.rmtree(plain / f"rsync{n}")
            return took

        def ours(n):
            target = fs.dataset(f"d{n}")
            took = timed(lambda: run("rsync", "-a", f"{source}/", f"{target}/"))
            shutil.rmtree(target)
            return took

        slower("rsync -a of 1,000 chunks of 1 MiB", "rsync to ext4", 2.0, ours, theirs, min(ROUNDS, 3))


@bench
def fortran():
    c, f = array_file("1024.npy", 1024), array_file("1024f.npy", 1024, "F")
    with Mounted("-o", "allow_delete=all") as fs:

        def append(source, kind):
            def work(n):
                target = fs.dataset(f"{kind}{n}")
                took = timed(lambda: run("cp", source, target / "x.npy"))
                shutil.rmtree(target)
                return took

            return work

        slower("a Fortran-order chunk of 1 GiB", "the same in C order", 3.0, append(f, "f"), append(c, "c"), min(ROUNDS, 3))


@bench
def fsync():
    """Chunks of 64 KiB, each fsynced."""
    plain = ARGS.scratch / "plain"
    plain.mkdir(exist_ok=True)
    with Mounted("-o", "allow_delete=all") as fs:

        def synced(directory, n, producers):
            directory.mkdir()
            # Long enough that memory which the page cache gets for the first time does not decide.
            rate = small(directory, 800 * min(producers, 4) // producers, producers, 64 << 10, "fsync")[0]
            shutil.rmtree(directory)
            return rate

        for producers, limit in ((1, 0.5), (8, 2)):
            faster(
                f"64 KiB chunks with fsync, {producers} producer{'s' * (producers > 1)}",
                "files of ext4",
                limit,
                lambda n: synced(fs.mnt / f"d{n}", n, producers),
                lambda n: synced(plain / f"d{n}", n, producers),
            )
