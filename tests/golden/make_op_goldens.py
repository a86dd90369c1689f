"""Golden values and gradients of single ops: `ops.safetensors`.

    python make_op_goldens.py [--out FOLDER]

A case is a set of tensors under one prefix: its inputs under the op's operand names (`<case>.x`,
`<case>.y`, `<case>.values0`, …), `<case>.out`, the upstream gradient `<case>.dout`, and
`<case>.d<input>` for every input that has a gradient. Several results are `out0`, `out1`, … with
`dout0`, `dout1`, …. The metadata key `cases` lists every case as JSON: {"name", "op", "attrs",
"inputs", "outputs", "grads"}, with op, attribute and operand names as in MIL (and, for
composites, as in anneal). Comparisons give booleans and have neither `dout` nor gradients.

Wherever PyTorch has the op, PyTorch's own is called, the fused ones too: nothing here shares code
with `model.py`. Values keep away from points where an op is not smooth, except the exact zeros in
relu and abs, whose gradient there is 0 both in PyTorch and in anneal.
"""

import json
import math

import numpy as np
import torch
import torch.nn.functional as F

import golden

SCRIPT = "make_op_goldens.py"
SEED = 20240901

rng = np.random.default_rng(SEED)
tensors = {}
cases = []


def normal(*shape, std=1.0):
    """-> standard normal values, exact in f32"""
    return golden.exact_f32(std * rng.standard_normal(shape))


def uniform(low, high, *shape):
    """-> values in [low, high), exact in f32"""
    return golden.exact_f32(rng.uniform(low, high, shape))


def nonzero(*shape):
    """-> values of both signs with magnitude in [0.2, 2)"""
    return golden.exact_f32(rng.uniform(0.2, 2.0, shape) * rng.choice([-1.0, 1.0], shape))


def case(name, op, attrs, inputs, compute, constants=(), dout=None):
    """Record one case.

    * `inputs`: {operand: tensor}; floats get a gradient unless named in `constants`
    * `compute`: the inputs' values -> the result, or a tuple of results
    * `dout`: the upstream gradient of a single result, otherwise random
    """
    wanted = [k for k, v in inputs.items() if v.is_floating_point() and k not in constants]
    for k in wanted:
        inputs[k].requires_grad_()
    results = compute(*inputs.values())
    results = dict(out=results) if torch.is_tensor(results) else {f"out{i}": r for i, r in enumerate(results)}
    smooth = all(r.is_floating_point() for r in results.values())
    grads, douts = {}, {}
    if smooth:
        douts = {f"d{k}": normal(*r.shape) if dout is None else dout for k, r in results.items()}
        total = sum((r * d).sum() for r, d in zip(results.values(), douts.values()))
        grads = dict(zip((f"d{k}" for k in wanted), torch.autograd.grad(total, [inputs[k] for k in wanted])))
    for key, value in (inputs | results | douts | grads).items():
        full = f"{name}.{key}"
        assert full not in tensors, full
        tensors[full] = value
    cases.append(
        dict(name=name, op=op, attrs=attrs, inputs=list(inputs), outputs=list(results), grads=wanted if smooth else [])
    )


def elementwise_two_operands():
    shapes = {  # x, y; y broadcasts against x
        "full": ((2, 3, 4, 5), (2, 3, 4, 5)),
        "channel": ((1, 6, 1, 7), (1, 6, 1, 1)),
        "row": ((1, 6, 1, 7), (1, 1, 1, 7)),
        "one": ((1, 6, 1, 7), (1, 1, 1, 1)),
        "scalar": ((1, 6, 1, 7), ()),
        "both": ((1, 6, 1, 1), (1, 1, 1, 7)),  # each broadcasts
    }
    ops = {
        "add": (torch.add, normal),
        "sub": (torch.sub, normal),
        "mul": (torch.mul, normal),
        "real_div": (torch.div, nonzero),
        "maximum": (torch.maximum, normal),
        "minimum": (torch.minimum, normal),
        "pow": (torch.pow, None),
    }
    for op, (compute, draw) in ops.items():
        for kind, (xs, ys) in shapes.items():
            x, y = (uniform(0.3, 2.5, *xs), normal(*ys)) if op == "pow" else (normal(*xs), draw(*ys))
            case(f"{op}_{kind}", op, {}, dict(x=x, y=y), compute)
    comparisons = dict(
        equal=torch.eq, not_equal=torch.ne, greater=torch.gt, greater_equal=torch.ge, less=torch.lt, less_equal=torch.le
    )
    for op, compute in comparisons.items():  # small whole numbers, so that many are equal
        x, y = (golden.exact_f32(rng.integers(-2, 3, shape)) for shape in ((1, 4, 3, 5), (1, 4, 1, 5)))
        case(op, op, {}, dict(x=x, y=y), compute)
    cond = torch.from_numpy(rng.integers(0, 2, (1, 4, 3, 5)).astype(bool))
    case("select", "select", {}, dict(cond=cond, a=normal(1, 4, 3, 5), b=normal(1, 4, 3, 5)), torch.where)


