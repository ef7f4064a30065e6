"""SPDL: a pipeline of threads over FFmpeg; one task decodes, crops and resizes a whole batch."""

import itertools

import common
import spdl.io
from spdl.pipeline import PipelineBuilder


def main():
    options = common.arguments()
    jpegs = common.Samples(options.shards).endless(0, 1)

    def source():
        while True:
            yield list(itertools.islice(jpegs, options.batch))

    def frames_of(jpeg):
        packets = spdl.io.demux_image(jpeg)
        left, top, width, height = common.draw_crop(options, packets.codec.width, packets.codec.height)
        crop = f"crop={width}:{height}:{left}:{top}:exact=1"
        scale = f"scale={options.size}:{options.size}:flags=bilinear"
        return spdl.io.decode_packets(packets, filter_desc=f"{crop},{scale},format=pix_fmts=rgb24")

    def batch_of(jpegs):
        return spdl.io.convert_frames([frames_of(jpeg) for jpeg in jpegs])

    builder = PipelineBuilder().add_source(source()).pipe(batch_of, concurrency=options.workers).add_sink(4)
    pipeline = builder.build(num_threads=options.workers, max_failures=0)
    with pipeline.auto_stop():
        batches = (spdl.io.to_numpy(buffer) for buffer in pipeline.get_iterator())
        common.measure(options, batches, ["spdl"])


main()
