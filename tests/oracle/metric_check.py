"""Packing and val_bpb against a fresh reading of their definitions.

    python tests/oracle/metric_check.py WORK [--corpus FOLDER] [--seq-len T] [--rows N] [--steps N] [--torch]

Trains a small model on a folder of Parquet shards in climbmix's layout (made here from the text of this repository
unless FOLDER names one) and computes everything anew:

- token ids: pyarrow reads the shards, tiktoken encodes them with the ranks of the run's tokenizer.json;
- packed rows: autoresearch's best-fit packing, written from its definition (batches of 128 documents that end with
  their row group, a buffer of at least 1,000, the longest document that fits, else the shortest cropped), for training
  and validation, against the rows that `data::Packer` makes;
- val_bpb under every protocol, raw and compat bytes, with and without the softcap, and of a model with rows only for
  tokens that training saw: the exported weights in a forward
  pass in f64 (NumPy; with --torch the reference model of tests/golden in PyTorch), against `anneal eval --json`.

val_bpb must agree to 1e-6 bits per byte: the model's f32 rounds each logit to some 1e-6 of its size, at random, and
hundreds of losses are averaged; f64 rounds nothing that shows. Counts must agree exactly. At the end faults are
planted in the reference, one at a time, and each must show.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tiktoken

import run_files

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
LIMIT = 1e-6
PINNED = "shard_06542.parquet"


# The corpus and its ids.


def make_corpus(folder):
    """The lines of this repository's pages and sources as documents: 2 training shards and the pinned one."""
    folder.mkdir(parents=True)
    lines = []
    for path in sorted([*run_files.ROOT.glob("*.md"), *run_files.ROOT.glob("docs/*.md"), *run_files.ROOT.glob("crates/*/src/**/*.rs")]):
        lines += [line.strip() for line in path.read_text().split("\n") if len(line.strip()) > 3]
    # Documents of 1 to 24 lines, so that lengths differ.
    documents, at = [], 0
    while at < len(lines):
        size = 1 + (len(documents) * 7919) % 24
        # Some end with characters whose bytes are tokens of their own, which raw and compat count differently.
        documents.append("\n".join(lines[at : at + size]) + " 日本語 ½ é"[: (len(documents) * 31) % 9])
        at += size
    valid, half = len(documents) // 40, len(documents) // 2
    held_out = [text + " \U000E0041" * (i % 3) for i, text in enumerate(documents[-valid:])]  # bytes that training never sees
    parts = {"shard_00000.parquet": documents[:half], "shard_00001.parquet": documents[half:-valid], PINNED: held_out}
    for name, texts in parts.items():
        pq.write_table(pa.table({"text": texts}), folder / name, row_group_size=300)
    return folder


def row_groups(folder, split):
    """The texts of a split, one list for each row group."""
    names = [PINNED] if split == "valid" else sorted(p.name for p in folder.glob("*.parquet") if p.name != PINNED)
    for name in names:
        file = pq.ParquetFile(folder / name)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=["text"]).column("text").to_pylist()


