"""One training step in PyTorch on the CPU: eager or compiled, in f32 or with autocast to bf16.

    python torch_step.py --preset gpt-48m --steps 10
    python torch_step.py --preset gpt-48m --precision bf16 --compile
"""

import pathlib
import sys

import torch
import torch.nn.functional as F

import shapes

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"))
import model  # noqa: E402


def forward(shape, w, rotary, tokens):
    """tokens [B, T + 1] -> mean cross-entropy"""
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    cos, sin = rotary
    half = shape.head_dim // 2
    norm = lambda x, gain: F.rms_norm(x, (shape.width,), gain, shape.norm_eps)  # noqa: E731
    turn = lambda t: t * cos + torch.cat((-t[..., half:], t[..., :half]), -1) * sin  # noqa: E731
    x = F.embedding(ids, w["embed"])
    for i in range(shape.n_layers):
        a = norm(x, w[f"{i}/norm1"])
        q, k, v = (F.linear(a, w[f"{i}/{n}"]).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2) for n in ("wq", "wk", "wv"))
        o = F.scaled_dot_product_attention(turn(q).to(v.dtype), turn(k).to(v.dtype), v, is_causal=True)
        x = x + shape.residual_scale * F.linear(o.transpose(1, 2).flatten(2), w[f"{i}/wo"])
        f = norm(x, w[f"{i}/norm2"])
        h = F.silu(F.linear(f, w[f"{i}/w1"])) * F.linear(f, w[f"{i}/w3"])
        x = x + shape.residual_scale * F.linear(h, w[f"{i}/w2"])
    logits = F.linear(norm(x, w["norm"]), w["embed"]).float()
    logits = shape.softcap * torch.tanh(logits / shape.softcap)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def prepared(shape):
    weights = {name: torch.nn.Parameter(torch.from_numpy(value)) for name, value in shape.weights().items()}
    return weights, [torch.from_numpy(table) for table in shape.rotary()]


# Here: in tests/golden/model.py, with which anneal's own loss and gradients are compared in its tests.
NAMES = {"wq": "self_attn.q_proj", "wk": "self_attn.k_proj", "wv": "self_attn.v_proj", "wo": "self_attn.o_proj",
         "w1": "mlp.gate_proj", "w3": "mlp.up_proj", "w2": "mlp.down_proj", "norm1": "input_layernorm",
         "norm2": "post_attention_layernorm"}  # fmt: skip


def name_there(name):
    layer, _, part = name.partition("/")
    return f"model.layers.{layer}.{NAMES[part]}.weight" if part else {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight"}[name]


def check():
    """-> loss and gradient norm of the small model, which are those of tests/golden/model.py"""
    small = shapes.SMALL
    weights, rotary = prepared(small)
    tokens = torch.from_numpy(small.tokens())
    loss = forward(small, weights, rotary, tokens)
    loss.backward()
    cfg = model.Config(
        n_layers=small.n_layers, width=small.width, n_heads=small.n_heads, n_kv_heads=small.n_heads, head_dim=small.head_dim,
        ffn_hidden=small.ffn_hidden, vocab_size=small.vocab_size, seq_len=small.seq_len, softcap=small.softcap, tied=True,
        residual_scale=small.residual_scale, norm_eps=small.norm_eps, rope_theta=small.rope_theta,
    )  # fmt: skip
    same = {name_there(name): w.detach().clone().requires_grad_() for name, w in weights.items()}
    expected = model.token_loss(model.forward(cfg, same, tokens[:, :-1])[0], tokens[:, 1:]).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    for name, w in weights.items():
        theirs = same[name_there(name)].grad
        torch.testing.assert_close(w.grad, theirs, rtol=0.0, atol=1e-5 * theirs.abs().max().item())
    return [loss.item(), torch.nn.utils.get_total_norm([w.grad for w in weights.values()]).item()]


def main():
    parser = shapes.arguments(__doc__)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--fused", action="store_true", help="the fused AdamW instead of the default one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = shapes.shape_of(args)
    weights, rotary = prepared(shape)
    decaying = [w for w in weights.values() if w.dim() > 1]
    gains = [w for w in weights.values() if w.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decaying}, {"params": gains, "weight_decay": 0.0}], **shapes.ADAMW, fused=args.fused or None
    )
    run = torch.compile(forward) if args.compile else forward

    def step(tokens):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            loss = run(shape, weights, rotary, torch.from_numpy(tokens))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    shapes.measure(args, shape, step, sum(w.numel() for w in weights.values()), check())


if __name__ == "__main__":
    main()
