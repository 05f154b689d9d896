#!/usr/bin/env python3
"""Writes F16 and Q8_0 files of a model whose weights are quantised, to compare speeds by type.

    bench/make_variants.py SmolLM2-135M-Instruct.Q4_1.gguf OUT_FOLDER

Every matrix is dequantised and stored in the new type; vectors (norms, biases) stay F32 and all
metadata stay as they are, but for the file's type and its quantisation version. The Q8_0 file
therefore holds the weights of the source to within half a step, the F16 file to within f16's
rounding. Needs the Python package gguf.
"""
import argparse
import pathlib
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Kind

# Written anew by GGUFWriter, or another in the new file.
OWN_KEYS = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture",
            "general.file_type", "general.quantization_version"}
FILE_TYPES = {Type.F16: gguf.LlamaFileType.MOSTLY_F16, Type.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0}


def copy_metadata(reader, writer):
    for key, field in reader.fields.items():
        if key in OWN_KEYS:
            continue
        kind = field.types[0]
        item_kind = field.types[-1] if kind == Kind.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=item_kind)


def stored_type(tensor, wanted):
    """Vectors, and rows that Q8_0's blocks of 32 cannot hold, keep more."""
    if len(tensor.shape) < 2:
        return Type.F32
    return Type.F16 if wanted == Type.Q8_0 and int(tensor.shape[0]) % 32 else wanted


def write_variant(reader, wanted, path):
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, architecture)
    copy_metadata(reader, writer)
    writer.add_file_type(FILE_TYPES[wanted])
    if wanted == Type.Q8_0:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        target = stored_type(tensor, wanted)
        if target == Type.F32:
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, target), raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(options.model)
    stem = options.model.stem.rsplit(".", 1)[0]
    for wanted in FILE_TYPES:
        path = options.folder / f"{stem}.{wanted.name}.gguf"
        write_variant(reader, wanted, path)
        print(path)


if __name__ == "__main__":
    sys.exit(main())
