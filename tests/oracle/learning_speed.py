"""How fast recipes learn: the same model size, text and tokens, val_bpb at the end, seed for seed.

    python learning_speed.py TEXT                   everything that is not in the results yet: many hours
    python learning_speed.py TEXT --only main       the comparison; `trial`, `sweep`, `ablation`: the other parts; or a
                                                    part of a run's name in --list
    python learning_speed.py TEXT --list            what there is to do, and what is done
    python learning_speed.py --table                the tables of what is done, as Markdown

Needs the `anneal` binary (--anneal, by default target/release/anneal); for the side in PyTorch also the packages of
requirements.txt. What ended stands in learning_speed.json beside this file, with everything that it depends on: it is
not run again, on whatever machine, until its recipe or its settings change. Runs themselves are kept in --runs, and what
was interrupted goes on; so this script can be stopped at any time. Two runs go on at a time (--jobs), each on one
thread: two cores do more so than one run on both.

All models have 4.7M parameters in matrices beside their embeddings (width 256, 6 layers, heads of 64), a vocabulary of
8,192 trained on TEXT, sequences of 512. Runs of one seed read the same windows in the same order, and steps have 2,048
tokens (v3b: 1,024, its own); val_bpb is over the same 128 windows of the held-out part.

main       `anneal`, with all the tokens (5M) and with a third of them; `v3b`; `anneal` with AdamW instead of Muon, at its
           best rate of the sweep; and `autoresearch` as PyTorch runs it from the same weights on the same batches
           (torch_train.py). Seeds 1 to 3.
trial      what `anneal` was chosen from: 500k tokens or all 5M, seed 1.
sweep      `anneal` with AdamW at four rates, 500k tokens, seed 1.
ablation   `anneal` without one of its pieces at a time, 2M tokens, seed 1; and whole with seeds 1 to 3: the noise.

Recipes whose published rates belong to a width of 768 (v3b) have those of their matrices times 768/256 (Yang et al. 2022,
arXiv 2203.03466); `autoresearch` scales its own. Its batch of 2^19 tokens would leave ten updates here, so it takes the
steps that `anneal` takes.
"""

import argparse
import concurrent.futures
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import tomllib

import run_files
from run_files import Problem

SEEDS = (1, 2, 3)
MAIN, SHORT, TRIAL = 5_000_000, 2_000_000, 500_000  # tokens
SHAPE = {"model.width": 256, "model.n_layers": 6, "model.n_heads": 4, "model.n_kv_heads": 4, "model.head_dim": 64,
         "model.seq_len": 512, "model.vocab_size": 8192}  # fmt: skip
GATED = {**SHAPE, "model.ffn_hidden": 688}
SQUARED = {**SHAPE, "model.ffn_hidden": 1024}
COMMON = {"data.packing": "windows", "data.shuffle": True, "batch": 1, "eval.final_windows": 128}
# What no result depends on.
WATCHED = {"eval.every": 0.1, "eval.windows": 32, "checkpoint.every": 0.1, "checkpoint.keep": 1, "log_every": 1}
STEP = {"accum": 4}
ANNEAL = ("anneal", {**GATED, **STEP})
V3B = ("v3b", {**GATED, "optimizer.multipliers.matrix": 0.05 * 768 / 256})
AUTORESEARCH = ("autoresearch", {**SQUARED, **STEP})

# `anneal` as it was until 28 November 2026, with autoresearch's values.
BEFORE = ("anneal", {**ANNEAL[1], "optimizer.beta2": 0.95, "optimizer.multipliers.classifier": 0.1})

