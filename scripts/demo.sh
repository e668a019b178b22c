#!/usr/bin/env bash
# Mounts a new store and has three programs in three languages sample this machine into one array,
# while a fourth reads it. Ends with exit code 0 only if the array holds exactly what was written.
#
# Needs no terminal, works as root and as an ordinary user (then with fusermount3), and leaves
# nothing behind. NPYFS=PATH uses that binary instead of building one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

work=
daemon=
children=()
line() { printf '%-8s %s\n' "$1" "$2"; }
fail() { line FAILED "$1"; exit 1; }
is_mounted() {
    awk -v at="$work/mnt" '$5 == at { found = 1 } END { exit !found }' /proc/self/mountinfo
}
# A zombie that nobody has waited for has ended.
is_alive() { grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status"; }

clean_up() {
    local status=$? child
    trap - EXIT
    trap '' INT TERM HUP
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    wait
    if [ -n "$work" ]; then
        if is_mounted; then
            "$NPYFS" umount "$work/mnt" 2>/dev/null ||
                umount -l "$work/mnt" 2>/dev/null || fusermount3 -u -z "$work/mnt" || true
        fi
        if [ -n "$daemon" ] && is_alive "$daemon"; then
            sleep 1
            kill -9 "$daemon" 2>/dev/null || true
        fi
        rm -rf --one-file-system "$work"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

setup_packages fusermount3 gcc python3
setup_venv
if [ -z "${NPYFS:-}" ]; then
    have cargo || fail "cargo is missing: install Rust (see rust-version in Cargo.toml)"
    say "cargo build --release"
    cargo build --release --locked --quiet
    NPYFS=${CARGO_TARGET_DIR:-target}/release/npyfs
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/npyfs-demo.XXXXXX")
work=$(cd "$work" && pwd -P)
mkdir "$work/store" "$work/mnt"
gcc -O1 -Wall -o "$work/sensor" scripts/demo/sensor.c

"$NPYFS" mount "$work/store" "$work/mnt" --log-file "$work/log"
daemon=$(cat "$work/mnt/.npyfs/daemon")
is_root && who=root || who="an ordinary user"
line mounted "$("$NPYFS" --version) as $who on Linux $(uname -r), at $work/mnt"

dataset=$work/mnt/machine
mkdir "$dataset"
"$NPYFS_PYTHON" scripts/demo/follow.py "$dataset" "$work/stop" &
reader=$!
children+=("$reader")
producers=()
start() { "$@" & producers+=($!); children+=($!); }
start sh scripts/demo/sampler.sh "$dataset" "$work/cpu.txt" 20
start "$NPYFS_PYTHON" scripts/demo/memory.py "$dataset" "$work/memory.txt" 30
start "$work/sensor" "$dataset" "$work/irq.txt" 50
line started "shell+awk: CPU time; numpy: memory; C: interrupts; all into one array"

for producer in "${producers[@]}"; do
    wait "$producer" || fail "a producer failed"
done

"$NPYFS_PYTHON" -c 'import sys, numpy; numpy.save(sys.argv[1], numpy.ones((9, 4), "<f4"))' \
    "$work/wrong.npy"
if said=$(cp "$work/wrong.npy" "$dataset/" 2>&1); then
    fail "a chunk of another dtype was taken"
fi
said=${said%%$'\n'*}
line refused "${said//"$work/"/}"
reason=$(tail -n 1 "$dataset/.npyfs/log")
case $reason in
*"wrong.npy refused"*) line reason "$reason" ;;
*) fail "the log does not say why: $reason" ;;
esac
[ ! -e "$dataset/wrong.npy" ] || fail "the refused chunk is still there"

touch "$work/stop"
wait "$reader" || fail "the reader saw rows change"
children=()

ledgers=("$work/cpu.txt" "$work/memory.txt" "$work/irq.txt")
shape=$("$NPYFS_PYTHON" scripts/demo/check.py "$dataset/data.npy" "${ledgers[@]}") || fail "$shape"
chunks=$(($(wc -l <"$dataset/.npyfs/chunks.csv") - 1))
[ "$chunks" -eq 100 ] || fail "$chunks chunks, 100 were written"
line array "$shape from $chunks chunks: every row is one that was written, in its producer's order"

"$NPYFS" umount "$work/mnt" || fail "not unmounted"
is_mounted && fail "the mount is still there"
is_alive "$daemon" && fail "the daemon still runs"
plain=$("$NPYFS_PYTHON" scripts/demo/check.py "$work/store/machine/data.npy" "${ledgers[@]}") ||
    fail "$plain"
line unmounted "and the store's own data.npy, read without npyfs, is the same: $plain"
