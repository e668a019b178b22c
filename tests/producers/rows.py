"""rows.py save|replace DIRECTORY PRODUCER CHUNKS   writes chunks of rows (producer, chunk, row, hash)
rows.py read DATA STOP                           opens the array in a loop until STOP is there
rows.py check DATASET PRODUCERS CHUNKS           judges the result
"""

import csv
import os
import sys

import numpy as np

SHELL = (4, 5)


# The same in producer.c; the shell writes no large ones.
def rows_of(p, c):
    if p not in SHELL:
        if c == 100:
            return (3 << 20) // 16
        if c % 53 == 17:
            return 1 + (c * 7919 + p * 104729) * 31 % 196608
    return 1 + (c * 7919 + p * 104729) % 60


def hashes(rows):
    p, c, r = (rows[:, i].astype("u8") for i in range(3))
    return (p * 1000003 + c * 10007 + r * 101 + 12345).astype("u4")


def chunk(p, c):
    rows = np.empty((rows_of(p, c), 4), "<u4")
    rows[:, 0], rows[:, 1], rows[:, 2] = p, c, np.arange(len(rows))
    rows[:, 3] = hashes(rows)
    return rows


def produce(how, directory, p, chunks):
    for c in range(chunks):
        path = os.path.join(directory, f"p{p}-c{c}.npy")
        if how == "save":
            np.save(path, chunk(p, c))
        else:
            hidden = os.path.join(directory, f".p{p}-c{c}.tmp")
            with open(hidden, "wb") as file:
                np.save(file, chunk(p, c))
            os.rename(hidden, path)


def read(data, stop):
    opens = before = 0
    last = False
    while not last:
        last = os.path.exists(stop)
        try:
            array = np.load(data, mmap_mode="r")
        except FileNotFoundError:
            assert not before, "the array went away"
            continue
        assert array.dtype == "<u4" and array.shape[1:] == (4,), array.shape
        assert len(array) >= before, f"{len(array)} rows after {before}"
        fresh = array[before:]
        assert (fresh[:, 3] == hashes(fresh)).all(), "a row that nobody wrote"
        before = len(array)
        opens += 1
    print(opens, before)


def check(dataset, producers, chunks):
    array = np.load(os.path.join(dataset, "data.npy"), mmap_mode="r")
    with open(os.path.join(dataset, ".npyfs/chunks.csv"), newline="") as file:
        receipts = list(csv.DictReader(file))
    names = {f"p{p}-c{c}.npy" for p in range(producers) for c in range(chunks)}
    assert len(receipts) == len(names) and {it["name"] for it in receipts} == names
    assert set(os.listdir(dataset)) == names | {"data.npy"}
    at = 0
    for receipt in receipts:
        p, c = (int(part[1:]) for part in receipt["name"][:-4].split("-"))
        first, rows = int(receipt["first_row"]), int(receipt["rows"])
        assert first == at, f"{receipt} does not follow row {at}"
        at += rows
        assert np.array_equal(array[first:at], chunk(p, c)), f"{receipt}: other rows"
    assert at == len(array), f"{at} rows in chunks, {len(array)} in the array"
    print(at)


command, *rest = sys.argv[1:]
if command == "read":
    read(*rest)
elif command == "check":
    check(rest[0], int(rest[1]), int(rest[2]))
else:
    produce(command, rest[0], int(rest[1]), int(rest[2]))