def elementwise_one_operand():
    shape = (1, 6, 2, 7)

    def with_zeros(x):
        x[0, 0, 0, :3] = 0.0
        return x

    case("exp", "exp", {}, dict(x=normal(*shape)), torch.exp)
    for epsilon in (1e-3, 1e-45):  # the first is large enough to be missed when forgotten
        name = "log" if epsilon > 1e-10 else "log_tiny_epsilon"
        case(name, "log", dict(epsilon=epsilon), dict(x=uniform(0.02, 3, *shape)), lambda x, e=epsilon: (x + e).log())
    case("sqrt", "sqrt", {}, dict(x=uniform(0.05, 4, *shape)), torch.sqrt)
    # MIL adds epsilon under the root.
    case("rsqrt", "rsqrt", dict(epsilon=1e-5), dict(x=uniform(1e-3, 0.5, *shape)), lambda x: (x + 1e-5).rsqrt())
    case("tanh", "tanh", {}, dict(x=normal(*shape, std=2)), torch.tanh)
    case("sigmoid", "sigmoid", {}, dict(x=normal(*shape, std=3)), torch.sigmoid)
    case("silu", "silu", {}, dict(x=normal(*shape, std=3)), F.silu)
    case("relu", "relu", {}, dict(x=with_zeros(nonzero(*shape))), F.relu)
    case("abs", "abs", {}, dict(x=with_zeros(nonzero(*shape))), torch.abs)
    case("erf", "erf", {}, dict(x=normal(*shape, std=1.5)), torch.erf)
    case("square", "square", {}, dict(x=normal(*shape)), torch.square)
    gelus = {
        "EXACT": F.gelu,
        "TANH_APPROXIMATION": lambda x: F.gelu(x, approximate="tanh"),
        "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
    }
    for mode, compute in gelus.items():
        case(f"gelu_{mode.split('_')[0].lower()}", "gelu", dict(mode=mode), dict(x=normal(*shape, std=2)), compute)


