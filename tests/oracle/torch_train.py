"""The same run in PyTorch: an anneal run directory, trained anew on the same batches, and compared.

    anneal train --preset tiny --data TEXT --budget 3Mtok --out RUN
    python torch_train.py RUN --compare               all of it: val_bpb within 0.02, losses of the first steps
    python torch_train.py RUN --compare --steps 20    only these steps: losses, learning rates, gradient norms

Everything comes from RUN/config.toml, its tokenizer.json and the prepared tokens. The forward pass is a
fast twin of tests/golden/model.py, with which loss and gradients are compared before anything else; the
rest is torch.optim.AdamW, torch.nn.utils.clip_grad_norm_ and plain formulas, in f32. Initial weights are
taken from --init, else from a checkpoint of step 0, else from the example `logits_check initial`: they are
the one thing that is not computed here.

What must agree, and by how much:
- progress and learning rate of every logged step: f64 on both sides, 1e-9 relative.
- loss and gradient norm of the first 20 steps: as far as PyTorch agrees with itself. Training amplifies
  rounding: with another last bit in the weights (a shadow run beside the sound one) losses agree to 1e-6
  for some steps, and after a steep one to 1e-2. The bound is the shadow's largest difference so far,
  times SLACK, plus a floor for plain rounding; and PROVEN steps at least must have a tight bound.
- val_bpb at the end, and at validations while the bound is tight, within 0.02 bits per byte, the bound that
  was set for the system; validations between are printed.
`--plant FAULT --compare` shows that the comparison notices.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import re
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import run_files
from run_files import Problem
from window_order import offset

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
import model  # noqa: E402

FIRST_STEPS = 20
SLACK = 10  # the shadow is one sample of what rounding may do
PROVEN = 3
# Kind of device: rounding of the shadow's weights, floor of the loss in nats, floor of the norm (relative), and what
# bound of the loss is called tight. Two f32 evaluations of a loss of 7 differ by some 1e-6, of a norm by 3e-5 where
# gradients are nearly rounding noise; f16 devices round each value on the way to 2^-11.
PRECISION = {"f32": (2**-24, 1e-5, 2e-4, 1e-3), "f16": (2**-11, 5e-3, 3e-2, 3e-2)}
BPB_LIMIT = 0.02

# What --plant changes, to show that the comparison notices.
FAULTS = {
    "lr": "the learning rate is 2 % higher",
    "beta2": "beta2 is 0.99 instead of what the run has",
    "decay": "embeddings decay as matrices do, ten times as much",
    "clip": "gradients are not clipped",
    "softcap": "no softcap",
    "order": "windows come one later",
    "multiplier": "norms learn at half the rate",
}


# The model.


def model_config(table):
    """[model] of config.toml -> model.Config"""
    names = {field.name for field in dataclasses.fields(model.Config)}
    values = {name: value for name, value in table.items() if name in names}
    return model.Config(**{**values, "softcap": table["softcap"] or None, "window": table["window"] or None})


def forward(cfg, w, ids):
    """`model.forward` with fused ops: ids [B, T] -> logits [B, T, V]"""
    B, T = ids.shape
    cos, sin = model.rotary_tables(T, cfg.head_dim, cfg.rope_theta, torch.float32)
    mask = model.causal_mask(T, cfg.window) if cfg.window else None
    x = w["model.embed_tokens.weight"][ids]
    for i in range(cfg.n_layers):
        p = lambda name: w[f"model.layers.{i}.{name}.weight"]  # noqa: E731
        a = F.rms_norm(x, (cfg.width,), p("input_layernorm"), cfg.norm_eps)
        heads = lambda name: F.linear(a, p(f"self_attn.{name}")).view(B, T, -1, cfg.head_dim)  # noqa: E731
        q, k, v = heads("q_proj"), heads("k_proj"), heads("v_proj")
        if cfg.qk_norm:
            q = F.rms_norm(q, (cfg.head_dim,), p("self_attn.q_norm"), cfg.norm_eps)
            k = F.rms_norm(k, (cfg.head_dim,), p("self_attn.k_norm"), cfg.norm_eps)
        q, k = model.rotate(q, cos, sin), model.rotate(k, cos, sin)
        o = F.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask, is_causal=mask is None,
            enable_gqa=cfg.n_heads != cfg.n_kv_heads,
        )  # fmt: skip
        x = x + cfg.residual_scale * F.linear(o.transpose(1, 2).flatten(2), p("self_attn.o_proj"))
        f = F.rms_norm(x, (cfg.width,), p("post_attention_layernorm"), cfg.norm_eps)
        up = F.linear(f, p("mlp.up_proj"))
        h = F.silu(F.linear(f, p("mlp.gate_proj"))) * up if cfg.ffn == "swiglu" else up.relu().square()
        x = x + cfg.residual_scale * F.linear(h, p("mlp.down_proj"))
    x = F.rms_norm(x, (cfg.width,), w["model.norm.weight"], cfg.norm_eps)
    logits = F.linear(x, w["model.embed_tokens.weight" if cfg.tied else "lm_head.weight"])
    return cfg.softcap * torch.tanh(logits / cfg.softcap) if cfg.softcap else logits


def check_twin(cfg):
    """Loss and gradients of `forward` are those of `model.forward` for a small model of the same kind."""
    small = dict(n_layers=2, width=48, n_heads=4, n_kv_heads=2, head_dim=12, ffn_hidden=80, vocab_size=160, seq_len=24)
    cfg = dataclasses.replace(cfg, **small, window=cfg.window and 7)
    rng = np.random.default_rng(0)
    weights = {k: v.float().requires_grad_() for k, v in model.random_weights(model.weight_shapes(cfg), rng).items()}
    ids, targets = (torch.from_numpy(rng.integers(0, cfg.vocab_size, (2, cfg.seq_len))) for _ in range(2))
    results = []
    for logits in (forward(cfg, weights, ids), model.forward(cfg, weights, ids)[0]):
        loss = model.token_loss(logits, targets).mean()
        results.append([loss, *torch.autograd.grad(loss, list(weights.values()))])
    for name, a, b in zip(["loss", *weights], *results):
        difference = ((a - b).abs().max() / b.abs().max()).item()
        assert difference < 1e-5, f"the fast twin differs from tests/golden/model.py: {name} by {difference:.1e}"


# The run.


def amount(text):
    """"500ktok" -> (500000, "tokens"); "2m" -> (120, "seconds"); "30steps" -> (30, "steps")"""
    number, unit = re.fullmatch(r"([\d.]+)([a-zA-Z]+)", text).groups()
    factor, kind = {
        "s": (1, "seconds"), "m": (60, "seconds"), "h": (3600, "seconds"), "steps": (1, "steps"),
        "tok": (1, "tokens"), "ktok": (1e3, "tokens"), "Mtok": (1e6, "tokens"),
    }[unit]  # fmt: skip
    return float(number) * factor, kind


class Run:
    """What the configuration means, as functions of the step."""

    def __init__(self, folder, config, metrics):
        self.folder, self.config = folder, config
        self.step_tokens = config["batch"] * config["accum"] * config["model"]["seq_len"]
        budget, self.kind = amount(config["budget"])
        self.recorded = [line["progress"] for line in metrics]
        timed = self.kind == "seconds" or config["replay"]
        if timed and [line["step"] for line in metrics] != list(range(1, len(metrics) + 1)):
            raise Problem(f"{folder}: the progress of each step must be in metrics.jsonl when a run has a time budget")
        self.timed = timed
        self.steps = len(metrics) if timed else self.steps_of(budget, self.kind)
        self.budget = budget
        schedule = config["schedule"]
        self.warmup = schedule["warmup"]
        if isinstance(self.warmup, str):
            part, kind = amount(self.warmup)
            whole = budget if kind == self.kind == "seconds" else self.steps_of(budget, self.kind)
            self.warmup = (part if kind == self.kind == "seconds" else self.steps_of(part, kind)) / whole

    def steps_of(self, number, kind):
        return int(number) if kind == "steps" else math.ceil(number / self.step_tokens)

    def progress(self, step):
        """Of step 0, 1, …: the share of the budget that is spent in its middle."""
        if self.timed:
            return self.recorded[step]
        unit = 1 if self.kind == "steps" else self.step_tokens
        return min(1.0, (step + 0.5) * unit / self.budget)

    def lr(self, progress):
        schedule = self.config["schedule"]
        last = schedule["final_fraction"]
        if progress < self.warmup:
            factor = progress / self.warmup
        else:
            begin = max(1 - schedule["decay"], self.warmup) if schedule["kind"] == "wsd" else self.warmup
            fallen = min(1.0, max(0.0, (progress - begin) / (1 - begin)))
            left = (1 + math.cos(math.pi * fallen)) / 2 if schedule["kind"] == "cosine" else 1 - fallen
            factor = last + (1 - last) * left
        return self.config["optimizer"]["lr"] * factor


def initial_weights(run, given):
    saved = run.folder / "checkpoints" / "step_000000" / "weights.safetensors"
    if given or saved.is_file():
        path = given or saved
        return load_file(path), str(path)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "model.json").write_text(json.dumps(run.config["model"]))
        out = folder / "initial.safetensors"
        run_files.logits_check("initial", folder / "model.json", run.config["seed"], out)
        return {k: v.clone() for k, v in load_file(out).items()}, f"logits_check initial, seed {run.config['seed']}"


def kind_of(name):
    """How anneal groups parameters: matrix, embedding, classifier, norm."""
    if "embed_tokens" in name:
        return "embedding"
    if "lm_head" in name:
        return "classifier"
    return "norm" if "norm" in name else "matrix"


class Twin:
    """Weights and their optimiser."""

    def __init__(self, cfg, config, weights, plant=None):
        self.cfg, o = cfg, config["optimizer"]
        self.weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
        groups = []
        for kind in ("matrix", "embedding", "classifier", "norm"):
            members = [value for name, value in self.weights.items() if kind_of(name) == kind]
            factor = o["multipliers"][kind] * (0.5 if plant == "multiplier" and kind == "norm" else 1)
            decay = o["weight_decay"] if kind == "matrix" else 0.0
            if plant == "decay" and kind == "embedding":
                decay = 10 * o["weight_decay"]
            if members:
                groups.append(dict(params=members, weight_decay=decay, factor=factor))
        beta2 = 0.99 if plant == "beta2" else o["beta2"]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(o["beta1"], beta2), eps=o["eps"], fused=True)
        self.clip = o["grad_clip"] if o["grad_clip"] and plant != "clip" else math.inf

    def step(self, batches, lr):
        """batches: list of [B, T + 1] -> mean loss before the update, norm of its gradient"""
        tokens, total = sum(rows[:, 1:].numel() for rows in batches), 0.0
        for rows in batches:
            loss = model.token_loss(forward(self.cfg, self.weights, rows[:, :-1]), rows[:, 1:]).sum() / tokens
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.clip).item()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm


def window(tokens, start, length):
    return torch.from_numpy(tokens[start : start + length].astype(np.int64))


def evaluate(cfg, weights, tokens, table, count, batch):
    """Bits per byte on `count` windows at equal distances (0: every token once; the last window reaches back)."""
    T = cfg.seq_len
    everything = (len(tokens) - 1) // T
    starts = [i * everything // min(count, everything) * T for i in range(min(count, everything))]
    seen = [0] * len(starts)
    if count == 0:
        starts = list(range(0, everything * T, T))
        seen = [0] * len(starts)
        if everything * T < len(tokens) - 1:
            starts.append(len(tokens) - 1 - T)
            seen.append(everything * T - starts[-1])
    nats, size = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(starts), batch):
            rows = torch.stack([window(tokens, start, T + 1) for start in starts[at : at + batch]])
            targets = rows[:, 1:]
            lengths = table[targets].clone()
            for row, first in zip(lengths, seen[at : at + batch]):
                row[:first] = 0
            losses = model.token_loss(forward(cfg, weights, rows[:, :-1]), targets).double()
            nats += losses[lengths > 0].sum().item()
            size += lengths.sum().item()
    return nats / (math.log(2) * size)


def train(run, args):
    """Trains; -> a record of each step, val_bpb by step, anneal's validations by step, the final val_bpb"""
    config, plant = run.config, args.plant
    cfg = model_config(config["model"])
    data = run_files.dataset_of(config, args.data)
    train_tokens, valid_tokens = (run_files.shard(data / f"{split}.tokens") for split in ("train", "valid"))
    table = torch.from_numpy(run_files.byte_table(run.folder / "tokenizer.json"))
    weights, source = initial_weights(run, args.init)
    if {name: tuple(value.shape) for name, value in weights.items()} != model.weight_shapes(cfg):
        raise Problem(f"{source} does not hold the weights of this model")
    steps = min(run.steps, args.steps) if args.steps else run.steps
    print(
        f"{run.folder.name}: {sum(v.numel() for v in weights.values()) / 1e6:.1f}M parameters, {steps} of {run.steps} "
        f"steps of {run.step_tokens} tokens, tokens from {data}, first weights from {source}",
        flush=True,
    )
    planted = dataclasses.replace(cfg, softcap=None) if plant == "softcap" else cfg
    sound, shadow = Twin(planted, config, weights, plant), None
    if args.compare:
        torch.manual_seed(0)
        noise = PRECISION[precision_of(config)][0]
        noisy = {name: value * (1 + noise * torch.randn_like(value)) for name, value in weights.items()}
        shadow = Twin(planted, config, noisy, plant)
    events = run_files.json_lines(run.folder / "events.jsonl")
    validations = {e["step"]: e for e in events if e["event"] == "validation"}
    measure = lambda count: evaluate(planted, sound.weights, valid_tokens, table, count, B)  # noqa: E731
    T, B, records, bpb, begun = cfg.seq_len, config["batch"], [], {}, time.perf_counter()
    next_window = 1 if plant == "order" else 0
    for step in range(steps):
        progress = run.progress(step)
        lr = run.lr(progress)
        batches = []
        for _ in range(config["accum"]):
            starts = [offset(i, len(train_tokens), T, config["seed"]) for i in range(next_window, next_window + B)]
            batches.append(torch.stack([window(train_tokens, start, T + 1) for start in starts]))
            next_window += B
        taken = lr * (1.02 if plant == "lr" else 1)
        loss, norm = sound.step(batches, taken)
        record = dict(step=step + 1, progress=progress, lr=lr, loss=loss, grad_norm=norm)
        if shadow and step < FIRST_STEPS:
            record["shadow_loss"], record["shadow_norm"] = shadow.step(batches, taken)
        records.append(record)
        if step + 1 in validations:
            bpb[step + 1] = measure(validations[step + 1]["windows"])
        if (step + 1) % args.print_every == 0 or step + 1 == steps:
            speed = (step + 1) * run.step_tokens / (time.perf_counter() - begun)
            print(f"step {step + 1:6} loss {loss:.5f} norm {norm:.4f} lr {lr:.3e} {speed:.0f} tok/s", flush=True)
    final = None
    if steps == run.steps:
        # The run may not have ended, and have no validation here.
        final = bpb[steps] if steps in bpb else measure(config["eval"]["final_windows"])
        print(f"val_bpb {final:.5f}")
    return records, bpb, validations, final


