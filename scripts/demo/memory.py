"""memory.py DATASET LEDGER CHUNKS: memory of this machine, from /proc/meminfo, with np.save.

A row is (uptime in 1/100 s, 2, available, free) in kB. The ledger gets the same rows as text.
"""

import sys
import time

import numpy as np


def sample():
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    with open("/proc/meminfo") as file:
        kb = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return int(uptime * 100), 2, kb["MemAvailable"], kb["MemFree"]


dataset, ledger, chunks = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(ledger, "w") as ledger:
    for n in range(chunks):
        rows = np.array([sample() for _ in range(20)])
        np.save(f"{dataset}/memory-{n}.npy", rows)
        np.savetxt(ledger, rows, "%d")
        time.sleep(0.08)
