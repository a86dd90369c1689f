"""The model that anneal trains, in plain PyTorch: the oracle for `crates/model`.

Weights are a dict under Hugging Face names, matrices [out, in]. Dimensions: B sequences, T
tokens in each, C width, H query heads, K key/value heads, D head_dim, F ffn_hidden, V vocabulary.

    python model.py --self-check      compare with transformers' Llama and Qwen3 (seconds)
"""

import argparse
import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass
class Config:
    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_dim: int  # n_heads * head_dim may differ from width
    ffn_hidden: int
    vocab_size: int
    seq_len: int
    ffn: str = "swiglu"  # or "relu2"
    qk_norm: bool = False
    softcap: float | None = None
    tied: bool = True
    residual_scale: float = 1.0
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    window: int | None = None  # query i sees keys j with i - window < j <= i
    # What Karpathy's autoresearch has and Llama has not.
    norm_gain: bool = True
    embed_norm: bool = False
    x0_residual: bool = False
    value_embeddings: bool = False
    window_pattern: str = ""  # by layer, again and again: S sees half the context before it and itself, L all

    def to_json(self):
        pieces = ("norm_gain", "embed_norm", "x0_residual", "value_embeddings", "window_pattern")
        unused = {name for name in pieces if getattr(self, name) == getattr(Config, name)}
        return json.dumps({name: value for name, value in asdict(self).items() if name not in unused})

    def window_of(self, i):
        """-> the window of layer i"""
        if not self.window_pattern:
            return self.window
        is_last = i == self.n_layers - 1
        letter = "L" if is_last else self.window_pattern[i % len(self.window_pattern)]
        return {"S": self.seq_len // 2 + 1, "L": None}[letter]

    def has_value_embedding(self, i):
        return self.value_embeddings and i % 2 == (self.n_layers - 1) % 2


GATE_CHANNELS = 32


def rms_norm(x, w, eps):
    """x [.., C], w [C] or None -> [.., C]"""
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x if w is None else x * w


def rotary_tables(seq_len, head_dim, theta, dtype):
    """-> cos and sin [T, D/2] of position * theta^(-2i/D)"""
    i = torch.arange(head_dim // 2, dtype=torch.float64)
    angles = torch.arange(seq_len, dtype=torch.float64)[:, None] * theta ** (-2 * i / head_dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x, cos, sin):
    """Rotary embedding in half-split pairs (i, i + D/2): x [B, T, H, D], cos, sin [T, D/2] -> [B, T, H, D]"""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def causal_mask(seq_len, window):
    """-> [T, T], true where query i (row) sees key j (column)"""
    i, j = torch.arange(seq_len)[:, None], torch.arange(seq_len)[None, :]
    return (j <= i) if window is None else (j <= i) & (j > i - window)


def attention(q, k, v, window):
    """q [B, T, H, D], k, v [B, T, K, D] -> [B, T, H, D]; query head h reads head h // (H / K)"""
    T, H, D = q.shape[1:]
    group = H // k.shape[2]
    k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)  # [B, T, H, D]
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / D**0.5
    scores = scores.masked_fill(~causal_mask(T, window), float("-inf"))
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)


