"""kornia-rs in processes: the quickest of its three JPEG decoders, libjpeg-turbo, and its bilinear resize, which has no
antialiasing."""

import common
import numpy as np
from kornia_rs import imgproc
from kornia_rs import io as kornia_io


def main():
    options = common.arguments()

    def view_of(jpeg):
        image = kornia_io.decode_image_jpegturbo(jpeg, "rgb")
        left, top, width, height = common.draw_crop(options, image.shape[1], image.shape[0])
        # The resize refuses a view into a larger image.
        crop = np.ascontiguousarray(image[top : top + height, left : left + width])
        return imgproc.resize(crop, (options.size, options.size), "bilinear")

    common.measure(options, common.from_processes(options, view_of), ["kornia-rs"])


main()
