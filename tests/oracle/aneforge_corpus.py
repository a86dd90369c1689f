"""Programs that ANEForge writes, with inputs and the outputs that NumPy expects.

    pip install aneforge==0.4.0 numpy
    python aneforge_corpus.py OUT

ANEForge (PyPI `aneforge`) lowers graphs of tensors to MIL text on any machine; only dispatch needs
a Mac, so the dispatch library is replaced by a stub here. Everything else is its own code. The
outputs are computed by this script, in float64, from formulas that share nothing with ANEForge;
gradients are central differences of the loss.

    OUT/cases/NAME/    model.mil, weights.bin: programs in ops that anneal has
                       in.PORT.f32, out.PORT.f32: little-endian float32, row-major
    OUT/beyond/NAME/   the same for programs with an op that anneal lacks; they serve to show what
                       the reader says about them
    OUT/manifest.json  {"aneforge", "seed", "cases": [{"name", "folder", "ops",
                       "inputs": [{"port", "shape", "file"}], "outputs": […]}]}

Inputs and weights are exact in fp16. Read the texts with
`cargo run -p anneal-mil --example parse_check -- OUT/cases`.
"""

import argparse
import json
import math
import re
from pathlib import Path

import numpy as np

import aneforge as af
from aneforge import _compile
from aneforge.llm import LayerSpec, LlamaConfig, prefill_block, rope, rope_tables

SEED = 20240917
rng = np.random.default_rng(SEED)


class NoDispatch:
    """Stands where the Mac library would be: the text is written before it is called."""

    @staticmethod
    def compile(**_):
        return None


_compile.E5RT = NoDispatch


# Values.


def exact(values):
    """Rounded to fp16, held in float64."""
    return np.asarray(values).astype(np.float16).astype(np.float64)


def uniform(*shape, low=-1.0, high=1.0):
    return exact(rng.uniform(low, high, shape))


class Case:
    """A graph, the values of its inputs, and what it should compute."""

    def __init__(self, name, beyond=False, **options):
        self.name, self.beyond, self.options = name, beyond, options
        self.inputs, self.outputs = [], []

    def input(self, values):
        tensor = af.input(values.shape)
        self.inputs.append((tensor, values))
        return tensor

    def parameter(self, values):
        tensor = af.parameter(values)
        self.inputs.append((tensor, values))
        return tensor

    def output(self, tensor, expected):
        self.outputs.append((tensor, np.asarray(expected, np.float64)))

    def write(self, root):
        kind = "beyond" if self.beyond else "cases"
        folder = root / kind / self.name
        folder.mkdir(parents=True, exist_ok=True)
        tensors = [tensor for tensor, _ in self.outputs]
        model = _compile.compile_multi(tensors, build_dir=folder, **self.options)
        values = {id(tensor): value for tensor, value in self.inputs}

        def store(way, ports, value_of):
            entries = []
            for tensor, port in ports:
                value = value_of(tensor)
                assert tuple(value.shape) == tuple(tensor.shape), (self.name, port, value.shape)
                assert np.isfinite(value).all(), (self.name, port)
                file = f"{way}.{port}.f32"
                value.astype("<f4").tofile(folder / file)
                entries.append({"port": port, "shape": list(value.shape), "file": file})
            return entries

        def input_value(tensor):
            # Backward graphs bring inputs of their own, such as a norm's gain.
            return values[id(tensor)] if id(tensor) in values else exact(tensor.attrs["value"])

        expected = {id(tensor): value for tensor, value in self.outputs}
        text = (folder / "model.mil").read_text()
        ops = sorted(set(re.findall(r"^\s+[^=]* = (\w+)\(", text, re.M)) - {"const"})
        return {
            "name": self.name,
            "folder": f"{kind}/{self.name}",
            "ops": ops,
            "inputs": store("in", model.input_ports, input_value),
            "outputs": store("out", model.output_ports, lambda tensor: expected[id(tensor)]),
        }


def gradient(loss, values):
    """Central differences of a scalar function at an array."""
    values = values.copy()
    result = np.zeros_like(values)
    for at in np.ndindex(values.shape):
        here, step = values[at], 1e-5
        values[at] = here + step
        above = loss(values)
        values[at] = here - step
        result[at] = (above - loss(values)) / (2 * step)
        values[at] = here
    return result


# Formulas in NumPy.