def encoder(path):
    """tiktoken with the ranks of a tokenizer.json; -> it, the id of BOS, the bytes of each token"""
    table = run_files.byte_chars()
    file = json.loads(path.read_text())
    ranks = {bytes(table[c] for c in token): rank for token, rank in file["model"]["vocab"].items()}
    special = {token["content"]: token["id"] for token in file["added_tokens"]}
    made = tiktoken.Encoding("check", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    by_id = {rank: token for token, rank in ranks.items()}
    return made, special["<|reserved_0|>"], [by_id.get(i) for i in range(made.n_vocab)]


def encoded_groups(folder, split, tokenizer, bos):
    for texts in row_groups(folder, split):
        yield [[bos, *ids] for ids in tokenizer.encode_ordinary_batch(texts)]


# autoresearch's packing.


def packed(groups, row_tokens, rows, fault=None):
    """-> rows of ids, and for each the pieces (document, tokens) that it is made of"""
    def batches():
        while True:
            number = 0
            for group in groups:
                for at in range(0, len(group), 128):
                    yield [(number + at + i, ids) for i, ids in enumerate(group[at : at + 128])]
                number += len(group)

    if fault == "groups":
        groups = [[ids for group in groups for ids in group]]
    source, buffer, found, pieces = batches(), [], [], []
    for _ in range(rows):
        row, parts = [], []
        while len(row) < row_tokens:
            while len(buffer) < (999 if fault == "buffer" else 1000):
                buffer += next(source)
            room = row_tokens - len(row)
            fitting = [i for i, (_, ids) in enumerate(buffer) if len(ids) <= room]
            if fitting:
                sign = -1 if fault == "last of equals" else 1
                chosen = max(fitting, key=lambda i: (len(buffer[i][1]), -sign * i))
            else:
                chosen = min(range(len(buffer)), key=lambda i: (len(buffer[i][1]), i))
            number, ids = buffer.pop(chosen)
            row += ids[:room]
            parts.append((number, min(len(ids), room)))
        found.append(row)
        pieces.append(parts)
    return found, pieces


# The model in f64.


def numpy_losses(cfg, w, inputs, targets):
    """Cross entropy of each target, [B, T]."""
    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + cfg["norm_eps"]) * weight

    heads, kv, d = cfg["n_heads"], cfg["n_kv_heads"], cfg["head_dim"]
    batch, length = inputs.shape
    angle = np.arange(length)[:, None] * cfg["rope_theta"] ** (-np.arange(0, d, 2) / d)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def turn(x):
        a, b = x[..., : d // 2], x[..., d // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    i, j = np.arange(length)[:, None], np.arange(length)[None]
    hidden = j > i
    if cfg["window"]:
        hidden |= j <= i - cfg["window"]
    x = w["model.embed_tokens.weight"][inputs]
    for layer in range(cfg["n_layers"]):
        at = lambda name: w[f"model.layers.{layer}.{name}.weight"]
        a = norm(x, at("input_layernorm"))
        q = (a @ at("self_attn.q_proj").T).reshape(batch, length, heads, d)
        k = (a @ at("self_attn.k_proj").T).reshape(batch, length, kv, d)
        v = (a @ at("self_attn.v_proj").T).reshape(batch, length, kv, d)
        if cfg["qk_norm"]:
            q, k = norm(q, at("self_attn.q_norm")), norm(k, at("self_attn.k_norm"))
        k, v = (np.repeat(t, heads // kv, 2) for t in (turn(k), v))
        scores = np.einsum("bihd,bjhd->bhij", turn(q), k) / math.sqrt(d)
        scores[..., hidden] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        o = np.einsum("bhij,bjhd->bihd", p / p.sum(-1, keepdims=True), v).reshape(batch, length, heads * d)
        x = x + cfg["residual_scale"] * (o @ at("self_attn.o_proj").T)
        f = norm(x, at("post_attention_layernorm"))
        up = f @ at("mlp.up_proj").T
        if cfg["ffn"] == "swiglu":
            gate = f @ at("mlp.gate_proj").T
            h = gate / (1 + np.exp(-gate)) * up
        else:
            h = np.maximum(up, 0) ** 2
        x = x + cfg["residual_scale"] * (h @ at("mlp.down_proj").T)
    logits = norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight" if cfg["tied"] else "lm_head.weight"].T
    if cfg["softcap"]:
        logits = cfg["softcap"] * np.tanh(logits / cfg["softcap"])
    top = logits.max(-1, keepdims=True)
    total = (np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top)[..., 0]
    return total - np.take_along_axis(logits, targets[..., None], -1)[..., 0]


def torch_losses(cfg, w, inputs, targets):
    """The same by the reference model of tests/golden, in PyTorch."""
    import torch

    sys.path.insert(0, str(run_files.ROOT / "tests" / "golden"))
    import dataclasses

    import model

    names = {field.name for field in dataclasses.fields(model.Config)}
    values = {name: value for name, value in cfg.items() if name in names}
    config = model.Config(**{**values, "softcap": cfg["softcap"] or None, "window": cfg["window"] or None})
    weights = {name: torch.from_numpy(value) for name, value in w.items()}
    ids, targets = torch.from_numpy(inputs), torch.from_numpy(targets)
    with torch.no_grad():
        return model.token_loss(model.forward(config, weights, ids)[0], targets).numpy()


def load_weights(path):
    """A .safetensors file in f64: u64 length, JSON header, f32 data."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = data[8 + size :]
    return {
        name: np.frombuffer(body[slice(*about["data_offsets"])], "<f4").reshape(about["shape"]).astype(np.float64)
        for name, about in header.items()
    }


# val_bpb.


def windows(protocol, tokens, length, options):
    """-> (start of the window, its first target that counts) for the protocols that take windows of the shard"""
    targets = tokens - 1
    if protocol == "windows":
        whole = targets // length
        return [(i * whole // options["windows"] * length, 0) for i in range(options["windows"])]
    if protocol == "ane-windows":
        starts = [i * (tokens // 20) for i in range(20)]
        return [(start if start + length + 1 <= tokens else 0, 0) for start in starts]
    stride = options.get("stride", length)
    found, done = [(0, 0)], length
    while done < targets:
        end = min(done + stride, targets)
        found.append((end - length, done - (end - length)))
        done = end
    return found


def compact(weights, cfg, kept):
    """Weights with rows for the tokens that occur and one for the others; -> them, the row of each token, the others"""
    rows = np.full(len(weights["model.embed_tokens.weight"]), len(kept))
    rows[kept] = np.arange(len(kept))
    others = np.flatnonzero(rows == len(kept))
    short = dict(weights)
    for name in ["model.embed_tokens.weight"] + ([] if cfg["tied"] else ["lm_head.weight"]):
        whole = weights[name]
        assert (whole[others] == whole[others[0]]).all(), f"{name}: tokens that never occurred have different rows"
        short[name] = whole[[*kept, others[0]]]
    return short, rows, others


def measured(case, cfg, weights, flat, groups, tokens_of, losses, kept=None):
    """-> val_bpb, counted targets, bytes, documents, standard error over documents, targets that training never saw"""
    if kept is not None:
        weights, row_of, others = compact(weights, cfg, kept)
        plain, unseen = losses, set(others.tolist())

        def losses(cfg, weights, inputs, targets):
            alone = np.isin(targets, others) * (0 if case.get("fault") == "unseen" else math.log(len(others)))
            return plain(cfg, weights, row_of[inputs], row_of[targets]) + alone
    options = case["options"]
    length = options.get("window", cfg["seq_len"])
    cfg = {**cfg, "softcap": 0.0 if options.get("no-softcap") else cfg["softcap"]}
    if case.get("fault") == "softcap":
        cfg["softcap"] = 0.0
    size = [0 if t is None else len(t) if options.get("bytes") != "compat" else len(t.decode(errors="replace").encode()) for t in tokens_of]
    size = np.array(size)
    bos = [i for i, t in enumerate(tokens_of) if t is None][0]
    rows, counted, documents = [], [], []
    if case["protocol"] == "autoresearch":
        batch, wanted = options["eval-batch"], options["eval-tokens"]
        count = wanted // (batch * length) * batch
        rows, pieces = packed(groups, length + 1, count, case.get("fault"))
        counted = [range(length)] * count
        documents = [[number for number, n in parts for _ in range(n)] for parts in pieces]
    else:
        of_token = np.cumsum(flat == bos) - 1
        for start, first in windows(case["protocol"], len(flat), length, options):
            rows.append(flat[start : start + length + 1])
            documents.append(of_token[start : start + length + 1])
            counted.append(range(0 if case.get("fault") == "twice" else first, length))
    rows = np.array(rows, dtype=np.int64)
    sums, targets_counted, never_seen = {}, 0, 0
    for at in range(0, len(rows), 16):
        nats = losses(cfg, weights, rows[at : at + 16, :-1], rows[at : at + 16, 1:])
        for row, loss in enumerate(nats, at):
            targets_counted += len(counted[row])
            for t in counted[row]:
                n = size[rows[row][t + 1]]
                never_seen += kept is not None and int(rows[row][t + 1]) in unseen
                entry = sums.setdefault(int(documents[row][t + 1]), [0.0, 0])
                if n or case.get("fault") == "special":
                    entry[0] += loss[t]
                    entry[1] += int(n)
    nats, total = sum(e[0] for e in sums.values()), sum(e[1] for e in sums.values())
    ratio, n = nats / total, len(sums)
    residual = sum((a - ratio * b) ** 2 for a, b in sums.values())
    error = math.sqrt(residual * n / (n - 1)) / total / math.log(2) if n > 1 else None
    return nats / (math.log(2) * total), targets_counted, total, n, error, never_seen


CASES = [
    {"protocol": "autoresearch", "options": {"eval-tokens": 9000, "eval-batch": 4}},
    {"protocol": "autoresearch", "options": {"eval-tokens": 5000, "eval-batch": 2, "bytes": "compat", "window": 100}},
    {"protocol": "ane-windows", "options": {}},
    {"protocol": "ane-windows", "options": {"no-softcap": True, "bytes": "compat"}},
    {"protocol": "sliding", "options": {"stride": 11, "window": 40}},
    {"protocol": "windows", "options": {"windows": 30}},
    {"protocol": "full", "options": {}},
]
COMPACT_CASES = [{"protocol": "full", "options": {}}, {"protocol": "autoresearch", "options": {"eval-tokens": 9000, "eval-batch": 4}}]
FAULTS = ["groups", "buffer", "last of equals"]
METRIC_FAULTS = [(0, "special"), (2, "softcap"), (6, "twice")]


def anneal(args, *words):
    done = subprocess.run([args.anneal, *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"anneal {' '.join(map(str, words))} failed:\n{done.stderr}")
    return done.stdout


def train(args, corpus, run, *more):
    sets = [f"model.seq_len={args.seq_len}", f"model.vocab_size={args.vocab}", "model.softcap=3", "data.packing=best_fit"]
    sets += ["data.shuffle=false", "eval.final_windows=1", "eval.every=0", *more]
    anneal(args, "train", "--preset", args.preset, "--data", corpus, "--budget", f"{args.steps}steps", "--device", "cpu", "--out", run, "--quiet",
           *[word for value in sets for word in ("--set", value)])


def model_of(run):
    """-> its [model], its newest weights"""
    newest = sorted((run / "checkpoints").glob("step_*"))[-1]
    return run_files.config_of(run)["model"], load_weights(newest / "weights.safetensors")


def compare(args, run, case, *rest, kept=None):
    """`anneal eval` against the reference; -> val_bpb, targets that training never saw"""
    options = case["options"]
    words = [word for key, value in options.items() for word in ([f"--{key}"] if value is True else [f"--{key}", value])]
    found = json.loads(anneal(args, "eval", run, "--json", "--device", "cpu", "--protocol", case["protocol"], *words))
    bpb, targets, size, documents, error, never_seen = measured(case, *model_of(run), *rest, kept=kept)
    difference = found["val_bpb"] - bpb
    print(f"{case['protocol']:<14}{' '.join(map(str, words)):<64}{found['val_bpb']:>12.7f}{bpb:>12.7f}{difference:>12.1e}")
    counts = [found[key] for key in ("tokens", "bytes", "documents", "unseen_tokens")]
    assert counts == [targets, size, documents, never_seen], (counts, targets, size, documents, never_seen)
    assert found["protocol"] == case["protocol"] and found["byte_count"] == options.get("bytes", "raw")
    assert abs(difference) <= LIMIT, f"val_bpb differs by {difference}"
    assert abs(found["val_bpb_se"] - error) <= 1e-5, (found["val_bpb_se"], error)
    return found["val_bpb"], never_seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--corpus", type=pathlib.Path)
    parser.add_argument("--anneal", type=pathlib.Path, default=run_files.ROOT / "target/debug/anneal")
    parser.add_argument("--dump", type=pathlib.Path, default=run_files.ROOT / "target/debug/examples/pack_dump")
    parser.add_argument("--preset", default="odd")
    parser.add_argument("--vocab", type=int, default=700)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--torch", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ["ANNEAL_CACHE"] = str(args.work / "cache")
    corpus = args.corpus or make_corpus(args.work / "corpus")
    run, short = args.work / "run", args.work / "compact"
    train(args, corpus, run)
    train(args, corpus, short, "data.compact_vocab=true")
    config = run_files.config_of(run)
    dataset = run_files.dataset_of(config)
    tokenizer, bos, tokens_of = encoder(run / "tokenizer.json")

    groups = {split: list(encoded_groups(corpus, split, tokenizer, bos)) for split in ("train", "valid")}
    for split, of_split in groups.items():
        flat = np.array([i for group in of_split for ids in group for i in ids])
        ours = run_files.shard(dataset / f"{split}.tokens")
        assert np.array_equal(flat, ours), f"{split}: tiktoken gives other ids"
        print(f"{split}: tiktoken {tiktoken.__version__} gives the same {len(flat):,} ids of {sum(map(len, of_split)):,} documents")
        out = args.work / f"{split}.rows"
        subprocess.run([args.dump, dataset, split, str(args.seq_len), str(args.rows), out], check=True)
        rows = np.fromfile(out, "<u4").reshape(args.rows, args.seq_len + 1)
        expected, pieces = packed(of_split, args.seq_len + 1, args.rows)
        assert np.array_equal(rows, np.array(expected)), f"{split}: packed rows differ"
        epochs = sum(map(len, pieces)) / sum(map(len, of_split))
        print(f"{split}: {args.rows:,} packed rows of {args.seq_len + 1} are equal ({epochs:.2f} epochs)")
        for fault in FAULTS:
            shown = packed(of_split, args.seq_len + 1, args.rows, fault)[0] != expected
            if split == "train" and not args.corpus:
                assert shown, f"a packing with the fault '{fault}' is not told apart"
        flat_train, flat_valid = (flat, None) if split == "train" else (flat_train, flat)
    print(f"faults told apart in the rows: {', '.join(FAULTS)}")

    losses = torch_losses if args.torch else numpy_losses
    print(f"\n{'protocol':<14}{'options':<64}{'anneal':>12}{'reference':>12}{'difference':>12}")
    valid = (flat_valid, groups["valid"], tokens_of, losses)
    # Of a long text every token is counted once, below, with the shortened vocabulary.
    cases = [case for case in CASES if not (args.corpus and case["protocol"] in ("sliding", "full"))]
    found = [compare(args, run, case, *valid)[0] for case in cases]
    seen = np.unique(np.append(flat_train, bos))
    assert len(seen) < len(tokens_of), "every token occurs in training"
    print(f"\nrows for {len(seen)} of {len(tokens_of)} tokens and one for the others:")
    for case in COMPACT_CASES:
        bpb, never_seen = compare(args, short, case, *valid, kept=seen)
        assert never_seen > 0 or args.corpus, "no validation token is new"
        print(f"{never_seen} targets that training never saw")
    if never_seen:
        wrong = measured({**case, "fault": "unseen"}, *model_of(short), *valid, kept=seen)[0]
        assert abs(wrong - bpb) > LIMIT, "a reference that shares no probability is not told apart"
    # The targets of a few rows of books hold no special token.
    faults = [(number, fault) for number, fault in METRIC_FAULTS if not args.corpus or fault == "softcap"]
    for number, fault in faults:
        bpb = measured({**cases[number], "fault": fault}, *model_of(run), *valid)[0]
        assert abs(bpb - found[number]) > LIMIT, f"a reference with the fault '{fault}' is not told apart"
    print(f"faults told apart in val_bpb: {', '.join(fault for _, fault in faults)}")
    print("ok")


if __name__ == "__main__":
    main()