# Name: recipe, settings.
TRIALS = {
    "plain Llama, AdamW at 0.002": ("", {**GATED, **STEP, "optimizer.kind": "adamw", "optimizer.lr": 2e-3}),
    "plain Llama with QK-norm, Muon at 0.02, the rest at 0.004": ("", {
        **GATED, **STEP, "optimizer.kind": "muon", "optimizer.muon.lr": 0.02, "optimizer.lr": 4e-3, "model.qk_norm": True}),
    **{f"autoresearch without short windows, Muon at {rate:g}": ("autoresearch", {
        **SQUARED, **STEP, "model.window_pattern": "", "optimizer.muon.lr": rate}) for rate in (0.01, 0.02, 0.04, 0.08)},
    "the same at 0.02, no value embeddings": ("autoresearch", {
        **SQUARED, **STEP, "model.window_pattern": "", "optimizer.muon.lr": 0.02, "model.value_embeddings": False}),
    "the same at 0.04, steps of 1,024 tokens": ("autoresearch", {**SQUARED, "accum": 2, "model.window_pattern": ""}),
    "the same at 0.04, gated SiLU": ("autoresearch", {
        **GATED, **STEP, "model.window_pattern": "", "model.ffn": "swiglu"}),
    "the same at 0.04, gated SiLU, steps of 4,096 tokens": ("autoresearch", {
        **GATED, "accum": 8, "model.window_pattern": ""}),
    "the same at 0.06, the rate falls from the first step": ("autoresearch", {
        **SQUARED, **STEP, "model.window_pattern": "", "schedule.decay": 1.0, "optimizer.muon.lr": 0.06}),
    # What autoresearch tuned for steps of 2^19 tokens.
    "anneal, AdamW's beta2 0.99": (BEFORE[0], {**BEFORE[1], "optimizer.beta2": 0.99}),
    "anneal, AdamW's beta2 0.999": (BEFORE[0], {**BEFORE[1], "optimizer.beta2": 0.999}),
    "anneal, AdamW's betas 0.9 and 0.99": (BEFORE[0], {**BEFORE[1], "optimizer.beta1": 0.9, "optimizer.beta2": 0.99}),
    "anneal, embeddings at half the rate": (BEFORE[0], {
        **BEFORE[1], "optimizer.multipliers.embedding": 7.5, "optimizer.multipliers.value_embedding": 7.5}),
    "anneal, embeddings at twice the rate": (BEFORE[0], {
        **BEFORE[1], "optimizer.multipliers.embedding": 30.0, "optimizer.multipliers.value_embedding": 30.0}),
    "anneal, classifier at twice the rate": (BEFORE[0], {**BEFORE[1], "optimizer.multipliers.classifier": 0.2}),
    "anneal, classifier at half the rate": (BEFORE[0], {**BEFORE[1], "optimizer.multipliers.classifier": 0.05}),
    **{f"anneal, beta2 0.99, classifier at {part} the rate": (BEFORE[0], {
        **BEFORE[1], "optimizer.beta2": 0.99, "optimizer.multipliers.classifier": 0.1 * factor})
       for part, factor in (("half", 0.5), ("a quarter of", 0.25))},
    "anneal, Muon's beta2 0.99": (BEFORE[0], {**BEFORE[1], "optimizer.muon.beta2": 0.99}),
    "anneal, Muon's momentum 0.97": (BEFORE[0], {**BEFORE[1], "optimizer.muon.momentum": 0.97}),
}  # fmt: skip
# With all the tokens, since what is best for few of them need not be for more.
LONG_TRIALS = {
    "anneal with autoresearch's beta2 and classifier": BEFORE,
    "anneal with squared ReLU": (BEFORE[0], {**BEFORE[1], "model.ffn": "relu2", "model.ffn_hidden": 1024}),
}
# Of the whole model, everything but Muon as `anneal` has it.
ADAMW_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
# What `anneal` is without, and the settings that take it away.
ABLATIONS = {
    "value embeddings": {"model.value_embeddings": False},
    "x0 and its factors": {"model.x0_residual": False},
    "QK-norm": {"model.qk_norm": False},
    "the gate in the feed-forward part (squared ReLU, as many parameters)": {"model.ffn": "relu2", "model.ffn_hidden": 1024},
    "sight of everything in every layer (of half a sequence in three of four)": {"model.window_pattern": "SSSL"},
    "normed embeddings": {"model.embed_norm": False},
    "softcap": {"model.softcap": 0.0},
    "zero-initialised output projections": {"model.init.zero_output_projections": False},
    "Muon's mean of squares": {"optimizer.muon.beta2": 0.0},
    "weight decay": {"optimizer.weight_decay": 0.0},
    "warm-down (constant rate)": {"schedule.decay": 0.0, "schedule.final_fraction": 1.0},
}

