"""Programs that break a rule on purpose, or just do not, as text. Imported by `aneforge_preflight.py`."""

import re

OLD, ALL = {"m1", "m2", "m3"}, {"m1", "m2", "m3", "m4", "m5"}

HEAD = """program(1.3)
[buildInfo = dict<string, string>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios18>("""
TAIL = "\n    } -> (y);\n}\n"


def program(ports, *lines):
    named = []
    for line in lines:
        name = re.search(r"(\w+) = \w+\(", line)[1]
        if "const()" in line:
            line, value = line.split("const()")
            named.append(f'        {line}const()[name = string("{name}"), val = {value.strip()}];')
        else:
            named.append(f'        {line}[name = string("{name}")];')
    return HEAD + ports + ") {\n" + "\n".join(named) + TAIL


def tensor(*shape):
    return f"tensor<fp16, {list(shape)}>"


def ints(name, *values):
    return f"tensor<int32, [{len(values)}]> {name} = const() tensor<int32, [{len(values)}]>({list(values)})"


def unary(shape, op="relu", element="fp16"):
    ty = f"tensor<{element}, {list(shape)}>"
    return program(f"{ty} a", f"{ty} y = {op}(x = a)")


def product(rows, contraction):
    return program(
        f"{tensor(1, 1, rows, contraction)} a, {tensor(1, 1, contraction, 16)} b",
        "bool no = const() bool(false)",
        f"{tensor(1, 1, rows, 16)} y = matmul(transpose_x = no, transpose_y = no, x = a, y = b)",
    )


def convolution(batch, width, kernel, constant):
    weight = tensor(1, 1, 1, kernel)
    ports = f"{tensor(batch, 1, 1, width)} a" + ("" if constant else f", {weight} w")
    ones = ", ".join(["0x1p+0"] * kernel)
    return program(
        ports,
        *([f"{weight} w = const() {weight}([[[[{ones}]]]])"] if constant else []),
        'string kind = const() string("valid")',
        ints("steps", 1, 1),
        ints("none", 0, 0, 0, 0),
        "int32 one = const() int32(1)",
        f"{tensor(batch, 1, 1, width - kernel + 1)} y = conv(dilations = steps, groups = one, pad = none, "
        "pad_type = kind, strides = steps, weight = w, x = a)",
    )


def cut_out(begin):
    return program(
        f"{tensor(1, 16, 1, 64)} a",
        ints("begin", 0, 0, 0, begin),
        ints("size", 1, 16, 1, 32),
        f"{tensor(1, 16, 1, 32)} y = slice_by_size(begin = begin, size = size, x = a)",
    )


def joined(first, second):
    return program(
        f"{tensor(1, 16, 1, 64)} a",
        ints("first", 0, 0, 0, first),
        ints("second", 0, 0, 0, second),
        ints("size", 1, 16, 1, 32),
        "int32 last = const() int32(3)",
        "bool no = const() bool(false)",
        f"{tensor(1, 16, 1, 32)} p = slice_by_size(begin = first, size = size, x = a)",
        f"{tensor(1, 16, 1, 32)} q = slice_by_size(begin = second, size = size, x = a)",
        f"{tensor(1, 16, 1, 64)} y = concat(axis = last, interleave = no, values = (q, p))",
    )


def halves():
    half = tensor(1, 16, 1, 32)
    return program(
        f"{tensor(1, 16, 1, 64)} a",
        "int32 last = const() int32(3)",
        "int32 two = const() int32(2)",
        f"{half} p, {half} q = split(axis = last, num_splits = two, x = a)",
        f"{half} y = add(x = p, y = q)",
    )


def transposed(rows):
    return program(
        f"{tensor(1, 1, rows, 16)} a",
        ints("order", 0, 1, 3, 2),
        f"{tensor(1, 1, 16, rows)} y = transpose(perm = order, x = a)",
    )


def transposed_operand(*lead):
    rank = len(lead) + 2
    return program(
        f"{tensor(*lead, 32, 16)} a, {tensor(*lead, 32, 64)} b",
        ints("order", *range(rank - 2), rank - 1, rank - 2),
        "bool no = const() bool(false)",
        f"{tensor(*lead, 16, 32)} t = transpose(perm = order, x = a)",
        f"{tensor(*lead, 16, 64)} y = matmul(transpose_x = no, transpose_y = no, x = t, y = b)",
    )


