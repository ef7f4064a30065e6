"""Fashion-MNIST's idx files -> six shards of grey JPEG images; called by scripts/make-sample-shards.

Usage: make-sample-shards.py DATA_FOLDER OUT_FOLDER
"""

import gzip
import io
import math
import os
import random
import sys
import tarfile
from pathlib import Path

from PIL import Image

SIDE = 28
CLASSES = 10

# A tar rounds every member up to 512 bytes, so the quality is the highest whose JPEG still fits into one block.
BLOCK = 512
QUALITIES = range(95, 39, -1)

# idx prefix, shards, samples per class and shard set; together just below 15,000,000 bytes.
SETS = {"train": ("train", 4, 600), "validation": ("t10k", 2, 120)}


def idx(path, header):
    with gzip.open(path) as file:
        return file.read()[header:]


def balanced(labels, per_class):
    """Numbers of the first samples of each class, in an order that mixes the classes."""
    chosen, counts = [], [0] * CLASSES
    for number, label in enumerate(labels):
        if counts[label] < per_class:
            counts[label] += 1
            chosen.append(number)
    random.Random(0).shuffle(chosen)
    return chosen


def encode(pixels):
    """The JPEG of the highest quality that fits into one block, and that quality."""
    image = Image.frombytes("L", (SIDE, SIDE), pixels)
    for quality in QUALITIES:
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=quality, optimize=True)
        if jpeg.tell() <= BLOCK:
            break
    return jpeg.getvalue(), quality


def psnr(pixels, jpeg):
    """Decibels against the original; infinite when nothing was lost."""
    decoded = Image.open(io.BytesIO(jpeg)).tobytes()
    squared = sum((a - b) ** 2 for a, b in zip(pixels, decoded)) / len(pixels)
    return 10 * math.log10(255**2 / squared) if squared else math.inf


def add(shard, name, data):
    # TarInfo's defaults carry neither time nor owner, so the bytes depend on the data alone.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))


def write_set(name, data, out):
    prefix, shards, per_class = SETS[name]
    images = idx(data / f"{prefix}-images-idx3-ubyte.gz", 16)
    labels = idx(data / f"{prefix}-labels-idx1-ubyte.gz", 8)
    chosen = balanced(labels, per_class)
    assert len(chosen) == CLASSES * per_class, "the data set is not complete"

    quality_of, psnr_of, oversize, total = [], [], 0, 0
    each = len(chosen) // shards
    for shard_number in range(shards):
        path = out / f"fashion-{name}-{shard_number:06}.tar"
        beside = path.with_suffix(".tar.tmp")
        with tarfile.open(beside, "w", format=tarfile.USTAR_FORMAT) as shard:
            for number in chosen[shard_number * each : (shard_number + 1) * each]:
                pixels = images[number * SIDE * SIDE : (number + 1) * SIDE * SIDE]
                jpeg, quality = encode(pixels)
                add(shard, f"{name}-{number:06}.jpg", jpeg)
                add(shard, f"{name}-{number:06}.cls", b"%d" % labels[number])
                quality_of.append(quality)
                psnr_of.append(psnr(pixels, jpeg))
                oversize += len(jpeg) > BLOCK
        os.replace(beside, path)
        total += path.stat().st_size

    quality_of.sort(), psnr_of.sort()
    share = lambda values, at: values[int(at * (len(values) - 1))]
    print(
        f"{name}: {len(chosen)} samples in {shards} shards, {total} bytes; {oversize} images above {BLOCK} bytes; "
        f"quality {quality_of[0]} to {quality_of[-1]}, median {share(quality_of, 0.5)}; "
        f"PSNR {psnr_of[0]:.1f} to {psnr_of[-1]:.1f} dB, median {share(psnr_of, 0.5):.1f}, "
        f"nine in ten above {share(psnr_of, 0.1):.1f}"
    )
    return total


def main():
    data, out = map(Path, sys.argv[1:])
    total = sum(write_set(name, data, out) for name in SETS)
    print(f"{total} bytes in {out}")


main()
