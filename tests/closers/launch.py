"""launch.py DATASET PROGRAM ROUNDS: starts PROGRAM again and again with a chunk as its output."""

import subprocess
import sys

dataset, program, rounds = sys.argv[1:]
for n in range(int(rounds)):
    with open(f"{dataset}/{n}.npy", "wb") as file:
        process = subprocess.Popen([program, str(n)], stdout=file)
    assert process.wait() == 0, n
