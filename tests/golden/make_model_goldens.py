"""Golden files for whole models and for one layer; the model is `model.py`.

    python make_model_goldens.py [--out FOLDER]

model_*.safetensors: every weight under its Hugging Face name, `ids` and `targets` [B, T],
`logits` [B, T, V] after the softcap, `token_loss` [B, T], `loss` [1], `hidden.<i>` [B, T, C] (the
residual stream after layer i), and `grad.<weight>` of the loss for every weight.

layer.safetensors: one layer alone, channels first as anneal computes: `x`, its result `y`, an
upstream gradient `dy` and `dx`, all [1, C, 1, B*T]; weights and `grad.<weight>` as above, under
the names of layer 0.

The metadata key `config` holds the configuration as JSON under anneal's names.
"""

import numpy as np
import torch

import golden
import model

SCRIPT = "make_model_goldens.py"
SEED = 20240817

MODELS = {
    # The plain shape, with everything that the presets use.
    "model_swiglu_tied": (2, model.Config(
        n_layers=2, width=48, n_heads=3, n_kv_heads=3, head_dim=16, ffn_hidden=96, vocab_size=256, seq_len=32,
        softcap=15.0, tied=True, residual_scale=0.5,
    )),
    # Sizes that no block, lane or tile divides, heads wider in sum than the model, and the other options.
    "model_odd": (3, model.Config(
        n_layers=2, width=40, n_heads=6, n_kv_heads=2, head_dim=10, ffn_hidden=56, vocab_size=131, seq_len=21,
        ffn="relu2", qk_norm=True, softcap=None, tied=False, residual_scale=1.0,
    )),
    # Windowed attention with grouped heads.
    "model_window": (2, model.Config(
        n_layers=2, width=48, n_heads=4, n_kv_heads=2, head_dim=12, ffn_hidden=80, vocab_size=160, seq_len=24,
        softcap=30.0, tied=False, residual_scale=0.7, window=8,
    )),
    # Everything that autoresearch has and Llama has not, in layers of three kinds, again in sizes nothing divides.
    "model_all": (3, model.Config(
        n_layers=4, width=40, n_heads=4, n_kv_heads=2, head_dim=10, ffn_hidden=56, vocab_size=131, seq_len=21,
        ffn="relu2", qk_norm=True, softcap=15.0, tied=False, norm_gain=False, embed_norm=True, x0_residual=True,
        value_embeddings=True, window_pattern="SSSL",
    )),
}  # fmt: skip

LAYER = (2, model.Config(
    n_layers=1, width=48, n_heads=3, n_kv_heads=3, head_dim=16, ffn_hidden=96, vocab_size=256, seq_len=16,
    softcap=15.0, tied=True, residual_scale=0.5,
))  # fmt: skip


def whole_model(batch, cfg, seed):
    """-> the tensors of a model_*.safetensors file"""
    rng = np.random.default_rng(seed)
    weights = model.random_weights(model.weight_shapes(cfg), rng)
    ids, targets = (torch.from_numpy(rng.integers(0, cfg.vocab_size, (batch, cfg.seq_len))) for _ in range(2))
    for w in weights.values():
        w.requires_grad_()
    logits, hidden = model.forward(cfg, weights, ids)
    token_loss = model.token_loss(logits, targets)
    loss = token_loss.mean()
    loss.backward()

    # A golden file must not let a wrong program pass: activations at O(1), logits spread.
    assert all(0.3 < h.std() < 5 for h in hidden), [h.std().item() for h in hidden]
    assert 2 < logits.std() < 8, logits.std()
    tensors = dict(weights) | {f"grad.{name}": w.grad for name, w in weights.items()}
    assert all(w.grad.abs().max() > 1e-4 for w in weights.values())
    tensors |= {f"hidden.{i}": h for i, h in enumerate(hidden)}
    return tensors | dict(ids=ids, targets=targets, logits=logits, token_loss=token_loss, loss=loss[None])


def one_layer(batch, cfg, seed):
    """-> the tensors of layer.safetensors"""
    rng = np.random.default_rng(seed)
    weights = model.random_weights(model.layer_weight_shapes(cfg, 0), rng)
    x, dy = (golden.exact_f32(rng.standard_normal((batch, cfg.seq_len, cfg.width))) for _ in range(2))
    for value in (x, *weights.values()):
        value.requires_grad_()
    y = model.layer(cfg, weights, 0, x)
    y.backward(dy)
    tensors = dict(weights) | {f"grad.{name}": w.grad for name, w in weights.items()}
    return tensors | {k: golden.channels_first(v) for k, v in dict(x=x, y=y, dy=dy, dx=x.grad).items()}


if __name__ == "__main__":
    out = golden.output_folder(__doc__)
    for number, (name, (batch, cfg)) in enumerate(MODELS.items()):
        seed = SEED + number
        tensors = whole_model(batch, cfg, seed)
        metadata = {"config": cfg.to_json(), "batch": str(batch)}
        golden.save(out / f"{name}.safetensors", tensors, metadata, SCRIPT, seed)
    batch, cfg = LAYER
    metadata = {"config": cfg.to_json(), "batch": str(batch)}
    golden.save(out / "layer.safetensors", one_layer(batch, cfg, SEED + 100), metadata, SCRIPT, SEED + 100)
