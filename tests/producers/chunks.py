# Chunks of 100 rows [n, n + 0.5, n + 0.25] with np.save.
import os
import sys

import numpy as np

dataset = sys.argv[1]
rows = np.arange(100)[:, None] + [0.0, 0.5, 0.25]
np.save(f"{dataset}/python-0.npy", rows)  # it closes the file: the rows are in data.npy

with open(f"{dataset}/python-1.npy", "wb") as file:
    np.save(file, rows + 100)
    file.flush()
    os.fsync(file.fileno())  # and now they survive a power cut