# The comparison.


def precision_of(config):
    return "f32" if config["device"].split(":")[0] in ("cpu", "bnns") else "f16"


def compare(run, metrics, records, bpb, validations, final):
    """Prints each comparison; -> how many failed"""
    _, loss_floor, norm_floor, tight = PRECISION[precision_of(run.config)]
    theirs = {line["step"]: line for line in metrics}
    pairs = [(ours, theirs[ours["step"]]) for ours in records if ours["step"] in theirs]
    if not pairs:
        raise Problem(f"{run.folder}: metrics.jsonl has none of these steps")
    failures = 0

    def report(right, text):
        nonlocal failures
        failures += not right
        print(f"{'ok  ' if right else 'FAIL'} {text}")

    def relative(a, b):
        return abs(a - b) / (abs(b) or 1.0)

    for name in ("progress", "lr"):
        a, b = max(pairs, key=lambda pair: relative(pair[0][name], pair[1][name]))
        difference = relative(a[name], b[name])
        report(difference <= 1e-9, f"{name} of {len(pairs)} steps: {difference:.1e} relative, allowed 1e-09")
    skipped = [b["step"] for _, b in pairs if b["skipped"]]
    if skipped:
        print(f"note anneal left out the update of steps {skipped}; PyTorch did not, so the two differ from there on")

    print(f"{'step':>9} {'loss':>10} {'anneal':>10} {'differ':>8} {'allowed':>8} {'norm':>9} {'differ':>8} {'allowed':>8}")
    loss_bound, norm_bound, proven, wrong = loss_floor, norm_floor, 0, 0
    for a, b in (pair for pair in pairs if "shadow_loss" in pair[0]):
        loss_bound = max(loss_bound, loss_floor + SLACK * abs(a["loss"] - a["shadow_loss"]))
        norm_bound = max(norm_bound, norm_floor + SLACK * relative(a["shadow_norm"], a["grad_norm"]))
        loss, norm = abs(a["loss"] - b["loss"]), relative(a["grad_norm"], b["grad_norm"])
        proven += loss_bound <= tight
        right = loss <= loss_bound and norm <= norm_bound
        wrong += not right
        print(
            f"{a['step']:9} {a['loss']:10.6f} {b['loss']:10.6f} {loss:8.1e} {loss_bound:8.1e} "
            f"{b['grad_norm']:9.4f} {norm:8.1e} {norm_bound:8.1e}{'' if right else '  FAIL'}"
        )
    report(wrong == 0, f"losses and gradient norms of the first steps: {wrong} beyond their bound")
    report(proven >= PROVEN, f"{proven} of these steps have a bound of at most {tight:.0e} nats, at least {PROVEN} are needed")
    a, b = max(pairs, key=lambda pair: abs(pair[0]["loss"] - pair[1]["loss"]))
    print(f"note the largest difference of any step's loss is {abs(a['loss'] - b['loss']):.1e} nats, at step {a['step']}")

    finals = []
    for step, value in bpb.items():
        other = validations[step]["val_bpb"]
        if step <= proven or step == run.steps:
            finals.append((f"after step {step}", value, other))
        else:
            print(f"note val_bpb after step {step}: {value:.5f}, anneal {other:.5f}")
    summary = run.folder / "summary.json"
    if final is not None:
        if not summary.is_file():
            report(False, f"{summary} does not exist: the run has not ended")
        else:
            finals.append(("of summary.json", final, json.loads(summary.read_text())["val_bpb"]))
    for what, value, other in finals:
        difference = abs(value - other)
        text = f"val_bpb {what}: {value:.5f}, anneal {other:.5f}, they differ by {difference:.5f}"
        report(difference <= BPB_LIMIT, f"{text}, allowed {BPB_LIMIT}")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="directory of an anneal run")
    parser.add_argument("--steps", type=int, help="only the first N steps")
    parser.add_argument("--init", type=pathlib.Path, help="initial weights (safetensors)")
    parser.add_argument("--data", type=pathlib.Path, help="folder with train.tokens and valid.tokens [default: the cache]")
    parser.add_argument("--compare", action="store_true", help="compare with the run; exit 1 when something differs")
    parser.add_argument("--plant", choices=FAULTS, help="; ".join(f"{k}: {v}" for k, v in FAULTS.items()))
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--print-every", type=int, default=20)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        config = run_files.config_of(args.run)
        metrics = run_files.json_lines(args.run / "metrics.jsonl")
        check_twin(model_config(config["model"]))
        run = Run(args.run.resolve(), config, metrics)
        results = train(run, args)
        failures = compare(run, metrics, *results) if args.compare else 0
    except Problem as problem:
        raise SystemExit(f"error: {problem}")
    if failures:
        raise SystemExit(f"{failures} comparisons failed")


if __name__ == "__main__":
    main()
