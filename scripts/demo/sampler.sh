#!/bin/sh
# sampler.sh DATASET LEDGER CHUNKS: CPU time of this machine, from /proc/stat, with nothing but POSIX
# shell and awk. A row is (uptime in 1/100 s, 1, busy, idle), four little-endian 64-bit integers; awk
# spells their bytes in octal and printf writes them. The ledger gets the same rows as text.
set -eu
dataset=$1 ledger=$2 chunks=$3 rows=5

sample() {
    awk 'FNR == 1 && FILENAME == "/proc/uptime" { printf "%d 1", $1 * 100 }
         FNR == 1 && FILENAME == "/proc/stat" { printf " %d %d\n", $2 + $3 + $4, $5 }' \
        /proc/uptime /proc/stat
}

n=0
while [ "$n" -lt "$chunks" ]; do
    i=0 samples=
    while [ "$i" -lt "$rows" ]; do
        samples="$samples$(sample)
"
        i=$((i + 1))
    done
    bytes=$(printf '%s' "$samples" | awk -v rows="$rows" '
        BEGIN {
            text = "{\047descr\047: \047<i8\047, \047fortran_order\047: False, \047shape\047: (" rows ", 4), }"
            printf "\\223NUMPY\\001\\000\\166\\000%-117s\\n", text
        }
        {
            for (column = 1; column <= 4; column++) {
                value = $column
                for (byte = 0; byte < 8; byte++) { printf "\\%03o", value % 256; value = int(value / 256) }
            }
        }')
    # printf is part of the shell, which forgets what close says; cat does not.
    printf "$bytes" | cat >"$dataset/cpu-$n.npy"
    printf '%s' "$samples" >>"$ledger"
    n=$((n + 1))
    sleep 0.1
done
