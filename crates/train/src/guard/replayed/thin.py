"""Keeps of a run's metrics.jsonl what the guard looks at, for replayed.rs.

    python thin.py RUN LAST > NAME.tsv

RUN is a folder of a run of tests/oracle/explosions.py, LAST the last step that is kept. Every step up to it is, with four
significant digits of each number, three of activations: verdicts, their steps and `healthy_until` stay the same.
"""

import datetime
import json
import pathlib
import sys


def digits(value, count):
    return f"{float(f'{value:.{count}g}'):g}"


run, last = pathlib.Path(sys.argv[1]), int(sys.argv[2])
steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
day = datetime.date.fromisoformat(json.loads((run / "events.jsonl").read_text().splitlines()[0])["time"][:10])
print(f"# tests/oracle/explosions.py, run {run.name}, of {day}: steps 1 to {last} of {len(steps)}; made by thin.py")
print("step", "lr", "loss", "grad_norm", *(f"act_max_{layer}" for layer in range(len(steps[0]["act_max"]))), sep="\t")
for step in steps[:last]:
    if step["skipped"] or step.get("recoveries"):
        sys.exit(f"thin.py: step {step['step']} is none of a run that goes straight on")
    values = (digits(step[key], 4) for key in ("lr", "loss", "grad_norm"))
    print(step["step"], *values, *(digits(value, 3) for value in step["act_max"]), sep="\t")
