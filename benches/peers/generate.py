"""How fast a model writes, token after token: anneal and llama.cpp on this machine, in alternation.

    python generate.py                                 gpt-48m, weights in f32
    python generate.py --precision bf16 --rounds 5

Needs a release build of anneal; an environment with llama.cpp, which pip builds from source, is made in target/peers when
there is none. Both have weights of the same sizes; before llama.cpp is measured it is given weights and tokens of anneal and
must say the same. Prints medians over rounds, their range, and the ratio round by round.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import run

TOKENS = 24


def prepare(args, folder):
    """The model, its weights, tokens, and what anneal says to them -> paths"""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("model.json", "weights.safetensors", "ids.u32", "logits.f32")]
    table = json.loads(subprocess.run([args.python_shapes, run.HERE / "shapes.py", "--preset", args.preset, "--table"],
                                      check=True, capture_output=True, text=True).stdout)  # fmt: skip
    files[0].write_text(json.dumps(table))
    files[2].write_bytes(b"".join((i * 337 % table["vocab_size"]).to_bytes(4, "little") for i in range(TOKENS)))
    example = ["cargo", "run", "--release", "--quiet", "--manifest-path", run.ROOT / "Cargo.toml", "-p", "anneal-model",
               "--example", "logits_check", "--"]  # fmt: skip
    subprocess.run([*map(str, [*example, "random", files[0], 1, files[1]])], check=True)
    precision = ["bf16"] if args.precision == "bf16" else []
    subprocess.run([*map(str, [*example, "logits", files[0], files[1], files[2], folder, *precision])], check=True)
    if args.steps + 4 > table["seq_len"]:
        raise run.Problem(f"--steps {args.steps}: {args.preset} has a context of {table['seq_len']}, of which 4 are for warming up")
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpt-48m")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--steps", type=int, default=100, help="tokens in each process; the median counts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--anneal", type=pathlib.Path, default=run.ROOT / "target" / "release" / "anneal")
    parser.add_argument("--python", action="append", default=[], metavar="llama=PATH", help="an environment of one's own")
    args = parser.parse_args()
    given = dict(one.split("=", 1) for one in args.python)
    python = args.python_shapes = run.python_of("llama", given)
    files = prepare(args, run.ROOT / "target" / "peers" / "generate")
    common = ["--steps", args.steps, "--threads", args.threads, "--precision", args.precision]
    commands = {
        "anneal": [args.anneal, "bench", "generate", "--device", "cpu", "--json", "--preset", args.preset, *common],
        "llama.cpp": [python, run.HERE / "llama_generate.py", *files, *common],
    }
    results = {name: [] for name in commands}
    for number in range(args.rounds):
        for name, command in commands.items():
            results[name].append(run.measured(name, command))
            print(f"{time.strftime('%H:%M:%S')} round {number + 1}, {name}: {results[name][-1]['tok_s']:.1f} tokens/s",
                  file=sys.stderr, flush=True)  # fmt: skip
    ours = results["anneal"]
    shares = [one["share_of_wall"] for one in ours]
    ratios = [a["tok_s"] / b["tok_s"] for a, b in zip(ours, results["llama.cpp"])]
    for name, rounds in results.items():
        speeds = [one["tok_s"] for one in rounds]
        print(f"{name}: {statistics.median(speeds):.1f} tokens/s ({min(speeds):.1f} to {max(speeds):.1f})")
    print(f"anneal is as fast, times: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"of the rate at which memory is read: {statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})")
    print(f"llama.cpp's logits differ by {results['llama.cpp'][0]['logits_differ_by']:.1e} of the largest")


if __name__ == "__main__":
    try:
        main()
    except run.Problem as problem:
        sys.exit(f"generate.py: {problem}")
