"""follow.py DATASET STOP: opens the array again and again, as it grows, until the file STOP is there.

Each open is a snapshot: it never has fewer rows than the one before, and those have not changed.
"""

import os
import sys
import time

import numpy as np

dataset, stop = sys.argv[1:]
opens, known, said, last = 0, np.empty((0, 4), "<i8"), 0.0, False
while not last:
    last = os.path.exists(stop)
    try:
        array = np.load(f"{dataset}/data.npy", mmap_mode="r")
    except FileNotFoundError:
        time.sleep(0.01)
        continue
    opens += 1
    if len(array) < len(known) or not np.array_equal(array[: len(known)], known):
        sys.exit(f"open {opens}: rows went away or changed: {len(known)}, then {len(array)}")
    known = np.array(array)
    if last or time.monotonic() - said > 1:
        said = time.monotonic()
        counts = ", ".join(f"{int((known[:, 1] == kind).sum())} {name}"
                           for kind, name in ((1, "shell"), (2, "numpy"), (3, "C")))
        print(f"reader   open {opens:5}: shape {array.shape}, rows by {counts}", flush=True)
    time.sleep(0.005)
