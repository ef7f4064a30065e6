"""Writes authors.pth.tar: a checkpoint with the layout that the I-JEPA authors' training saves, of a tiny model.

usage: python make-authors-checkpoint.py REFERENCE OUT      needs torch and safetensors; scripts/check-interop has both

The weights are those of REFERENCE/ijepa_training/init.safetensors, with the prefix that data-parallel wrapping adds; the
target encoder's differ from the encoder's by a known factor, so that a test can tell them apart.
"""
import sys
import torch
from safetensors.torch import load_file

reference, out = sys.argv[1:]
first = load_file(f"{reference}/ijepa_training/init.safetensors")
part = lambda name: {f"module.{key.removeprefix(name + '.')}": value for key, value in first.items() if key.startswith(name + ".")}
encoder = part("encoder")
torch.save(
    {
        "encoder": encoder,
        "predictor": part("predictor"),
        "target_encoder": {key: value * 0.5 for key, value in encoder.items()},
        "opt": {"state": {}, "param_groups": []},
        "scaler": None,
        "epoch": 1,
        "loss": 0.5,
        "batch_size": 4,
        "world_size": 1,
        "lr": 0.001,
    },
    out,
)
