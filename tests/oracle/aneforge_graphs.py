"""Text of ours as a graph of ANEForge: a reader of its own, and ANEForge's public functions.

Imported by `aneforge_preflight.py`. ANEForge infers every shape anew; each must be the one that the text declares.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

import aneforge as af
from aneforge import graph


class Mismatch(Exception):
    """ANEForge infers another shape than our text declares."""


@dataclass
class Rebuilt:
    """A program as a graph, as far as ANEForge's functions built it."""

    outputs: list = field(default_factory=list)
    values: dict = field(default_factory=dict)  # by name: tensors, and constants as arrays
    ops: Counter = field(default_factory=Counter)  # MIL's names, without const
    casts: set = field(default_factory=set)  # element types that something is cast to
    broadcast: int = 0  # products whose first operand is broadcast, which `@` does not
    refused: dict = field(default_factory=dict)  # cause -> what its functions say, whatever the chip


# What its functions raise while a graph is built, and what that is about.
REFUSALS = {
    "exceeds the ANE maximum of 5": "rank",
    "exceeds the ANE limit": "kernel",
    "requires batch N=1": "batch",
    "dtype must be": "type",
}


def cause_of(error):
    """What a refusal is about; an error of this script is raised again."""
    for words, cause in REFUSALS.items():
        if words in str(error):
            return cause
    raise error


# Text.

TYPE = r"(?:tensor<(?P<of>\w+), \[(?P<shape>[\d, ]*)\]>|(?P<scalar>\w+))"
STATEMENT = re.compile(r"^\s+(?P<results>.+?) = (?P<op>\w+)\((?P<arguments>.*?)\)\[name = .*\];$")
RESULT = re.compile(TYPE + r" (?P<name>\w+)(?:, |$)")
PORT = re.compile(TYPE + r" (?P<name>\w+)")


def shape_of(match):
    text = match["shape"]
    return tuple(int(extent) for extent in text.split(",") if extent.strip()) if text else ()


def split_arguments(text):
    """`axis = c0, values = (a, b)` as a dictionary; a list of names in parentheses."""
    found = {}
    for name, many, one in re.findall(r"(\w+) = (?:\(([^)]*)\)|(\w+))", text):
        found[name] = [part.strip() for part in many.split(",")] if many else one
    return found


def constant(line, shape):
    """The value of a small constant; zeros of its shape where it is in a blob file."""
    value = line.split("val = ", 1)[1]
    if "BLOBFILE" in value:
        return np.zeros(shape, np.float16)
    if value.startswith("string"):
        return re.search(r'string\("([^"]*)"\)', value)[1]
    inside = value[value.index("(") + 1 : value.rindex(")")]
    words = re.findall(r"[^\s,\[\]()]+", inside)
    if words and words[0] in ("true", "false"):
        return words[0] == "true"
    numbers = [float.fromhex(word) if "0x" in word else float(word) for word in words]
    return np.array(numbers).reshape(shape) if shape else numbers[0]


def whole(value):
    return [int(number) for number in np.atleast_1d(value)]


# Graphs.


def rebuild(text):
    """The graph of a program. Where a function refuses, it ends there, and `refused` says why.

    Raises `Mismatch` where shapes differ.
    """
    built = Rebuilt()
    try:
        rebuild_into(built, text)
    except ValueError as error:
        built.refused[cause_of(error)] = str(error)
        built.outputs = []
    return built


def rebuild_into(built, text):
    values = built.values
    header = next(line for line in text.splitlines() if "func main" in line)
    for match in PORT.finditer(header[header.index("(") + 1 : header.rindex(")")]):
        try:
            values[match["name"]] = af.input(shape_of(match), match["of"])
        except ValueError as error:
            cause = cause_of(error)
            if cause != "type":
                raise
            # The rest is looked at as if the port held fp16.
            built.refused[cause] = str(error)
            values[match["name"]] = af.input(shape_of(match))
    for line in text.splitlines():
        match = STATEMENT.match(line)
        if not match:
            continue
        results = [(found["name"], shape_of(found)) for found in RESULT.finditer(match["results"])]
        if match["op"] == "const":
            values[results[0][0]] = constant(line, results[0][1])
            continue
        given = {
            name: [values[part] for part in parts] if isinstance(parts, list) else values[parts]
            for name, parts in split_arguments(match["arguments"]).items()
        }
        built.ops[match["op"]] += 1
        made = build(built, match["op"], given)
        for (name, declared), made_here in zip(results, made, strict=True):
            if tuple(made_here.shape) != declared:
                raise Mismatch(f"{name}: ANEForge infers {made_here.shape}, our text says {declared}")
            values[name] = made_here
    returned = re.search(r"-> \(([^)]*)\);", text)[1]
    built.outputs = [values[name.strip()] for name in returned.split(",")]