def cast_to(element):
    return program(
        f"{tensor(1, 16, 1, 64)} a",
        f'string there = const() string("{element}")',
        'string back = const() string("fp16")',
        f"tensor<{element}, [1, 16, 1, 64]> c = cast(dtype = there, x = a)",
        f"{tensor(1, 16, 1, 64)} d = cast(dtype = back, x = c)",
        f"{tensor(1, 16, 1, 64)} y = add(x = d, y = a)",
    )


def reduction_times_zero():
    return program(
        f"{tensor(1, 16, 1, 64)} a",
        ints("last", 3),
        "bool keep = const() bool(true)",
        "fp16 zero = const() fp16(0x0p+0)",
        f"{tensor(1, 16, 1, 1)} m = reduce_max(axes = last, keep_dims = keep, x = a)",
        f"{tensor(1, 16, 1, 1)} y = mul(x = m, y = zero)",
    )


# Name, text, and cause -> the chips on which both sides name it.
BROKEN = [
    ("a height of 16,400", unary([1, 1, 16400, 16]), {"axis": OLD}),
    ("a height of 16,384", unary([1, 1, 16384, 16]), {}),
    ("a width of 65,600", unary([1, 1, 1, 65600]), {"axis": ALL}),
    ("a width of 65,536", unary([1, 1, 1, 65536]), {"axis": OLD}),
    ("two axes, 16,400 rows", unary([16400, 16]), {"axis": OLD}),
    ("65,536 channels", unary([1, 65536, 1, 16]), {}),
    ("65,600 channels", unary([1, 65600, 1, 16]), {"axis": ALL}),
    ("a batch of 16,400", unary([16400, 16, 1, 16]), {}),
    ("three axes, the first of 16,400", unary([16400, 16, 16]), {}),
    ("five axes", unary([1, 1, 1, 1, 16]), {}),
    ("six axes", unary([1, 1, 1, 1, 1, 16]), {"rank": ALL}),
    ("a product of 16,400 rows", product(16400, 64), {"axis": OLD}),
    ("a classifier of 151,936 rows in one tile", product(151936, 64), {"axis": ALL}),
    ("a contraction of 16,400", product(16, 16400), {"axis": OLD}),
    ("a contraction of 16,384", product(16, 16384), {}),
    ("a transpose of 16,384 rows", transposed(16384), {}),
    ("a transpose of 16,400 rows", transposed(16400), {}),
    ("a transpose of 65,600 rows", transposed(65600), {}),
    ("a transposed operand of four axes", transposed_operand(1, 4), {}),
    ("a transposed operand of five axes", transposed_operand(1, 1, 4), {}),
    ("a kernel 13 wide", convolution(1, 64, 13, True), {}),
    ("a kernel 14 wide", convolution(1, 64, 14, True), {"kernel": OLD}),
    ("a kernel 16 wide", convolution(1, 64, 16, True), {"kernel": ALL}),
    ("a batch of two with a weight that is an input", convolution(2, 64, 3, False), {"batch": ALL}),
    ("a batch of one with a weight that is an input", convolution(1, 64, 3, False), {}),
    ("a slice at the start of the last axis", cut_out(0), {}),
    ("a slice inside of the last axis", cut_out(16), {"slice": {"m1", "m2"}}),
    ("two parts of the last axis, joined", joined(0, 32), {"slice": {"m1", "m2"}}),
    (
        "two inner slices of the last axis, joined",
        joined(16, 32),
        {"slice": {"m1", "m2"}, "joined": {"m1", "m2"}},
    ),
    ("halves of the last axis", halves(), {}),
    ("a port of fp32", unary([1, 16, 1, 64], element="fp32"), {"type": ALL}),
    ("a cast to int32", cast_to("int32"), {"int32": {"m1"}}),
    ("a cast to fp32", cast_to("fp32"), {}),
    ("sines", unary([1, 16, 1, 64], "sin"), {"op": {"m1", "m2"}}),
    ("cosines", unary([1, 16, 1, 64], "cos"), {"op": {"m1", "m2"}}),
    ("a sort", unary([16, 64], "sort"), {"op": {"m1"}}),
    ("a reduction times zero", reduction_times_zero(), {}),
    ("an output that is an input", program(f"{tensor(1, 16)} y"), {}),
]