def products():
    for tx in (False, True):
        for ty in (False, True):
            x = normal(1, 2, 7, 5) if tx else normal(1, 2, 5, 7)
            y = normal(1, 2, 3, 7) if ty else normal(1, 2, 7, 3)
            case(
                f"matmul_{'t' if tx else 'n'}{'t' if ty else 'n'}", "matmul", dict(transpose_x=tx, transpose_y=ty),
                dict(x=x, y=y), lambda x, y, tx=tx, ty=ty: torch.matmul(x.mT if tx else x, y.mT if ty else y),
            )  # fmt: skip
    plain = dict(transpose_x=False, transpose_y=False)
    case("matmul_broadcast", "matmul", plain, dict(x=normal(1, 2, 5, 7), y=normal(1, 1, 7, 3)), torch.matmul)
    case("matmul_rank2", "matmul", plain, dict(x=normal(5, 7), y=normal(7, 3)), torch.matmul)
    # Larger than any register tile, and not a multiple of one.
    case("matmul_large", "matmul", plain, dict(x=normal(1, 1, 37, 53), y=normal(1, 1, 53, 41)), torch.matmul)

    def conv(name, x, weight, strides=(1, 1), pad_type="valid", pad=(0, 0, 0, 0), dilations=(1, 1), groups=1):
        attrs = dict(
            strides=list(strides), pad_type=pad_type, pad=list(pad), dilations=list(dilations), groups=groups
        )
        if pad_type == "same":
            assert strides == dilations == (1, 1)
            k = weight.shape[2]
            pad = ((k - 1) // 2,) * 4
        top, bottom, left, right = pad
        case(
            name, "conv", attrs, dict(x=x, weight=weight),
            lambda x, w: F.conv2d(F.pad(x, (left, right, top, bottom)), w, None, strides, 0, dilations, groups),
        )  # fmt: skip

    conv("conv_1x1", normal(1, 6, 1, 9), normal(5, 6, 1, 1))
    conv("conv_3x3_same", normal(1, 4, 5, 6), normal(3, 4, 3, 3), pad_type="same")
    conv(
        "conv_strided", normal(2, 4, 7, 8), normal(6, 2, 3, 2), strides=(2, 1), pad_type="custom", pad=(1, 0, 2, 1),
        dilations=(1, 2), groups=2,
    )  # fmt: skip


def along_axes():
    for axis, kind in ((-1, "last"), (1, "channel")):
        case(
            f"softmax_{kind}", "softmax", dict(axis=axis), dict(x=normal(1, 6, 3, 7, std=2)),
            lambda x, a=axis: F.softmax(x, a),
        )  # fmt: skip
    # exp overflows f32 unless the largest is taken off first.
    case("softmax_large", "softmax", dict(axis=-1), dict(x=100 + normal(1, 2, 3, 7)), lambda x: F.softmax(x, -1))
    reductions = dict(reduce_sum=torch.sum, reduce_mean=torch.mean, reduce_max=torch.amax)
    for op, compute in reductions.items():
        for kind, axes, keep in (
            ("channel", [1], True), ("last", [-1], True), ("two", [1, 3], True), ("flat", [1], False),
        ):  # fmt: skip
            case(
                f"{op}_{kind}", op, dict(axes=axes, keep_dims=keep), dict(x=normal(2, 6, 3, 7)),
                lambda x, c=compute, a=axes, k=keep: c(x, dim=a, keepdim=k),
            )  # fmt: skip


def movement():
    case("transpose", "transpose", dict(perm=[0, 3, 1, 2]), dict(x=normal(2, 3, 4, 5)), lambda x: x.permute(0, 3, 1, 2))
    case(
        "reshape", "reshape", dict(shape=[1, 4, -1, 6]), dict(x=normal(1, 12, 1, 10)), lambda x: x.reshape(1, 4, -1, 6)
    )
    case(
        "slice_by_size", "slice_by_size", dict(begin=[0, 2, 0, 3], size=[1, 3, -1, 4]), dict(x=normal(1, 6, 2, 9)),
        lambda x: x[:, 2:5, :, 3:7],
    )  # fmt: skip
    case(
        "concat_channel", "concat", dict(axis=1, interleave=False),
        dict(values0=normal(1, 2, 3, 5), values1=normal(1, 4, 3, 5)), lambda *v: torch.cat(v, 1),
    )  # fmt: skip
    case(
        "concat_last", "concat", dict(axis=3, interleave=False),
        dict(values0=normal(1, 2, 3, 5), values1=normal(1, 2, 3, 1), values2=normal(1, 2, 3, 4)),
        lambda *v: torch.cat(v, 3),
    )  # fmt: skip
    case("split", "split", dict(num_splits=2, axis=1), dict(x=normal(1, 6, 2, 5)), lambda x: x.chunk(2, 1))
    case("split_last", "split", dict(num_splits=3, axis=-1), dict(x=normal(1, 2, 3, 12)), lambda x: x.chunk(3, -1))


def norms():
    def rms_norm(name, x, w, axis, eps):
        """x, w broadcastable to it along `axis` only -> x / sqrt(mean(x²) + eps) * w"""
        case(
            name, "rms_norm", dict(axis=axis, eps=eps), dict(x=x, w=w),
            lambda x, w: F.rms_norm(x.movedim(axis, -1), (w.numel(),), w.flatten(), eps).movedim(-1, axis),
        )  # fmt: skip

    rms_norm("rms_norm", normal(1, 24, 1, 11), 1 + 0.3 * normal(1, 24, 1, 1), 1, 1e-5)
    # Inputs so small that eps is most of the sum.
    rms_norm("rms_norm_small", normal(1, 24, 1, 11, std=1e-3), 1 + 0.3 * normal(1, 24, 1, 1), 1, 1e-5)
    # Over each head's D: [1, H, D, N].
    rms_norm("rms_norm_per_head", normal(1, 3, 10, 11), 1 + 0.3 * normal(1, 1, 10, 1), 2, 1e-5)


def heads_first(x, batch, heads):
    """x [1, H*D, 1, B*T] -> [B, H, T, D]"""
    return x.view(heads, -1, batch, x.shape[3] // batch).permute(2, 0, 3, 1)


def channels_first(x):
    """x [B, H, T, D] -> [1, H*D, 1, B*T]"""
    return x.permute(1, 3, 0, 2).reshape(1, x.shape[1] * x.shape[3], 1, -1)


def rotary():
    batch, seq, heads, dim = 2, 5, 3, 8
    angles = torch.arange(seq)[None, :] * 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) * 2 / dim)[:, None]
    cos, sin = (golden.exact_f32(t.repeat(1, batch)[None, None]) for t in (angles.cos(), angles.sin()))  # [1,1,D/2,B*T]

    for inverse in (False, True):

        def rope(x, cos, sin, inverse=inverse):
            """Pair (i, i + D/2) as a complex number, turned by cos + i sin"""
            a, b = x.view(heads, 2, dim // 2, -1).unbind(1)
            turned = torch.complex(a, b) * torch.complex(cos, -sin if inverse else sin)[0]
            return torch.stack([turned.real, turned.imag], 1).view(x.shape)

        inputs = dict(x=normal(1, heads * dim, 1, batch * seq), cos=cos, sin=sin)
        name = "rope_inverse" if inverse else "rope"
        case(name, "rope", dict(inverse=inverse), inputs, rope, constants=("cos", "sin"))


def attention():
    for kind, batch, seq, heads, kv_heads, dim, window, scale in (
        ("plain", 2, 6, 3, 3, 8, 0, 8**-0.5),
        ("grouped", 3, 7, 6, 2, 10, 0, 10**-0.5),
        ("window", 2, 9, 4, 2, 6, 3, 6**-0.5),
        ("window_one", 1, 5, 2, 1, 4, 1, 0.5),  # every query sees itself alone
        ("scale", 1, 6, 2, 2, 8, 0, 0.9),
        ("long", 1, 80, 2, 1, 16, 0, 0.25),  # longer than one block of a blocked kernel
        ("long_window", 1, 80, 2, 1, 16, 24, 0.25),
    ):
        i, j = torch.arange(seq)[:, None], torch.arange(seq)[None, :]
        seen = (j <= i) & (j > i - (window or seq))

        def compute(q, k, v, batch=batch, heads=heads, kv_heads=kv_heads, seen=seen, scale=scale):
            q, k, v = heads_first(q, batch, heads), heads_first(k, batch, kv_heads), heads_first(v, batch, kv_heads)
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=heads != kv_heads)
            return channels_first(o)

        columns = (1, batch * seq)
        case(
            f"attention_{kind}", "attention",
            dict(heads=heads, kv_heads=kv_heads, seq=seq, window=window, scale=scale),
            dict(
                q=normal(1, heads * dim, *columns, std=1.5), k=normal(1, kv_heads * dim, *columns, std=1.5),
                v=normal(1, kv_heads * dim, *columns),
            ),
            compute,
        )  # fmt: skip


