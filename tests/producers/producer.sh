#!/bin/sh
# producer.sh direct|tools DIRECTORY PRODUCER CHUNKS: chunks of rows (producer, chunk, row, hash)
# with nothing but POSIX: awk spells the bytes in octal, printf writes them.
set -eu
how=$1 directory=$2 producer=$3 chunks=$4

spell() {
    awk -v p="$producer" -v c="$1" '
        function word(n,  i) {
            for (i = 0; i < 4; i++) { printf "\\%03o", n % 256; n = int(n / 256) }
        }
        BEGIN {
            rows = 1 + (c * 7919 + p * 104729) % 60
            text = "{\047descr\047: \047<u4\047, \047fortran_order\047: False, \047shape\047: (" rows ", 4), }"
            printf "\\223NUMPY\\001\\000\\166\\000%-117s\\n", text
            for (r = 0; r < rows; r++) {
                word(p); word(c); word(r)
                word((p * 1000003 + c * 10007 + r * 101 + 12345) % 4294967296)
            }
        }'
}

local=$(mktemp)
trap 'rm -f "$local"' EXIT
c=0
while [ "$c" -lt "$chunks" ]; do
    target=$directory/p$producer-c$c.npy
    bytes=$(spell "$c")
    if [ "$how" = direct ]; then
        printf "$bytes" >"$target"
    else
        printf "$bytes" >"$local"
        case $((c % 4)) in
        0) dd if="$local" of="$target" bs=100 status=none ;;
        1) cat "$local" >"$target" ;;
        2) (head -c 200 "$local"; tail -c +201 "$local") >"$target" ;;
        3) cp -p "$local" "$target" ;;
        esac
    fi
    c=$((c + 1))
done
