#!/bin/sh
# A directory of chunks, by cp and rsync. A name is appended once: after any failure, run it again.
set -eu
cp chunks/first.npy "$1"
rsync -a chunks/ "$1"
cat "$1/.npyfs/chunks.csv"
