"""make.py NPYFS DIRECTORY: makes a set of small stores with the binary NPYFS.

Beside each dataset NAME there is NAME.json with what is to be found in it; README.md here says what
the fields mean. It takes root, for owners of chunks, and Linux with FUSE.
"""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

NPYFS, TARGET = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
JOURNAL = ".npyfs/chunks.log"
FIRST_TIME = 1_600_000_000_123_456_789


def header(shape, descr="<i4", fortran=False, align=64):
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % align) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def body(first, rows, descr="<i4", fortran=False):
    """Rows of three numbers, each row the next three numbers from 0 on."""
    numbers = range(3 * first, 3 * (first + rows))
    if fortran:
        numbers = [3 * row + column for column in range(3) for row in range(first, first + rows)]
    return b"".join(struct.pack(descr[0] + "i", number) for number in numbers)


def npy(first, rows, descr="<i4", fortran=False):
    return header((rows, 3), descr, fortran) + body(first, rows, descr, fortran)


def close(file):
    """Closes what is refused, or whose daemon is dead."""
    try:
        os.close(file)
    except OSError:
        return
    raise AssertionError("closed without an error")


class Dataset:
    """A dataset in the making, in a store of its own."""

    def __init__(self, name, words="", at=None):
        self.name, self.words = name, words
        self.scratch = tempfile.mkdtemp(prefix="npyfs-stores-", dir=at)
        self.store, self.mountpoint = self.scratch + "/store", self.scratch + "/mnt"
        self.there, self.here = f"{self.store}/{name}", f"{self.mountpoint}/{name}"
        os.makedirs(self.there)
        os.mkdir(self.mountpoint)
        self.rows, self.chunks, self.daemon = 0, [], None
        self.begun = time.time_ns()

    def mount(self, words=None):
        words = ["-o", ",".join(filter(None, ["sync-interval=1000", words or self.words]))]
        command = [NPYFS, "mount", "-f", self.store, self.mountpoint, *words]
        self.daemon = subprocess.Popen(command)
        while not os.path.ismount(self.mountpoint):
            assert self.daemon.poll() is None
            time.sleep(0.01)

    def unmount(self):
        subprocess.run([NPYFS, "umount", self.mountpoint], check=True)
        assert self.daemon.wait() == 0

    def kill(self):
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()
        subprocess.run(["umount", "-l", self.mountpoint], check=True)

    def put(self, name, rows, descr="<i4", fortran=False, early=False, late=False):
        """A chunk of the next rows. Its attributes are set before its close or after it."""
        n = len(self.chunks)
        chunk = {"name": name, "first_row": self.rows, "rows": rows}
        chunk |= {"descr": descr, "fortran": fortran}
        chunk |= {"mode": 0o644, "uid": 0, "gid": 0, "mtime": FIRST_TIME + n}
        with open(f"{self.here}/{name}", "wb", buffering=0) as file:
            file.write(npy(self.rows, rows, descr, fortran))
            if early:
                chunk |= {"mode": 0o600 + n, "uid": 1000 + n, "gid": 2000 + n}
                os.chown(file.fileno(), chunk["uid"], chunk["gid"])
                os.chmod(file.fileno(), chunk["mode"])
            os.utime(file.fileno(), ns=(0, chunk["mtime"]))
        self.chunks.append(chunk)
        self.rows += rows
        if late:
            self.attributes(name, 0o440 + n, 3000 + n, 4000 + n, -1_600_000_000 * 10**9)
        return chunk

    def chunk(self, name):
        return next(chunk for chunk in self.chunks if chunk["name"] == name)

    def attributes(self, name, mode, uid, gid, mtime):
        path = f"{self.here}/{name}"
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        os.utime(path, ns=(0, mtime))
        self.chunk(name).update(mode=mode, uid=uid, gid=gid, mtime=mtime)

    def rename(self, old, new):
        os.rename(f"{self.here}/{old}", f"{self.here}/{new}")
        self.chunk(old)["name"] = new

    def forget(self, name):
        os.remove(f"{self.here}/{name}")
        self.chunks.remove(self.chunk(name))

    def sync(self):
        directory = os.open(self.here, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def path(self, name="data.npy"):
        return f"{self.there}/{name}"

    def read(self, name="data.npy"):
        with open(self.path(name), "rb") as file:
            return file.read()

    def write(self, content, name="data.npy"):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(content)

    def count(self, rows):
        """Another count in the header of data.npy."""
        data = self.read()
        start = data.index(b"'shape': (") + 10
        end = data.index(b",", start)
        self.write(data[:start] + str(rows).encode().rjust(end - start) + data[end:])

    def records(self):
        """Where each record of the journal begins, its kind, and where it ends."""
        journal, at, found = self.read(JOURNAL), 16, []
        while at < len(journal):
            end = at + 8 + struct.unpack_from("<I", journal, at)[0]
            found.append((at, journal[at + 8], end))
            at = end
        return found

    def state(self, chunks=None, rows=None, says=(), lost=False, refused=None):
        """What is found: all chunks, or the first of them. `lost`: a check finds damage."""
        if refused:
            return {"refused": refused}
        named = self.chunks if chunks is None else self.chunks[:chunks]
        if rows is None:
            rows = self.rows if chunks is None else sum(chunk["rows"] for chunk in named)
        names = [chunk["name"] for chunk in named]
        return {"rows": rows, "chunks": names, "says": list(says), "lost": lost}

    def done(self, died=None, restarted=None):
        """`died`: what is found in the boot that the journal tells. `restarted`: in another."""
        clean = died is None and restarted is None
        died = died or self.state()
        target = f"{TARGET}/{self.name}"
        shutil.copytree(self.there, target, copy_function=shutil.copyfile)
        # git keeps none.
        for directory, _, _ in os.walk(target, topdown=False):
            if not os.listdir(directory):
                os.rmdir(directory)
        expected = {
            "clean": clean,
            "made": [self.begun, time.time_ns()],
            "chunks": self.chunks,
            "died": died,
            "restarted": restarted or died,
        }
        lines = []
        for key, value in expected.items():
            text = json.dumps(value, ensure_ascii=False)
            if key == "chunks" and value:
                each = [json.dumps(chunk, ensure_ascii=False) for chunk in value]
                text = "[\n  " + ",\n  ".join(each) + "\n ]"
            lines.append(f' "{key}": {text}')
        with open(f"{target}.json", "w", encoding="utf-8") as file:
            file.write("{\n" + ",\n".join(lines) + "\n}\n")
        shutil.rmtree(self.scratch)


def plain(dataset):
    dataset.put("a.npy", 4)
    dataset.put("b.npy", 0, early=True)
    dataset.put("ü, \"c\".npy", 5, late=True)
    dataset.put("d.npy", 1, early=True, late=True)


def closed():
    it = Dataset("plain")
    it.mount()
    plain(it)
    it.unmount()
    it.done()

    it = Dataset("opened-again")
    for name in "abc":
        it.mount()
        it.put(f"{name}.npy", 2)
        it.unmount()
    it.done()

    it = Dataset("converted")
    it.mount()
    it.put("little.npy", 3)
    it.put("big.npy", 4, ">i4", early=True)
    it.put("fortran.npy", 5, fortran=True)
    it.put("both.npy", 2, ">i4", fortran=True, late=True)
    it.put("again.npy", 1)
    it.unmount()
    it.done()

    it = Dataset("renamed")
    it.mount()
    plain(it)
    it.rename("a.npy", "e.npy")
    it.rename("d.npy", "f.npy")
    it.rename("f.npy", "a.npy")
    it.attributes("a.npy", 0o604, 5, 6, FIRST_TIME - 7)
    it.put("f.npy", 2)
    it.unmount()
    it.done()

    it = Dataset("forgotten", "allow_delete")
    it.mount()
    plain(it)
    it.forget("a.npy")
    it.forget("d.npy")
    it.put("a.npy", 3)
    it.unmount()
    it.done()

    it = Dataset("reused-names", "names=reuse")
    it.mount()
    for _ in range(3):
        it.chunks = [chunk for chunk in it.chunks if chunk["name"] != "a.npy"]
        it.put("a.npy", 2)
        it.put(f"{it.rows}.npy", 1)
    it.unmount()
    it.done()

    it = Dataset("removed", "allow_delete=all")
    it.mount()
    plain(it)
    for chunk in list(it.chunks):
        it.forget(chunk["name"])
    os.remove(it.here + "/data.npy")
    it.rows = 0
    it.put("new.npy", 3)
    it.unmount()
    it.done()

    it = Dataset("refused")
    it.mount()
    file = os.open(it.here + "/short.npy", os.O_WRONLY | os.O_CREAT)
    os.write(file, npy(0, 4)[:-5])
    close(file)
    it.unmount()
    assert os.listdir(it.path(".npyfs/rejected"))
    it.done()


def foreign():
    it = Dataset("foreign")
    it.write(npy(0, 7))
    it.rows = 7
    it.done()

    for name, align in [("adopted", 64), ("adopted-without-room", 16)]:
        # A filesystem that can insert, where that is one.
        it = Dataset(name, at="/var/tmp")
        it.write(header((7, 3), align=align) + body(0, 7))
        it.rows = 7
        it.mount()
        it.put("a.npy", 2)
        it.unmount()
        it.done()

    it = Dataset("adopted-rows")
    it.mount()
    it.put("a.npy", 3)
    it.unmount()
    it.write(it.read() + body(3, 5))
    it.count(8)
    it.rows = 8
    it.mount()
    it.put("b.npy", 2)
    it.unmount()
    it.done()

    it = Dataset("foreign-rows")
    it.mount()
    it.put("a.npy", 3)
    it.unmount()
    it.write(it.read() + body(3, 5))
    it.count(8)
    it.rows = 8
    it.done(it.state(says=["adopted 5 rows"]))


def killed(name):
    """Two chunks that were synced, and three that were not."""
    it = Dataset(name)
    it.mount()
    it.put("a.npy", 4)
    it.put("b.npy", 2, early=True)
    it.sync()
    it.put("c.npy", 3, late=True)
    it.rename("a.npy", "x.npy")
    it.put("d.npy", 1)
    it.put("e.npy", 2)
    return it


DIED = "its daemon died in this boot"
ANEW = "the machine was started anew since"


def unclean():
    it = killed("killed")
    it.kill()
    it.done(it.state(says=[DIED]), it.state(says=[ANEW]))

    it = Dataset("killed-when-empty")
    it.mount()
    file = os.open(it.here + "/a.npy", os.O_WRONLY | os.O_CREAT)
    os.write(file, npy(0, 4))
    it.kill()
    close(file)
    assert os.path.exists(it.path(JOURNAL)) and not os.path.exists(it.path())
    it.done(it.state(), it.state())

    it = killed("torn-record")
    it.kill()
    journal = it.read(JOURNAL)
    it.write(journal + journal[16:40], JOURNAL)
    cut = f"after its last good record, at byte {len(journal)}"
    it.done(it.state(says=[DIED, cut]), it.state(says=[ANEW, cut]))

    it = killed("count-too-low")
    it.kill()
    it.count(9)
    it.done(it.state(says=["the header counted 9 rows, the journal 12"]))

    it = killed("count-too-high")
    it.kill()
    it.count(15)
    it.done(it.state(says=["the header counted 15 rows, the file holds 12"]))

    it = killed("rows-without-record")
    it.kill()
    at = [record[0] for record in it.records() if record[1] == 3][-1]
    it.write(it.read(JOURNAL)[:at], JOURNAL)
    it.done(it.state(4, says=["2 rows after row 10 have no record"], lost=True))

    it = killed("rows-behind-the-last")
    it.kill()
    it.write(it.read() + b"\xee" * 100)
    it.done(it.state(says=["cut 100 bytes off data.npy"]))

    it = killed("wrong-rows")
    it.kill()
    data = it.read()
    it.write(data[:-30] + b"\x55" * 4 + data[-26:])
    # All that came after the first bad chunk goes too.
    dropped = ["d.npy dropped by recovery: its 1 rows", "e.npy dropped by recovery: its 2 rows"]
    it.done(it.state(3, says=dropped, lost=True))

    it = killed("rows-missing")
    it.kill()
    it.write(it.read()[:-30])
    it.done(it.state(3, says=dropped, lost=True))

    it = killed("no-header")
    it.kill()
    it.write(bytes(128) + it.read()[128:])
    it.done(it.state(says=["the header of data.npy was unreadable"]))

    for name, recorded in [("newborn", True), ("newborn-without-record", False)]:
        it = Dataset(name)
        it.mount()
        it.put("a.npy", 4)
        it.kill()
        os.rename(it.path(), it.path(".npyfs/data.npy.new"))
        if recorded:
            it.done(it.state(says=[DIED]), it.state(says=[ANEW]))
            continue
        start = next(record[0] for record in it.records() if record[1] not in (8, 11))
        it.write(it.read(JOURNAL)[:start], JOURNAL)
        it.chunks, it.rows = [], 0
        it.done(it.state(), it.state())

    it = Dataset("never-arrived")
    it.mount()
    it.put("a.npy", 4)
    it.kill()
    os.remove(it.path())
    it.done(
        it.state(refused="data.npy is gone"),
        it.state(0, says=["a.npy dropped by recovery: its 4 rows"], lost=True),
    )

    it = killed("in-flight")
    file = os.open(it.here + "/header-last.npy", os.O_WRONLY | os.O_CREAT)
    os.pwrite(file, npy(it.rows, 6)[128:], 128)
    it.kill()
    close(file)
    assert len(os.listdir(it.path(".npyfs/incoming"))) == 1
    it.done(it.state(says=[DIED]), it.state(says=[ANEW]))

    it = Dataset("inserting")
    it.write(bytes(4096) + header((7, 3), align=16) + body(0, 7))
    it.rows = 7
    # There is no journal yet.
    it.done(it.state(says=["the header of data.npy was being moved"]))

    it = Dataset("removing", "allow_delete")
    it.mount()
    plain(it)
    it.kill()
    os.rename(it.path(), it.path(".npyfs/data.npy.removed"))
    it.chunks, it.rows = [], 0
    it.done(it.state(), it.state())


def damaged():
    it = killed("damaged")
    it.unmount()
    at = [record[0] for record in it.records() if record[1] == 3][2]
    journal = bytearray(it.read(JOURNAL))
    journal[at + 12] ^= 1
    it.write(journal, JOURNAL)
    it.done(it.state(refused=f"the journal is damaged at byte {at}"))


os.umask(0o022)
closed()
foreign()
unclean()
damaged()
