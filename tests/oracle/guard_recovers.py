"""Runs at a rate that tears them apart, with and without the guard, for many seeds.

    python guard_recovers.py ANNEAL [--seeds 10] [--lr 2.0] [--budget 900steps] [--out FOLDER]
    python guard_recovers.py ANNEAL --budget 14s       the same with a budget in time, which cannot be taken back

ANNEAL is the binary. A run of the preset `odd` on the built-in stories whose rate rises to many times what it bears
learns for a while, then loses it again, and is no good at its end either. For each seed the same run is made with `guard.action = "off"` and with the defaults:

* without the guard it must end bad, so that there is something to be saved: its last val_bpb at least 0.1 above the
  best that it had;
* with the guard the last val_bpb must be no worse than the best before it diverged, in the same run and in the one
  without a guard;
* and the guard must have acted, at most `guard.max_recoveries` times.

Both count the same windows of the validation text. Prints a table and a line PASS or FAIL.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# Worse by so many bits per byte is bad: twenty standard errors of a validation of this text.
BAD = 0.1


def train(binary, folder, seed, lr, budget, action):
    run = folder / f"{action}-{seed}"
    settings = {
        "optimizer.lr": lr,
        "guard.action": action,
        "schedule.kind": "linear",
        "schedule.warmup": 0.8,
        "schedule.final_fraction": 0.0,
        "eval.every": 0.05,
        "eval.windows": 64,
        "eval.final_windows": 64,
        "checkpoint.every": 0.05,
        "log_every": 10,
    }
    command = [binary, "train", "--preset", "odd", "--data", "stories", "--seed", str(seed), "--batch", "8"]
    command += ["--budget", budget, "--out", str(run), "--quiet", "--threads", "1"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return done, events


def validations(events):
    return [event["val_bpb"] for event in events if event["event"] == "validation"]


def compare(binary, folder, seed, lr, budget):
    """Whether a seed is as it must be, and its line of the table."""
    off, without = train(binary, folder, seed, lr, budget, "off")
    on, guarded = train(binary, folder, seed, lr, budget, "recover")
    recovered = [event for event in guarded if event["event"] == "recovered"]
    first = next((number for number, event in enumerate(guarded) if event["event"] == "recovered"), None)
    best_off, best_before = min(validations(without)), min(validations(guarded[:first]), default=float("inf"))
    # A run without a guard may also end by an error, when its gradients are no longer numbers.
    last_off = validations(without)[-1] if off.returncode == 0 else float("inf")
    last_on = validations(guarded)[-1] if on.returncode == 0 else float("inf")
    is_bad = last_off > best_off + BAD
    is_held = bool(recovered) and last_on <= min(best_off, best_before)
    went = ", ".join(f"{event['kind']} {event['step']} to {event['back_to']}" for event in recovered)
    marks = ("" if is_bad else " NOT BAD WITHOUT") + ("" if is_held else " NOT HELD " + on.stderr.strip())
    line = f"| {seed} | {best_off:.4f} | {last_off:.4f} | {best_before:.4f} | {last_on:.4f} | {len(recovered)}: {went} |{marks}"
    return is_bad and is_held, line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--lr", type=float, default=2.0)
    parser.add_argument("--budget", default="900steps")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    binary = str(args.binary.resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("ANNEAL_CACHE", str(pathlib.Path(temporary) / "cache"))
        print(f"odd on stories, {args.budget} at {args.lr}: val_bpb")
        print("| seed | off: best | off: last | on: best before | on: last | recoveries (ill at, back to) |")
        print("| --- | --- | --- | --- | --- | --- |")
        held = 0
        seeds = range(1, args.seeds + 1)
        # The corpus is prepared once, before two runs at a time need it.
        train(binary, folder, 0, args.lr, "1steps", "off")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for ok, line in pool.map(lambda seed: compare(binary, folder, seed, args.lr, args.budget), seeds):
                held += ok
                print(line, flush=True)
        verdict = "PASS" if held == args.seeds else "FAIL"
        print(f"{verdict} {held} of {args.seeds} diverging runs end no worse than their best before they diverged")
        return held != args.seeds


if __name__ == "__main__":
    sys.exit(main())
