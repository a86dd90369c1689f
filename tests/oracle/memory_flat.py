"""Does the memory of a long run stay flat? Trains for 10,000 steps and reads the process's resident memory on the way.

    python memory_flat.py [--anneal target/release/anneal] [--steps 10000] [--set KEY=VALUE …]

The run has all that keeps a state: Muon, a mean of the weights, growing steps, validations and checkpoints.
Oracle: the kernel's own count, VmRSS in /proc. Memory is flat when the median of the last tenth of the steps is
within LARGEST_GROWTH of the median of the second tenth (in the first, buffers are still being made). Whoever keeps a
line of metrics for each step, some 500 bytes, keeps 4 MB in between.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

LARGEST_GROWTH = 1 << 20  # bytes

ALL = {
    "optimizer.kind": "muon",
    "ema.half_life": "0.05",
    "accum": "2",
    "batch_ramp.over": "0.5",
    "data.packing": "best_fit",
    "eval.every": "100steps",
    "eval.windows": "4",
    "eval.final_windows": "4",
    "checkpoint.every": "100steps",
}


def resident(pid):
    """Bytes of the process that are in memory, or None when it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    lines = [line for line in text.splitlines() if line.startswith("VmRSS:")]
    return int(lines[0].split()[1]) * 1024 if lines else None


def medians(samples, steps):
    """[(step, bytes)] -> the median of each tenth of the steps, None where there is no sample."""
    tenths = [[] for _ in range(10)]
    for step, size in samples:
        tenths[min(9, step * 10 // steps)].append(size)
    return [statistics.median(tenth) if tenth else None for tenth in tenths]


def growth(samples, steps):
    """Bytes from the second tenth to the last."""
    of = medians(samples, steps)
    if of[1] is None or of[9] is None:
        raise SystemExit("FAIL memory: too few samples; more steps, or a slower model, give more")
    return of[9] - of[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anneal", default="target/release/anneal")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--preset", default="odd")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()

    settings = ALL | dict(given.split("=", 1) for given in args.set)
    with tempfile.TemporaryDirectory() as folder:
        command = [args.anneal, "train", "--preset", args.preset, "--data", "stories", "--json"]
        command += ["--budget", f"{args.steps}steps", "--out", f"{folder}/run"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        samples, seen = [], 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] != "step":
                    continue
                seen = event["step"]
                if seen % max(1, args.steps // 500) == 0 and (size := resident(process.pid)):
                    samples.append((seen, size))
        if process.returncode or seen != args.steps:
            raise SystemExit(f"FAIL memory: the run ended with status {process.returncode} after step {seen}")

    print("resident memory by tenths of the run, MB:", " ".join(f"{m / 1e6:.2f}" for m in medians(samples, args.steps)))
    grown = growth(samples, args.steps)
    # A planted fault: 300 bytes kept at each step.
    leaking = [(step, size + 300 * step) for step, size in samples]
    if growth(leaking, args.steps) <= LARGEST_GROWTH:
        raise SystemExit("FAIL memory: a leak of 300 bytes a step is not noticed")
    verdict = "PASS" if grown <= LARGEST_GROWTH else "FAIL"
    print(f"{verdict} memory: {grown / 1e6:+.2f} MB from the second tenth of {args.steps} steps to the last, "
          f"at most {max(size for _, size in samples) / 1e6:.1f} MB")
    sys.exit(verdict != "PASS")


main()