def erf(x):
    return np.vectorize(math.erf)(x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def rms_norm(x, gain, eps=1e-3):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def layer_norm(x, gain, bias, eps=1e-3):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gain + bias


def conv2d(x, weight, stride=1, pad=0, dilation=1, groups=1):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out_channels, in_channels, kernel_h, kernel_w = weight.shape
    height = (x.shape[2] - dilation * (kernel_h - 1) - 1) // stride + 1
    width = (x.shape[3] - dilation * (kernel_w - 1) - 1) // stride + 1
    result = np.zeros((x.shape[0], out_channels, height, width))
    for o, h, w in np.ndindex(out_channels, height, width):
        first = o // (out_channels // groups) * in_channels
        rows = slice(h * stride, h * stride + dilation * (kernel_h - 1) + 1, dilation)
        columns = slice(w * stride, w * stride + dilation * (kernel_w - 1) + 1, dilation)
        window = x[:, first : first + in_channels, rows, columns]
        result[:, o, h, w] = (window * weight[o]).sum((1, 2, 3))
    return result


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin


def causal_attention(q, k, v):
    """q, k, v [H, S, D] -> [H, S, D]"""
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    return softmax(np.where(np.tril(np.ones(scores.shape[-2:])) > 0, scores, -1e4)) @ v


# The corpus.


def elementwise():
    unary = {
        "relu": (lambda t: t.relu(), lambda x: np.maximum(x, 0), -2, 2),
        "silu": (lambda t: t.silu(), silu, -2, 2),
        "sigmoid": (lambda t: t.sigmoid(), sigmoid, -2, 2),
        "tanh": (lambda t: t.tanh(), np.tanh, -2, 2),
        "exp": (lambda t: t.exp(), np.exp, -2, 2),
        "sqrt": (lambda t: t.sqrt(), np.sqrt, 0.1, 4),
        "abs": (lambda t: t.abs(), np.abs, -2, 2),
        "erf": (lambda t: t.erf(), erf, -2, 2),
        "square": (lambda t: t.square(), np.square, -2, 2),
        "gelu": (lambda t: t.gelu(), lambda x: x / 2 * (1 + erf(x / math.sqrt(2))), -2, 2),
        "log": (lambda t: t.log(), np.log, 0.1, 4),
        "log_eps": (lambda t: t.log(0.125), lambda x: np.log(x + 0.125), 0.1, 4),
        "rsqrt": (lambda t: t.rsqrt(0.0625), lambda x: 1 / np.sqrt(x + 0.0625), 0.1, 4),
        "scale": (lambda t: t * 0.3, lambda x: x * exact(0.3), -2, 2),
        "zero": (lambda t: t * 0.0, lambda x: x * 0, -2, 2),
        "shift": (lambda t: t.adds(-1.5), lambda x: x - 1.5, -2, 2),
        "cube": (lambda t: t.pow(3.0), lambda x: x**3, 0.1, 2),
    }
    for name, (graph, formula, low, high) in unary.items():
        case, x = Case(name), uniform(2, 6, 8, low=low, high=high)
        case.output(graph(case.input(x)), formula(x))
        yield case
    binary = {
        "add": (lambda a, b: a + b, np.add, -2),
        "sub": (lambda a, b: a - b, np.subtract, -2),
        "mul": (lambda a, b: a * b, np.multiply, -2),
        "real_div": (lambda a, b: a / b, np.divide, 0.5),
        "maximum": (af.maximum, np.maximum, -2),
        "minimum": (af.minimum, np.minimum, -2),
        "pow": (lambda a, b: a.pow(b), np.power, 0.5),
    }
    for name, (graph, formula, low) in binary.items():
        for suffix, shape in (("", (1, 6, 1, 8)), ("_broadcast", (1, 6, 1, 1))):
            case = Case(name + suffix)
            x, y = uniform(1, 6, 1, 8, low=low, high=2), uniform(*shape, low=low, high=2)
            case.output(graph(case.input(x), case.input(y)), formula(x, y))
            yield case
    for name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"):
        case = Case(f"select_{name}")
        x, y = exact(rng.integers(0, 3, (4, 8))), exact(rng.integers(0, 3, (4, 8)))
        a, b = uniform(4, 8), uniform(4, 8)
        condition = getattr(np, name)(x, y)
        tx, ty, ta, tb = (case.input(v) for v in (x, y, a, b))
        case.output(af.select(getattr(tx, name)(ty), ta, tb), np.where(condition, a, b))
        yield case


def products():
    x, w, b = uniform(5, 8), uniform(7, 8), uniform(7)
    case = Case("linear")
    case.output(case.input(x).linear(w, b), x @ w.T + b)
    yield case

    # Weights that int8 holds exactly: k/4 with a scale of 1/4 in each row.
    w8 = rng.integers(-127, 128, (7, 8)) / 4.0
    w8[:, 0] = 127 / 4.0
    case = Case("linear_int8", int8=True)
    case.output(case.input(x).linear(w8), x @ w8.T)
    yield case

    x, y = uniform(2, 4, 6), uniform(2, 6, 5)
    case = Case("batched_matmul")
    case.output(case.input(x) @ case.input(y), x @ y)
    yield case

    x, y = uniform(3, 4, 6), uniform(1, 6, 5)
    case = Case("broadcast_matmul")
    case.output(case.input(x) @ case.input(y), x @ y)
    yield case

    x, w = uniform(2, 3, 4), uniform(2, 4, 5)
    case = Case("matmul_with_baked_batch")
    case.output(case.input(x).bmm_weight(w), x @ w)
    yield case

    x = uniform(1, 6, 8)
    case = Case("cumsum")
    case.output(case.input(x).cumsum(), np.cumsum(x, -1))
    yield case

    for name, shape, weight, options in (
        ("conv_1x1", (1, 4, 1, 8), (6, 4, 1, 1), {}),
        ("conv_3x3", (1, 3, 6, 7), (4, 3, 3, 3), {"pad": 1}),
        ("conv_strided", (1, 3, 9, 8), (4, 3, 3, 2), {"stride": 2}),
        ("conv_dilated", (1, 3, 9, 9), (2, 3, 3, 3), {"dilation": 2, "pad": 2}),
        ("conv_grouped", (1, 4, 5, 5), (6, 2, 2, 2), {"groups": 2}),
    ):
        x, w = uniform(*shape), uniform(*weight)
        case = Case(name)
        case.output(af.conv(case.input(x), w, **options), conv2d(x, w, **options))
        yield case
    x, w, b = uniform(1, 3, 5, 5), uniform(4, 3, 3, 3), uniform(4)
    case = Case("conv_bias")
    case.output(af.conv(case.input(x), w, bias=b), conv2d(x, w) + b[:, None, None])
    yield case


def along_axes():
    for axis in (-1, 1):
        x = uniform(2, 5, 6, low=-3, high=3)
        case = Case(f"softmax_axis_{axis % 3}")
        case.output(case.input(x).softmax(axis), softmax(x, axis))
        yield case
    for name, reduction in (("sum", np.sum), ("mean", np.mean), ("amax", np.max)):
        for suffix, axes in (("last", (2,)), ("two", (1, 3))):
            x = uniform(1, 4, 5, 6)
            case = Case(f"{name}_{suffix}")
            tensor = case.input(x)
            case.output(getattr(tensor, name)(axes), reduction(x, axis=axes, keepdims=True))
            yield case
    x, gain, bias = uniform(6, 16, low=-2, high=2), uniform(16, low=0.5, high=2), uniform(16)
    case = Case("layer_norm")
    case.output(case.input(x).layer_norm(gain, bias, 1e-3), layer_norm(x, gain, bias))
    yield case

    case = Case("rms_norm_of_primitives")
    case.output(graph_rms_norm(case.input(x), gain), rms_norm(x, gain))
    yield case

    x = uniform(1, 16, 1, 12, low=-2, high=2)
    case = Case("channel_layer_norm")
    normed = layer_norm(x.transpose(0, 2, 3, 1), gain, bias).transpose(0, 3, 1, 2)
    case.output(case.input(x).channel_layer_norm(gain, bias, 1e-3), normed)
    yield case

    x, gain, bias = uniform(1, 8, 3, 4, low=-2, high=2), uniform(8, low=0.5, high=2), uniform(8)
    case = Case("group_norm")
    groups = x.reshape(4, -1)
    unit = layer_norm(groups, 1.0, 0.0).reshape(x.shape)
    affine = unit * gain[:, None, None] + bias[:, None, None]
    case.output(case.input(x).group_norm(gain, bias, 4, 1e-3), affine)
    yield case


def movement():
    x = uniform(2, 3, 4, 5)
    case = Case("reshape")
    case.output(case.input(x).reshape(6, 20), x.reshape(6, 20))
    yield case

    case = Case("transpose")
    case.output(case.input(x).transpose([0, 2, 3, 1]), x.transpose(0, 2, 3, 1))
    yield case

    case = Case("slice_by_size")
    case.output(case.input(x).slice_by_size([1, 0, 2, 1], [1, 3, 2, 3]), x[1:2, 0:3, 2:4, 1:4])
    yield case

    y = uniform(2, 2, 4, 5)
    case = Case("concat")
    case.output(af.concat([case.input(x), case.input(y)], axis=1), np.concatenate([x, y], 1))
    yield case

    case = Case("split")
    for part, expected in zip(af.split(case.input(x), 2, axis=2), np.split(x, 2, 2)):
        case.output(part, expected)
    yield case

    case = Case("gather")
    case.output(af.gather(case.input(x), [2, 0, 2], axis=1), x[:, [2, 0, 2]])
    yield case


def graph_rms_norm(x, gain, eps=1e-3):
    """ANEForge's own rms_norm reduces by reduce_l2_norm; this one is made of ops anneal has."""
    scale = x.square().mean((-1,)).adds(eps).rsqrt()
    return x * scale * np.reshape(gain, (1, -1))


def attention():
    seq, width, heads = 8, 16, 2
    x = uniform(seq, width)
    wq, wk, wv, wo = (uniform(width, width, low=-0.5, high=0.5) for _ in range(4))
    bq, bk, bv, bo = (uniform(width) for _ in range(4))
    mask = np.triu(np.full((seq, seq), -1e4), 1)

    def split_heads(t):
        return t.reshape(seq, heads, -1).transpose(1, 0, 2)

    q, k, v = (split_heads(x @ w.T + b) for w, b in ((wq, bq), (wk, bk), (wv, bv)))
    merged = causal_attention(q, k, v).transpose(1, 0, 2).reshape(seq, width)
    case = Case("mha_causal")
    graph = af.mha(case.input(x), wq, bq, wk, bk, wv, bv, wo, bo, heads, mask=_constant(mask))
    case.output(graph, merged @ wo.T + bo)
    yield case

    context = uniform(5, width)
    q, k, v = split_heads(x @ wq.T), *(
        (context @ w.T).reshape(5, heads, -1).transpose(1, 0, 2) for w in (wk, wv)
    )
    scores = softmax(q @ k.swapaxes(1, 2) / math.sqrt(width // heads))
    merged = (scores @ v).transpose(1, 0, 2).reshape(seq, width)
    case = Case("cross_attention")
    graph = af.cross_attention(case.input(x), case.input(context), wq, wk, wv, wo, heads)
    case.output(graph, merged @ wo.T)
    yield case

    cos, sin = rope_tables(seq, 8)
    x = uniform(1, 2, seq, 8)
    case = Case("rope")
    case.output(rope(case.input(x), cos, sin), rotate(x, exact(cos), exact(sin)))
    yield case


def _constant(values):
    return af.graph._const(values)


def blocks():
    seq, heads, kv_heads, head_dim, hidden = 8, 4, 2, 8, 24
    width = heads * head_dim
    cos, sin = rope_tables(seq, head_dim)
    x = uniform(seq, width)
    small = lambda *shape: uniform(*shape, low=-0.3, high=0.3)
    weights = {
        "wq": small(width, width),
        "wk": small(kv_heads * head_dim, width),
        "wv": small(kv_heads * head_dim, width),
        "wo": small(width, width),
        "attn_norm": uniform(width, low=0.5, high=1.5),
        "mlp_norm": uniform(width, low=0.5, high=1.5),
        "wgate": small(hidden, width),
        "wup": small(hidden, width),
        "wdown": small(width, hidden),
    }

    def attend(normed):
        """normed [S, C] -> [S, C]: rope, grouped heads, causal softmax."""
        q, k, v = (normed @ weights[name].T for name in ("wq", "wk", "wv"))
        q = q.reshape(seq, heads, head_dim).transpose(1, 0, 2)
        k, v = (t.reshape(seq, kv_heads, head_dim).transpose(1, 0, 2) for t in (k, v))
        q, k = rotate(q, exact(cos), exact(sin)), rotate(k, exact(cos), exact(sin))
        k, v = np.repeat(k, heads // kv_heads, 0), np.repeat(v, heads // kv_heads, 0)
        return causal_attention(q, k, v).transpose(1, 0, 2).reshape(seq, width) @ weights["wo"].T

    def llama(x):
        x = x + attend(rms_norm(x, weights["attn_norm"]))
        normed = rms_norm(x, weights["mlp_norm"])
        gated = silu(normed @ weights["wgate"].T) * (normed @ weights["wup"].T)
        return x + gated @ weights["wdown"].T

    def graph_llama(t):
        normed = graph_rms_norm(t, weights["attn_norm"])
        q, k, v = (normed.linear(weights[name]) for name in ("wq", "wk", "wv"))
        q = q.reshape(seq, heads, head_dim).transpose([1, 0, 2])
        k, v = (p.reshape(seq, kv_heads, head_dim).transpose([1, 0, 2]) for p in (k, v))
        q, k = rope(q, cos, sin), rope(k, cos, sin)
        order = [h * kv_heads // heads for h in range(heads)]
        k, v = af.gather(k, order, axis=0), af.gather(v, order, axis=0)
        scores = (q @ k.transpose([0, 2, 1])) * (1 / math.sqrt(head_dim))
        mask = _constant(np.triu(np.full((seq, seq), -1e4), 1))
        mixed = ((scores + mask).softmax(-1) @ v).transpose([1, 0, 2]).reshape(seq, width)
        t = t + mixed.linear(weights["wo"])
        normed = graph_rms_norm(t, weights["mlp_norm"])
        gated = normed.linear(weights["wgate"]).silu() * normed.linear(weights["wup"])
        return t + gated.linear(weights["wdown"])

    case = Case("llama_block")
    case.output(graph_llama(case.input(x)), llama(x))
    yield case

    # The same with its gradient by x: loss = Σ y seed.
    seed = uniform(seq, width)
    case = Case("llama_block_backward")
    t, s = case.input(x), case.input(seed)
    y = graph_llama(t)
    case.output(y, llama(x))
    case.output(af.backward_from(s, y, [t])[t], gradient(lambda v: (llama(v) * seed).sum(), x))
    yield case

    cfg = LlamaConfig(
        width, 1, heads, kv_heads, hidden, 64, norm_eps=1e-3, head_dim=head_dim, norm_type="layer"
    )
    gains = {
        f"{part}_norm_{kind}": uniform(width, low=0.5, high=1.5)
        for part in ("attn", "mlp")
        for kind in ("w", "b")
    }
    mlp = {"wfc": small(hidden, width), "wproj": small(width, hidden)}

    def gelu_tanh(x):
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    h = x + attend(layer_norm(x, gains["attn_norm_w"], gains["attn_norm_b"]))
    normed = layer_norm(h, gains["mlp_norm_w"], gains["mlp_norm_b"])
    case = Case("prefill_block_of_gpt")
    spec = LayerSpec(mlp="gelu_new")
    graph = prefill_block(case.input(x), {**weights, **gains, **mlp}, cfg, cos, sin, spec)
    case.output(graph, h + gelu_tanh(normed @ mlp["wfc"].T) @ mlp["wproj"].T)
    yield case

    cfg = LlamaConfig(width, 1, heads, kv_heads, hidden, 64, norm_eps=1e-3, head_dim=head_dim)
    case = Case("prefill_block_of_llama", beyond=True)
    case.output(prefill_block(case.input(x), weights, cfg, cos, sin), llama(x))
    yield case


def training():
    batch, inputs, hidden, classes = 6, 8, 10, 4
    x = uniform(batch, inputs)
    w1, b1 = uniform(inputs, hidden), uniform(1, hidden)
    w2, b2 = uniform(hidden, classes), uniform(1, classes)
    target = np.eye(classes)[rng.integers(0, classes, batch)]

    def logits(w1, b1, w2, b2):
        return np.tanh(x @ w1 + b1) @ w2 + b2

    parameters = [w1, b1, w2, b2]

    def gradients(case, loss, graph_gradients, tensors):
        for at, tensor in enumerate(tensors):
            here = lambda v, at=at: loss(*parameters[:at], v, *parameters[at + 1 :])
            case.output(graph_gradients[tensor], gradient(here, parameters[at]))

    def mlp(case):
        tensors = [case.parameter(p) for p in parameters]
        t1, c1, t2, c2 = tensors
        return (case.input(x) @ t1 + c1).tanh() @ t2 + c2, tensors

    case = Case("mlp_cross_entropy_backward")
    y, tensors = mlp(case)
    objective = af.softmax_cross_entropy(y, case.input(target))
    grads = af.backward_from(objective.seed(8.0), y, tensors)
    loss = lambda *p: -8.0 * (np.log(softmax(logits(*p))) * target).sum() / batch
    gradients(case, loss, grads, tensors)
    yield case

    case = Case("mlp_mse_backward")
    y, tensors = mlp(case)
    error = af.mse(y, case.input(target))
    case.output(error, np.mean((logits(*parameters) - target) ** 2).reshape(1, 1))
    loss = lambda *p: np.mean((logits(*p) - target) ** 2)
    gradients(case, loss, af.backward(error, tensors), tensors)
    yield case

    w, m, v, g = uniform(4, 8), uniform(4, 8), uniform(4, 8, low=0.1), uniform(4, 8)
    rate = exact(np.full((1, 1), 0.01))
    case = Case("adam_step")
    tw, tm, tv, tg, tr = (case.input(a) for a in (w, m, v, g, rate))
    (nw,), (nm,), (nv,) = af.adam_step([tw], [tm], [tv], {tw: tg}, tr, eps=1e-3)
    em, ev = exact(0.9) * m + exact(0.1) * g, exact(0.999) * v + exact(0.001) * g * g
    case.output(nw, w - rate * em / (np.sqrt(ev) + exact(1e-3)))
    case.output(nm, em)
    case.output(nv, ev)
    yield case

    for name, graph, formula in (
        ("softmax", lambda t: t.softmax(-1), softmax),
        ("silu", lambda t: t.silu(), silu),
        ("gelu", lambda t: t.gelu(), lambda a: a / 2 * (1 + erf(a / math.sqrt(2)))),
        ("layer_norm", lambda t: t.layer_norm(np.ones(8), np.zeros(8), 1e-3),
         lambda a: layer_norm(a, 1.0, 0.0)),
        ("slices", lambda t: af.concat([t.slice_by_size([0, 2], [6, 3]), t], 1),
         lambda a: np.concatenate([a[:, 2:5], a], 1)),
    ):
        case, a = Case(f"{name}_backward"), uniform(6, 8, low=-2, high=2)
        t = case.input(a)
        y = graph(t)
        seed = uniform(*y.shape)
        grads = af.backward_from(case.input(seed), y, [t])
        case.output(grads[t], gradient(lambda v: (formula(v) * seed).sum(), a))
        yield case


def beyond():
    """Ops that anneal does not have, one program each."""
    x = uniform(4, 8, low=-2, high=2)
    gain = uniform(8, low=0.5, high=2)
    for name, graph, expected in (
        ("rms_norm", lambda t: t.rms_norm(gain, 1e-3), None),
        ("clip", lambda t: t.clip(-1, 1), np.clip(x, -1, 1)),
        ("floor", lambda t: t.floor(), np.floor(x)),
        ("sin", lambda t: t.sin(), np.sin(x)),
        ("leaky_relu", lambda t: t.leaky_relu(0.125), np.where(x > 0, x, x * 0.125)),
        ("amin", lambda t: t.amin((1,)), x.min(1, keepdims=True)),
        ("expand_dims", lambda t: t.expand_dims((0,)), x[None]),
        ("tile", lambda t: t.tile((2, 1)), np.tile(x, (2, 1))),
        ("stack", lambda t: af.stack([t, t], 0), np.stack([x, x])),
    ):
        case = Case(name, beyond=True)
        # rms_norm clamps the norm instead of adding eps; at this size the two agree.
        plain = x / np.sqrt((x * x).mean(-1, keepdims=True)) * gain
        case.output(graph(case.input(x)), plain if expected is None else expected)
        yield case
    w = uniform(16, 32)
    x = uniform(4, 32)
    for scheme in ("int4", "sparse", "blockwise"):
        case = Case(f"linear_{scheme}", beyond=True, compress=scheme, compress_atol=1.0)
        weight = np.where(rng.uniform(size=w.shape) < 0.3, w, 0) if scheme == "sparse" else w
        case.output(case.input(x).linear(weight), x @ weight.T)
        yield case


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("out", type=Path)
    out = arguments.parse_args().out
    manifest = {"aneforge": af.__version__, "seed": SEED, "cases": []}
    sections = (elementwise, products, along_axes, movement, attention, blocks, training, beyond)
    for section in sections:
        manifest["cases"] += [case.write(out) for case in section()]
    names = [case["name"] for case in manifest["cases"]]
    assert len(set(names)) == len(names), "names are unique"
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{len(names)} programs in {out}")


if __name__ == "__main__":
    main()
