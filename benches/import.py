#!/usr/bin/env python3
"""Measures the import of an ImageFolder tree beside webdataset's own writer, `tar`, and the bare disk.

Usage: benches/import.py SOURCE WORK [--rounds 5] [--seed 1] [--cold]

SOURCE is a tree, class/image, or shards with labels, which are unpacked into WORK/tree first (and found there by the
next call). Rounds are in random order; before each measurement what was written is removed and the disk caught up
with. All is in the page cache if that has room; with --cold, which root may say, nothing is, as of a tree that is larger
than memory. saccade brings to the disk what it writes, so webdataset and `tar` are measured with `sync` after them, too.
The bare disk is as many zeros, written past the cache in pieces of 4 MiB, and with --cold all files read by 16 beside.
Prints medians, ranges and, round by round, saccade's rate beside each; processor time and peak memory of the process
itself. SACCADE names the binary; webdataset is measured by the python that runs this, its start with it.
"""

import argparse
import importlib.util
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tarfile

from reshard import SACCADE, spread, timed

BY_WEBDATASET = """
import os, sys
import webdataset
tree, out = sys.argv[1:]
classes = sorted(entry.name for entry in os.scandir(tree) if entry.is_dir())
with webdataset.ShardWriter(out + "/s-%06d.tar", maxsize=256e6, maxcount=1 << 60, verbose=0) as writer:
    for label, name in enumerate(classes):
        for file in sorted(os.listdir(f"{tree}/{name}")):
            with open(f"{tree}/{name}/{file}", "rb") as image:
                writer.write({"__key__": f"{name}/{file.rsplit('.', 1)[0]}", "jpg": image.read(), "cls": label})
"""


def unpacked(shards, tree):
    """The JPEGs of shards that have a label, numbered, in a folder for each label."""
    part = tree.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    pictures = 0
    for path in shards:
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
        for name, image in members.items():
            label = members.get(name.removesuffix(".jpg") + ".cls")
            if name.endswith(".jpg") and label is not None:
                folder = part / f"{int(label):05d}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{pictures:08d}.jpg").write_bytes(image)
                pictures += 1
    if pictures == 0:
        sys.exit("import.py: the shards hold no JPEG with a label, KEY.jpg beside KEY.cls")
    part.rename(tree)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    for name, usual in {"rounds": 5, "seed": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    if options.cold and os.geteuid() != 0:
        sys.exit("import.py: --cold empties the page cache, which only root may")
    if not importlib.util.find_spec("webdataset"):
        sys.exit("import.py: python has no webdataset: pip install webdataset")
    tree, out = options.source[0], options.work / "out"
    if any(path.is_dir() for path in options.source) and len(options.source) > 1:
        sys.exit("import.py: name one tree, or shards alone")
    options.work.mkdir(parents=True, exist_ok=True)
    if not tree.is_dir():
        tree = options.work / "tree"
        if not tree.exists():
            unpacked(options.source, tree)
    folders = os.walk(tree, followlinks=True)
    pictures = [pathlib.Path(folder, name) for folder, _, names in folders for name in names]
    total = sum(path.stat().st_size for path in pictures)
    for path in [] if options.cold else pictures:
        path.read_bytes()
    print(f"{len(pictures)} pictures, {total / 1e9:.2f} GB{', not in memory' if options.cold else ''}", flush=True)

    # Two headers, a label, and half a block after the picture.
    blocks = round((total + len(pictures) * 1792) / (4 << 20))
    bare_disk = f"dd if=/dev/zero bs=4M oflag=direct conv=fsync of='{out}/x' count={blocks}"
    if options.cold:
        bare_disk = f"find -L '{tree}' -type f -print0 | xargs -0 -n 100 -P 16 cat > /dev/null & {bare_disk}; done=$?; wait; exit $done"
    plain = {
        "webdataset": [sys.executable, "-c", BY_WEBDATASET, tree, out],
        "tar": ["tar", "-h", "--sort=name", "--format=ustar", "-cf", out / "s.tar", "-C", tree, "."],
    }
    ways = {
        "saccade": [SACCADE, "shards", "import", tree, "--out", out / "x", "--name", "s"],
        **plain,
        **{f"{name} and sync": ["sh", "-c", '"$@" && sync', "sh", *command] for name, command in plain.items()},
        "the bare disk": ["sh", "-c", bare_disk],
    }
    found, draws = {name: [] for name in ways}, random.Random(options.seed)
    for _ in range(options.rounds):
        for name in draws.sample(list(ways), len(ways)):
            if options.cold:
                os.sync()
                pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
                subprocess.run([sys.executable, "-c", "import webdataset"], check=True)
            *figures, _ = timed(ways[name], out)
            found[name].append(figures)
    for name, rounds in found.items():
        seconds, processor, memory = zip(*rounds)
        beside = [theirs / ours[0] for theirs, ours in zip(seconds, found["saccade"])]
        rate = len(pictures) / statistics.median(seconds)
        print(f"{name}: {spread(seconds)} s, {rate:,.0f} samples/s, {spread(processor)} s of processor, "
              f"{max(memory):.0f} MiB; saccade has {spread(beside)} times its rate")
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
