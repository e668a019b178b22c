"""numpy_ways.py DATASET [late]: one array in many ways that duplicate, truncate, reopen and rewrite.

With "late" a chunk may come into the array after its last close."""

import mmap
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

dataset, late = sys.argv[1], len(sys.argv) > 2
a = np.arange(300.0).reshape(100, 3)
parts = np.split(a, [10, 60])


def header(rows=100):
    import io
    file = io.BytesIO()
    description = {"descr": "<f8", "fortran_order": False, "shape": (rows, 3)}
    np.lib.format.write_array_header_1_0(file, description)
    # A count of fewer digits is filled with blanks, so that it can be patched.
    assert len(file.getvalue()) == 128
    return file.getvalue()


whole = header() + a.tobytes()


def open_for_reading(path):
    end = time.monotonic() + (10 if late else 0)
    while True:
        try:
            return open(path, "rb")
        except OSError:  # It is still being written.
            if time.monotonic() >= end:
                raise
        time.sleep(0.01)


def tofile_in_pieces(file):
    file.write(header())
    for part in parts:
        part.tofile(file)


def with_the_length_set_first(file):
    file.write(header())
    file.truncate(len(whole))
    file.flush()
    for part in parts:
        part.tofile(file)


def preallocated(file):
    os.posix_fallocate(file.fileno(), 0, len(whole))
    file.write(header())
    for part in parts:
        part.tofile(file)


def blank_header_patched_at_the_end(file):
    file.write(b" " * 128)
    for part in parts:
        part.tofile(file)
    file.seek(0)
    file.write(header())


def zeros_for_a_header_patched_at_the_end(file):
    file.write(bytes(128))
    for part in parts:
        part.tofile(file)
    file.seek(0)
    file.write(header())


def no_rows_patched_at_the_end(file):
    file.write(header(0))
    for part in parts:
        part.tofile(file)
    file.seek(0)
    file.write(header())


def the_full_header_written_again_at_the_end(file):
    file.write(header())
    for part in parts:
        part.tofile(file)
    file.seek(0)
    file.write(header())


def the_count_raised_at_each_part(file):
    file.write(header(0))
    rows = 0
    for part in parts:
        file.seek(0, os.SEEK_END)
        part.tofile(file)
        rows += len(part)
        file.seek(0)
        file.write(header(rows))
        file.flush()
        os.close(os.dup(file.fileno()))


def blocks_out_of_order(file):
    file.write(header())
    for block in (3, 1, 0, 2):
        file.seek(128 + block * 600)
        a[block * 25:block * 25 + 25].tofile(file)


def read_back_half_way(file):
    file.write(header())
    file.truncate(len(whole))
    for part in parts:
        part.tofile(file)
        at = file.tell()
        file.seek(128)
        assert (np.fromfile(file, count=30) == a.flat[:30]).all()
        file.seek(at)


def mapped_half_way(file):
    file.write(header())
    file.write(a[:50].tobytes())
    file.flush()
    try:
        mmap.mmap(file.fileno(), 128)  # It closes its duplicate of the descriptor.
    except OSError:
        pass
    file.write(a[50:].tobytes())


def by_hand(file):
    fd = file.fileno()
    os.write(fd, header())
    os.ftruncate(fd, len(whole))
    os.close(os.dup(fd))
    os.pwrite(fd, a.tobytes(), 128)


def duplicates_of_a_header_of_no_rows(file):
    os.write(file.fileno(), header(0))
    os.close(os.dup(file.fileno()))
    with os.fdopen(os.dup(file.fileno()), "wb") as other:
        other.write(a.tobytes())
    os.pwrite(file.fileno(), header(), 0)


def fdopen_of_a_duplicate(file):
    with os.fdopen(os.dup(file.fileno()), "wb") as other:
        other.write(header())
    with os.fdopen(os.dup(file.fileno()), "wb") as other:
        other.write(a.tobytes())


def dup2_then_close(file):
    fd = os.open("/dev/null", os.O_WRONLY)
    os.write(file.fileno(), header())
    os.dup2(file.fileno(), fd)
    os.dup2(os.open("/dev/null", os.O_WRONLY), file.fileno())
    os.write(fd, a.tobytes())
    os.close(fd)


def header_by_the_parent_and_rows_by_a_program(file):
    file.write(header())
    file.flush()
    script = "import os, sys; os.write(1, bytes.fromhex(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, a.tobytes().hex()], stdout=file, check=True)


def programs_beside_a_header_that_is_kept_right(file):
    file.write(header(0))
    for n, row in enumerate(a):
        file.seek(0)
        file.write(header(n + 1))
        file.seek(0, os.SEEK_END)
        file.write(row.tobytes())
        if n % 25 == 0:
            file.flush()
            subprocess.run(["true"], check=True)


def reopened_by_proc(file):
    with open(f"/proc/self/fd/{file.fileno()}", "wb") as again:
        again.write(whole)


ways = [
    tofile_in_pieces,
    with_the_length_set_first,
    preallocated,
    blank_header_patched_at_the_end,
    zeros_for_a_header_patched_at_the_end,
    no_rows_patched_at_the_end,
    the_full_header_written_again_at_the_end,
    the_count_raised_at_each_part,
    blocks_out_of_order,
    read_back_half_way,
    mapped_half_way,
    by_hand,
    duplicates_of_a_header_of_no_rows,
    fdopen_of_a_duplicate,
    dup2_then_close,
    header_by_the_parent_and_rows_by_a_program,
    programs_beside_a_header_that_is_kept_right,
    reopened_by_proc,
]
paths = []
for way in ways:
    path = f"{dataset}/{way.__name__}.npy"
    with open(path, "w+b") as file:
        way(file)
    if late:
        open_for_reading(path).close()
    paths.append(path)

# Names that are made first and written through another descriptor.
with tempfile.NamedTemporaryFile(dir=dataset, suffix=".npy", delete=False) as file:
    np.save(file.name, a)
    paths.append(file.name)
fd, path = tempfile.mkstemp(dir=dataset, suffix=".npy")
np.save(path, a)
os.close(fd)
paths.append(path)
fd, path = tempfile.mkstemp(dir=dataset, suffix=".npy")
os.close(fd)
np.save(path, a)
paths.append(path)

for path in paths:
    with open_for_reading(path) as file:
        assert np.load(file).tobytes() == a.tobytes(), path
array = np.load(f"{dataset}/data.npy")
assert array.shape == (100 * len(paths), 3), array.shape
assert (array.reshape(-1, 100, 3) == a).all()
print(len(paths))
