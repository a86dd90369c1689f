"""All peers beside anneal on this machine: one training step of the same model, in alternation.

    python run.py                                      gpt-48m in f32
    python run.py --precision bf16 --rounds 5
    python run.py --preset tiny --only anneal,torch,mlx
    python run.py --python jax=/path/to/python         an environment of one's own

Needs a release build of anneal and, of the peers, what requirements.txt and rust/Cargo.lock list: environments are made in
target/peers when there are none, and crates are built there. Each measurement is a process of its own, and every round runs
all contestants one after the other, so that whatever else the machine does meets all of them. Prints medians over rounds,
the range, the ratio to anneal round by round, and the largest resident memory. Before it believes a figure it compares the
models: equal numbers of parameters, and among the peers the loss and the gradient norm of a small one (within 1e-4: f32 in
another order).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Name: environment, script, options.
PEERS = {
    "torch": ("torch", "torch_step.py", []),
    "torch-fused": ("torch", "torch_step.py", ["--fused"]),
    "torch-compiled": ("torch", "torch_step.py", ["--compile", "--fused"]),
    "jax": ("jax", "jax_step.py", []),
    "mlx": ("mlx", "mlx_step.py", []),
    "candle": ("rust", "candle_step", []),
    "burn": ("rust", "burn_step", []),
}
# Of a loss of 5, and of a norm.
AGREES = 1e-4


class Problem(Exception):
    """What the reader has to do something about."""


def python_of(environment, given):
    if environment in given:
        return given[environment]
    folder = ROOT / "target" / "peers" / environment
    python = folder / "bin" / "python"
    if not python.is_file():
        print(f"makes {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    lines = (HERE / "requirements.txt").read_text().splitlines()
    wanted = [line.split("#")[0].strip() for line in lines if line.split("#")[-1].strip() in (environment, "all")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def contestant(name, args, given):
    """-> a command that prints one JSON object"""
    common = ["--preset", args.preset, "--steps", args.steps, "--threads", args.threads, "--precision", args.precision]
    common += [word for option in ("seq", "batch") if (value := getattr(args, option)) for word in (f"--{option}", value)]
    if name == "anneal":
        return [args.anneal, "bench", "step", "--device", "cpu", "--json", *common]
    environment, script, options = PEERS[name]
    if environment == "rust":
        return rust(script, common, args, given)
    return [python_of(environment, given), HERE / script, *common, *options]


def rust(name, common, args, given):
    """Crates: built here, with a model from a file."""
    if args.precision != "f32":
        raise Problem(f"{name} is in f32 only: leave it out with --only")
    target = ROOT / "target" / "peers" / "rust"
    # All of it each time: one package alone would have other features of what they share, and be built anew.
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", target],
                   cwd=HERE / "rust", check=True)  # fmt: skip
    files = [target / "model.safetensors", target / "small.safetensors"]
    subprocess.run([*map(str, [python_of("rust", given), HERE / "shapes.py", *common, *files])], check=True)
    return [target / "release" / name, *files, "--steps", args.steps, "--warmup", 2, "--threads", args.threads]


def measured(name, command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise Problem(f"{name} failed with exit status {done.returncode}: {done.stderr[-600:]}")
    return json.loads(lines[-1])


def compare(results):
    """Whether all train the same model."""
    parameters = {name: rounds[0]["parameters"] for name, rounds in results.items()}
    if len(set(parameters.values())) != 1:
        raise Problem(f"the models differ in size: {parameters}")
    checks = {name: rounds[0]["check"] for name, rounds in results.items() if "check" in rounds[0]}
    for name, values in checks.items():
        for value, other in zip(values, next(iter(checks.values()))):
            if abs(value - other) > AGREES * abs(other):
                raise Problem(f"the models differ: loss and gradient norm of {name} are {values}; all: {checks}")


def table(results):
    ours = [one["tok_s"] for one in results["anneal"]]
    lines = ["| | tokens/s, median (range) | anneal is as fast, times (range) | peak memory |", "| --- | --- | --- | --- |"]
    for name, rounds in results.items():
        speeds = [one["tok_s"] for one in rounds]
        ratios = [a / b for a, b in zip(ours, speeds)]
        ratio = "" if name == "anneal" else f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        memory = statistics.median(one["peak_rss_bytes"] for one in rounds) / 2**30
        lines.append(f"| {name} | {statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f}) | {ratio} | {memory:.2f} GiB |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpt-48m")
    parser.add_argument("--seq", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--steps", type=int, default=5, help="timed in each process; their median counts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="names with commas; anneal is always there")
    parser.add_argument("--anneal", type=pathlib.Path, default=ROOT / "target" / "release" / "anneal")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--out", type=pathlib.Path, help="where every figure goes, as JSON")
    args = parser.parse_args()
    every = [name for name, (environment, *_) in PEERS.items() if args.precision == "f32" or environment != "rust"]
    names = ["anneal"] + [name for name in (args.only.split(",") if args.only else every) if name != "anneal"]
    unknown = [name for name in names[1:] if name not in PEERS]
    if unknown:
        raise Problem(f"--only: there is no {unknown[0]!r}; there are {', '.join(PEERS)}")
    if not args.anneal.is_file():
        raise Problem(f"{args.anneal} is not there; build it with: cargo build --release")
    given = dict(one.split("=", 1) for one in args.python)
    commands = {name: contestant(name, args, given) for name in names}
    results = {name: [] for name in names}
    for number in range(args.rounds):
        for name, command in commands.items():
            results[name].append(measured(name, command))
            print(f"{time.strftime('%H:%M:%S')} round {number + 1}, {name}: {results[name][-1]['tok_s']:.0f} tokens/s",
                  file=sys.stderr, flush=True)  # fmt: skip
        compare(results)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"run.py: {problem}")
