"""Measures npyfs and prints Markdown tables.

Comparisons run in turn, A B A B ..., after one run of each that is not counted, and the ratio is
that of the medians.
"""

import os
import platform
import resource

import numpy as np

from harness import ARGS, BENCHES, ROUNDS

import compare
import growth

TABLES = {
    compare: "| | npyfs | other | against | ratio | goal |\n| --- | --- | --- | --- | --- | --- |",
    growth: "| how cost grows | | goal |\n| --- | --- | --- |",
}


def cpu():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def main():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if ARGS.list:
        print(*BENCHES, sep="\n")
        return
    unknown = set(ARGS.names) - set(BENCHES)
    if unknown:
        raise SystemExit(f"no measurement named {', '.join(sorted(unknown))}")
    kernel = platform.release().split("-")[0]
    print(f"{os.cpu_count()} cores of {cpu()}, Linux {kernel}, numpy {np.__version__}; medians of {ROUNDS}")
    for module, head in TABLES.items():
        chosen = [
            function
            for name, function in BENCHES.items()
            if function.__module__ == module.__name__ and (not ARGS.names or name in ARGS.names)
        ]
        if chosen:
            print(f"\n{head}", flush=True)
        for function in chosen:
            function()


main()
