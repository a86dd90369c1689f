"""Our programs rebuilt as ANEForge's graphs, and what its preflight says about them chip by chip.

    python aneforge_preflight.py ANNEAL

ANNEAL is the binary. ANEForge (PyPI `aneforge`) knows for each generation of the engine which ops are native and
how long an axis may be, as measured by its authors on M1, M2 and M5; its `preflight` walks a graph for one of
them. Every program of every preset at 512 tokens in every cut is read from our text here, by a reader that knows
nothing of ours, and rebuilt with ANEForge's public functions, which infer every shape anew: each must be the one
that our text declares. Then

* preflight accepts a program for a chip exactly if `anneal mil lint --route ane` has no error for it there;
* programs that break a rule on purpose are refused by both sides, on the chips where the rule holds.

What only one side refuses is in KNOWN with the reason; anything else fails.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import aneforge as af
from aneforge import graph
from aneforge._targets import preflight

# Chip and ANEForge's family.
CHIPS = {"m1": 2, "m2": 3, "m3": 4, "m4": 5, "m5": 5}
PRESETS = ["odd", "tiny", "deep-5m", "gpt-48m", "gpt-68m", "stories110m", "qwen3-0.6b"]
CUTS = ["whole", "attn|ffn", "ten"]

# Differences that are understood: program, chip -> who refuses, and why the other does not.
KNOWN = {
    ("joined slices of the last axis", "m1"): ("we", "preflight looks at sizes and op names, not at ANE-055"),
    ("joined slices of the last axis", "m2"): ("we", "as on m1"),
    **{
        ("a reduction times zero", chip): ("we", "preflight does not look at values (ANE-049)")
        for chip in CHIPS
    },
}

failures = []
# Products whose first operand is broadcast.
broadcast = []


def report(ok, text):
    print(("PASS  " if ok else "FAIL  ") + text)
    if not ok:
        failures.append(text)


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
    text = re.search(r'string\("([^"]*)"\)\)?\]?;?$', value)
    if value.startswith("string"):
        return text[1]
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
    """The output tensors of a program, and how many ops were rebuilt; raises what ANEForge raises."""
    values, ops = {}, 0
    header = next(line for line in text.splitlines() if "func main" in line)
    for match in PORT.finditer(header[header.index("(") + 1 : header.rindex(")")]):
        values[match["name"]] = af.input(shape_of(match))
    for line in text.splitlines():
        match = STATEMENT.match(line)
        if not match:
            continue
        results = [(found["name"], shape_of(found)) for found in RESULT.finditer(match["results"])]
        if match["op"] == "const":
            values[results[0][0]] = constant(line, results[0][1])
            continue
        arguments = split_arguments(match["arguments"])
        made = build(match["op"], {
            name: [values[part] for part in given] if isinstance(given, list) else values[given]
            for name, given in arguments.items()
        })
        ops += 1
        for (name, declared), tensor in zip(results, made, strict=True):
            # Its reductions and selects keep axes of one.
            assert tuple(tensor.shape) == declared, (name, tensor.shape, declared)
            values[name] = tensor
    returned = re.search(r"-> \(([^)]*)\);", text)[1]
    return [values[name.strip()] for name in returned.split(",")], ops


def tensor(value):
    return value if isinstance(value, graph.Tensor) else graph._const(value)


def flipped(x, flip):
    x = tensor(x)
    rank = len(x.shape)
    return x.transpose([*range(rank - 2), rank - 1, rank - 2]) if flip else x


def product_of(x, y):
    """x @ y. MIL broadcasts the axes before the last two, its `@` takes those of x: such a node is made by hand."""
    lead = graph._broadcast(x.shape[:-2], y.shape[:-2])
    if lead == tuple(x.shape[:-2]):
        return x @ y
    assert x.shape[-1] == y.shape[-2], (x.shape, y.shape)
    broadcast.append(x)
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
UNARY = ["relu", "gelu", "silu", "sigmoid", "tanh", "exp", "sqrt", "abs", "square", "erf"]


def build(op, given):
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
        return [graph.Tensor(tensor(given["x"]).shape, "cast", [tensor(given["x"])], {"dtype": given["dtype"]})]
    if op == "matmul":
        return [product_of(flipped(given["x"], given["transpose_x"]), flipped(given["y"], given["transpose_y"]))]
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
    raise KeyError(op)


def refusals(outputs, family):
    """What preflight has against a graph."""
    found = set()
    for output in outputs:
        verdict = preflight(output, family)
        found |= {f"{node.op} {node.shape}" for node in verdict.reject + verdict.oversize}
    return found


# Programs.


def lint(anneal, *arguments):
    done = subprocess.run([anneal, "mil", "lint", *arguments, "--json"], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [finding for finding in json.loads(done.stdout)["findings"] if finding["severity"] == "error"]


def compare(name, chip, theirs, ours):
    """Both refuse or neither does, or it is known which and why. Whether something is wrong."""
    who = {(True, False): "they", (False, True): "we"}.get((bool(theirs), bool(ours)))
    expected = KNOWN.get((name, chip), (None, ""))
    if who == expected[0]:
        if who:
            print(f"      {name}, {chip}: {who} refuse it; {expected[1]}")
        return False
    print(f"      {name}, {chip}: ANEForge {sorted(theirs)[:3]}, ours {[f['rule'] for f in ours][:3]}")
    return True


def of_presets(anneal, root):
    programs = ops = wrong = verdicts = 0
    for preset in PRESETS:
        for cut in CUTS:
            folder = root / preset / cut.replace("|", "_")
            chosen = ["--preset", preset, "--cut", cut, "--seq", "512"]
            subprocess.run([anneal, "mil", "print", *chosen, "--out", folder], check=True, capture_output=True)
            errors = {chip: lint(anneal, *chosen, "--chip", chip) for chip in CHIPS}
            for path in sorted(folder.iterdir()):
                if cut != "whole" and path.name.startswith(("head", "layer_decode")):
                    continue
                outputs, count = rebuild((path / "model.mil").read_text())
                programs, ops = programs + 1, ops + count
                for chip, family in CHIPS.items():
                    ours = [finding for finding in errors[chip] if finding["program"] == path.name]
                    wrong += compare(f"{preset}/{cut}/{path.name}", chip, refusals(outputs, family), ours)
                    verdicts += 1
    print(f"      {len(broadcast)} products broadcast their first operand, which its `@` does not")
    text = f"{programs} programs with {ops} ops: shapes are ANEForge's, {verdicts} verdicts over {len(CHIPS)} chips agree"
    report(wrong == 0, text)


# Programs that break a rule: text, and on which chips both sides refuse them.

HEAD = """program(1.3)
[buildInfo = dict<string, string>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios18>("""
TAIL = "\n    } -> (y);\n}\n"


def program(ports, *lines):
    named = []
    for line in lines:
        name = re.search(r"(\w+) = \w+\(", line)[1]
        inside = f'[name = string("{name}")' + (", " if line.endswith("]") else "]")
        if "const()" in line:
            line, value = line.split("const()")
            named.append(f'        {line}const()[name = string("{name}"), val = {value.strip()}];')
        else:
            named.append(f"        {line}{inside};")
    return HEAD + ports + ") {\n" + "\n".join(named) + TAIL


def unary(shape, op="relu"):
    return program(f"tensor<fp16, {shape}> a", f"tensor<fp16, {shape}> y = {op}(x = a)")


def product(rows, contraction):
    return program(
        f"tensor<fp16, [1, 1, {rows}, {contraction}]> a, tensor<fp16, [1, 1, {contraction}, 16]> b",
        "bool no = const() bool(false)",
        f"tensor<fp16, [1, 1, {rows}, 16]> y = matmul(transpose_x = no, transpose_y = no, x = a, y = b)",
    )


def convolution(batch, width, kernel, constant):
    weight = f"tensor<fp16, [1, 1, 1, {kernel}]>"
    ports = f"tensor<fp16, [{batch}, 1, 1, {width}]> a" + ("" if constant else f", {weight} w")
    zeros = ", ".join(["0x1p+0"] * kernel)
    return program(
        ports,
        *([f"{weight} w = const() {weight}([[[[{zeros}]]]])"] if constant else []),
        'string kind = const() string("valid")',
        "tensor<int32, [2]> ones = const() tensor<int32, [2]>([1, 1])",
        "tensor<int32, [4]> none = const() tensor<int32, [4]>([0, 0, 0, 0])",
        "int32 one = const() int32(1)",
        f"tensor<fp16, [{batch}, 1, 1, {width - kernel + 1}]> y = conv(dilations = ones, groups = one, pad = none, "
        "pad_type = kind, strides = ones, weight = w, x = a)",
    )


def joined():
    piece = "tensor<fp16, [1, 16, 1, 32]>"
    return program(
        "tensor<fp16, [1, 16, 1, 64]> a",
        "tensor<int32, [4]> first = const() tensor<int32, [4]>([0, 0, 0, 0])",
        "tensor<int32, [4]> second = const() tensor<int32, [4]>([0, 0, 0, 32])",
        "tensor<int32, [4]> size = const() tensor<int32, [4]>([1, 16, 1, 32])",
        "int32 last = const() int32(3)",
        "bool no = const() bool(false)",
        f"{piece} p = slice_by_size(begin = first, size = size, x = a)",
        f"{piece} q = slice_by_size(begin = second, size = size, x = a)",
        "tensor<fp16, [1, 16, 1, 64]> y = concat(axis = last, interleave = no, values = (q, p))",
    )


def reduction_times_zero():
    return program(
        "tensor<fp16, [1, 16, 1, 64]> a",
        "tensor<int32, [1]> last = const() tensor<int32, [1]>([3])",
        "bool keep = const() bool(true)",
        "fp16 zero = const() fp16(0x0p+0)",
        "tensor<fp16, [1, 16, 1, 1]> m = reduce_max(axes = last, keep_dims = keep, x = a)",
        "tensor<fp16, [1, 16, 1, 1]> y = mul(x = m, y = zero)",
    )


OLD, ALL = {"m1", "m2", "m3"}, set(CHIPS)
BROKEN = [
    ("a height of 16,400", unary("[1, 1, 16400, 16]"), OLD),
    ("a height of 16,384", unary("[1, 1, 16384, 16]"), set()),
    ("a width of 65,600", unary("[1, 1, 1, 65600]"), ALL),
    ("65,536 channels", unary("[1, 65536, 1, 16]"), set()),
    ("65,600 channels", unary("[1, 65600, 1, 16]"), ALL),
    ("six axes", unary("[1, 1, 1, 1, 1, 16]"), ALL),
    ("a product of 16,400 rows", product(16400, 64), OLD),
    ("a contraction of 16,400", product(16, 16400), OLD),
    ("a contraction of 16,384", product(16, 16384), set()),
    ("a kernel 14 wide", convolution(1, 64, 14, True), OLD),
    ("a kernel 13 wide", convolution(1, 64, 13, True), set()),
    ("a kernel 16 wide", convolution(1, 64, 16, True), ALL),
    ("a batch of two with a weight that is an input", convolution(2, 64, 3, False), ALL),
    ("joined slices of the last axis", joined(), set()),
    ("a reduction times zero", reduction_times_zero(), set()),
]


def of_broken(anneal, root):
    wrong = 0
    for number, (name, text, refused) in enumerate(BROKEN):
        path = root / f"{number}.mil"
        path.write_text(text)
        try:
            outputs, _ = rebuild(text)
        except ValueError as error:
            # What it refuses to build it refuses on every chip.
            outputs = None
            build_error = str(error)
        for chip, family in CHIPS.items():
            theirs = refusals(outputs, family) if outputs else {build_error}
            ours = lint(anneal, str(path), "--chip", chip)
            wrong += compare(name, chip, theirs, ours)
            if bool(theirs) != (chip in refused):
                print(f"      {name}, {chip}: expected {'a refusal' if chip in refused else 'none'}")
                wrong += 1
    report(wrong == 0, f"{len(BROKEN)} programs made to break a rule, or just not to: both sides tell them apart")


def main():
    [anneal] = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        of_broken(anneal, Path(folder))
        of_presets(anneal, Path(folder))
    sys.exit(1 if failures else 0)


main()
