# A reader that follows the array as it grows.
import sys

import numpy as np

dataset = sys.argv[1]
seen = 0
for _ in range(3):  # in your program: for ever
    data = np.load(f"{dataset}/data.npy", mmap_mode="r")  # a snapshot, nothing is copied
    fresh = data[seen:]
    print(data.shape, "new rows:", len(fresh))
    seen = len(data)

last = np.load(f"{dataset}/data[-100:].npy")  # only the last 100 rows
print("their mean:", last.mean(axis=0))
