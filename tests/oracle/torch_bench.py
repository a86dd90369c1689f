"""The training speed to beat: one step of the same model in eager PyTorch on the CPU, f32.

A step is forward, backward, clipping of the gradient norm to 1 and AdamW, on random tokens.

    python torch_bench.py --preset gpt-48m --steps 10
    python torch_bench.py --preset tiny --steps 30 --json

Before the clock starts, the loss and a gradient of a small model are compared with
`tests/golden/model.py`, so what is timed is the model that anneal trains.
"""

import argparse
import json
import pathlib
import resource
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
import model  # noqa: E402

# name: (batch, config)
PRESETS = {
    "gpt-48m": (1, model.Config(
        n_layers=6, width=768, n_heads=6, n_kv_heads=6, head_dim=128, ffn_hidden=2048, vocab_size=8192, seq_len=512,
        softcap=15.0, tied=True, residual_scale=12**-0.5,
    )),
    "tiny": (8, model.Config(
        n_layers=4, width=192, n_heads=3, n_kv_heads=3, head_dim=64, ffn_hidden=512, vocab_size=2048, seq_len=256,
        softcap=15.0, tied=True, residual_scale=8**-0.5,
    )),
}  # fmt: skip


class Layer(nn.Module):
    """x [B, T, C], cos, sin [T, D] -> [B, T, C]"""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        inner, kv = cfg.n_heads * cfg.head_dim, cfg.n_kv_heads * cfg.head_dim
        self.input_layernorm = nn.RMSNorm(cfg.width, eps=cfg.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(cfg.width, eps=cfg.norm_eps)
        linear = lambda i, o: nn.Linear(i, o, bias=False)  # noqa: E731
        self.self_attn = nn.ModuleDict(dict(
            q_proj=linear(cfg.width, inner), k_proj=linear(cfg.width, kv), v_proj=linear(cfg.width, kv),
            o_proj=linear(inner, cfg.width),
        ))  # fmt: skip
        self.mlp = nn.ModuleDict(dict(
            gate_proj=linear(cfg.width, cfg.ffn_hidden), up_proj=linear(cfg.width, cfg.ffn_hidden),
            down_proj=linear(cfg.ffn_hidden, cfg.width),
        ))  # fmt: skip

    def forward(self, x, cos, sin):
        cfg, attn, mlp = self.cfg, self.self_attn, self.mlp
        a = self.input_layernorm(x)
        q, k, v = (attn[n](a).unflatten(-1, (-1, cfg.head_dim)).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj"))
        half = cfg.head_dim // 2
        q, k = (t * cos + torch.cat((-t[..., half:], t[..., :half]), -1) * sin for t in (q, k))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=cfg.n_heads != cfg.n_kv_heads)
        x = x + cfg.residual_scale * attn["o_proj"](o.transpose(1, 2).flatten(2))
        f = self.post_attention_layernorm(x)
        return x + cfg.residual_scale * mlp["down_proj"](F.silu(mlp["gate_proj"](f)) * mlp["up_proj"](f))


class Gpt(nn.Module):
    """ids, targets [B, T] -> mean cross entropy; parameters under the names of `model.py`, less the prefix `model.`"""

    def __init__(self, cfg):
        super().__init__()
        assert cfg.tied and cfg.ffn == "swiglu" and not cfg.qk_norm and cfg.window is None and cfg.softcap
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.width)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.n_layers))
        self.norm = nn.RMSNorm(cfg.width, eps=cfg.norm_eps)
        cos, sin = model.rotary_tables(cfg.seq_len, cfg.head_dim, cfg.rope_theta, torch.float32)
        self.register_buffer("cos", torch.cat((cos, cos), -1), persistent=False)
        self.register_buffer("sin", torch.cat((sin, sin), -1), persistent=False)

    def forward(self, ids, targets):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embed_tokens.weight)  # [B, T, V]
        logits = self.cfg.softcap * torch.tanh(logits / self.cfg.softcap)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def check_against_model():
    """Loss and gradients of a small model are those of `model.py`, to f32 rounding."""
    cfg = model.Config(
        n_layers=2, width=48, n_heads=4, n_kv_heads=2, head_dim=12, ffn_hidden=80, vocab_size=160, seq_len=24,
        softcap=15.0, tied=True, residual_scale=0.7,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    weights = {k: v.float().requires_grad_() for k, v in model.random_weights(model.weight_shapes(cfg), rng).items()}
    ids, targets = (torch.from_numpy(rng.integers(0, cfg.vocab_size, (2, cfg.seq_len))) for _ in range(2))
    loss = model.token_loss(model.forward(cfg, weights, ids)[0], targets).mean()
    loss.backward()
    gpt = Gpt(cfg)
    gpt.load_state_dict({k.removeprefix("model."): v.detach() for k, v in weights.items()})
    timed = gpt(ids, targets)
    timed.backward()
    torch.testing.assert_close(timed, loss, rtol=1e-5, atol=0.0)
    for name, parameter in gpt.named_parameters():
        theirs = weights[f"model.{name}"].grad
        torch.testing.assert_close(parameter.grad, theirs, rtol=0.0, atol=1e-5 * theirs.abs().max().item())


def peak_rss_bytes():
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="gpt-48m")
    parser.add_argument("--steps", type=int, default=10, help="timed steps; the median is reported")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused AdamW instead of its default")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps is {args.steps}, expected at least 1")

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    check_against_model()
    batch, cfg = PRESETS[args.preset]
    gpt = Gpt(cfg)
    optimizer = torch.optim.AdamW(
        gpt.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=args.fused or None
    )
    seconds = []
    for _ in range(args.warmup + args.steps):
        tokens = torch.randint(cfg.vocab_size, (batch, cfg.seq_len + 1))
        start = time.perf_counter()
        loss = gpt(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()
        seconds.append(time.perf_counter() - start)
    assert 0 < loss < 20, f"{args.preset}: the loss is {loss}"
    step = statistics.median(seconds[args.warmup :])
    tokens_per_step = batch * cfg.seq_len
    result = dict(tok_s=round(tokens_per_step / step, 1), ms_step=round(step * 1e3, 2), peak_rss_bytes=peak_rss_bytes())
    if args.json:
        print(json.dumps(result))
    else:
        parameters = sum(p.numel() for p in gpt.parameters())
        print(
            f"{args.preset}: {parameters / 1e6:.1f}M parameters, {tokens_per_step} tokens a step, PyTorch "
            f"{torch.__version__}, {args.threads} threads, median of {args.steps} steps"
        )
        print(f"{result['tok_s']} tok/s, {result['ms_step']} ms/step, peak {result['peak_rss_bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
