"""PyTorch's DataLoader over webdataset: the worker processes decode, crop, resize and collate."""

import io

import common
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

# Beside torch, torchvision and webdataset.
PACKAGES = {"simplejpeg": ["simplejpeg"], "torchvision": [], "pil": ["pillow"]}


class Decode:
    """JPEG bytes to what the transform takes."""

    def __init__(self, variant):
        self.variant = variant

    def __call__(self, jpeg):
        if self.variant == "pil":
            return Image.open(io.BytesIO(jpeg)).convert("RGB")
        if self.variant == "torchvision":
            return decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), ImageReadMode.RGB)
        # Imported here, so that a broken simplejpeg spoils only its own row.
        from simplejpeg import decode_jpeg as simple

        return torch.from_numpy(simple(jpeg, colorspace="RGB")).permute(2, 0, 1)


def contiguous(views):
    # The resize keeps the memory order of its input; a batch is one array of planes.
    return torch.stack([view.contiguous() for (view,) in views])


def main():
    options = common.arguments(variants=list(PACKAGES))
    crop = v2.RandomResizedCrop(
        options.size, scale=tuple(options.crop_scale), ratio=tuple(options.crop_ratio), antialias=True
    )
    transform = v2.Compose([Decode(options.variant), crop, v2.PILToTensor()])
    # Each worker draws shards without end; an epoch's end would drain the queues.
    samples = webdataset.WebDataset(options.shards, resampled=True, shardshuffle=False)
    # simplejpeg refuses CMYK; such a sample is left out, as a run would.
    views = samples.to_tuple("jpg;jpeg").map_tuple(transform, handler=common.Refused())
    loader = DataLoader(views, batch_size=options.batch, num_workers=options.workers, collate_fn=contiguous)
    batches = (batch.numpy() for batch in loader)
    common.measure(options, batches, ["torch", "torchvision", "webdataset", *PACKAGES[options.variant]])


main()
