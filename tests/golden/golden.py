"""What the golden scripts share: random inputs, provenance, and a file writer with fixed bytes.

Values are computed in float64 from inputs that are exact in f32 and are stored as f32, so a golden
value is the true one rounded once. Random numbers come from NumPy's PCG64, whose stream does not
depend on the processor. safetensors' own writer puts metadata in random order, so the same format
is written here, sorted, and every file is read back with the library.
"""

import argparse
import json
import pathlib
import struct

import numpy as np
import safetensors
import torch

MAX_BYTES = 600_000  # these files are committed

torch.set_num_threads(1)


def output_folder(description):
    """The folder that the script writes to, from the command line; by default its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent, help="folder to write to")
    return parser.parse_args().out


def exact_f32(array):
    """NumPy array -> float64 tensor whose values are exact in f32"""
    return torch.from_numpy(np.asarray(array).astype(np.float32)).double()


def channels_first(x):
    """x [B, T, C] -> [1, C, 1, B*T], the sequences side by side: result[0, c, 0, b*T + t] = x[b, t, c]"""
    return x.flatten(0, 1).T[None, :, None, :]


def save(path, tensors, metadata, script, seed):
    """Write `tensors` (floats as f32) with `metadata` and provenance."""
    metadata = metadata | {
        "script": script,
        "seed": str(seed),
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "precision": "computed in float64, stored as float32",
    }
    kinds = {"<i8": "I64", "<f4": "F32", "|b1": "BOOL"}
    arrays = {}
    for name, value in tensors.items():
        value = value.detach()
        value = np.ascontiguousarray(value.float().numpy() if value.is_floating_point() else value.numpy())
        value = value.reshape(tensors[name].shape)  # ascontiguousarray makes a scalar rank 1
        if value.dtype.kind == "f":
            assert np.isfinite(value).all(), f"{path.name}: {name} is not finite"
        arrays[name] = value
    header, offset = {"__metadata__": dict(sorted(metadata.items()))}, 0
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # keeps every tensor aligned
    for name in order:
        end = offset + arrays[name].nbytes
        kind = kinds[arrays[name].dtype.str]
        header[name] = {"dtype": kind, "shape": list(arrays[name].shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + b"".join(arrays[name].tobytes() for name in order)
    assert len(data) < MAX_BYTES, f"{path.name} has {len(data)} bytes, allowed are {MAX_BYTES}"
    path.write_bytes(data)

    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == metadata
        assert set(file.keys()) == set(arrays)
        for name, value in arrays.items():
            again = file.get_tensor(name)
            assert again.shape == value.shape and again.tobytes() == value.tobytes(), name
    print(f"{path.name}: {len(arrays)} tensors, {len(data)} bytes")
