#!/usr/bin/env bash
# Measures the import of an ImageFolder tree beside webdataset's own writer, `tar` and `cp`, in turns.
#
# Usage: benches/import.sh TREE WORK [ROUNDS]      TREE is class/image; WORK is emptied before each measurement
#
# Needs a built saccade and python3 with the package webdataset. Prints samples/s, the medians of the rounds (3 unless
# given); files are in the page cache, and what is written is not waited for but by saccade, which brings it to the disk.
set -euo pipefail
tree=$1 work=$2 rounds=${3:-3}
saccade=${SACCADE:-$(dirname "${BASH_SOURCE[0]}")/../target/release/saccade}
export tree work
samples=$(find -L "$tree" -type f | wc -l)

by_saccade() { "$saccade" shards import "$tree" --out "$work/out" --name s >/dev/null 2>&1; }
by_tar() { mkdir "$work/out" && tar --sort=name --format=ustar -cf "$work/out/s.tar" -C "$tree" .; }
by_cp() { cp -rL "$tree" "$work/out"; }
by_webdataset() {
    mkdir "$work/out"
    python3 - <<'PYTHON'
import os
import webdataset as wds

tree, out = os.environ["tree"], os.environ["work"] + "/out"
classes = sorted(entry.name for entry in os.scandir(tree) if entry.is_dir())
with wds.ShardWriter(out + "/s-%06d.tar", maxsize=256e6, maxcount=1 << 60, verbose=0) as writer:
    for label, name in enumerate(classes):
        for file in sorted(os.listdir(f"{tree}/{name}")):
            with open(f"{tree}/{name}/{file}", "rb") as image:
                writer.write({"__key__": f"{name}/{file.rsplit('.', 1)[0]}", "jpg": image.read(), "cls": label})
PYTHON
}

find -L "$tree" -type f -exec cat {} + >/dev/null
for ((round = 0; round < rounds; round++)); do
    for what in saccade webdataset tar cp; do
        rm -rf "${work:?}/out" && mkdir -p "$work" && sync
        began=$(date +%s.%N)
        "by_$what"
        ended=$(date +%s.%N)
        awk -v what="$what" -v n="$samples" -v b="$began" -v e="$ended" 'BEGIN { printf "%s %.0f\n", what, n / (e - b) }'
    done
done | sort -k1,1 -k2,2n | awk '{ rates[$1] = rates[$1] " " $2 } END { for (what in rates) { n = split(rates[what], r, " ");
    printf "%-12s %7d samples/s (%d to %d)\n", what, r[int((n + 1) / 2)], r[1], r[n] } }'
