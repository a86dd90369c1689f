"""One training step in JAX (XLA) on the CPU, compiled as a whole, in f32 or with matrix products of bf16 operands.

    python jax_step.py --preset gpt-48m --steps 10
"""

import os
import sys

import shapes


def threads_first():
    """XLA takes as many threads as it may run on; that is decided before it is loaded."""
    args = shapes.arguments(__doc__).parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    return args


ARGS = threads_first()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402


def forward(shape, dtype, w, rotary, tokens):
    """tokens [B, T + 1] -> mean cross-entropy; operands of products in `dtype`, sums in f32"""
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    cos, sin = rotary
    B, T = ids.shape
    half = shape.head_dim // 2
    norm = lambda x, gain: x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + shape.norm_eps) * gain  # noqa: E731
    turn = lambda t: t * cos + jnp.concatenate((-t[..., half:], t[..., :half]), -1) * sin  # noqa: E731
    product = lambda form, a, b: jnp.einsum(form, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)  # noqa: E731
    linear = lambda x, name: product("...i,oi->...o", x, w[name])  # noqa: E731
    heads = lambda a, name: linear(a, name).reshape(B, T, shape.n_heads, shape.head_dim).transpose(0, 2, 1, 3)  # noqa: E731
    visible = jnp.tril(jnp.ones((T, T), bool))
    x = w["embed"][ids]
    for i in range(shape.n_layers):
        a = norm(x, w[f"{i}/norm1"])
        q, k, v = (heads(a, f"{i}/{name}") for name in ("wq", "wk", "wv"))
        scores = product("bhqd,bhkd->bhqk", turn(q), turn(k)) * shape.head_dim**-0.5
        p = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), -1)
        o = product("bhqk,bhkd->bqhd", p, v).reshape(B, T, -1)
        x = x + shape.residual_scale * linear(o, f"{i}/wo")
        f = norm(x, w[f"{i}/norm2"])
        x = x + shape.residual_scale * linear(jax.nn.silu(linear(f, f"{i}/w1")) * linear(f, f"{i}/w3"), f"{i}/w2")
    logits = linear(norm(x, w["norm"]), "embed")
    logits = shape.softcap * jnp.tanh(logits / shape.softcap)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def check():
    """-> loss and gradient norm of the small model"""
    small = shapes.SMALL
    loss, gradients = jax.value_and_grad(forward, 2)(small, jnp.float32, small.weights(), small.rotary(), small.tokens())
    return [float(loss), float(optax.global_norm(gradients))]


def main():
    shape = shapes.shape_of(ARGS)
    dtype = jnp.bfloat16 if ARGS.precision == "bf16" else jnp.float32
    weights, rotary = jax.tree.map(jnp.asarray, shape.weights()), shape.rotary()
    (b1, b2), a = shapes.ADAMW["betas"], shapes.ADAMW
    decays = {name: value.ndim > 1 for name, value in weights.items()}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(a["lr"], b1, b2, a["eps"], weight_decay=a["weight_decay"], mask=decays)
    )
    state = optimizer.init(weights)
    count = sum(value.size for value in weights.values())

    @jax.jit
    def update(weights, state, tokens):
        loss, gradients = jax.value_and_grad(forward, 2)(shape, dtype, weights, rotary, tokens)
        changes, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, changes), state, loss

    update = jax.jit(update, donate_argnums=(0, 1))

    def step(tokens):
        nonlocal weights, state
        weights, state, loss = update(weights, state, tokens)
        jax.block_until_ready(weights)
        return float(loss)

    shapes.measure(ARGS, shape, step, count, check())


if __name__ == "__main__":
    sys.exit(main())