RESULTS = pathlib.Path(__file__).with_suffix(".json")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run, by `anneal` or by PyTorch on the batches of one that `anneal` would make."""

    part: str
    name: str
    recipe: str
    settings: dict
    tokens: int
    seed: int
    torch: bool = False

    @property
    def folder(self):
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return f"{words}-{self.tokens // 1000}ktok-seed{self.seed}{'-torch' if self.torch else ''}"

    def described(self):
        """All that the result depends on, but for the program and the text."""
        path = run_files.ROOT / "recipes" / f"{self.recipe}.toml"
        settings = flat(tomllib.loads(path.read_text())) if self.recipe else {}
        settings |= {**COMMON, **self.settings}
        return {"settings": settings, "tokens": self.tokens, "seed": self.seed, "by": "torch" if self.torch else "anneal"}

    def key(self):
        """The same in short: another one when anything of it changes."""
        return hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode()).hexdigest()[:16]

    def found(self, results):
        """-> val_bpb; None when there is none for these settings"""
        result = results.get(self.folder)
        return result["val_bpb"] if result and result["of"] == self.key() else None

    def command(self, args):
        folder = args.runs / self.folder
        if (folder / "config.toml").is_file():
            return [args.anneal, "train", "--resume", folder, "--quiet", "--threads", 1]
        sets = [w for key, value in {**COMMON, **WATCHED, **self.settings}.items() for w in ("--set", f"{key}={json.dumps(value)}")]
        return [args.anneal, "train", "--recipe", self.recipe, "--data", args.text, "--seed", self.seed, "--budget",
                f"{self.tokens // 1000}ktok", "--out", folder, "--quiet", "--threads", 1, *sets]  # fmt: skip

    def run(self, args):
        """-> what learning_speed.json says of it"""
        folder = args.runs / self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        if self.torch:
            if not (folder / "config.toml").is_file():
                begin(self.command(args), folder, log)
            command = [sys.executable, run_files.ROOT / "tests/oracle/torch_train.py", folder, "--threads", 1,
                       "--save", folder / "torch.pt"]  # fmt: skip
        else:
            command = self.command(args)
        done = call(command, log)
        if done:
            raise Problem(f"{self.folder} failed with exit status {done}: {log.read_text()[-600:]}")
        result = {"of": self.key(), "on": time.strftime("%Y-%m-%d")}
        if self.torch:
            return {**result, "val_bpb": float(re.findall(r"^val_bpb ([\d.]+)$", log.read_text(), re.M)[-1])}
        summary = json.loads((folder / "summary.json").read_text())
        events = run_files.json_lines(folder / "events.jsonl")
        # The end is measured twice, last over the windows of the result.
        curve = {e["step"]: round(e["val_bpb"], 5) for e in events if e["event"] == "validation"}
        return {**result, "val_bpb": summary["val_bpb"], "recoveries": summary["recoveries"], "curve": [*curve.items()]}


def flat(table, within=""):
    """-> a table of tables as `--set` names its values"""
    found = {}
    for key, value in table.items():
        found |= flat(value, f"{within}{key}.") if isinstance(value, dict) else {within + key: value}
    return found


def call(command, log):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(log, "a") as out:
        return subprocess.run([*map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                              env=env).returncode  # fmt: skip


def begin(command, folder, log):
    """Leaves the run after its first step: configuration, tokenizer and order of windows are there."""
    with open(log, "w") as out:
        running = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        while running.poll() is None and not run_files.json_lines(folder / "metrics.jsonl"):
            time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        running.wait()


def sweep_jobs():
    return [Job("sweep", f"anneal with AdamW at {rate:g}", *adamw(rate), TRIAL, 1) for rate in ADAMW_RATES]


def adamw(rate):
    recipe, settings = ANNEAL
    base = tomllib.loads((run_files.ROOT / "recipes" / f"{recipe}.toml").read_text())["optimizer"]["lr"]
    # Its rate for matrices; everything else keeps its own.
    return recipe, {**settings, "optimizer.kind": "adamw", "optimizer.multipliers.matrix": rate / base}


def jobs(results):
    """Everything that can be done by now, in the order in which it is done."""
    for name, (recipe, settings) in TRIALS.items():
        yield Job("trial", name, recipe, settings, TRIAL, 1)
    for name, (recipe, settings) in LONG_TRIALS.items():
        yield Job("trial", name, recipe, settings, MAIN, 1)
    yield from sweep_jobs()
    found = {job.found(results): rate for job, rate in zip(sweep_jobs(), ADAMW_RATES)}
    best = None if None in found else found[min(found)]
    for seed in SEEDS:
        yield Job("main", "anneal", *ANNEAL, MAIN, seed)
        yield Job("main", "autoresearch, by PyTorch", *AUTORESEARCH, MAIN, seed, torch=True)
        yield Job("main", "v3b", *V3B, MAIN, seed)
        yield Job("main", "anneal", *ANNEAL, MAIN // 3, seed)
        if best:
            yield Job("main", f"anneal with AdamW at {best:g}", *adamw(best), MAIN, seed)
    for seed in SEEDS:
        yield Job("ablation", "anneal", *ANNEAL, SHORT, seed)
    for name, changes in ABLATIONS.items():
        yield Job("ablation", f"without {name}", ANNEAL[0], {**ANNEAL[1], **changes}, SHORT, 1)
    if best:
        yield Job("ablation", "without Muon (AdamW at its best rate)", *adamw(best), SHORT, 1)


def table(results):
    """-> Markdown of all that is finished"""
    rows = {}
    for job in jobs(results):
        rows.setdefault((job.part, job.name, job.tokens), {})[job.seed] = job.found(results)
    lines = []
    for part in ("main", "ablation", "sweep", "trial"):
        lines += [f"| {part} | tokens | " + " | ".join(f"seed {s}" for s in SEEDS) + " | mean | deviation |",
                  "| --- | --- |" + " --- |" * (len(SEEDS) + 2)]  # fmt: skip
        for (of, name, tokens), by_seed in rows.items():
            known = [value for value in by_seed.values() if value is not None]
            if of != part or not known:
                continue
            shown = [f"{by_seed[s]:.4f}" if by_seed.get(s) is not None else "" for s in SEEDS]
            spread = f"{statistics.stdev(known):.4f}" if len(known) > 1 else ""
            lines.append(f"| {name} | {tokens / 1e6:.2f}M | " + " | ".join(shown) + f" | {statistics.mean(known):.4f} | {spread} |")
        lines.append("")
    return "\n".join(lines)


def read():
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def add(name, result):
    """To the results, which other processes may add to at the same time. One line for each."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write({**read(), name: result})


