"""Compares an exported IJepaModel folder with the original, by the transformers package; called by check-interop.

Usage: check-interop.py ORIGINAL_FOLDER EXPORTED_FOLDER
"""

import sys

import torch
from safetensors.torch import load_file
from transformers import IJepaModel, logging

# What float32 allows between two orders of summation.
TOLERANCE = 1e-5


def opened(folder):
    """The model, refused unless every one of its tensors is in the folder and nothing else is."""
    model, loading = IJepaModel.from_pretrained(folder, output_loading_info=True)
    for kind, names in loading.items():
        if names:
            sys.exit(f"check-interop: {folder}: {kind}: {names}")
    return model.eval()


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)


def bits(tensor):
    return tensor.detach().contiguous().numpy().tobytes()


def compare(original, exported, what):
    if original.keys() != exported.keys():
        sys.exit(f"check-interop: {what}: names differ: {sorted(original.keys() ^ exported.keys())}")
    different = [name for name in original if not same(original[name], exported[name])]
    if different:
        sys.exit(f"check-interop: {what}: {len(different)} of {len(original)} tensors differ, the first is {different[0]}")


def main(original_folder, exported_folder):
    logging.disable_progress_bar()
    files = [load_file(f"{folder}/model.safetensors") for folder in (original_folder, exported_folder)]
    compare(*files, "model.safetensors")
    original, exported = opened(original_folder), opened(exported_folder)
    compare(original.state_dict(), exported.state_dict(), "state dict")

    reference = load_file(f"{original_folder}/io.safetensors")
    with torch.no_grad():
        output = exported(pixel_values=reference["pixel_values"]).last_hidden_state
    expected = reference["last_hidden_state"]
    if output.shape != expected.shape:
        sys.exit(f"check-interop: output is {list(output.shape)}, expected {list(expected.shape)}")
    difference = (output - expected).abs().max().item()
    # Written this way round, so that a difference that is not a number is refused too.
    if not difference <= TOLERANCE:
        sys.exit(f"check-interop: output differs by {difference:.1e}, more than {TOLERANCE:.0e}")
    print(f"check-interop: {len(files[0])} tensors equal bit for bit, output within {difference:.1e}")


main(*sys.argv[1:])
