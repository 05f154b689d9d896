#!/usr/bin/env python3
"""Writes tests/data/format/quant_blocks.{gguf,safetensors}: what the published Python packages make
of seeded blocks, for the format tests to be held against.

The .gguf (written by the `gguf` package) holds one tensor a type, "stored.TYPE": random bytes whose
scales are finite; "quantized.TYPE": the same package's rounding of "input"; and a metadata entry of
every type. The .safetensors (written by `safetensors`) holds "expected.TYPE", the f32 values of
"stored.TYPE", "input", and "half" in all three dtypes.

Needs: pip install gguf safetensors torch
"""

import pathlib
import sys

import gguf
import numpy as np
import safetensors.torch
import torch

SEED = 20240917
ROWS, COLS = 2, 512
# type name: byte offsets of the f16 scales in a block
SCALES = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
}
PLAIN = ["F32", "F16", "BF16"]
WRITTEN = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16"]


def finite_half(rng, count):
    """Any finite f16: zeros, subnormals and negative ones too."""
    bits = rng.integers(0, 1 << 16, count, dtype=np.uint16)
    return np.where((bits >> 10) & 0x1F == 0x1F, bits & np.uint16(0xBFFF), bits).astype(np.uint16)


def random_blocks(rng, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * COLS // block, size), dtype=np.uint8)
    for offset in SCALES[kind.name]:
        half = finite_half(rng, len(blocks))
        half[0] = 0
        blocks[:, offset : offset + 2] = half.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def make_input(rng):
    values = rng.standard_normal((ROWS, COLS)).astype(np.float32)
    values[0, :32] = 0  # a block without a scale
    values[0, 32:64] = 2.5  # a block without a spread
    values[0, 64:96] = np.arange(32, dtype=np.float32) - 15.5  # halves, for the rounding
    values[1, :32] *= 1e-7  # a scale that f16 holds as a subnormal
    values[1, 32:64] = -np.abs(values[1, 32:64])
    return values


def add_metadata(writer):
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_uint64("test.u64", 2**64 - 1)
    writer.add_int64("test.i64", -(2**63))
    writer.add_float32("test.f32", 0.25)
    writer.add_float64("test.f64", 1e300)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "Größe, 大小")
    writer.add_array("test.strings", ["", "a", "naïve"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.5])
    writer.add_array("test.bools", [True, False, True])


def main():
    folder = pathlib.Path(__file__).resolve().parents[1] / "data" / "format"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(folder / "quant_blocks.gguf", "none")
    add_metadata(writer)
    expected = {}
    for name in SCALES:
        kind = gguf.GGMLQuantizationType[name]
        stored = random_blocks(rng, kind)
        writer.add_tensor(f"stored.{name.lower()}", stored, raw_dtype=kind)
        expected[f"expected.{name.lower()}"] = gguf.quants.dequantize(stored, kind)

    values = make_input(rng)
    expected["input"] = values
    for name in WRITTEN:
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(f"quantized.{name.lower()}", gguf.quants.quantize(values, kind), raw_dtype=kind)

    half = finite_half(rng, ROWS * COLS).view(np.float16).reshape(ROWS, COLS)
    writer.add_tensor("stored.f16", half)
    expected["expected.f16"] = half.astype(np.float32)
    writer.add_tensor("stored.f32", values)
    expected["expected.f32"] = values
    brain = torch.from_numpy(values).to(torch.bfloat16)
    writer.add_tensor(
        "stored.bf16",
        brain.view(torch.uint8).numpy().reshape(ROWS, -1),
        raw_dtype=gguf.GGMLQuantizationType.BF16,
    )
    expected["expected.bf16"] = brain.to(torch.float32).numpy()

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = {name: torch.from_numpy(array.copy()) for name, array in expected.items()}
    tensors["half.f16"] = torch.from_numpy(half.copy())
    tensors["half.bf16"] = brain
    safetensors.torch.save_file(tensors, folder / "quant_blocks.safetensors", {"seed": str(SEED)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
