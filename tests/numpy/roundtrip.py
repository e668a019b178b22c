"""roundtrip.py write|check|store DIRECTORY CASES [converted]

write: each case's chunks go into a dataset of DIRECTORY by np.save, and data.npy is looked at after
each. check: what a mount shows of them. store: what the store holds.
"""

import os
import sys
import warnings

import numpy as np

import arrays

# Version 3.0, for names that are not latin-1, is meant.
warnings.filterwarnings("ignore", "Stored array in format")
command, directory, cases = sys.argv[1], sys.argv[2], int(sys.argv[3])
converted = "converted" in sys.argv[4:]


def chunks_of(seed):
    """What is written, and what is to be read."""
    plain = arrays.case(seed)
    if not converted:
        return plain, plain
    rng = np.random.default_rng([8, seed])
    written = [arrays.other_order(rng, array) for array in plain]
    kind = written[0].dtype
    return written, [np.ascontiguousarray(array.astype(kind)) for array in written]


def same(what, found, chunks):
    kind = chunks[0].dtype
    expected = b"".join(array.tobytes() for array in chunks)
    rows = sum(len(array) for array in chunks)
    assert found.dtype == kind, f"{what}: dtype {found.dtype}, not {kind}"
    assert found.dtype.fields == kind.fields, f"{what}: fields {found.dtype.fields}"
    assert found.shape == (rows, *chunks[0].shape[1:]), f"{what}: shape {found.shape}"
    assert found.flags.c_contiguous, f"{what}: not in C order"
    if found.tobytes() != expected and not (converted and kind.fields):
        raise AssertionError(f"{what}: other bytes, dtype {kind}, shape {found.shape}")
    if kind.names is None:
        # Told the dtype: of big-endian arrays it makes little-endian ones otherwise.
        joined = np.concatenate(chunks, dtype=kind)
        assert joined.dtype == kind and joined.tobytes() == expected, what
    elif converted:
        # Padding has no values: np.astype may have made up other bytes there.
        joined = np.concatenate([array.ravel() for array in chunks], dtype=kind)
        same_fields(what, found, joined)


def same_fields(what, found, expected):
    if found.dtype.fields:
        for name in found.dtype.names:
            same_fields(f"{what}.{name}", found[name], expected[name])
    else:
        assert found.tobytes() == expected.tobytes(), f"{what}: other values"


def look(path, chunks):
    same(f"{path} mapped", np.load(path, mmap_mode="r"), chunks)
    same(f"{path} read", np.load(path), chunks)


for seed in range(cases):
    dataset = os.path.join(directory, f"case{seed}")
    data = os.path.join(dataset, "data.npy")
    written, expected = chunks_of(seed)
    if command == "write":
        os.mkdir(dataset)
        for n, array in enumerate(written):
            np.save(os.path.join(dataset, f"c{n}.npy"), array, allow_pickle=False)
            same(data, np.load(data, mmap_mode="r"), expected[: n + 1])
        continue
    look(data, expected)
    if command == "store":
        continue
    size = sum(array.nbytes for array in expected)
    assert os.stat(data).st_size - size in range(128, 1 << 16, 64), data
    for n, array in enumerate(expected):
        path = os.path.join(dataset, f"c{n}.npy")
        if converted and array.size:
            same(path, np.load(path), [array])
        elif converted:
            # Without a byte to convert, it is as it was written.
            assert np.load(path).shape == array.shape, path
        else:
            with open(path, "rb") as file:
                found = file.read()
                assert found == arrays.as_file(array), f"{path}: other bytes, {len(found)} {found!r} {arrays.as_file(array)!r}"
    names = sorted(os.listdir(dataset))
    assert names == sorted(["data.npy", *(f"c{n}.npy" for n in range(len(written)))]), names
print("ok")