def layer(cfg, w, i, x, x0=None, ids=None):
    """Layer i on the residual stream: x, x0 (what the first layer gets) [B, T, C], ids [B, T] -> [B, T, C]"""
    p = f"model.layers.{i}."
    B, T, _ = x.shape
    if cfg.x0_residual:
        x = w[p + "resid_lambda.weight"] * x + w[p + "x0_lambda.weight"] * x0
    a = rms_norm(x, w.get(p + "input_layernorm.weight"), cfg.norm_eps)
    q = (a @ w[p + "self_attn.q_proj.weight"].T).view(B, T, cfg.n_heads, cfg.head_dim)
    k = (a @ w[p + "self_attn.k_proj.weight"].T).view(B, T, cfg.n_kv_heads, cfg.head_dim)
    v = (a @ w[p + "self_attn.v_proj.weight"].T).view(B, T, cfg.n_kv_heads, cfg.head_dim)
    if cfg.has_value_embedding(i):
        ve = w[p + "self_attn.value_embed.weight"][ids].view(B, T, cfg.n_kv_heads, cfg.head_dim)
        gate = 2 * torch.sigmoid(a[..., :GATE_CHANNELS] @ w[p + "self_attn.value_gate.weight"].T)  # [B, T, K]
        v = v + gate[..., None] * ve
    if cfg.qk_norm and cfg.norm_gain:  # over D, before the rotation
        q = rms_norm(q, w[p + "self_attn.q_norm.weight"], cfg.norm_eps)
        k = rms_norm(k, w[p + "self_attn.k_norm.weight"], cfg.norm_eps)
    cos, sin = rotary_tables(T, cfg.head_dim, cfg.rope_theta, x.dtype)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    if cfg.qk_norm and not cfg.norm_gain:  # after it, as autoresearch does; anneal's place is before
        q, k = rms_norm(q, None, cfg.norm_eps), rms_norm(k, None, cfg.norm_eps)
    o = attention(q, k, v, cfg.window_of(i))
    o = o.reshape(B, T, cfg.n_heads * cfg.head_dim)
    x = x + cfg.residual_scale * (o @ w[p + "self_attn.o_proj.weight"].T)

    f = rms_norm(x, w.get(p + "post_attention_layernorm.weight"), cfg.norm_eps)
    up = f @ w[p + "mlp.up_proj.weight"].T  # [B, T, F]
    if cfg.ffn == "swiglu":
        h = F.silu(f @ w[p + "mlp.gate_proj.weight"].T) * up
    else:
        h = up.relu().square()
    return x + cfg.residual_scale * (h @ w[p + "mlp.down_proj.weight"].T)


def forward(cfg, w, ids):
    """ids [B, T] -> logits [B, T, V] (after the softcap), residual stream after each layer [B, T, C]"""
    x = w["model.embed_tokens.weight"][ids]
    if cfg.embed_norm:
        x = rms_norm(x, None, cfg.norm_eps)
    hidden, x0 = [], x
    for i in range(cfg.n_layers):
        x = layer(cfg, w, i, x, x0, ids)
        hidden.append(x)
    x = rms_norm(x, w.get("model.norm.weight"), cfg.norm_eps)
    logits = x @ w["model.embed_tokens.weight" if cfg.tied else "lm_head.weight"].T
    if cfg.softcap is not None:
        logits = cfg.softcap * torch.tanh(logits / cfg.softcap)
    return logits, hidden


def token_loss(logits, targets):
    """logits [B, T, V], targets [B, T] -> cross entropy of every token [B, T]; the loss is its mean"""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def layer_weight_shapes(cfg, i):
    """-> {name: shape} of layer i"""
    C, D, Fh, H, K = cfg.width, cfg.head_dim, cfg.ffn_hidden, cfg.n_heads, cfg.n_kv_heads
    shapes = {"input_layernorm": (C,), "post_attention_layernorm": (C,)} if cfg.norm_gain else {}
    shapes |= {"self_attn.q_proj": (H * D, C), "self_attn.k_proj": (K * D, C)}
    shapes |= {"self_attn.v_proj": (K * D, C), "self_attn.o_proj": (C, H * D)}
    if cfg.qk_norm and cfg.norm_gain:
        shapes |= {"self_attn.q_norm": (D,), "self_attn.k_norm": (D,)}
    if cfg.x0_residual:
        shapes |= {"resid_lambda": (1,), "x0_lambda": (1,)}
    if cfg.has_value_embedding(i):
        shapes |= {"self_attn.value_embed": (cfg.vocab_size, K * D), "self_attn.value_gate": (K, GATE_CHANNELS)}
    if cfg.ffn == "swiglu":
        shapes |= {"mlp.gate_proj": (Fh, C)}
    shapes |= {"mlp.up_proj": (Fh, C), "mlp.down_proj": (C, Fh)}
    return {f"model.layers.{i}.{name}.weight": shape for name, shape in shapes.items()}


def weight_shapes(cfg):
    """-> {name: shape} of the whole model"""
    shapes = {"model.embed_tokens.weight": (cfg.vocab_size, cfg.width)}
    for i in range(cfg.n_layers):
        shapes |= layer_weight_shapes(cfg, i)
    if cfg.norm_gain:
        shapes["model.norm.weight"] = (cfg.width,)
    if not cfg.tied:
        shapes["lm_head.weight"] = (cfg.vocab_size, cfg.width)
    return shapes


