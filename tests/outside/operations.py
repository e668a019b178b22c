# What tests/outside_the_store.rs has an ordinary user do: operations through the mount M, swaps in
# the store S, both in the user's own directory. Each operation tells how it ended, and what it read.
import errno
import fcntl
import os
import signal
import socket
import sys
import time

M, S, V = sys.argv[1:4]
MINE, OURS = f"{M}/mine", f"{S}/mine"


def tell(what, operation, *arguments, **more):
    try:
        result = operation(*arguments, **more)
    except OSError as error:
        print(what, errno.errorcode[error.errno], flush=True)
        return None
    shown = result if isinstance(result, (bytes, list)) else ""
    print(what, "ok", shown, flush=True)
    return result


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, how, data=b"mine"):
    fd = os.open(path, how, 0o666)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def sync(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# All operations on a directory with a file `key`, a file `more` and an empty directory `inner`.
def all_operations(to=""):
    key, here = f"{to}key", to or "."
    tell("read", read, key)
    tell("append", write, key, os.O_WRONLY | os.O_APPEND)
    tell("truncating open", write, key, os.O_WRONLY | os.O_TRUNC)
    tell("creating open", write, key, os.O_WRONLY | os.O_CREAT)
    tell("truncate", os.truncate, key, 1)
    tell("chmod", os.chmod, key, 0o777)
    tell("chown", os.chown, key, os.getuid(), os.getgid())
    tell("utimens", os.utime, key, (1, 1))
    tell("create", write, f"{to}new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    tell("create a chunk's placeholder", write, f"{to}.new.npy.Ab12", os.O_WRONLY | os.O_CREAT)
    tell("mkdir", os.mkdir, f"{to}made")
    tell("rename within", os.rename, key, f"{to}other")
    tell("rename onto", os.rename, f"{to}more", key)
    tell("rename out", os.rename, key, f"{MINE}/taken")
    tell("rename in", os.rename, f"{MINE}/bait", f"{to}bait")
    tell("rename to a chunk", os.rename, key, f"{to}key.npy")
    tell("commit out", os.rename, key, f"{MINE}/key.npy")
    tell("rename a directory out", os.rename, f"{to}inner", f"{MINE}/moved")
    tell("rename a directory in", os.rename, f"{MINE}/dir", f"{to}dir")
    tell("unlink", os.unlink, key)
    tell("rmdir", os.rmdir, f"{to}inner")
    tell("stat", os.stat, key)
    tell("list", os.listdir, here)
    tell("sync", sync, here)
    tell("chmod of a directory", os.chmod, here, 0o777)
    tell("chown of a directory", os.chown, here, os.getuid(), os.getgid())
    tell("utimens of a directory", os.utime, here, (1, 1))
    tell("stat of a directory in it", os.stat, f"{to}inner")
    tell("log", read, f"{to}.npyfs/log")
    tell("statfs", os.statvfs, M)


def bait():
    for name in ("bait", "taken"):
        write(f"{MINE}/{name}", os.O_WRONLY | os.O_CREAT)
    os.makedirs(f"{MINE}/dir", exist_ok=True)


# The user's own directory with what the operations are done on, all of it known to the kernel.
def prepare():
    os.umask(0)
    os.makedirs(f"{MINE}/sub/inner")
    for name in ("key", "more"):
        write(f"{MINE}/sub/{name}", os.O_WRONLY | os.O_CREAT, b"0" * 1000)
    bait()
    for name in ("key", "more", "inner"):
        os.stat(f"{MINE}/sub/{name}")


def put_away():
    os.rename(f"{OURS}/sub", f"{OURS}/old")


def link():
    put_away()
    os.symlink(V, f"{OURS}/sub")


# `roots` is a directory that root has made in the user's, closed to the user.
def directory():
    put_away()
    os.rename(f"{OURS}/roots", f"{OURS}/sub")


def file():
    put_away()
    write(f"{OURS}/sub", os.O_WRONLY | os.O_CREAT)


SWAPS = {"link": link, "directory": directory, "file": file}


def through_a_working_directory(swap):
    prepare()
    os.chdir(f"{MINE}/sub")
    os.stat("key")
    SWAPS[swap]()
    all_operations()


def through_a_path(swap):
    prepare()
    SWAPS[swap]()
    all_operations(f"{MINE}/sub/")


# Paths that lead through the swapped directory to a deeper one.
def through_a_directory_above(swap):
    prepare()
    os.chdir(f"{MINE}/sub/inner")
    for name in ("key", "more"):
        write(name, os.O_WRONLY | os.O_CREAT)
        os.stat(name)
    os.mkdir("inner")
    SWAPS[swap]()
    all_operations()


def with_handles(swap):
    prepare()
    os.chdir(f"{MINE}/sub")
    fd = os.open("key", os.O_RDWR)
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    SWAPS[swap]()
    tell("pread", os.pread, fd, 4, 0)
    tell("pwrite", os.pwrite, fd, b"mine", 0)
    tell("ftruncate", os.ftruncate, fd, 4)
    tell("fstat", os.fstat, fd)
    tell("fsync", os.fsync, fd)
    tell("fchmod", os.fchmod, fd, 0o777)
    tell("fchown", os.fchown, fd, os.getuid(), os.getgid())
    tell("futimens", os.utime, fd, (1, 1))
    tell("reopen", read, f"/proc/self/fd/{fd}")
    tell("openat", lambda: os.close(os.open("key", os.O_RDWR, dir_fd=here)))
    tell("mkdirat", os.mkdir, "made", dir_fd=here)
    tell("unlinkat", os.unlink, "key", dir_fd=here)
    tell("list", os.listdir, here)
    tell("fsync of a directory", os.fsync, here)
    tell("fchmod of a directory", os.fchmod, here, 0o777)
    print("old", read(f"{OURS}/old/key"))


def planted(path, kind):
    if kind == "link":
        os.symlink(f"{V}/key", path)
    elif kind == "link to a directory":
        os.symlink(V, path)
    elif kind == "fifo":
        os.mkfifo(path, 0o666)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "hard link":
        # Root has made it: of a file that only root may read.
        os.rename(f"{OURS}/hard", path)
    elif kind == "device":
        os.rename(f"{OURS}/device", path)


# A file that the kernel knows, with something else in its place.
def file_swapped(kind):
    prepare()
    os.unlink(f"{OURS}/sub/key")
    planted(f"{OURS}/sub/key", kind)
    all_operations(f"{MINE}/sub/")


# Names that the kernel has not seen yet.
def names_planted(kind):
    prepare()
    os.unlink(f"{MINE}/sub/key")
    planted(f"{OURS}/sub/key", kind)
    all_operations(f"{MINE}/sub/")


# What npyfs keeps, planted before a dataset is removed.
def control_planted(kind):
    prepare()
    inner, dataset = f"{OURS}/sub/inner", f"{MINE}/sub/inner"
    if kind == "link":
        os.symlink(V, f"{inner}/.npyfs")
    elif kind == "links":
        os.mkdir(f"{inner}/.npyfs")
        for name in ("incoming", "rejected", "lock", "log", "chunks.log"):
            os.symlink(V, f"{inner}/.npyfs/{name}")
    elif kind == "links within":
        os.makedirs(f"{inner}/.npyfs/incoming")
        os.symlink(V, f"{inner}/.npyfs/incoming/1-0")
        os.symlink(f"{V}/key", f"{inner}/.npyfs/incoming/1-1")
    elif kind == "directory":
        dataset = f"{MINE}/below"
        os.stat(dataset)
        os.rename(f"{OURS}/below/roots", f"{OURS}/below/.npyfs")
    tell("rmdir", os.rmdir, dataset)


# Swaps in the user's own directory.
def swap(seconds):
    end = time.monotonic() + float(seconds)
    print("ready", flush=True)
    sub, away, to = f"{OURS}/sub", f"{OURS}/away", f"{OURS}/link"
    key, spare = f"{OURS}/sub/key", f"{OURS}/sub/spare"
    while time.monotonic() < end:
        for step in (
            lambda: os.symlink(V, to),
            lambda: os.rename(sub, away),
            lambda: os.rename(to, sub),
            lambda: os.rename(sub, to),
            lambda: os.rename(f"{OURS}/roots", sub),
            lambda: os.rename(sub, f"{OURS}/roots"),
            lambda: os.unlink(to),
            lambda: os.rename(away, sub),
            lambda: os.rename(key, spare),
            lambda: os.rename(f"{OURS}/hard", key),
            lambda: os.rename(key, f"{OURS}/hard"),
            lambda: os.symlink(f"{V}/key", key),
            lambda: os.unlink(key),
            lambda: os.rename(spare, key),
        ):
            try:
                step()
            except OSError:
                pass


# All operations again and again, by a path and in a working directory.
def race(seconds):
    prepare()
    end = time.monotonic() + float(seconds)
    os.chdir(f"{MINE}/sub")
    print("ready", flush=True)
    sys.stdin.readline()
    while time.monotonic() < end:
        all_operations()
        all_operations(f"{MINE}/sub/")
        for again in (
            lambda: write(f"{OURS}/sub/key", os.O_WRONLY | os.O_CREAT, b"0" * 1000),
            lambda: write(f"{OURS}/sub/more", os.O_WRONLY | os.O_CREAT),
            lambda: os.mkdir(f"{OURS}/sub/inner"),
            bait,
        ):
            try:
                again()
            except OSError:
                pass
        try:
            os.chdir(f"{MINE}/sub")
        except OSError:
            pass


# Holds a lease on a file until it is asked to give it up, and `patience` seconds longer.
def lease(path, patience):
    asked = []
    signal.signal(signal.SIGIO, lambda _signal, _frame: asked.append(True))
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("ready", flush=True)
    while not asked:
        time.sleep(0.01)
    time.sleep(float(patience))
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


# Directories whose path is longer than any that a system call takes.
def deep(levels):
    os.umask(0)
    name = "d" * 250
    os.chdir(MINE)
    for _ in range(int(levels)):
        os.mkdir(name)
        os.chdir(name)
    write("file", os.O_WRONLY | os.O_CREAT)
    os.rename("file", "renamed")
    os.chmod("renamed", 0o600)
    os.truncate("renamed", 2)
    os.mkdir("inner")
    os.rename("inner", "moved")
    sync(".")
    tell("list", lambda: sorted(os.listdir(".")))
    tell("read", read, "renamed")
    write(".x.npy.Ab12", os.O_WRONLY | os.O_CREAT, read(f"{MINE}/chunk"))
    os.rename(".x.npy.Ab12", "x.npy")
    print("rows", len(read("data.npy")) - 128)
    os.unlink("renamed")
    os.rmdir("moved")
    tell("list", lambda: sorted(os.listdir(".")))


# Another's file, which the user may rename and not read, is to become rows.
def commit():
    tell("read", read, f"{MINE}/theirs")
    tell("commit", os.rename, f"{MINE}/theirs", f"{MINE}/c.npy")


# A file is open to the user when it is looked up, and not when it is opened.
def closed_meanwhile():
    path = f"{MINE}/theirs"
    os.stat(path)
    print("ready", flush=True)
    sys.stdin.readline()
    tell("read", read, path)
    tell("append", write, path, os.O_WRONLY | os.O_APPEND)
    tell("truncate", os.truncate, path, 0)
    tell("truncating open", write, path, os.O_WRONLY | os.O_TRUNC)


# As `closed_meanwhile`, for a directory.
def directory_closed_meanwhile():
    path = f"{MINE}/theirs"
    os.stat(path)
    print("ready", flush=True)
    sys.stdin.readline()
    tell("create", write, f"{path}/new", os.O_WRONLY | os.O_CREAT)
    tell("mkdir", os.mkdir, f"{path}/made")
    tell("list", os.listdir, path)
    tell("unlink", os.unlink, f"{path}/file")
    tell("rename", os.rename, f"{path}/file", f"{MINE}/file")


globals()[sys.argv[4]](*sys.argv[5:])
