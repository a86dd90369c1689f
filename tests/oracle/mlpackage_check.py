"""Core ML packages of our programs against coremltools: Apple's reader, Apple's type inference.

    cargo run -p anneal-model --example package_dump -- DIR
    python tests/oracle/mlpackage_check.py DIR

Each program lies in DIR twice, as a package and as text. The package is opened as coremltools opens any model,
and its program is built anew, op by op, by coremltools' builder, which knows the ops of Apple's op sets, their
arguments, and the shape and type of every result. What it finds is compared with what our text says, which is
read here by a reader of its own: ports, ops and their order, arguments, the type of every value, and the value of
every constant, bit for bit, in the package's blob file as in the text's. So what holds for the package holds for
the text that the engine's compilers get.

Nothing is executed. Planted faults, in copies of real packages, have to be seen; the exit status is 1 when one is
not, or when a program differs.
"""

import argparse
import logging
import re
import struct
import sys
import warnings
from collections import Counter
from pathlib import Path

warnings.filterwarnings("ignore")
# It says at length that there is no Core ML here to run models with.
logging.getLogger("coremltools").setLevel(logging.CRITICAL)

import coremltools as ct  # noqa: E402
import numpy as np  # noqa: E402
from coremltools.converters.mil.frontend.milproto.load import load as build_anew  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.proto import FeatureTypes_pb2  # noqa: E402

NUMPY = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4"), "int32": np.dtype("<i4"), "int8": np.dtype("i1"), "bool": np.dtype("?")}


class Difference(Exception):
    """Something in a package is not what the text says."""


def same(what, found, expected):
    if found != expected:
        raise Difference(f"{what}: coremltools has {found}, the text {expected}")


# The text.

TYPE = r"(?:tensor<\w+, \[[\d, ]*\]>|\w+)"
STATEMENT = re.compile(rf"^({TYPE} \w+(?:, {TYPE} \w+)*) = (\w+)\((.*)\)\[name = [^(]*\(\"(\w+)\"\)(?:, val = (.*))?\];$")
# A constant that is kept as int8: all that it is made of stands in the brackets.
AFFINE = re.compile(rf"^({TYPE} \w+) = constexpr_affine_dequantize\(\)\[(.*)\];$")
ATTRIBUTE = re.compile(rf"(axis|quantized_data|scale|zero_point) = ({TYPE})(\((?:BLOBFILE\([^)]*\([^)]*\)[^)]*\([^)]*\)\)|[^()]*)\))")
DECLARED = re.compile(rf"({TYPE}) (\w+)")
BLOB = re.compile(r"BLOBFILE\(path = [^(]*\(\"@model_path/([^\"]*)\"\), offset = [^(]*\((\d+)\)\)")


def parse_type(text):
    """('fp16', (1, 64)) of `tensor<fp16, [1, 64]>`, ('fp16', ()) of `fp16` and of `tensor<fp16, []>`."""
    match = re.fullmatch(r"tensor<(\w+), \[([\d, ]*)\]>", text)
    if not match:
        return text, ()
    return match[1], tuple(int(n) for n in match[2].split(",") if n.strip())


def declarations(text):
    return [(name, parse_type(ty)) for ty, name in DECLARED.findall(text)]


