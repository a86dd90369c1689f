"""What a step of each recipe costs for a model of one size: memory and time, as a Markdown table.

    python recipe_cost.py TEXT [--anneal target/release/anneal] [--steps 4] [recipe …]

Every recipe with the sizes of `gpt-48m` (width 768, 6 layers, 6 heads of 128; 2,048 hidden channels with a gate, 3,072
without, which is as many weights), and its own vocabulary, sequence length and pieces. Memory is the largest that the
process ever had (the kernel's ru_maxrss), validation of one window included; time is the median of the steps after the
first. A recipe whose step has more than --most microbatches is run with that many: the time of its whole step is then
that of its microbatches in proportion, and of one update. On the device `cpu`, with all cores.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import tomllib

import run_files

SIZES = {"n_layers": 6, "width": 768, "n_heads": 6, "n_kv_heads": 6, "head_dim": 128}
HIDDEN = {"swiglu": 2048, "relu2": 3072}
RECIPES = sorted(path.stem for path in (run_files.ROOT / "recipes").glob("*.toml"))


def train(args, recipe, folder, steps, settings):
    """-> bytes at the most, and the run's metrics"""
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    command = [args.anneal, "train", "--recipe", recipe, "--data", args.text, "--device", "cpu", "--budget", f"{steps}steps",
               "--out", folder, "--quiet", *sets]  # fmt: skip
    process = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"recipe_cost.py: {recipe} failed")
    return usage.ru_maxrss * 1024, run_files.json_lines(folder / "metrics.jsonl")


def cost(args, recipe, scratch):
    """-> a row of the table"""
    written = tomllib.loads((run_files.ROOT / "recipes" / f"{recipe}.toml").read_text())
    ffn = written.get("model", {}).get("ffn", "swiglu")
    settings = {f"model.{key}": value for key, value in SIZES.items()}
    if "preset" not in written:
        settings["preset"] = "gpt-48m"
    settings |= {"model.ffn_hidden": HIDDEN[ffn], "eval.every": 0, "eval.final_windows": 1, "checkpoint.every": 0}
    # One step prepares the data, which costs memory of its own, and shows the recipe's size.
    probe = scratch / f"{recipe}-first"
    train(args, recipe, probe, 1, {**settings, "accum": 1} if "accum" in written else settings)
    config = run_files.config_of(probe)
    whole = written.get("accum", config["accum"])
    accum = min(whole, args.most)
    memory, metrics = train(args, recipe, scratch / recipe, args.steps, {**settings, "accum": accum})
    parts = [(line["ms"]["total"], line["ms"]["update"]) for line in metrics[1:]]
    seconds = statistics.median((total - update) * whole / accum + update for total, update in parts) / 1e3
    update = statistics.median(update for _, update in parts) / 1e3
    tokens = whole * config["batch"] * config["model"]["seq_len"]
    parameters = json.loads((probe / "summary.json").read_text())["parameters"]
    return (f"| `{recipe}` | {parameters / 1e6:.1f}M | {config['model']['vocab_size']:,} | {config['model']['seq_len']:,} | {tokens:,} | "
            f"{memory / 1e6:,.0f} MB | {seconds:,.2f} s | {update:.2f} s | {tokens / seconds:,.0f} |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--anneal", type=pathlib.Path, default=run_files.ROOT / "target" / "release" / "anneal")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--most", type=int, default=4, help="microbatches of a step that is timed")
    args = parser.parse_args()
    print("| recipe | parameters | vocabulary | sequence | tokens a step | memory | a step | of it update | tokens/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        for recipe in args.recipes:
            print(cost(args, recipe, pathlib.Path(scratch)), flush=True)


if __name__ == "__main__":
    main()
