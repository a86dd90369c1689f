"""The same run in PyTorch: an anneal run directory, trained anew on the same batches, and compared.

    anneal train --preset tiny --data TEXT --budget 3Mtok --out RUN
    python torch_train.py RUN --compare               all of it: val_bpb within 0.02, losses of the first steps
    python torch_train.py RUN --compare --steps 20    only these steps: losses, learning rates, gradient norms

Everything comes from RUN/config.toml, its tokenizer.json and the prepared tokens. The forward pass is a
fast twin of tests/golden/model.py, with which loss and gradients are compared before anything else; the
rest is torch.optim.AdamW, Muon from its published definition (as in tests/golden/make_muon_golden.py),
torch.nn.utils.clip_grads_with_norm_ and plain formulas, in f32. Initial weights are
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
SAVE_EVERY = 50
SLACK = 10  # the shadow is one sample of what rounding may do
PROVEN = 3
# Kind of device: rounding of the shadow's weights, floor of the loss in nats, floor of the norm (relative), and what
# bound of the loss is called tight. Two f32 evaluations of a loss of 7 differ by some 1e-6, of a norm by 3e-5 where
# gradients are nearly rounding noise; f16 devices round each value on the way to 2^-11; bf16 is four times as coarse.
PRECISION = {
    "f32": (2**-24, 1e-5, 2e-4, 1e-3), "f16": (2**-11, 5e-3, 3e-2, 3e-2), "bf16": (2**-9, 2e-2, 1.2e-1, 1.2e-1),
}  # fmt: skip
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
    "momentum": "Muon's momentum is 0.99 from the start",
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
    norm = lambda x, gain: F.rms_norm(x, x.shape[-1:], gain, cfg.norm_eps)  # noqa: E731
    cos, sin = model.rotary_tables(T, cfg.head_dim, cfg.rope_theta, torch.float32)
    windows = {cfg.window_of(i) for i in range(cfg.n_layers)}
    masks = {window: model.causal_mask(T, window) for window in windows if window and window < T}
    x = w["model.embed_tokens.weight"][ids]
    if cfg.embed_norm:
        x = norm(x, None)
    x0 = x
    for i in range(cfg.n_layers):
        p = lambda name: w.get(f"model.layers.{i}.{name}.weight")  # noqa: E731
        if cfg.x0_residual:
            x = p("resid_lambda") * x + p("x0_lambda") * x0
        a = norm(x, p("input_layernorm"))
        heads = lambda name: F.linear(a, p(f"self_attn.{name}")).view(B, T, -1, cfg.head_dim)  # noqa: E731
        q, k, v = heads("q_proj"), heads("k_proj"), heads("v_proj")
        if cfg.has_value_embedding(i):
            gate = 2 * torch.sigmoid(F.linear(a[..., : model.GATE_CHANNELS], p("self_attn.value_gate")))
            v = v + gate[..., None] * p("self_attn.value_embed")[ids].view_as(v)
        if cfg.qk_norm:  # without gains it is the same before and after the rotation
            q, k = norm(q, p("self_attn.q_norm")), norm(k, p("self_attn.k_norm"))
        q, k = model.rotate(q, cos, sin), model.rotate(k, cos, sin)
        mask = masks.get(cfg.window_of(i))
        o = F.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask, is_causal=mask is None,
            enable_gqa=cfg.n_heads != cfg.n_kv_heads,
        )  # fmt: skip
        x = x + cfg.residual_scale * F.linear(o.transpose(1, 2).flatten(2), p("self_attn.o_proj"))
        f = norm(x, p("post_attention_layernorm"))
        up = F.linear(f, p("mlp.up_proj"))
        h = F.silu(F.linear(f, p("mlp.gate_proj"))) * up if cfg.ffn == "swiglu" else up.relu().square()
        x = x + cfg.residual_scale * F.linear(h, p("mlp.down_proj"))
    x = norm(x, w.get("model.norm.weight"))
    logits = F.linear(x, w["model.embed_tokens.weight" if cfg.tied else "lm_head.weight"])
    return cfg.softcap * torch.tanh(logits / cfg.softcap) if cfg.softcap else logits


def check_twin(cfg):
    """Loss and gradients of `forward` are those of `model.forward` for a small model of the same kind."""
    small = dict(n_layers=4, width=48, n_heads=4, n_kv_heads=2, head_dim=12, ffn_hidden=80, vocab_size=160, seq_len=24)
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


# By a part of a parameter's name, the first that fits.
KINDS = {
    "embed_tokens": "embedding", "lm_head": "classifier", "value_embed": "value_embedding", "value_gate": "matrix",
    "resid_lambda": "resid_lambda", "x0_lambda": "x0_lambda", "norm": "norm", "": "matrix",
}  # fmt: skip
OF_TOKENS = ("embedding", "value_embedding", "classifier")


def kind_of(name):
    """How anneal groups parameters."""
    return next(kind for part, kind in KINDS.items() if part in name)


class Muon:
    """One matrix [rows, columns] by Muon as autoresearch has it, with nanochat's refinements where they are asked for."""

    # Polar Express, arXiv 2505.16932, for five steps.
    STEPS = (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    )

    def __init__(self, weight, config, plant):
        self.weight, self.config, self.number = weight, config, 0
        if plant == "momentum":
            self.config = {**config, "momentum_start": 0.99, "momentum": 0.99}
        self.along = 1 if weight.shape[0] >= weight.shape[1] else 0
        self.momentum = torch.zeros_like(weight)
        self.second = torch.zeros_like(weight.mean(dim=self.along, keepdim=True))

    @staticmethod
    def orthogonal(matrix, margin=1.02):
        x = matrix / (margin * torch.linalg.norm(matrix) + 1e-6)
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for a, b, c in Muon.STEPS:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if tall else x

    @torch.no_grad()
    def step(self, lr, decay):
        c, gradient, weight = self.config, self.weight.grad, self.weight
        risen = min(self.number / max(c["momentum_warmup"], 1), 1)
        self.number += 1
        mu = (1 - risen) * c["momentum_start"] + risen * c["momentum"]
        self.momentum.lerp_(gradient, 1 - mu)
        update = torch.lerp(gradient, self.momentum, mu)
        if c.get("equilibrate"):
            rows = torch.linalg.norm(update, dim=1, keepdim=True).clamp_min(1e-6)
            update = update * (torch.linalg.norm(update) / weight.shape[0] ** 0.5 / rows)
        update = self.orthogonal(update, c.get("margin", 1.02))
        if c.get("renormalize"):
            update = update * (min(weight.shape) ** 0.5 / torch.linalg.norm(update).clamp_min(1e-6))
        if c["beta2"]:
            norm = torch.linalg.norm(update)
            self.second.lerp_(update.square().mean(dim=self.along, keepdim=True), 1 - c["beta2"])
            update = update / self.second.clamp_min(1e-10).sqrt()
            update = update * norm / torch.linalg.norm(update).clamp_min(1e-10)
        lr *= max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
        decays = (update * weight >= 0).to(weight.dtype) if c["cautious"] else 1.0
        weight -= lr * update + lr * decay * weight * decays


