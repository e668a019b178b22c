#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, tests, nothing left mounted.
# Arguments go to `cargo test`: scripts/test.sh --test mount mounting
# With NPYFS_LONG=1 also the tests whose packages are large.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

# Tests keep their stores and mounts below this, so what is left there is ours.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/npyfs-test.XXXXXX")
chmod 755 "$scratch"
export NPYFS_SKIPS="$scratch/skips"
touch "$NPYFS_SKIPS"

mounts_left() {
    awk -v below="$scratch/" 'index($5, below) == 1 && / - fuse\.npyfs / { print $5 }' \
        /proc/self/mountinfo
}

processes_left() {
    local line
    for line in /proc/[0-9]*/cmdline; do
        if tr '\0' '\n' 2>/dev/null <"$line" | grep -qF "$scratch/"; then
            line=${line%/cmdline}
            echo "${line#/proc/}"
        fi
    done 2>/dev/null
}

clean_up() {
    local status=$? left
    trap - EXIT
    for left in $(mounts_left); do
        say "left mounted: $left"
        umount -l "$left" 2>/dev/null || fusermount3 -u -z "$left" || true
        status=1
    done
    for left in $(processes_left); do
        say "left running: process $left"
        kill -9 "$left" 2>/dev/null || true
        status=1
    done
    rm -rf --one-file-system "$scratch"
    if [ "$status" -eq 0 ]; then say "all is well"; else say "FAILED"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

setup_rust
setup_packages
setup_venv
setup_deny
setup_npm
setup_user

say "dependencies"
check_dependencies
say "cargo fmt"
cargo fmt --check
say "cargo clippy"
cargo clippy --locked --quiet --all-targets -- -D warnings
say "cargo test"
# The dev profile is optimised enough for the tests, and links in seconds; release takes minutes.
cargo test --locked --no-run --quiet
TMPDIR="$scratch" timeout --kill-after=10 1200 cargo test --locked "$@"

sort -u "$NPYFS_SKIPS"
say "$(sort -u "$NPYFS_SKIPS" | wc -l) tests skipped"