def random_weights(shapes, rng):
    """Weights that exercise everything, from a NumPy generator, exact in f32 and held in f64.

    No zeros and no ones: matrices keep activations at O(1) (q and k somewhat more, so that
    attention is far from uniform, and gates, so that they open differently), norms scatter around 1, the classifier spreads logits over
    several units, so that a softcap of 15 bends them.
    """
    weights = {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape)
        if "norm" in name or "resid_lambda" in name:
            value = 1 + 0.2 * noise
        elif "x0_lambda" in name:
            value = 0.4 + 0.2 * noise
        elif "embed" in name or "lm_head" in name:
            value = 0.5 * noise
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name or "value_gate" in name else 1.0
            value = gain * noise / shape[1] ** 0.5
        weights[name] = torch.from_numpy(value.astype(np.float32)).double()
    return weights


def self_check():
    """Logits, hidden states, loss and gradients against transformers, in f32.

    The tolerance is relative to the largest magnitude of each tensor: two f32 evaluations in
    different order differ by some 1e-6 of it, every planted fault by more than 1e-3.
    """
    import transformers

    tolerance = 1e-5
    small = dict(n_layers=2, width=42, n_heads=6, head_dim=10, ffn_hidden=56, vocab_size=131, seq_len=21)

    def compare(cfg, twin, faulty=None):
        """-> the largest relative difference between `faulty or cfg` here and the twin's model of cfg"""
        w = {k: v.float() for k, v in random_weights(weight_shapes(cfg), np.random.default_rng(1)).items()}
        missing, unexpected = twin.load_state_dict(w, strict=False)
        assert not unexpected and set(missing) <= ({"lm_head.weight"} if cfg.tied else set()), (missing, unexpected)
        ids = torch.from_numpy(np.random.default_rng(2).integers(0, cfg.vocab_size, (3, cfg.seq_len)))
        targets = ids.roll(-1, dims=1)
        for value in w.values():
            value.requires_grad_()
        logits, hidden = forward(faulty or cfg, w, ids)
        token_loss(logits, targets).mean().backward()
        out = twin(ids, output_hidden_states=True)
        token_loss(out.logits, targets).mean().backward()
        theirs = dict(twin.named_parameters())
        pairs = {"logits": (logits, out.logits)}  # their last hidden state is already normed
        pairs |= {f"hidden.{i}": (hidden[i], out.hidden_states[i + 1]) for i in range(cfg.n_layers - 1)}
        pairs |= {f"grad.{name}": (w[name].grad, theirs[name].grad) for name in w}
        return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs.values())

    def llama(cfg):
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common(cfg)))

    def qwen3(cfg):
        sliding = dict(use_sliding_window=True, sliding_window=cfg.window, max_window_layers=0)
        return transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(**common(cfg), **(sliding if cfg.window else {}))
        )

    def common(cfg):
        return dict(
            num_hidden_layers=cfg.n_layers, hidden_size=cfg.width, num_attention_heads=cfg.n_heads,
            num_key_value_heads=cfg.n_kv_heads, head_dim=cfg.head_dim, intermediate_size=cfg.ffn_hidden,
            vocab_size=cfg.vocab_size, max_position_embeddings=64, tie_word_embeddings=cfg.tied,
            rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta}, rms_norm_eps=cfg.norm_eps,
            attention_bias=False, attn_implementation="eager",
        )  # fmt: skip

    twins = {
        "Llama, tied": (Config(**small, n_kv_heads=6), llama),
        "Llama, grouped, untied": (Config(**small, n_kv_heads=2, tied=False), llama),
        "Qwen3, grouped, tied": (Config(**small, n_kv_heads=2, qk_norm=True, rope_theta=500.0), qwen3),
        "Qwen3, window 5, untied": (Config(**small, n_kv_heads=3, qk_norm=True, window=5, tied=False), qwen3),
    }
    failures = 0
    for name, (cfg, twin) in twins.items():
        difference = compare(cfg, twin(cfg))
        failures += difference > tolerance
        print(f"{name:26} differs by {difference:.1e}, allowed {tolerance:.0e}")
    windowed = twins["Qwen3, window 5, untied"][0]
    for fault in (dict(window=6), dict(norm_eps=1e-3), dict(rope_theta=9000.0), dict(residual_scale=0.99)):
        difference = compare(windowed, qwen3(windowed), Config(**{**asdict(windowed), **fault}))
        failures += difference < 100 * tolerance
        print(f"planted fault {json.dumps(fault):26} differs by {difference:.1e}, must be seen")
    if failures:
        raise SystemExit(f"{failures} comparisons failed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-check", action="store_true", required=True)
    parser.parse_args()
    self_check()
