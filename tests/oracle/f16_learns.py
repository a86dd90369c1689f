"""f16 on the Neural Engine learns: runs on `sim` against the same runs on `cpu` in f32, seed for seed.

    python f16_learns.py TEXT --out TABLE.md              2 presets, 3 devices, 3 seeds, 1 Mtok each: hours
    python f16_learns.py TEXT --out TABLE.md --quick      tiny on sim:m4 and cpu, seed 1, 100 ktok: minutes
    python f16_learns.py TEXT --out TABLE.md --devices cpu:bf16       the same for products in bf16 on the CPU

Needs the `anneal` binary (--anneal, by default target/release/anneal) and Python, no packages. Runs are kept in
--runs; what is finished is not run again, and what was interrupted goes on, so this script can be stopped at
any time and started again. --jobs runs go at a time, each on one thread: results do not depend on the number of
threads, and small models leave a second thread idle a fifth of its time.

The rule. Runs of one seed share initial weights and batches and differ by arithmetic alone. For each preset and
chip, d is the mean over seeds of val_bpb(sim) - val_bpb(cpu), and s the standard deviation of val_bpb(cpu) over
seeds (n - 1 in the denominator): what the choice of a seed does, and nobody would call a loss. f16 learns as well
as f32 when d <= 2 s / sqrt(n): the mean of the runs in f16 then lies within two standard errors of the mean in
f32, where another choice of seeds might have put it. Only the upper side is a failure; a d beyond it on the lower
side is marked, since three seeds may understate s. Training amplifies any rounding, so two runs that differ by a
last bit also differ in the end, by about as much as two seeds: a single d is no smaller than that on principle.

With --quick there is no spread over seeds, and the bound is QUICK_LIMIT.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import run_files
from run_files import Problem

REFERENCE = "cpu"
# Bits per byte: the bound that is set for a run against the same run in PyTorch.
QUICK_LIMIT = 0.02


def finished(folder, budget):
    """summary.json of a finished run; None while there is none."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    if run_files.config_of(folder)["budget"] != budget:
        raise Problem(f"{folder} has another budget than {budget}; name another folder with --runs")
    return json.loads(path.read_text())


def run(args, preset, device, seed):
    """Runs or finishes one run; -> its summary"""
    folder = args.runs / f"{preset}-{device.replace(':', '-')}-seed{seed}"
    summary = finished(folder, args.budget)
    if summary is None:
        where = ["--device", device, "--threads", "1"]
        if (folder / "config.toml").is_file():
            command = [args.anneal, "train", "--resume", folder, *where]
        else:
            command = [
                args.anneal, "train", "--preset", preset, "--data", args.text, *where, "--seed", str(seed),
                "--budget", args.budget, "--out", folder,
            ]  # fmt: skip
        print(" ".join(map(str, command)), file=sys.stderr, flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".log"), "a") as log:
            done = subprocess.run([*map(str, command), "--quiet"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        summary = finished(folder, args.budget)
        if done.returncode or summary is None:
            tail = folder.with_suffix(".log").read_text()[-400:]
            raise Problem(f"the run {folder.name} failed with exit status {done.returncode}: {tail}")
    print(f"{folder.name}: val_bpb {summary['val_bpb']:.4f}, {summary['skipped_steps']} steps skipped", flush=True)
    return summary


def verdict(results, preset, device, seeds):
    """-> text of the row's last cells, and whether f16 learned"""
    differences = [results[preset, device, s]["val_bpb"] - results[preset, REFERENCE, s]["val_bpb"] for s in seeds]
    d = statistics.mean(differences)
    if len(seeds) < 2:
        return f"{d:+.4f}", f"{QUICK_LIMIT}", "yes" if d <= QUICK_LIMIT else "**no**", d <= QUICK_LIMIT
    noise = statistics.stdev(results[preset, REFERENCE, s]["val_bpb"] for s in seeds)
    bound = 2 * noise / math.sqrt(len(seeds))
    word = "**no**" if d > bound else "yes" if d >= -bound else "yes, better by more than the noise"
    return f"{d:+.4f}", f"{bound:.4f} (s = {noise:.4f})", word, d <= bound


def table(args, results, presets, devices, seeds):
    """-> Markdown, and whether every row is within the noise"""
    names = ", ".join(f"seed {s}" for s in seeds)
    lines = [
        "# " + " and ".join(f"`{device}`" for device in devices[1:]) + " learn as `cpu` in f32",
        "",
        f"val_bpb after {args.budget} of `{args.text.name}`; {names}. Written by `tests/oracle/f16_learns.py`, whose head",
        f"states the rule. Machine: {platform.machine()}, {os.cpu_count()} cores.",
        "",
        "| preset | device | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | skipped steps | d | bound | within noise |",
        "| --- | --- |" + " --- |" * (len(seeds) + 5),
    ]
    right = True
    for preset in presets:
        for device in devices:
            rows = [results[preset, device, s] for s in seeds]
            cells = [f"{r['val_bpb']:.4f}" for r in rows] + [f"{statistics.mean(r['val_bpb'] for r in rows):.4f}"]
            cells.append(str(sum(r["skipped_steps"] for r in rows)))
            if device == REFERENCE:
                cells += ["", "", "(f32)"]
            else:
                d, bound, word, learned = verdict(results, preset, device, seeds)
                cells += [d, bound, word]
                right = right and learned
            lines.append(f"| {preset} | `{device}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n", right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="text to train on, as for `anneal train --data`")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the Markdown table goes")
    parser.add_argument("--runs", type=pathlib.Path, default=run_files.ROOT / "runs" / "f16_learns")
    parser.add_argument("--anneal", type=pathlib.Path, default=run_files.ROOT / "target" / "release" / "anneal")
    parser.add_argument("--budget", help="of each run [default: 1Mtok, with --quick 100ktok]")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time [default: one a core]")
    parser.add_argument("--devices", help="instead of sim:m1 and sim:m4, with commas between them")
    parser.add_argument("--quick", action="store_true", help="tiny, sim:m4 and cpu, seed 1, 100ktok")
    args = parser.parse_args()
    presets, devices, seeds = ["tiny", "deep-5m"], [REFERENCE, "sim:m1", "sim:m4"], range(1, args.seeds + 1)
    if args.quick:
        presets, devices, seeds = ["tiny"], [REFERENCE, "sim:m4"], [1]
    if args.devices:
        devices = [REFERENCE, *args.devices.split(",")]
    args.budget = args.budget or ("100ktok" if args.quick else "1Mtok")
    args.runs, args.text = args.runs / args.budget, args.text.resolve()
    try:
        if not args.anneal.is_file():
            raise Problem(f"{args.anneal} does not exist; run `cargo build --release`, or name the binary with --anneal")
        # By seed, so that a whole comparison is there early; the longest runs of a seed first.
        wanted = [(p, d, s) for s in seeds for p in reversed(presets) for d in reversed(devices)]
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            results = dict(zip(wanted, pool.map(lambda which: run(args, *which), wanted)))
    except Problem as problem:
        raise SystemExit(f"error: {problem}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130)
    text, right = table(args, results, presets, devices, seeds)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text)
    if not right:
        raise SystemExit("it does not learn as f32 does")


if __name__ == "__main__":
    main()