def tensor(value):
    return value if isinstance(value, graph.Tensor) else graph._const(value)


def flipped(x, flip):
    x = tensor(x)
    rank = len(x.shape)
    return x.transpose([*range(rank - 2), rank - 1, rank - 2]) if flip else x


def product_of(built, x, y):
    """x @ y. MIL broadcasts the axes before the last two, its `@` takes those of x: such a node is made by hand."""
    lead = graph._broadcast(x.shape[:-2], y.shape[:-2])
    if lead == tuple(x.shape[:-2]):
        return x @ y
    assert x.shape[-1] == y.shape[-2], (x.shape, y.shape)
    built.broadcast += 1
    return graph.Tensor((*lead, x.shape[-2], y.shape[-1]), "bmm", [x, y])


BINARY = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "maximum": af.maximum,
    "minimum": af.minimum,
    "pow": lambda x, y: x**y,
}
COMPARE = ["greater", "less", "equal", "not_equal", "less_equal", "greater_equal"]
# The last two are not ours: programs that are made to break a rule have them.
UNARY = ["relu", "gelu", "silu", "sigmoid", "tanh", "exp", "sqrt", "abs", "square", "erf", "sin", "cos"]


def build(built, op, given):
    """The results of one op."""
    if op in BINARY:
        return [BINARY[op](tensor(given["x"]), tensor(given["y"]))]
    if op in COMPARE:
        return [getattr(tensor(given["x"]), op)(tensor(given["y"]))]
    if op in UNARY:
        return [getattr(tensor(given["x"]), op)()]
    if op in ("rsqrt", "log"):
        return [getattr(tensor(given["x"]), op)(float(given["epsilon"]))]
    if op == "select":
        return [af.select(tensor(given["cond"]), tensor(given["a"]), tensor(given["b"]))]
    if op == "cast":
        built.casts.add(given["dtype"])
        # Only images are cast by a function of its own.
        return [graph.Tensor(tensor(given["x"]).shape, "cast", [tensor(given["x"])], {"dtype": given["dtype"]})]
    if op == "matmul":
        return [product_of(built, flipped(given["x"], given["transpose_x"]), flipped(given["y"], given["transpose_y"]))]
    if op == "conv":
        x, weight = tensor(given["x"]), given["weight"]
        if isinstance(weight, graph.Tensor):
            return [af.dynamic_conv(x, weight, groups=int(given["groups"]))]
        return [af.conv(x, weight, groups=int(given["groups"]))]
    if op == "softmax":
        return [tensor(given["x"]).softmax(int(given["axis"]))]
    if op in ("reduce_sum", "reduce_mean", "reduce_max"):
        assert given["keep_dims"], "its reductions keep axes"
        method = {"reduce_sum": "sum", "reduce_mean": "mean", "reduce_max": "amax"}[op]
        return [getattr(tensor(given["x"]), method)(whole(given["axes"]))]
    if op == "reshape":
        return [tensor(given["x"]).reshape(whole(given["shape"]))]
    if op == "transpose":
        return [tensor(given["x"]).transpose(whole(given["perm"]))]
    if op == "slice_by_size":
        return [tensor(given["x"]).slice_by_size(whole(given["begin"]), whole(given["size"]))]
    if op == "concat":
        return [af.concat([tensor(value) for value in given["values"]], int(given["axis"]))]
    if op == "split":
        return af.split(tensor(given["x"]), int(given["num_splits"]), int(given["axis"]))
    if op == "sort":
        return [af.sort(tensor(given["x"]))]
    raise KeyError(op)
