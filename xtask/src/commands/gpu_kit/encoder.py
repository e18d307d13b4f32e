"""Weights of a checkpoint, read and written without PyTorch."""

import array
import json
import struct


def tensors(path):
    """Names, shapes and raw float32 values of a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + size + at for at in entry["data_offsets"])
            yield name, entry["shape"], array.array("f", data[start:end])


def largest_difference(one, other):
    """Between two files of the same tensors, as a share of each tensor's largest magnitude."""
    worst = 0.0
    for (_, _, a), (_, _, b) in zip(tensors(one), tensors(other)):
        largest = max(map(abs, a))
        if largest > 0:
            worst = max(worst, max(abs(x - y) for x, y in zip(a, b)) / largest)
    return worst


def encoder_in_float16(path):
    """The encoder of a network as a safetensors file in float16, under its names without `backbone.`."""
    header, values, at = {}, [], 0
    for name, shape, numbers in tensors(path):
        if name.startswith("backbone."):
            values.append(struct.pack(f"<{len(numbers)}e", *numbers))
            end = at + len(values[-1])
            header[name.removeprefix("backbone.")] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
            at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(values)
