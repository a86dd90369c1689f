"""How fast recipes learn: the same model size, text and tokens, val_bpb at the end, seed for seed.

    python learning_speed.py TEXT --out TABLE.md                   everything: many hours, any number of sittings
    python learning_speed.py TEXT --out TABLE.md --only main       the comparison; `sweep`, `ablation`: the other parts
    python learning_speed.py TEXT --out TABLE.md --list            what there is to do, and what is done

Needs the `anneal` binary (--anneal, by default target/release/anneal); for the side in PyTorch also the packages of
requirements.txt. Runs are kept in --runs. What is finished is not run again and what was interrupted goes on, so this
script can be stopped at any time. --out is written anew after each run, from all that are finished.

All models have 4.7M parameters in matrices beside their embeddings (width 256, 6 layers, heads of 64), a vocabulary of
8,192 trained on TEXT, sequences of 512. Runs of one seed read the same windows in the same order, as far as their steps
have as many tokens; val_bpb is over the same 128 windows of the held-out part.

main       the candidate for a recipe of our own (CANDIDATE below), `v3b`, AdamW at its best rate of the sweep, and
           `autoresearch` as we run it and as PyTorch runs it from the same weights on the same batches
           (torch_train.py): --tokens tokens, seeds 1 to 3. And the candidate with a third of the tokens.
sweep      AdamW at five rates, and Muon with three for the candidate, seed 1, --short tokens.
ablation   the candidate without one of its pieces at a time, --short tokens, seed 1, and whole with seeds 1 to 3: the
           noise.

Recipes whose published rates belong to a width of 768 (v3b) have those of their matrices times 768/256 (Yang et al. 2022,
arXiv 2203.03466); `autoresearch` scales its own. Its batch of 2^19 tokens would leave ten updates here: every recipe
but v3b takes the step that ours takes.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

import run_files
from run_files import Problem

SEEDS = (1, 2, 3)
SHAPE = {"model.width": 256, "model.n_layers": 6, "model.n_heads": 4, "model.n_kv_heads": 4, "model.head_dim": 64,
         "model.seq_len": 512, "model.vocab_size": 8192}  # fmt: skip
GATED = {**SHAPE, "model.ffn_hidden": 688}
SQUARED = {**SHAPE, "model.ffn_hidden": 1024}
COMMON = {"eval.every": 0.1, "eval.windows": 32, "eval.final_windows": 128, "checkpoint.every": 0.1, "checkpoint.keep": 1,
          "data.packing": "windows", "data.shuffle": True, "batch": 1, "log_every": 1}  # fmt: skip
# AdamW and everything else as the presets have it.
ADAMW = {**GATED, "accum": 1, "optimizer.kind": "adamw"}
SWEEP = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)

MUON_SWEEP = (0.005, 0.01, 0.02)
# The model of autoresearch with its optimiser; the rate of Muon is the sweep's best, since autoresearch's is for steps a
# thousand times as large, and the others keep their ratio to it.
CANDIDATE = {**SQUARED, "accum": 1, "model.window_pattern": ""}

# Name: recipe, settings.
RECIPES = {
    "v3b": ("v3b", {**GATED, "optimizer.multipliers.matrix": 0.05 * 768 / 256}),
    "autoresearch": ("autoresearch", {**SQUARED, "accum": 1}),
}  # fmt: skip
# What the candidate is without, and the settings that take it away.
ABLATIONS = {
    "whole": {},
    "Muon (AdamW at the sweep's rate for matrices)": {"optimizer.kind": "adamw"},
    "value embeddings": {"model.value_embeddings": False},
    "x0 and its factors": {"model.x0_residual": False},
    "QK-norm": {"model.qk_norm": False},
    "squared ReLU (gated SiLU of as many parameters)": {"model.ffn": "swiglu", "model.ffn_hidden": 688},
    "softcap": {"model.softcap": 0.0},
    "zero-initialised output projections": {"model.init.zero_output_projections": False},
    "normed embeddings": {"model.embed_norm": False},
    "warm-down (constant rate)": {"schedule.kind": "wsd", "schedule.decay": 0.0, "schedule.final_fraction": 1.0},
}


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class Job:
    """One run, by `anneal` or by PyTorch on the batches of one that `anneal` has made."""

    def __init__(self, part, name, recipe, settings, tokens, seed, torch=False):
        self.part, self.name, self.seed, self.tokens, self.torch = part, name, seed, tokens, torch
        self.recipe, self.settings = recipe, {**COMMON, **settings}
        self.folder = f"{slug(name)}-{tokens // 1000}ktok-seed{seed}"

    def result(self, args):
        """val_bpb; None while the run has not ended"""
        path = args.runs / self.folder / ("torch.json" if self.torch else "summary.json")
        return json.loads(path.read_text())["val_bpb"] if path.is_file() else None

    def run(self, args):
        folder = args.runs / self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        if self.torch:
            command = [sys.executable, run_files.ROOT / "tests/oracle/torch_train.py", folder]
        elif (folder / "config.toml").is_file():
            command = [args.anneal, "train", "--resume", folder, "--quiet"]
        else:
            sets = (word for key, value in self.settings.items() for word in ("--set", f"{key}={json.dumps(value)}"))
            recipe = ("--recipe", self.recipe) if self.recipe else ()
            command = [args.anneal, "train", *recipe, "--data", args.text, "--seed", self.seed, "--budget",
                       f"{self.tokens // 1000}ktok", "--out", folder, "--quiet", *sets]  # fmt: skip
        log = folder.with_suffix(".torch.log" if self.torch else ".log")
        with open(log, "w") as out:
            done = subprocess.run([*map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        text = log.read_text()
        if done.returncode:
            raise Problem(f"{self.folder} failed with exit status {done.returncode}: {text[-600:]}")
        if self.torch:
            final = float(re.findall(r"^val_bpb ([\d.]+)$", text, re.M)[-1])
            (folder / "torch.json").write_text(json.dumps({"val_bpb": final}))


def sweep_jobs(args):
    return [Job("sweep", f"AdamW at {rate:g}", None, {**ADAMW, "optimizer.lr": rate}, args.short, 1) for rate in SWEEP]


def muon_jobs(args):
    return [Job("sweep", f"candidate at {rate:g}", "autoresearch", candidate(rate), args.short, 1) for rate in MUON_SWEEP]


def candidate(rate):
    return {**CANDIDATE, "optimizer.muon.lr": rate, "optimizer.lr": rate}


def best(args, jobs, rates):
    """The rate of the lowest val_bpb of a sweep; None until it has ended."""
    results = [job.result(args) for job in jobs(args)]
    return None if None in results else rates[results.index(min(results))]


def jobs(args):
    """Everything that can be done by now, in the order in which it is done."""
    yield from sweep_jobs(args)
    yield from muon_jobs(args)
    adamw, muon = best(args, sweep_jobs, SWEEP), best(args, muon_jobs, MUON_SWEEP)
    for seed in SEEDS:
        if adamw and muon:
            yield Job("main", "candidate", "autoresearch", candidate(muon), args.tokens, seed)
            yield Job("main", "candidate", "autoresearch", candidate(muon), args.tokens // 3, seed)
            yield Job("main", "AdamW", None, {**ADAMW, "optimizer.lr": adamw}, args.tokens, seed)
        for name, (recipe, settings) in RECIPES.items():
            yield Job("main", name, recipe, settings, args.tokens, seed)
        yield Job("main", "autoresearch", *RECIPES["autoresearch"], args.tokens, seed, torch=True)
    if not (adamw and muon):
        return
    for seed in SEEDS:
        for name, changes in ABLATIONS.items():
            if seed == 1 or name == "whole":
                if "optimizer.kind" in changes:
                    # AdamW's rate for matrices; everything else keeps its own.
                    changes = {**changes, "optimizer.multipliers.matrix": adamw / muon}
                title = "candidate" if name == "whole" else f"candidate without {name}"
                yield Job("ablation", title, "autoresearch", {**candidate(muon), **changes}, args.short, seed)


def table(args):
    """-> Markdown of all that is finished"""
    cells = {}
    for job in jobs(args):
        name = f"{job.name}, by PyTorch" if job.torch else job.name
        cells.setdefault((job.part, name, job.tokens), {})[job.seed] = job.result(args)
    lines = []
    for part in ("main", "sweep", "ablation"):
        lines += [f"| {part} | tokens | " + " | ".join(f"seed {s}" for s in SEEDS) + " | mean | deviation |",
                  "| --- | --- |" + " --- |" * (len(SEEDS) + 2)]  # fmt: skip
        for (of, name, tokens), by_seed in cells.items():
            if of != part:
                continue
            known = [value for value in by_seed.values() if value is not None]
            shown = [f"{by_seed[s]:.4f}" if by_seed.get(s) is not None else "" for s in SEEDS]
            mean = f"{statistics.mean(known):.4f}" if known else ""
            spread = f"{statistics.stdev(known):.4f}" if len(known) > 1 else ""
            lines.append(f"| {name} | {tokens / 1e6:.2f}M | " + " | ".join(shown) + f" | {mean} | {spread} |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="text to train on, as for `anneal train --data`")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the Markdown table goes")
    parser.add_argument("--runs", type=pathlib.Path, default=run_files.ROOT / "runs" / "learning_speed")
    parser.add_argument("--anneal", type=pathlib.Path, default=run_files.ROOT / "target" / "release" / "anneal")
    parser.add_argument("--only", choices=("main", "sweep", "ablation"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--tokens", type=int, default=5_000_000)
    parser.add_argument("--short", type=int, default=2_000_000)
    args = parser.parse_args()
    if args.list:
        for job in jobs(args):
            result = job.result(args)
            print(f"{job.part:9} {job.folder}{' torch' if job.torch else ''}: {'to do' if result is None else f'{result:.4f}'}")
        return
    while True:
        # Anew each time: what the sweep says decides what follows.
        left = [job for job in jobs(args) if job.result(args) is None and args.only in (None, job.part)]
        if not left:
            break
        print(f"{left[0].folder}{' torch' if left[0].torch else ''}, {len(left)} left", flush=True)
        left[0].run(args)
        args.out.write_text(table(args))
    args.out.write_text(table(args))
    print(args.out.read_text())


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"learning_speed.py: {problem}")
