"""Pillow-SIMD in processes: decode, then crop and resize in one call, bilinear with antialiasing."""

import io

import common
from PIL import Image


def main():
    options = common.arguments()

    def view_of(jpeg):
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        left, top, width, height = common.draw_crop(options, *image.size)
        box = (left, top, left + width, top + height)
        return image.resize((options.size, options.size), Image.Resampling.BILINEAR, box)

    common.measure(options, common.from_processes(options, view_of), ["Pillow-SIMD"])


main()