def write(results):
    lines = [f" {json.dumps(name)}: {json.dumps(result)}" for name, result in sorted(results.items())]
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    temporary.replace(RESULTS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, nargs="?", help="text to train on, as for `anneal train --data`")
    parser.add_argument("--runs", type=pathlib.Path, default=run_files.ROOT / "runs" / "learning_speed")
    parser.add_argument("--anneal", type=pathlib.Path, default=run_files.ROOT / "target" / "release" / "anneal")
    parser.add_argument("--only", help="main, trial, sweep, ablation, or a part of what --list calls a run", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.list:
        for job in jobs(read()):
            found = job.found(read())
            print(f"{job.part:9} {job.folder}: {'to do' if found is None else f'{found:.4f}'}")
        return
    if args.table:
        print(table(read()))
        return
    if not args.text:
        raise Problem("which text? give the path of a file or folder, as for `anneal train --data`")
    lock, taken, failed = threading.Lock(), set(), []

    def work():
        while True:
            with lock:
                # Anew each time: what the sweep says decides what follows.
                results = read()
                left = [job for job in jobs(results) if job.found(results) is None and job.folder not in taken
                        and args.only in f"{job.part} {job.folder}"]  # fmt: skip
                if not left or failed:
                    return
                taken.add(left[0].folder)
            print(f"{time.strftime('%H:%M')} {left[0].folder}, {len(left) - 1} more", flush=True)
            try:
                result = left[0].run(args)
            except Problem as problem:
                failed.append(problem)
                raise
            with lock:
                add(left[0].folder, result)
            print(f"{time.strftime('%H:%M')} {left[0].folder}: {result['val_bpb']:.4f}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for done in [pool.submit(work) for _ in range(args.jobs)]:
            done.result()
    print(table(read()))


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"learning_speed.py: {problem}")
