"""semantics.py MOUNT: what src/fs/SEMANTICS.md says of names and operations, statement by statement."""

import errno
import io
import json
import mmap
import os
import subprocess
import sys

import numpy as np

root = sys.argv[1]
ds = os.path.join(root, "ds")


def at(name):
    return os.path.join(ds, name)


def fails(code, operation, *arguments, **named):
    try:
        operation(*arguments, **named)
    except OSError as error:
        got = errno.errorcode[error.errno]
        assert got == code, f"{operation.__name__}{arguments}: {got}, not {code}"
    else:
        raise AssertionError(f"{operation.__name__}{arguments} did not fail with {code}")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def put(path, data, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
    """Errors of write and of close count alike."""
    fd = os.open(path, flags)
    try:
        while data:
            data = data[os.write(fd, data):]
    except OSError:
        try:
            os.close(fd)
        except OSError:
            pass
        raise
    os.close(fd)


def rows():
    return len(np.load(at("data.npy"), mmap_mode="r"))


one = npy(np.arange(12.0).reshape(4, 3))
two = npy(np.arange(12.0, 24.0).reshape(4, 3))

# Names
fails("EPERM", put, os.path.join(root, "x.npy"), one)
fails("ENOENT", os.stat, os.path.join(root, "data.npy"))
put(os.path.join(root, "notes.txt"), b"ordinary")
os.mkdir(ds)
fails("ENOENT", os.stat, at("data.npy"))
put(at("one.npy"), one)
assert sorted(os.listdir(ds)) == ["data.npy", "one.npy"]
for name in (".h.npy", "x.tmp.npy", "x.part.npy"):
    put(at(name), b"anything")
    os.remove(at(name))
put(at("data[1].npy"), two)
put(at("data[::2].npy"), one)
assert rows() == 12
assert np.load(at("data[-2:].npy")).shape == (2, 3)
assert np.load(at("data[5:99].npy")).shape == (7, 3)
os.chmod(at("data.npy"), 0o640)
os.utime(at("data.npy"), (1, 1))
stat = os.stat(at("data.npy"))
assert (stat.st_mode & 0o7777, stat.st_mtime) == (0o640, 1) and stat.st_ctime > 1
fails("EPERM", os.chmod, at("data[0:2].npy"), 0o600)
for name in ("data.npy", "data[0:2].npy"):
    fails("EPERM", os.open, at(name), os.O_WRONLY)
    fails("EPERM", os.truncate, at(name), 0)
    fails("EPERM", os.remove, at(name))
    fails("EPERM", os.rename, at(name), at("other.npy"))

# Writing
fd = os.open(at("w.npy"), os.O_RDWR | os.O_CREAT)
os.write(fd, one[:200])
assert os.pread(fd, 200, 0) == one[:200] and os.stat(at("w.npy")).st_size == 200
fails("EBUSY", os.open, at("w.npy"), os.O_RDONLY)
fails("EBUSY", os.open, at("w.npy"), os.O_WRONLY)
os.fsync(fd)
assert rows() == 12
os.write(fd, one[200:])
fails("ENODEV", mmap.mmap, fd, 128)  # and closes its duplicate of the descriptor
os.fsync(fd)
assert rows() == 16
second = os.dup(fd)
fails("EEXIST", os.pwrite, fd, b"other", 130)
fails("EEXIST", os.close, second)
fails("EEXIST", os.close, fd)
fails("EINVAL", put, at("f.npy"), npy(np.zeros((1, 3), "f4")))
fails("EINVAL", put, at("f.npy"), npy(np.zeros((1, 4))))
fails("EINVAL", put, at("f.npy"), one + b"x")
fails("EINVAL", put, at("f.npy"), one[:-1])
fails("ENOENT", os.stat, at("f.npy"))
fd = os.open(at("late.npy"), os.O_WRONLY | os.O_CREAT)
os.write(fd, bytes(128) + one[128:])
os.pwrite(fd, one[:128], 0)
os.close(fd)
assert rows() == 20
with open(at("empty.npy"), "w"):
    pass
assert os.stat(at("empty.npy")).st_size == 0
os.rename(at("empty.npy"), at("empty2.npy"))
put(at("empty2.npy"), one)
fd = os.open(at("gone.npy"), os.O_WRONLY | os.O_CREAT)
os.write(fd, one)
os.remove(at("gone.npy"))
fails("ECANCELED", os.write, fd, b"x")
fails("ECANCELED", os.close, fd)
subprocess.run(["sh", "-c", '(head -c 200 "$0"; tail -c +201 "$0") > "$1"',
                at("one.npy"), at("halves.npy")], check=True)
assert rows() == 28

# A second handle, truncation and closing; those that are refused leave no rows.
WRITE = os.O_WRONLY | os.O_CREAT


def closes(fd):
    """Closes a duplicate, which is not the last descriptor."""
    os.close(os.dup(fd))


first, second = os.open(at("f.npy"), WRITE), os.open(at("f.npy"), WRITE)
os.write(second, one[:150])
fails("EBUSY", os.write, first, one)
fails("EBUSY", os.close, first)
fails("EBUSY", os.open, at("f.npy"), WRITE | os.O_TRUNC)
closes(second)  # Incomplete, and another descriptor can write it: 0, and the name can be had.
third = os.open(at("f.npy"), os.O_WRONLY | os.O_APPEND)
fails("ECANCELED", os.write, second, one[150:])
fails("ECANCELED", os.close, second)
closes(third)  # Nothing was written through it.
os.write(third, one[150:180])
fails("EINVAL", os.close, third)
fails("ENOENT", os.stat, at("f.npy"))
fd = os.open(at("f.npy"), os.O_RDWR | os.O_CREAT)
os.write(fd, npy(np.zeros((9, 3)))[:300])
os.ftruncate(fd, 0)
os.pwrite(fd, one[:150], 0)
os.ftruncate(fd, len(one))
closes(fd)  # Complete by its length, and another descriptor can write it.
assert rows() == 28 and os.fstat(fd).st_size == len(one)
os.pwrite(fd, b"other", 0)
closes(fd)
fails("EINVAL", os.close, fd)
fd = os.open(at("f.npy"), WRITE)
fails("EINVAL", os.write, fd, npy(np.zeros((1, 3), "f4")))
os.fstat(fd), os.lseek(fd, 0, os.SEEK_END)
fails("EINVAL", closes, fd)
fails("EINVAL", os.close, fd)
assert rows() == 28

# Committed chunks
stat = os.stat(at("one.npy"))
assert stat.st_blocks == -(-len(one) // 512) and stat.st_ino >> 61 == 1
assert {entry.name: entry.inode() for entry in os.scandir(ds)}["one.npy"] == stat.st_ino
put(at("one.npy"), one)
put(at("one.npy"), b"")
fails("EEXIST", put, at("one.npy"), two)
fails("EINVAL", put, at("one.npy"), one[:-8])
fails("EPERM", os.truncate, at("one.npy"), 5)
os.truncate(at("one.npy"), 0)
fd = os.open(at("one.npy"), os.O_WRONLY)
os.ftruncate(fd, 0)
os.close(fd)
assert os.stat(at("one.npy")).st_size == len(one)
fd = os.open(at("one.npy"), os.O_WRONLY)
os.ftruncate(fd, 0)
os.write(fd, one)
os.close(fd)
fails("EPERM", os.remove, at("one.npy"))
os.chmod(at("one.npy"), 0o640)
os.utime(at("one.npy"), (1, 1))
stat = os.stat(at("one.npy"))
assert (stat.st_mode & 0o7777, stat.st_mtime, stat.st_atime) == (0o640, 1, 1)
number = stat.st_ino
os.rename(at("one.npy"), at("first.npy"))
fails("EEXIST", os.rename, at("first.npy"), at("w.npy"))
fails("EPERM", os.rename, at("first.npy"), at("first.txt"))
os.mkdir(os.path.join(root, "other"))
fails("EPERM", os.rename, at("first.npy"), os.path.join(root, "other/first.npy"))
with open(at("first.npy"), "rb") as file:
    assert mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[:] == one
assert os.stat(at("first.npy")).st_ino == number
assert rows() == 28

# Snapshots
fd = os.open(at("data.npy"), os.O_RDONLY)
before, size = os.fstat(fd), os.lseek(fd, 0, os.SEEK_END)
put(at("later.npy"), two)
assert os.fstat(fd) == before and size == before.st_size == len(os.pread(fd, 1 << 20, 0))
assert os.stat(at("data.npy")).st_ino == before.st_ino
os.fsync(fd)
os.close(fd)

# Ordinary files
for name, data, code in (("bad", b"bad", "EBADMSG"), ("dtype", npy(np.zeros(3)), "EBADMSG")):
    put(at(name), data)
    fails(code, os.rename, at(name), at("renamed.npy"))
    os.remove(at(name))
put(at("good.part"), two)
os.rename(at("good.part"), at("renamed.npy"))
put(at("good.part"), two)
os.rename(at("good.part"), at("renamed.npy"))
fails("ENOENT", os.stat, at("good.part"))
put(at("good.part"), one)
fails("EEXIST", os.rename, at("good.part"), at("renamed.npy"))
os.remove(at("good.part"))
mapped = np.lib.format.open_memmap(at("m.part"), "w+", "<f8", (2, 3))
mapped[:] = 7
os.rename(at("m.part"), at("m.npy"))
del mapped
assert (np.load(at("data[-2:].npy")) == 7).all()

# Directories
fails("EPERM", os.mkdir, at("d.npy"))
fails("ENOTEMPTY", os.rmdir, ds)
os.mkdir(at("inner"))
put(at("inner/x.npy"), npy(np.zeros(3, "u1")))
os.rename(at("inner"), at("moved"))
assert np.load(at("moved/data.npy")).shape == (3,)
fails("EPERM", os.rename, at("moved"), at("moved.npy"))
os.rmdir(os.path.join(root, "other"))
fd = os.open(ds, os.O_RDONLY)
os.fsync(fd)
os.close(fd)

# .npyfs
assert sorted(os.listdir(at(".npyfs"))) == ["chunks.csv", "log", "rejected", "rescued", "status.json"]
with open(at(".npyfs/status.json")) as file:
    assert json.load(file)["rows"] == rows()
with open(at(".npyfs/log")) as file:
    assert "f.npy refused: dtype '<f4', this dataset holds '<f8'" in file.read()
fails("EPERM", os.remove, at(".npyfs/log"))
for name in os.listdir(at(".npyfs/rejected")):
    os.remove(at(f".npyfs/rejected/{name}"))

# Not supported
fails("EPERM", os.symlink, "x", at("l"))
fails("EPERM", os.link, at("first.npy"), at("l"))
fails("EPERM", os.mkfifo, at("l"))
fails("ENOTSUP", os.setxattr, at("first.npy"), "user.x", b"1")
print("ok")