def read_blob(path, offset, dtype):
    """The payload of the blob whose descriptor stands at `offset`, by the table in the module `mil::blob`."""
    content = path.read_bytes()
    magic, _, size, payload = struct.unpack_from("<IIQQ", content, offset)
    if magic != 0xDEADBEEF:
        raise Difference(f"{path.name}: no descriptor at {offset}")
    return np.frombuffer(content, dtype, size // dtype.itemsize, payload)


def parse_value(text, ty, folder):
    """The value that a constant of type `ty` has, as a NumPy array or a string."""
    name, shape = ty
    blob = BLOB.search(text)
    if blob:
        return read_blob(folder / blob[1], int(blob[2]), NUMPY[name]).reshape(shape)
    inner = text[text.index("(") + 1 : text.rindex(")")]
    if name == "string":
        return inner.strip('"')
    words = re.findall(r"[^\[\], ]+", inner)
    read = {"bool": lambda w: w == "true", "int32": int, "int8": int}.get(name, lambda w: float.fromhex(w))
    return np.array([read(w) for w in words]).astype(NUMPY[name]).reshape(shape)


def parse_arguments(text):
    """{'x': ['a'], 'values': ['a', 'b']} of `x = a, values = (a, b)`."""
    found = re.findall(r"(\w+) = (\([^)]*\)|\w+)", text)
    return {name: [v.strip() for v in value.strip("()").split(",")] for name, value in found}


def parse_text(path):
    """Inputs, statements and outputs of the program in the file `path`."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    signature = next(line for line in lines if line.startswith("func "))
    inputs = declarations(signature[signature.index("(") + 1 : signature.rindex(")")])
    outputs = re.fullmatch(r"\} -> \((.*)\);", next(line for line in lines if line.startswith("} ->")))[1].split(", ")
    statements = []
    for line in lines:
        affine = AFFINE.match(line)
        if affine:
            attributes = {
                name: parse_value(value, parse_type(ty), path.parent) for name, ty, value in ATTRIBUTE.findall(affine[2])
            }
            statements.append(("constexpr_affine_dequantize", declarations(affine[1]), {}, attributes))
            continue
        match = STATEMENT.match(line)
        if match is None:
            continue
        results, op, arguments, _, value = match.groups()
        results = declarations(results)
        if op == "const":
            value = parse_value(value, results[0][1], path.parent)
        statements.append((op, results, parse_arguments(arguments), value))
    written = sum(line.endswith(";") and " = " in line for line in lines)
    same(f"{path}: statements that this script can read", len(statements), written)
    return inputs, statements, outputs


# What coremltools makes of a package.


def type_of(var):
    """The type that coremltools inferred, as `parse_type` gives it."""
    ty = var.sym_type
    name = {"str": "string"}.get(types.builtin_to_string(var.dtype), types.builtin_to_string(var.dtype))
    return name, tuple(ty.get_shape()) if types.is_tensor(ty) else ()


ARRAY_TYPES = FeatureTypes_pb2.ArrayFeatureType
PORT_TYPES = {ARRAY_TYPES.FLOAT16: "fp16", ARRAY_TYPES.FLOAT32: "fp32", ARRAY_TYPES.INT32: "int32"}


def ports(features):
    arrays = [(f.name, f.type.multiArrayType) for f in features]
    return [(name, (PORT_TYPES.get(array.dataType), tuple(array.shape))) for name, array in arrays]


def compare(spec, weights, program):
    """Builds the program of `spec` anew and compares it with `program`, the parsed text. Returns counts."""
    inputs, statements, outputs = program
    built = build_anew(spec, spec.specificationVersion, str(weights)).functions["main"]
    same("inputs", [(name, type_of(var)) for name, var in built.inputs.items()], inputs)
    same("input ports", ports(spec.description.input), inputs)
    same("outputs", [var.name for var in built.outputs], outputs)
    same("output ports", ports(spec.description.output), [(v.name, type_of(v)) for v in built.outputs])
    # Attributes of a dequantized constant become constants of their own when it is built.
    inside = {id(v) for op in built.operations if op.op_type.startswith("constexpr_") for v in op.inputs.values()}
    built_operations = [op for op in built.operations if not (op.op_type == "const" and id(op.outputs[0]) in inside)]
    same("ops", [op.op_type for op in built_operations], [op for op, *_ in statements])
    # What the messages declare, which an engine may believe without inferring it.
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    counts = Counter()
    for op, message, (kind, results, arguments, value) in zip(built_operations, block.operations, statements):
        where = f"{kind} {results[0][0]}"
        same(where, [(var.name, type_of(var)) for var in op.outputs], results)
        tensors = [(o.name, o.type.tensorType) for o in message.outputs]
        declared = [(name, tuple(d.constant.size for d in t.dimensions), t.rank) for name, t in tensors]
        same(f"{where}: declared", declared, [(name, shape, len(shape)) for name, (_, shape) in results])
        counts["values"] += len(results)
        if kind == "constexpr_affine_dequantize":
            counts["constants"] += 1
            same(f"{where}: attributes", sorted(value), ["axis", "quantized_data", "scale", "zero_point"])
            for name, expected in value.items():
                found = np.asarray(getattr(op, name).val)
                same(f"{where}: {name}", (found.dtype, found.tobytes()), (expected.dtype, expected.tobytes()))
            # What coremltools says that it stands for.
            data = value["quantized_data"].astype(np.float32)
            rows = [-1 if axis == int(value["axis"]) else 1 for axis in range(data.ndim)]
            scale, zero = (value[k].astype(np.float32).reshape(rows) for k in ("scale", "zero_point"))
            half = ((data - zero) * scale).astype(np.float16)
            found = np.asarray(op.materialized_val_inference())
            same(f"{where}: values", found.tobytes(), half.tobytes())
            continue
        if kind == "const":
            counts["constants"] += 1
            found = op.outputs[0].val
            if isinstance(value, str):
                same(where, found, value)
                continue
            found = np.asarray(found)
            same(f"{where}: element type", found.dtype, value.dtype)
            if found.tobytes() != value.tobytes():
                at = int(np.flatnonzero(found.ravel() != value.ravel())[0])
                raise Difference(f"{where}[{at}]: {found.ravel()[at]} in the package, {value.ravel()[at]} in the text")
            stored = message.attributes["val"].WhichOneof("value") == "blobFileValue"
            counts["elements in blobs"] += value.size if stored else 0
            continue
        counts["ops"] += 1
        passed = {}
        for name in arguments:
            given = op.inputs[name]
            passed[name] = [v.name for v in given] if isinstance(given, (list, tuple)) else [given.name]
        same(f"{where}: arguments", passed, arguments)
        same(f"{where}: arguments of the message", sorted(message.inputs), sorted(arguments))
    return counts


def open_package(path):
    """The specification and the folder of blobs, by the reader that every user of coremltools has."""
    model = ct.models.MLModel(str(path), skip_model_load=True)
    return model.get_spec(), Path(model.weights_dir or path)


# Planted faults: each changes a specification in one place and says where, or finds nothing to change.


def operations(spec):
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return block.operations


def first(spec, wanted):
    return next((op for op in operations(spec) if wanted(op)), None)


def is_blob(op):
    return op.type == "const" and op.attributes["val"].WhichOneof("value") == "blobFileValue"


def is_immediate(op, field):
    return op.type == "const" and not is_blob(op) and op.attributes["val"].immediateValue.tensor.HasField(field)


def plant_shape(spec, weights):
    op = first(spec, lambda op: op.type not in ("const", "reshape"))
    op.outputs[0].type.tensorType.dimensions[-1].constant.size += 1
    return op


def plant_element_type(spec, weights):
    op = first(spec, lambda op: op.type != "const")
    op.outputs[0].type.tensorType.dataType = 23
    return op


def plant_argument(spec, weights):
    op = first(spec, lambda op: "x" in op.inputs)
    op.inputs["input"].CopyFrom(op.inputs["x"])
    del op.inputs["x"]
    return op


def plant_operands(spec, weights):
    op = first(spec, lambda op: op.type == "matmul" and op.inputs["x"] != op.inputs["y"])
    if op:
        x, y = (type(op.inputs["x"]).FromString(op.inputs[k].SerializeToString()) for k in "xy")
        op.inputs["x"].CopyFrom(y)
        op.inputs["y"].CopyFrom(x)
    return op


def plant_op(spec, weights):
    op = first(spec, lambda op: op.type == "mul")
    if op:
        op.type = "add"
    return op


def plant_flag(spec, weights):
    op = first(spec, lambda op: is_immediate(op, "bools"))
    if op:
        values = op.attributes["val"].immediateValue.tensor.bools.values
        values[0] = not values[0]
    return op


def plant_scalar(spec, weights):
    op = first(spec, lambda op: is_immediate(op, "bytes"))
    if op:
        stored = op.attributes["val"].immediateValue.tensor.bytes
        stored.values = bytes([stored.values[0] ^ 1]) + stored.values[1:]
    return op


def plant_offset(spec, weights):
    def content(value):
        file, offset = value.blobFileValue.fileName.split("/")[-1], value.blobFileValue.offset
        return read_blob(weights / file, offset, np.dtype("u1")).tobytes()

    # Another blob's descriptor: what the reader finds there is whole, and wrong.
    blobs = [op.attributes["val"] for op in operations(spec) if is_blob(op)]
    other = next((value for value in blobs if content(value) != content(blobs[0])), None)
    if other is None:
        return None
    blobs[0].blobFileValue.offset = other.blobFileValue.offset
    return blobs[0]


def plant_payload_offset(spec, weights):
    op = first(spec, is_blob)
    if op:
        op.attributes["val"].blobFileValue.offset += 64
    return op


def plant_port(spec, weights):
    spec.description.input[0].type.multiArrayType.shape[0] += 1
    return spec.description.input[0]


def plant_port_type(spec, weights):
    spec.description.output[0].type.multiArrayType.dataType = ARRAY_TYPES.INT32
    return spec.description.output[0]


def plant_output(spec, weights):
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    if len(block.outputs) < 2:
        return None
    block.outputs[0], block.outputs[1] = block.outputs[1], block.outputs[0]
    return block


FAULTS = {
    "a wrong shape of a result": plant_shape,
    "a wrong element type of a result": plant_element_type,
    "a misnamed argument": plant_argument,
    "swapped operands": plant_operands,
    "another op": plant_op,
    "a flag turned over": plant_flag,
    "the last bit of a scalar": plant_scalar,
    "the offset of another blob": plant_offset,
    "an offset past the descriptor": plant_payload_offset,
    "a wrong shape of a port": plant_port,
    "a wrong element type of a port": plant_port_type,
    "swapped outputs": plant_output,
}


def planted(packages):
    """Plants every fault in every package of the group that has room for it. Returns how many were missed."""
    missed = 0
    for name, plant in FAULTS.items():
        tried, seen, example = 0, 0, ""
        for path, program in packages:
            spec, weights = open_package(path)
            if plant(spec, weights) is None:
                continue
            tried += 1
            try:
                compare(spec, weights, program)
                print(f"  MISSED {name} in {path}")
            except Exception as error:  # noqa: BLE001: whatever coremltools raises
                seen += 1
                example = example or " ".join(f"{type(error).__name__}: {error}".split())[:110]
        missed += tried - seen + (tried == 0)
        print(f"  {name}: seen in {seen} of {tried} programs ({example})")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path, help="what the example package_dump wrote")
    args = parser.parse_args()
    differ, total = 0, Counter()
    for group in sorted(path for path in args.dir.iterdir() if path.is_dir()):
        counts = Counter()
        for path in sorted(group.glob("*.mlpackage")):
            counts["programs"] += 1
            try:
                counts += compare(*open_package(path), parse_text(path.with_suffix("") / "model.mil"))
            except Exception as error:  # noqa: BLE001: whatever coremltools raises
                differ += 1
                print(f"  DIFFERS {path}: {type(error).__name__}: {error}")
        print(f"{group.name}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
        total += counts
    if not total["ops"]:
        sys.exit(f"error: there are no packages in {args.dir}; write them with the example package_dump")
    print("all: " + ", ".join(f"{n} {what}" for what, n in total.items()) + f"; {differ} programs differ")
    print("planted faults, in every program of tiny:")
    group = args.dir / "tiny-whole-keep-ios18"
    missed = planted([(p, parse_text(p.with_suffix("") / "model.mil")) for p in sorted(group.glob("*.mlpackage"))])
    sys.exit(1 if differ or missed else 0)


if __name__ == "__main__":
    main()
