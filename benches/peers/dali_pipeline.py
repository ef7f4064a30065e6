"""DALI on the CPU: its tar reader, its decoder of random crops, a bilinear resize with or without antialiasing."""

import common
import numpy as np
from nvidia.dali import fn, pipeline_def


def pipeline(options, antialias):
    @pipeline_def(batch_size=options.batch, num_threads=options.workers, device_id=None)
    def views():
        jpegs = fn.readers.webdataset(paths=options.shards, ext=["jpg;jpeg"], missing_component_behavior="error")
        images = fn.decoders.image_random_crop(
            jpegs, device="cpu", random_area=options.crop_scale, random_aspect_ratio=options.crop_ratio
        )
        return fn.resize(images, size=(options.size, options.size), antialias=antialias)

    return views()


def endless(pipeline):
    while True:
        yield pipeline.run()[0].as_tensor()


def main():
    options = common.arguments(variants=["antialias", "fastest"])
    built = pipeline(options, options.variant == "antialias")
    built.build()
    batches = (np.asarray(batch) for batch in endless(built))
    common.measure(options, batches, ["nvidia-dali-cuda120"])


main()