def cross_entropy():
    """Token losses `out` [1, 1, 1, N] and, with every `dout` = exp(log_scale), dh and dw.

    Beside the op's operands a case holds `targets` [N] in whole (hi and lo are its div and mod by
    512) and the statistics `largest`, `sum`, `target` of the (capped) logits and their `lse`, each [1, 1, 1, N].
    """
    for kind, width, vocab, columns, softcap, scale in (
        ("plain", 12, 37, 9, 0.0, 1 / 9),
        ("softcap", 16, 600, 11, 15.0, 64 / 11),  # ids on both sides of 512
    ):
        targets = rng.integers(0, vocab, columns)
        targets[:2] = 0, vocab - 1
        targets = torch.from_numpy(targets)
        row = (1, 1, 1, columns)
        log_scale = golden.exact_f32(np.full((1, 1, 1, 1), math.log(scale)))
        name = f"cross_entropy_{kind}"

        def logits_of(h, w, softcap=softcap):
            """h [1, C, 1, N], w [V, C] -> [N, V]"""
            z = h[0, :, 0].T @ w.T
            return softcap * torch.tanh(z / softcap) if softcap else z

        def compute(h, w, hi, lo, log_scale, targets=targets, row=row):
            return F.cross_entropy(logits_of(h, w), targets, reduction="none").view(row)

        inputs = dict(
            h=normal(1, width, 1, columns), w=normal(vocab, width, std=3 / width**0.5 if not softcap else 2.0),
            hi=golden.exact_f32(targets.numpy() // 512).view(row), lo=golden.exact_f32(targets.numpy() % 512).view(row),
            log_scale=log_scale,
        )  # fmt: skip
        constants = ("hi", "lo", "log_scale")
        case(name, "cross_entropy", dict(softcap=softcap), inputs, compute, constants, log_scale.exp().expand(row))
        z = logits_of(inputs["h"], inputs["w"])  # [N, V]
        largest = z.amax(1)
        tensors[f"{name}.targets"] = targets
        tensors[f"{name}.largest"] = largest.view(row)
        tensors[f"{name}.sum"] = (z - largest[:, None]).exp().sum(1).view(row)
        tensors[f"{name}.target"] = z.gather(1, targets[:, None]).view(row)
        tensors[f"{name}.lse"] = z.logsumexp(1).view(row)


if __name__ == "__main__":
    out = golden.output_folder(__doc__)
    elementwise_two_operands()
    elementwise_one_operand()
    products()
    along_axes()
    movement()
    norms()
    rotary()
    attention()
    cross_entropy()
    golden.save(out / "ops.safetensors", tensors, {"cases": json.dumps(cases)}, SCRIPT, SEED)
    print(f"{len(cases)} cases")
