"""What the rivals share: arguments, the samples of tar shards, crops, a loader of two processes, and the clock.

Every rival is called as `RIVAL.py --shards TAR... --seconds S --workers N --batch N --size N` and prints one JSON line:
name, images, seconds, cpu_seconds, version.
"""

import argparse
import json
import math
import mmap
import multiprocessing
import random
import resource
import sys
import tarfile
import time
from importlib.metadata import version

import numpy as np

# Compilers, prefetch queues and fresh memory settle in this time, as they would in the first minute of a run.
WARM_UP_SECONDS = 1.0
WARM_UP_BATCHES = 4
# Images that a package may refuse, such as the rare CMYK ones; more than these mean that it does not work.
MOST_REFUSED = 1000


def arguments(variants=()):
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--shards", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--crop-scale", type=float, nargs=2, default=(0.3, 1.0))
    parser.add_argument("--crop-ratio", type=float, nargs=2, default=(3 / 4, 4 / 3))
    parser.add_argument("--scratch", help="a folder for what is written from the shards once")
    if variants:
        parser.add_argument("--variant", choices=variants, required=True)
    return parser.parse_args()


def versions(*packages):
    return ", ".join(f"{package} {version(package)}" for package in packages)


# --- the clock ---


def measure(options, batches, packages):
    """Draws from the endless `batches` and prints the figures of the stretch after the warm-up."""
    drawn, start = 0, time.perf_counter()
    while drawn < WARM_UP_BATCHES or time.perf_counter() - start < WARM_UP_SECONDS:
        check(options, next(batches))
        drawn += 1
    images, cpu, start = 0, cpu_seconds(), time.perf_counter()
    while time.perf_counter() - start < options.seconds:
        images += check(options, next(batches))
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    figures = {"name": options.name, "images": images, "seconds": seconds, "cpu_seconds": cpu}
    print(json.dumps({**figures, "version": versions(*packages)}), flush=True)


def check(options, batch):
    """The number of images, refused unless they are u8 and lie in one contiguous array."""
    channels_last, channels_first = (options.size, options.size, 3), (3, options.size, options.size)
    if batch.dtype != np.uint8 or batch.shape[1:] not in (channels_last, channels_first) or len(batch) != options.batch:
        sys.exit(f"{options.name}: batch is {batch.dtype} {batch.shape}")
    if not batch.flags.c_contiguous:
        sys.exit(f"{options.name}: batch is not contiguous")
    return len(batch)


def cpu_seconds():
    """User and system time of this process, of its children that ended and of those that still run."""
    # Asked for first: it collects the children that ended, which getrusage counts only then.
    running = multiprocessing.active_children()
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ended = sum(usage.ru_utime + usage.ru_stime for usage in own)
    return ended + sum(clock_of(child.pid) for child in running)


def clock_of(pid):
    # getrusage counts a child only after its end. This is what clock_getcpuclockid(3) returns for a process.
    return time.clock_gettime((~pid << 3) | 2)


# --- samples and crops, for rivals that bring none of their own ---


class Samples:
    """The JPEG members of tar shards, mapped into memory."""

    def __init__(self, shards):
        self.places = []
        self.maps = []
        for number, shard in enumerate(shards):
            with open(shard, "rb") as file:
                self.maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            with tarfile.open(shard) as tar:
                images = (member for member in tar if member.name.lower().endswith((".jpg", ".jpeg")))
                self.places += [(number, member.offset_data, member.size) for member in images]
        if not self.places:
            sys.exit(f"{shards[0]}: no .jpg members")

    def __len__(self):
        return len(self.places)

    def __getitem__(self, place):
        number, offset, size = self.places[place]
        return self.maps[number][offset : offset + size]

    def endless(self, worker, workers):
        """One worker's part, in a new order each time, without end."""
        places = list(range(worker, len(self), workers))
        while True:
            random.shuffle(places)
            yield from (self[place] for place in places)


def draw_crop(options, width, height):
    """Left, top, width and height of a random resized crop, drawn as torchvision draws it."""
    for _ in range(10):
        area = width * height * random.uniform(*options.crop_scale)
        ratio = math.exp(random.uniform(*map(math.log, options.crop_ratio)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return random.randint(0, width - wide), random.randint(0, height - high), wide, high
    wide = min(width, round(height * options.crop_ratio[1]))
    high = min(height, round(width / options.crop_ratio[0]))
    return (width - wide) // 2, (height - high) // 2, wide, high


# --- a loader of processes, for packages that only decode and resize ---


def from_processes(options, view_of):
    """Batches that processes assemble in shared memory; `view_of(jpeg)` gives one image as an array.

    A batch is valid until the next one is drawn.
    """
    samples, context = Samples(options.shards), multiprocessing.get_context("fork")
    shape = (2 * options.workers, options.batch, options.size, options.size, 3)
    # Anonymous and shared, so that it needs no name and goes with the last process.
    slots = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
    free, full = context.SimpleQueue(), context.SimpleQueue()
    for slot in range(len(slots)):
        free.put(slot)
    for worker in range(options.workers):
        jpegs = samples.endless(worker, options.workers)
        context.Process(target=fill, args=(slots, free, full, jpegs, view_of, worker), daemon=True).start()
    while True:
        slot = full.get()
        if isinstance(slot, str):
            sys.exit(slot)
        yield slots[slot]
        free.put(slot)


def fill(slots, free, full, jpegs, view_of, worker):
    random.seed(worker)
    views = decoded(jpegs, view_of)
    try:
        while True:
            slot = free.get()
            for place in slots[slot]:
                place[:] = next(views)
            full.put(slot)
    except Exception as error:
        full.put(f"{type(error).__name__}: {error}")


def decoded(jpegs, view_of):
    """The views of the JPEGs that the package decodes; those that it refuses are left out, as a run would."""
    refused = Refused()
    for jpeg in jpegs:
        try:
            view = view_of(jpeg)
        except Exception as error:
            refused(error)
        else:
            yield view


class Refused:
    """Bears refused images until they are too many; webdataset asks it whether to go on."""

    def __init__(self):
        self.count = 0

    def __call__(self, error):
        self.count += 1
        if self.count > MOST_REFUSED:
            raise error
        return True
