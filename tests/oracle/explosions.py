"""What made autoresearch-ANE's first overnight run explode: its settings at a small scale, and one change at a time.

    python explosions.py TEXT --out TABLE.md              hours; can be stopped and started again
    python explosions.py TEXT --out TABLE.md --only v1,softcap --seeds 1

Needs the `anneal` binary (--anneal, by default target/release/anneal) and Python, no packages. Runs are kept in --runs;
what is finished is not run again. --jobs runs go at a time, each on one thread.

The small scale, and what follows from it (autoresearch-ANE, recipes/v1.toml -> here):

- width 768 -> 96, heads 6 of 128 -> 6 of 16, hidden 2,048 -> 256, 6 layers as there: every ratio between extents is
  kept, and the depth, on which the growth of the residual stream depends.
- sequences of 512 -> 128 tokens, 10 of them in an update as there; vocabulary 32,768 -> 2,048, trained on the text.
- The rate of matrices times 768/96 = 8: with it an update changes a layer's output as much as there (Yang et al. 2022,
  arXiv 2203.03466: Adam's rate of a matrix goes with 1/fan-in). Embedding and gains keep their rates, and the embedding
  its deviation, so that it changes relative to itself as much as there. Initial values of matrices follow their recipe,
  which is a rule in 1/sqrt(fan-in).
- Updates are those of the original: 100 to warm up, then a rate that does not fall (the original's cosine was for
  31,300 updates and had lost half a percent when the run was stopped after 1,839). --updates of them, 2,000 by default;
  the share of warm-up follows.

What counts: the first update at which the largest magnitude in the residual stream passes 5, 20, 50 and 200 (the
original's: 233, 714, 921, 1,379), the largest of all, and val_bpb: its best, its last, and how far it ever rose above
the best before (a run that heals has exploded all the same: where it happens to be stopped must not decide). A run has
exploded when activations passed 50 ("stop" in the original's health bands) and val_bpb rose by more than WORSE, or when
it ended because nothing it computed was a number.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys

import run_files
from run_files import Problem

# The original's health bands, and how much worse than at its best a run must become: twice what a validation of 64
# windows of 128 tokens is uncertain by.
BANDS = (5, 20, 50, 200)
STOP = 50
WORSE = 0.03

SCALED = {
    "model.width": 96, "model.n_heads": 6, "model.n_kv_heads": 6, "model.head_dim": 16, "model.ffn_hidden": 256,
    "model.n_layers": 6, "model.seq_len": 128, "model.vocab_size": 2048, "batch": 10, "accum": 1,
    "optimizer.multipliers.matrix": 8.0,
    "schedule.kind": "wsd", "schedule.decay": 0.0, "schedule.final_fraction": 1.0,
    "eval.every": 0.05, "eval.windows": 64, "checkpoint.every": 0.5, "checkpoint.keep": 1, "guard.action": "warn",
}  # fmt: skip
ZERO = {"model.init.zero_output_projections": True}
SOFTCAP = {"model.softcap": 15.0}
# The ratios of v3: matrices 0.05, embedding 5, at 5e-4 instead of 3e-4.
RATIOS = {"optimizer.multipliers.matrix": 8 * 0.05, "optimizer.multipliers.embedding": 5.0,
          "optimizer.multipliers.classifier": 5.0}  # fmt: skip
SPLIT = {"optimizer.lr": 5e-4, **RATIOS}
FALLING = {"schedule.kind": "cosine", "schedule.final_fraction": 0.1}
CURES = {**ZERO, **SOFTCAP, **SPLIT, **FALLING}
DEFECT = {"model.defects": ["rms_norm_backward_w"]}
# Three times the rate, at which the run with the defect explodes within 2,000 updates; the original took 1,839.
THRICE = {"optimizer.lr": 9e-4}
ILL = {**THRICE, **DEFECT}
THRICE_SPLIT = {"optimizer.lr": 1.5e-3}

# Name: what it is, its changes, and its device.
VARIANTS = {
    "v1": ("the settings of overnight v1", {}, "cpu"),
    "defect": ("v1 with the original's gradient of a norm", DEFECT, "cpu"),
    "f16": ("v1 in the engine's f16", {}, "sim:m4"),
    "all-defect": ("v1 with all four cures and that gradient", {**CURES, **DEFECT}, "cpu"),
    "v1-3x": ("v1 at three times its rate", THRICE, "cpu"),
    "defect-3x": ("the same with that gradient: the run that explodes", ILL, "cpu"),
    "defect-3x-zero": ("that run, output projections begin at zero", {**ILL, **ZERO}, "cpu"),
    "defect-3x-softcap": ("that run, logits capped at 15", {**ILL, **SOFTCAP}, "cpu"),
    "defect-3x-split": ("that run, rates split 0.05 and 5, base 5e-4 times three", {**ILL, **SPLIT, **THRICE_SPLIT}, "cpu"),
    "defect-3x-schedule": ("that run, a cosine as long as the run", {**ILL, **FALLING}, "cpu"),
    "defect-3x-all": ("that run with all four", {**ILL, **CURES, **THRICE_SPLIT}, "cpu"),
    "defect-3x-f16": ("that run in the engine's f16", ILL, "sim:m4"),
    "v1-10x": ("v1 at ten times its rate", {"optimizer.lr": 3e-3}, "cpu"),
    "all-10x": ("all four cures at ten times v3's rate", {**CURES, "optimizer.lr": 5e-3}, "cpu"),
}  # fmt: skip


def settings(args, name):
    _, changes, _ = VARIANTS[name]
    return {**SCALED, "schedule.warmup": 100 / args.updates, **changes}


def run(args, name, seed):
    """Runs or finishes one run; -> its figures"""
    folder = args.runs / f"{name}-{args.updates}-seed{seed}"
    device = ["--device", VARIANTS[name][2], "--threads", "1"]
    if not (folder / "summary.json").is_file() and not gave_up(folder):
        if (folder / "config.toml").is_file():
            command = [args.anneal, "train", "--resume", folder, *device]
        else:
            sets = [f"{key}={json.dumps(value)}" for key, value in settings(args, name).items()]
            command = [args.anneal, "train", "--recipe", "v1", "--data", args.text, *device, "--seed", seed,
                       "--budget", f"{args.updates}steps", "--out", folder,
                       *(word for one in sets for word in ("--set", one))]  # fmt: skip
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".log"), "a") as log:
            done = subprocess.run([*map(str, command), "--quiet"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if done.returncode and not gave_up(folder):
            tail = folder.with_suffix(".log").read_text()[-600:]
            raise Problem(f"the run {folder.name} failed with exit status {done.returncode}: {tail}")
    figures = read(folder)
    print(f"{folder.name}: {json.dumps(figures)}", flush=True)
    return figures


def gave_up(folder):
    """Whether a run ended because what it computed was no number."""
    events = run_files.json_lines(folder / "events.jsonl")
    return any(e["event"] == "failed" and "diverged" in e["why"] for e in events)


def read(folder):
    steps = run_files.json_lines(folder / "metrics.jsonl")
    largest = [max(line["act_max"]) for line in steps]
    validations = [e["val_bpb"] for e in run_files.json_lines(folder / "events.jsonl") if e["event"] == "validation"]
    passed = {band: next((line["step"] for line, x in zip(steps, largest) if x > band), None) for band in BANDS}
    rises = [after - min(validations[:at]) for at, after in enumerate(validations) if at]
    norms = [line["grad_norm"] for line in steps]
    tenth = max(1, len(norms) // 10)
    return {
        "passed": passed, "largest": max(largest), "best": min(validations), "last": validations[-1], "rise": max(rises, default=0.0),
        "norm_first": sorted(norms[:tenth])[tenth // 2], "norm_last": sorted(norms[-tenth:])[tenth // 2],
        "steps": len(steps), "gave_up": gave_up(folder),
    }  # fmt: skip


def exploded(figures):
    return figures["gave_up"] or (figures["passed"][STOP] is not None and figures["rise"] > WORSE)


def table(results, seeds, updates):
    lines = [
        f"| run, {updates} updates | seed | \\|x\\| > " + " | > ".join(map(str, BANDS)) + " | largest | gradient norm, first and last tenth | best val_bpb | last | largest rise | exploded |",
        "| --- | --- |" + " --- |" * (len(BANDS) + 6),
    ]  # fmt: skip
    for name, (words, _, device) in VARIANTS.items():
        for seed in seeds:
            if (name, seed) not in results:
                continue
            f = results[name, seed]
            bands = [str(f["passed"][band] or "never") for band in BANDS]
            what = f"{words}" if seed == seeds[0] else ""
            lines.append(
                f"| {what} | {seed} | {' | '.join(bands)} | {f['largest']:.1f} | {f['norm_first']:.2f}, {f['norm_last']:.2f} "
                f"| {f['best']:.3f} | {f['last']:.3f} | {f['rise']:.3f} | {'**yes**' if exploded(f) else 'no'} |"
            )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="text to train on, as for `anneal train --data`")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the Markdown table goes")
    parser.add_argument("--runs", type=pathlib.Path, default=run_files.ROOT / "runs" / "explosions")
    parser.add_argument("--anneal", type=pathlib.Path, default=run_files.ROOT / "target" / "release" / "anneal")
    parser.add_argument("--only", default=",".join(VARIANTS), help="names of runs, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    names = args.only.split(",")
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise Problem(f"--only: there is no run {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    if not args.anneal.is_file():
        raise Problem(f"{args.anneal} is not there; build it with: cargo build --release")
    seeds = range(1, args.seeds + 1)
    results = {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        # All runs with one seed before any with the next, so that a stop leaves a whole table.
        wanted = [(name, seed) for seed in seeds for name in names]
        for key, figures in zip(wanted, pool.map(lambda key: run(args, *key), wanted)):
            results[key] = figures
            args.out.write_text(table(results, seeds, args.updates))
    print(args.out.read_text())


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"explosions.py: {problem}")
