"""Reads shards by the packages webdataset, wids and DALI, and compares every sample; called by check-shards.

Usage: check-shards.py [--long-names] FOLDER INDEXES SAMPLES [SHARD...]

FOLDER holds sets, each with its NAME.json, INDEXES the index that DALI made of each of their shards. All must find so many
SAMPLES, and what tar finds in the SHARDs that the sets were made of, or in the sets themselves when none is given. With
--long-names wids is not asked: it knows no PAX records.
"""

import json
import sys
import tarfile
import types
from pathlib import Path
from typing import Generic

import webdataset
from nvidia.dali import fn, pipeline_def

# wids takes two base classes from PyTorch and asks it whether several processes read; that is not worth its 0.2 GB.
torch, distributed, utils, data = [types.ModuleType(name) for name in ("", "distributed", "utils", "data")]
torch.distributed, torch.utils, utils.data = distributed, utils, data
distributed.is_available = distributed.is_initialized = lambda: False
data.get_worker_info, data.Dataset, data.Sampler = lambda: None, Generic, object
sys.modules.update({"torch": torch, "torch.distributed": distributed, "torch.utils": utils, "torch.utils.data": data})

import wids  # noqa: E402 (after what it asks for)


def by_tar(shards):
    """Name and data of every member."""
    found = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            found.update((member.name, tar.extractfile(member).read()) for member in tar)
    return found


def by_webdataset(shards):
    found, samples = {}, 0
    for sample in webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False):
        samples += 1
        found.update((f"{sample['__key__']}.{name}", data) for name, data in sample.items() if name[0] != "_")
    return found, samples


def by_wids(index):
    dataset = wids.ShardListDataset(str(index), transformations=[], keep=True)
    found = {}
    for number in range(len(dataset)):
        sample = dataset[number]
        for name, data in sample.items():
            if name[0] == ".":
                found[sample["__key__"] + name] = data.read()
    return found, len(dataset)


def by_dali(shards, indexes):
    """Members by their samples' places: DALI gives no keys. They are the keys that tar gives, in their order."""
    names = [name for shard in shards for name in by_tar([shard])]
    keys = list(dict.fromkeys(name.split(".", 1)[0] for name in names))
    extensions = sorted({name.split(".", 1)[1] for name in names})

    @pipeline_def(batch_size=100, num_threads=1, device_id=None)
    def members():
        paths, index_paths = ([str(path) for path in paths] for paths in (shards, indexes))
        columns = fn.readers.webdataset(
            paths=paths, index_paths=index_paths, ext=extensions, missing_component_behavior="error", name="reader"
        )
        return tuple(columns)

    pipeline = members()
    pipeline.build()
    samples = pipeline.epoch_size("reader")
    found = {}
    # The last batch is filled up.
    for first in range(0, samples, 100):
        columns = pipeline.run()
        for place in range(min(100, samples - first)):
            for extension, column in zip(extensions, columns, strict=True):
                found[f"{keys[first + place]}.{extension}"] = column.at(place).tobytes()
    return found, samples


def check(what, found, expected):
    if found != expected:
        names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        sys.exit(f"check-shards: {what}: {len(names)} members differ, the first is {names[0]}")


def main(*words):
    has_long_names = words[0] == "--long-names"
    folder, indexes, wanted, *shards = words[has_long_names:]
    made = sorted(Path(folder).glob("*.tar"))
    expected = by_tar(shards or made)
    check("tarfile", by_tar(made), expected)
    found, samples = by_webdataset(made)
    check("webdataset", found, expected)
    found, indexed = {}, 0
    for index in sorted(Path(folder).glob("*.json")):
        if has_long_names:
            indexed += sum(shard["nsamples"] for shard in json.loads(index.read_text())["shardlist"])
            continue
        members, count = by_wids(index)
        found, indexed = found | members, indexed + count
    if not has_long_names:
        check("wids", found, expected)
    found, read = by_dali(made, [Path(indexes) / f"{shard.name}.idx" for shard in made])
    check("DALI", found, expected)
    if {indexed, read, samples} != {int(wanted)}:
        sys.exit(f"check-shards: the wids index counts {indexed} samples, DALI {read}, webdataset {samples}, and there should be {wanted}")
    readers = "tar, webdataset and DALI" if has_long_names else "tar, webdataset, wids and DALI"
    print(f"check-shards: {Path(folder).name}: {samples} samples in {len(made)} shards, the same by {readers}")


main(*sys.argv[1:])
