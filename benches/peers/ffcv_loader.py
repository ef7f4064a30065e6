"""FFCV from a file of its own, written once from the shards: JPEG of quality 90 and at most 512 a side, or raw pixels
of at most 256 a side. Its random crop resizes by area."""

import io
import os

import common
import numpy as np
from ffcv.fields import RGBImageField
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.writer import DatasetWriter
from PIL import Image

FIELDS = {
    "jpeg": {"write_mode": "jpg", "max_resolution": 512, "jpeg_quality": 90},
    "raw": {"write_mode": "raw", "max_resolution": 256},
}
# An epoch's end drains the queues, so one epoch passes over the images many times.
PASSES = 200


class Images(common.Samples):
    def __getitem__(self, place):
        return (np.array(Image.open(io.BytesIO(super().__getitem__(place))).convert("RGB")),)


def written(options):
    path = os.path.join(options.scratch, f"ffcv-{options.variant}.beton")
    if not os.path.exists(path):
        part = f"{path}.part"
        field = RGBImageField(**FIELDS[options.variant])
        DatasetWriter(part, {"image": field}, num_workers=options.workers).from_indexed_dataset(Images(options.shards))
        os.rename(part, path)
    return path


def main():
    options = common.arguments(variants=list(FIELDS))
    path = written(options)
    size = (options.size, options.size)
    decoder = RandomResizedCropRGBImageDecoder(size, tuple(options.crop_scale), tuple(options.crop_ratio))
    images = np.tile(np.arange(len(common.Samples(options.shards)), dtype=np.uint64), PASSES)
    loader = Loader(
        path,
        batch_size=options.batch,
        num_workers=options.workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=images,
        pipelines={"image": [decoder]},
    )
    common.measure(options, (batch for (batch,) in loader), ["ffcv", "numba"])


main()
