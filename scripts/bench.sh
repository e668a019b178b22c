#!/usr/bin/env bash
# What npyfs costs, side by side with the alternatives on this machine, as a Markdown table.
# Warm page cache, alternating runs, medians of at least 5, ratios within one run.
#   scripts/bench.sh [NAME...]     only the measurements of these names (see bench.py --list)
# As root: native mappings need it. BENCH_DIR is where stores and files go (default: a directory
# under target/, so the filesystem of the checkout); BENCH_ROUNDS the runs of each (default 5).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

scratch=
clean_up() {
    local status=$? left
    trap - EXIT
    if [ -n "$scratch" ]; then
        for left in $(awk -v below="$scratch/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo); do
            umount -l "$left" 2>/dev/null || fusermount3 -u -z "$left" || true
        done
        rm -rf --one-file-system "$scratch"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

setup_rust
setup_packages
setup_venv
"$NPYFS_PYTHON" -c 'import h5py, npy_append_array, zarr' 2>/dev/null ||
    "$NPYFS_PYTHON" -m pip install --quiet h5py npy-append-array zarr
examples=/usr/share/doc/libfuse3-dev/examples
[ -e /usr/include/fuse3/fuse.h ] || install_packages libfuse3-dev pkg-config
have rsync || install_packages rsync

say "building"
cargo build --locked --release --quiet --bins --example empty
bin=target/bench
mkdir -p "$bin"
gcc -O2 -o "$bin/chunks" scripts/bench/chunks.c
source=$(find "$examples" -name 'passthrough_ll.c*' 2>/dev/null | head -n 1)
if [ -n "$source" ]; then
    case $source in
        *.gz) zcat "$source" ;;
        *) cat "$source" ;;
    esac >"$bin/passthrough_ll.c"
    helpers=$(dirname "$source")
    for header in passthrough_helpers.h; do
        [ -e "$helpers/$header" ] && cp "$helpers/$header" "$bin/"
    done
    # shellcheck disable=SC2046
    gcc -O2 -w -o "$bin/passthrough_ll" "$bin/passthrough_ll.c" $(pkg-config --cflags --libs fuse3) ||
        say "passthrough_ll could not be compiled; it is left out"
fi

mkdir -p "${BENCH_DIR:-target/bench}"
scratch=$(mktemp -d "${BENCH_DIR:-$PWD/target/bench}/run.XXXXXX")
"$NPYFS_PYTHON" scripts/bench/bench.py --bin "$bin" --npyfs target/release/npyfs \
    --empty target/release/examples/empty --scratch "$scratch" "$@"
