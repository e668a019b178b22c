"""check.py DATA LEDGER...: whether the array holds exactly the rows that the ledgers say, in order."""

import sys

import numpy as np

array = np.load(sys.argv[1], mmap_mode="r")
total = 0
for kind, ledger in enumerate(sys.argv[2:], 1):
    written = np.loadtxt(ledger, dtype="<i8", ndmin=2)
    found = array[array[:, 1] == kind]
    if not np.array_equal(found, written):
        sys.exit(f"{sys.argv[1]}: {len(found)} rows of kind {kind}, {ledger} has {len(written)}")
    total += len(written)
if total != len(array) or array.dtype != "<i8":
    sys.exit(f"{sys.argv[1]}: {array.dtype}, {len(array)} rows, {total} were written")
print(f"{array.shape} {array.dtype}")
