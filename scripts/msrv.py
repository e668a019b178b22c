"""Fails where a dependency needs a newer Rust than the package says that it needs.

Reads the output of cargo metadata. What the code itself uses of std is checked by clippy
(incompatible_msrv).
"""

import json
import sys


def number(version):
    parts = [int(part) for part in version.split(".")]
    return parts + [0] * (3 - len(parts))


packages = json.load(sys.stdin)["packages"]
ours = next(p for p in packages if p["name"] == "npyfs")["rust_version"]
newer = [
    f"{p['name']} {p['version']} needs Rust {p['rust_version']}"
    for p in packages
    if p["rust_version"] and number(p["rust_version"]) > number(ours)
]
if newer:
    sys.exit(f"npyfs says that it needs Rust {ours}: " + "; ".join(newer))
