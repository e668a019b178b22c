"""Random arrays of every dtype that np.save writes without pickling, cut into chunks."""

import io

import numpy as np

INTS = ["i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", ">i2", ">u4", ">i8"]
FLOATS = ["<f2", "<f4", "<f8", "<f16", ">f4", ">f8", "<c8", "<c16", "<c32", ">c16"]
UNITS = ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "25us", "3D"]
TIMES = [f"<{kind}8[{unit}]" for kind in "Mm" for unit in UNITS] + ["<M8", "<m8", ">M8[s]"]
SCALARS = ["?", *INTS, *FLOATS, *TIMES, "S1", "S7", "S100", "<U1", "<U5", ">U3", "V1", "V13"]
NAMES = ["a", "b", "x y", "it's", "µ", "日本", 'say "hi"', "f0", "__", "\\n"]


def scalar(rng):
    # Kinds in equal shares, whatever the number of their spellings.
    groups = [["?"], INTS, FLOATS, TIMES, SCALARS[-7:]]
    return np.dtype(str(rng.choice(groups[rng.integers(len(groups))])))


def structured(rng, depth):
    names = [str(n) for n in rng.permutation(NAMES)[: rng.integers(1, 5)]]
    formats = []
    for _ in names:
        inner = dtype(rng, depth - 1)
        if rng.random() < 0.3:
            inner = np.dtype((inner, tuple(int(n) for n in rng.integers(1, 4, rng.integers(1, 3)))))
        formats.append(inner)
    kind = rng.integers(4)
    if kind == 0:
        return np.dtype(list(zip(names, formats)))
    if kind == 1:
        return np.dtype(list(zip(names, formats)), align=True)
    if kind == 2:
        titles = [(f"title of {name}", name) for name in names]
        return np.dtype(list(zip(titles, formats)))
    offsets, at = [], 0
    for inner in formats:
        at += int(rng.integers(0, 5))
        offsets.append(at)
        at += inner.itemsize
    itemsize = at + int(rng.integers(0, 9))
    fields = {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}
    return np.dtype(fields)


def dtype(rng, depth=2):
    return structured(rng, depth) if depth and rng.random() < 0.35 else scalar(rng)


def mend(array):
    """Makes values of random bytes: booleans of 0 and 1, characters that exist."""
    kind = array.dtype
    if kind.fields:
        for name in kind.names:
            mend(array[name])
    elif kind.kind == "b":
        array.view("u1")[...] &= 1
    elif kind.kind == "U":
        for at in range(0, kind.itemsize, 4):
            points = array.getfield(f"{kind.byteorder}u4", at)
            points[...] = points % 0xD7FF + 1


def chunk(rng, kind, shape):
    count = int(np.prod(shape))
    flat = np.frombuffer(rng.bytes(count * kind.itemsize), "u1").copy()
    array = np.ndarray(shape, kind, flat)
    if array.size:
        mend(array)
    return array


def case(seed):
    """The chunks of case `seed`, in C order and of one dtype."""
    rng = np.random.default_rng([7, seed])
    kind = dtype(rng)
    row = tuple(int(n) for n in rng.integers(0 if rng.random() < 0.05 else 1, 5, rng.integers(5)))
    counts = [int(n) for n in rng.choice([0, 1, 2, 3, 17, 200], rng.integers(1, 7))]
    if seed % 20 == 0:
        # More than fits in memory on its way, and more than one write.
        counts.append((3 << 20) // max(1, kind.itemsize * int(np.prod(row))) + 1)
    return [chunk(rng, kind, (n, *row)) for n in counts]


def as_file(array):
    """The bytes that np.save writes."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def other_order(rng, array):
    """The same values in another order of bytes, of elements, of both, or as they are."""
    swapped = array.dtype.newbyteorder("S")
    # numpy's newbyteorder spoils fields with titles.
    written = np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(swapped))
    if rng.random() < 0.6 and written.fields == swapped.fields:
        array = array.astype(swapped)
    if rng.random() < 0.6:
        array = np.asfortranarray(array)
    return array
