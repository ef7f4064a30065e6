"""Makes tests/data/images.parquet and unlabelled.parquet as Hugging Face's `datasets` would: image {bytes, path}, label, class
names; and the second as a test split, whose labels are all -1.

Usage: python3 make-parquet.py IMAGES OUT UNLABELLED      IMAGES is tests/data/reference/images; needs pyarrow
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

images, out, unlabelled = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
names = ["grey.jpg", "cmyk.jpg", "one_pixel.jpg", "text.jpg", "odd_17x9.jpg"]
labels = [2, 0, 1, 1, 2]
rows = [{"bytes": (images / name).read_bytes(), "path": name if name != "cmyk.jpg" else None} for name in names]
rows.append({"bytes": None, "path": "gone.jpg"})
labels.append(0)
features = {
    "image": {"_type": "Image"},
    "label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"},
}
schema = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
    metadata={"huggingface": json.dumps({"info": {"features": features}})},
)
table = pa.table({"image": rows, "label": labels}, schema=schema)
# Several row groups, and both ways in which such files are packed.
pq.write_table(table, out, row_group_size=2, compression={"image.bytes": "snappy", "image.path": "none", "label": "zstd"})

rows = [row for row in rows if row["path"] in ("grey.jpg", "odd_17x9.jpg")]
pq.write_table(pa.table({"image": rows, "label": [-1, -1]}, schema=schema), unlabelled)