class Twin:
    """Weights and their optimiser."""

    def __init__(self, cfg, config, weights, plant=None):
        self.cfg, self.config, o = cfg, config["optimizer"], config["optimizer"]
        self.weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
        by_muon = {n for n in self.weights if o["kind"] == "muon" and kind_of(n) == "matrix"}
        self.muon = {name: Muon(self.weights[name], o["muon"], plant) for name in by_muon}
        own = {group["kind"]: group for group in o.get("groups", [])}
        beta2 = 0.99 if plant == "beta2" else o["beta2"]
        groups = []
        for kind in dict.fromkeys(KINDS.values()):
            members = [v for n, v in self.weights.items() if kind_of(n) == kind and n not in by_muon]
            factor = o["multipliers"].get(kind, 1.0) * (0.5 if plant == "multiplier" and kind == "norm" else 1)
            if kind in OF_TOKENS and o.get("token_rate_width"):
                factor *= (cfg.width / o["token_rate_width"]) ** -0.5
            of = {"beta1": o["beta1"], "beta2": beta2, "eps": o["eps"], **own.get(kind, {})}
            decay = of.get("weight_decay", o["weight_decay"] if kind == "matrix" else 0.0)
            if plant == "decay" and kind == "embedding":
                decay = 10 * o["weight_decay"]
            if kind == "matrix":
                self.muon_factor, self.muon_decay = factor, decay
            if members:
                groups.append(dict(params=members, betas=(of["beta1"], of["beta2"]), eps=of["eps"], decay=decay, factor=factor))
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        self.clip = o["grad_clip"] if o["grad_clip"] and plant != "clip" else math.inf

    def step(self, batches, lr, progress):
        """batches: list of [B, T + 1] -> mean loss before the update, norm of its gradient"""
        tokens, total = sum(rows[:, 1:].numel() for rows in batches), 0.0
        for rows in batches:
            loss = model.token_loss(forward(self.cfg, self.weights, rows[:, :-1]), rows[:, 1:]).sum() / tokens
            loss.backward()
            total += loss.item()
        # PyTorch's own norm, a sum in f32, is off by 5e-4 for a classifier of two million values.
        norm = math.sqrt(sum(v.grad.double().square().sum().item() for v in self.weights.values() if v.grad is not None))
        torch.nn.utils.clip_grads_with_norm_(list(self.weights.values()), self.clip, torch.tensor(norm))
        left = 1 - progress if self.config.get("decay_falls") else 1.0
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = lr * group["factor"], group["decay"] * left
        self.optimizer.step()
        base = self.config["lr"]
        for muon in self.muon.values():
            muon.step(lr / base * self.config["muon"]["lr"] * self.muon_factor, self.muon_decay * left)
        self.optimizer.zero_grad(set_to_none=True)
        for value in self.weights.values():
            value.grad = None
        return total, norm

    def state(self):
        muon = {name: (m.momentum, m.second, m.number) for name, m in self.muon.items()}
        return {"weights": self.weights, "adamw": self.optimizer.state_dict(), "muon": muon}

    @torch.no_grad()
    def restore(self, state):
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)
        self.optimizer.load_state_dict(state["adamw"])
        for name, (momentum, second, number) in state["muon"].items():
            m = self.muon[name]
            m.momentum, m.second, m.number = momentum, second, number


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
    first = 0
    if args.save and args.save.is_file():
        kept = torch.load(args.save)
        sound.restore(kept["twin"])
        first, records, bpb = kept["step"], kept["records"], kept["bpb"]
        print(f"goes on after step {first}", flush=True)
    next_window = (1 if plant == "order" else 0) + first * config["accum"] * B
    for step in range(first, steps):
        progress = run.progress(step)
        lr = run.lr(progress)
        batches = []
        for _ in range(config["accum"]):
            starts = [offset(i, len(train_tokens), T, config["seed"]) for i in range(next_window, next_window + B)]
            batches.append(torch.stack([window(train_tokens, start, T + 1) for start in starts]))
            next_window += B
        taken = lr * (1.02 if plant == "lr" else 1)
        loss, norm = sound.step(batches, taken, progress)
        record = dict(step=step + 1, progress=progress, lr=lr, loss=loss, grad_norm=norm)
        if shadow and step < FIRST_STEPS:
            record["shadow_loss"], record["shadow_norm"] = shadow.step(batches, taken, progress)
        records.append(record)
        if step + 1 in validations:
            bpb[step + 1] = measure(validations[step + 1]["windows"])
        if (step + 1) % args.print_every == 0 or step + 1 == steps:
            speed = (step + 1 - first) * run.step_tokens / (time.perf_counter() - begun)
            print(f"step {step + 1:6} loss {loss:.5f} norm {norm:.4f} lr {lr:.3e} {speed:.0f} tok/s", flush=True)
        if args.save and (step + 1) % SAVE_EVERY == 0:
            saved = {"twin": sound.state(), "step": step + 1, "records": records, "bpb": bpb}
            torch.save(saved, args.save.with_suffix(".tmp"))
            args.save.with_suffix(".tmp").replace(args.save)
    final = None
    if steps == run.steps:
        # The run may not have ended, and have no validation here.
        ended = any(e["event"] == "finished" for e in events)
        final = bpb[steps] if ended else measure(config["eval"]["final_windows"])
        print(f"val_bpb {final:.5f}")
    return records, bpb, validations, final


# The comparison.


def precision_of(config):
    return {"cpu": "f32", "bnns": "f32", "cpu:bf16": "bf16"}.get(config["device"], "f16")


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
    parser.add_argument("--save", type=pathlib.Path, help=f"keep the state here every {SAVE_EVERY} steps, and go on from it")
    args = parser.parse_args()
    if args.save and (args.compare or args.plant):
        parser.error("--save goes with neither --compare nor --plant")
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
