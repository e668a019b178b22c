"""format.py DATASET ROWS STORE: reads a dataset by what src/dataset/FORMAT.md says, and no more.

DATASET is a copy of STORE.
"""

import os
import re
import struct
import sys

dataset, rows, store = sys.argv[1], int(sys.argv[2]), sys.argv[3]

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


with open(f"{dataset}/data.npy", "rb") as file:
    data = file.read()
length = 10 + struct.unpack_from("<H", data, 8)[0]
assert data[:8] == b"\x93NUMPY\x01\x00" and length % 64 == 0 and data[length - 1] == ord("\n")
field = re.search(rb"'shape': \(( *\d+),", data[:length])
assert field.end(1) % 8 == 0 and 20 <= len(field[1]) <= 27 and int(field[1]) == rows
row_bytes = (len(data) - length) // rows

with open(f"{dataset}/.npyfs/chunks.log", "rb") as file:
    journal = file.read()
assert journal[:16] == b"npyfs journal 2\n"
at, headers, chunks, kinds, total, attributes = 16, [], {}, [], 0, {}
while at < len(journal):
    size, crc = struct.unpack_from("<II", journal, at)
    payload = journal[at + 8 : at + 8 + size]
    assert 1 <= size == len(payload) and crc == crc32c(journal[at : at + 4] + payload), at
    at += 8 + size
    kind, payload = payload[0], payload[1:]
    kinds.append(kind)
    if kind == 1:
        assert payload == data[: field.start(1)] + b"0".rjust(len(field[1])) + data[field.end(1) : length]
    elif kind == 2:
        headers.append(payload)
    elif kind == 3:
        first, count, header, crc, converted = struct.unpack_from("<QQIIB", payload)
        attributes = struct.unpack_from("<IIIq", payload, 25)
        name = payload[25 + 20 + 8 :]
        assert first == total and header < len(headers) and converted == 0
        total += count
        stored = data[length + first * row_bytes : length + total * row_bytes]
        assert crc32c(stored) == crc, name
        chunks[name] = attributes
    elif kind == 12:
        time, n = struct.unpack_from("<qH", payload)
        assert time > 10**18
        chunks[payload[10 + n :]] = chunks.pop(payload[10 : 10 + n])
    elif kind == 13:
        time, *set_to = struct.unpack_from("<qIIIq", payload)
        assert time > 10**18 and payload[28:] in chunks
        chunks[payload[28:]] = tuple(set_to)
    elif kind == 15:
        time, *of_array = struct.unpack("<qIIIq", payload)
        assert time > 10**18
    elif kind in (7, 9):
        assert struct.unpack("<Q", payload)[0] <= rows
    elif kind == 11:
        _, time, host, mount, _, *places = struct.unpack("<16sq16sBQQqQq", payload)
        assert time > 10**18 and host == bytes(16) and mount in (1, 2)
        inode = os.stat(f"{store}/.npyfs/chunks.log").st_ino
        assert places[2] == inode and places[0] in (0, os.stat(f"{store}/data.npy").st_ino)
    else:
        raise AssertionError(f"kind {kind}")
assert total == rows and kinds[-1] == 9 and {1, 2, 3, 7, 11, 12, 13, 15} <= set(kinds), kinds
assert (of_array[0], of_array[3]) == (0o640, 10**9)
assert len(data) == length + rows * row_bytes
assert chunks[b"first.npy"][0] == 0o640 and chunks[b"first.npy"][3] == 10**9
print(len(chunks))
