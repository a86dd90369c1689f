"""A checkpoint's weights in transformers: the same logits as anneal's own.

    python weights_check.py RUN/checkpoints/step_000500      of a run
    python weights_check.py --random                         of small random models that this script invents

The file is loaded as it is by LlamaForCausalLM, or Qwen3ForCausalLM where queries and keys are normalised or
attention has a window. Two things that these lack are put right here, and said: a residual scale is multiplied
into o_proj and down_proj, and a softcap is applied to their logits. ReLU² has no such model. Ours come from the
example `logits_check`: logits token by token with cached keys and values (what `anneal generate` runs), and the
loss of every token from the pass that training runs.

Tolerance: LIMIT of the largest logit. Both sides are f32 chains in different order, up to 1e-6 of it; a planted
fault (two rows of one matrix exchanged) must show as 100 times the limit.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file

import run_files
from run_files import Problem

LIMIT = 5e-6
TOKENS = 48

SMALL = dict(
    n_layers=3, width=48, n_heads=6, n_kv_heads=2, head_dim=10, ffn_hidden=56, vocab_size=131, seq_len=64, ffn="swiglu",
    qk_norm=False, softcap=0.0, tied=True, residual_scale=1.0, window=0, rope_theta=10000.0, norm_eps=1e-5,
    init=dict(embedding_std=0.02, matrix_gain=1.0, zero_output_projections=True),
)  # fmt: skip
RANDOM = {
    "Llama, tied": {},
    "Llama, untied, heads of its own": dict(tied=False, n_kv_heads=6),
    "Llama, residual scale, softcap": dict(residual_scale=0.5, softcap=15.0),
    "Qwen3, untied": dict(qk_norm=True, tied=False, rope_theta=1e6),
    "Qwen3, window of 9": dict(qk_norm=True, window=9),
}


def twin(table):
    """[model] of config.toml -> a model of transformers with its default weights"""
    if table["ffn"] != "swiglu":
        raise Problem(f"transformers has no Llama with the feed-forward part {table['ffn']}")
    # Where a key is missing the file was written before there was such a piece.
    pieces = dict(norm_gain=True, embed_norm=False, x0_residual=False, value_embeddings=False, window_pattern="")
    for piece, without in pieces.items():
        if table.get(piece, without) != without:
            raise Problem(f"transformers has no Llama with {piece} = {json.dumps(table[piece])}")
    if table["window"] and not table["qk_norm"]:
        raise Problem("transformers has no Llama with a window and without QK norm")
    common = dict(
        num_hidden_layers=table["n_layers"], hidden_size=table["width"], num_attention_heads=table["n_heads"],
        num_key_value_heads=table["n_kv_heads"], head_dim=table["head_dim"], intermediate_size=table["ffn_hidden"],
        vocab_size=table["vocab_size"], max_position_embeddings=table["seq_len"], rms_norm_eps=table["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": table["rope_theta"]}, attention_bias=False,
        tie_word_embeddings=table["tied"], attn_implementation="eager",
    )  # fmt: skip
    if not table["qk_norm"]:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
    if table["window"]:
        common |= dict(use_sliding_window=True, sliding_window=table["window"], max_window_layers=0)
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common))


def theirs(table, weights, ids):
    """-> logits [T, V]"""
    scaled = {
        name: value * table["residual_scale"] if name.endswith(("o_proj.weight", "down_proj.weight")) else value
        for name, value in weights.items()
    }
    net = twin(table).eval()
    missing, unexpected = net.load_state_dict(scaled, strict=False)
    if unexpected or not set(missing) <= ({"lm_head.weight"} if table["tied"] else set()):
        raise Problem(f"tensors that only one side has: {unexpected} in the file, {missing} in transformers")
    with torch.no_grad():
        logits = net(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    cap = table["softcap"]
    return cap * torch.tanh(logits / cap) if cap else logits


def compare(name, table, path):
    """Prints the comparison; -> whether all is right"""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, table["vocab_size"], min(TOKENS, table["seq_len"])).astype("<u4")
    weights = load_file(path)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "model.json").write_text(json.dumps(table))
        ids.tofile(folder / "ids")
        run_files.logits_check("logits", folder / "model.json", path, folder / "ids", folder)
        logits = torch.from_numpy(np.fromfile(folder / "logits.f32", "<f4").reshape(len(ids), -1))
        nll = torch.from_numpy(np.fromfile(folder / "nll.f32", "<f4"))
    reference = theirs(table, weights, ids)
    largest = reference.abs().max()
    targets = torch.from_numpy(np.roll(ids, -1).astype(np.int64))
    loss = F.cross_entropy(reference, targets, reduction="none")
    of_logits = ((logits - reference).abs().max() / largest).item()
    of_loss = ((nll - loss).abs().max() / max(largest, loss.max())).item()

    rows = "model.layers.0.self_attn.v_proj.weight"
    order = [1, 0, *range(2, len(weights[rows]))]
    # In a model that has not been trained the output projections are zero, and no such fault can show.
    planted = {**weights, rows: weights[rows][order]}
    fault = ((theirs(table, planted, ids) - reference).abs().max() / largest).item()
    sees = fault > 100 * LIMIT
    right = max(of_logits, of_loss) <= LIMIT and sees
    notes = [f"residual scale {table['residual_scale']:.4g} folded in"] * (table["residual_scale"] != 1)
    notes += [f"softcap {table['softcap']:g} applied"] * (table["softcap"] > 0)
    print(
        f"{'ok  ' if right else 'FAIL'} {name}: logits differ by {of_logits:.1e}, losses by {of_loss:.1e}, allowed "
        f"{LIMIT:.0e}; planted fault {fault:.1e}{'' if sees else ' NOT SEEN'}{'; ' if notes else ''}{', '.join(notes)}"
    )
    return right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=pathlib.Path, help="folder with weights.safetensors, in a run")
    parser.add_argument("--random", action="store_true", help="small random models instead")
    args = parser.parse_args()
    if args.random == bool(args.checkpoint):
        parser.error("expected the folder of a checkpoint, or --random")
    try:
        if args.checkpoint:
            folder = args.checkpoint.resolve()
            config = run_files.config_of(folder.parent.parent)
            table = config["model"]
            if config["data"].get("compact_vocab"):
                # The file has every token of the tokenizer, whatever rows the model was trained with.
                rows = table["vocab_size"]
                table["vocab_size"] = json.loads((folder.parent.parent / "vocabulary.json").read_text())["vocab_size"]
                print(f"trained with {rows} rows, kept with {table['vocab_size']}")
            results = [compare(folder.name, table, folder / "weights.safetensors")]
        else:
            results = []
            for name, change in RANDOM.items():
                table = {**SMALL, **change}
                with tempfile.TemporaryDirectory() as folder:
                    folder = pathlib.Path(folder)
                    (folder / "model.json").write_text(json.dumps(table))
                    run_files.logits_check("random", folder / "model.json", 1, folder / "weights.safetensors")
                    results.append(compare(name, table, folder / "weights.safetensors"))
    except Problem as problem:
        raise SystemExit(f"error: {problem}")
    if not all(results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
