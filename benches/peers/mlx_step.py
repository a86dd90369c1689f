"""One training step in MLX on the CPU, in f32 or with matrix products of bf16 operands.

    python mlx_step.py --preset tiny --steps 3

MLX takes the threads that it likes; --threads is not its option.
"""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import mlx.utils

import shapes


def forward(shape, dtype, w, rotary, tokens):
    """tokens [B, T + 1] -> mean cross-entropy; products in `dtype`"""
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    cos, sin = rotary
    B, T = ids.shape
    half = shape.head_dim // 2
    turn = lambda t: t * cos + mx.concatenate((-t[..., half:], t[..., :half]), -1) * sin  # noqa: E731
    linear = lambda x, name: (x.astype(dtype) @ w[name].astype(dtype).T).astype(mx.float32)  # noqa: E731
    heads = lambda a, name: linear(a, name).reshape(B, T, shape.n_heads, shape.head_dim).transpose(0, 2, 1, 3)  # noqa: E731
    x = w["embed"][ids]
    for i in range(shape.n_layers):
        a = mx.fast.rms_norm(x, w[f"{i}/norm1"], shape.norm_eps)
        q, k, v = (heads(a, f"{i}/{name}") for name in ("wq", "wk", "wv"))
        q, k, v = (t.astype(dtype) for t in (turn(q), turn(k), v))
        o = mx.fast.scaled_dot_product_attention(q, k, v, scale=shape.head_dim**-0.5, mask="causal")
        x = x + shape.residual_scale * linear(o.transpose(0, 2, 1, 3).reshape(B, T, -1), f"{i}/wo")
        f = mx.fast.rms_norm(x, w[f"{i}/norm2"], shape.norm_eps)
        x = x + shape.residual_scale * linear(nn.silu(linear(f, f"{i}/w1")) * linear(f, f"{i}/w3"), f"{i}/w2")
    logits = linear(mx.fast.rms_norm(x, w["norm"], shape.norm_eps), "embed")
    logits = shape.softcap * mx.tanh(logits / shape.softcap)
    return nn.losses.cross_entropy(logits, targets, reduction="mean")


def prepared(shape):
    return {name: mx.array(value) for name, value in shape.weights().items()}, [mx.array(table) for table in shape.rotary()]


def loss_and_gradients(shape, dtype, rotary):
    return mx.value_and_grad(lambda weights, tokens: forward(shape, dtype, weights, rotary, tokens))


def check():
    """-> loss and gradient norm of the small model"""
    small = shapes.SMALL
    weights, rotary = prepared(small)
    loss, gradients = loss_and_gradients(small, mx.float32, rotary)(weights, mx.array(small.tokens()))
    return [loss.item(), sum((g * g).sum() for g in gradients.values()).sqrt().item()]


def main():
    args = shapes.arguments(__doc__).parse_args()
    mx.set_default_device(mx.cpu)
    shape = shapes.shape_of(args)
    weights, rotary = prepared(shape)
    dtype = mx.bfloat16 if args.precision == "bf16" else mx.float32
    a = shapes.ADAMW
    make = lambda decay: optim.AdamW(a["lr"], a["betas"], a["eps"], decay, bias_correction=True)  # noqa: E731
    optimizer = optim.MultiOptimizer([make(a["weight_decay"]), make(0.0)], [lambda _, weight: weight.ndim > 1])
    both = loss_and_gradients(shape, dtype, rotary)

    def step(tokens):
        nonlocal weights
        loss, gradients = both(weights, mx.array(tokens))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        weights = optimizer.apply_gradients(gradients, weights)
        mx.eval(weights, optimizer.state, loss)
        return loss.item()

    shapes.measure(args, shape, step, sum(value.size for _, value in mlx.utils.tree_flatten(weights)), check())


if __name__ == "__main__":
    main()
