"""Golden values of AdamW: `adamw.safetensors`.

    python make_adamw_golden.py [--out FOLDER]

Two parameters are trained for 100 steps by torch.optim.AdamW on given gradients: `matrix` with
decay, `norm` without, each at its own rate, both rates following a schedule. The file holds
`<parameter>.start`, `<parameter>.gradients` [STEPS, ...], `<parameter>.step_<n>` (the weights after
n steps), `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` after the last step, and `rates`
[STEPS], the factor on both rates at each step. The hyper-parameters are in the metadata.

Everything is computed in float64 from inputs that are exact in f32, so a test has to allow what
f32 arithmetic accumulates in 100 steps, and nothing for PyTorch.
"""

import json

import numpy as np
import torch

import golden

SCRIPT = "make_adamw_golden.py"
SEED = 20240903
STEPS = 100
SNAPSHOTS = (1, 2, 10, 100)

HYPER = {
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "lr": {"matrix": 3e-3, "norm": 1e-2},
}

rng = np.random.default_rng(SEED)
SHAPES = {"matrix": (7, 9), "norm": (5,)}


def gradients(shape):
    """-> [STEPS, ...], of sizes from 1e-6 to 10, some exactly zero, exact in f32"""
    sizes = 10.0 ** rng.uniform(-6, 1, size=(1, *shape))
    values = sizes * (rng.standard_normal((STEPS, *shape)) + 0.3)
    values[rng.uniform(size=values.shape) < 0.05] = 0.0
    return golden.exact_f32(values)


def main():
    out = golden.output_folder(__doc__)
    rates = golden.exact_f32(np.minimum(1.0, (np.arange(STEPS) + 1) / 10) * (1 - 0.9 * np.arange(STEPS) / STEPS))
    tensors = {"rates": rates}
    for name, shape in SHAPES.items():
        start = golden.exact_f32(rng.standard_normal(shape))
        given = gradients(shape)
        weight = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW(
            [weight],
            betas=(HYPER["beta1"], HYPER["beta2"]),
            eps=HYPER["eps"],
            weight_decay=HYPER["weight_decay"] if name == "matrix" else 0.0,
        )
        tensors |= {f"{name}.start": start, f"{name}.gradients": given}
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = HYPER["lr"][name] * rates[step].item()
            weight.grad = given[step].clone()
            optimizer.step()
            if step + 1 in SNAPSHOTS:
                tensors[f"{name}.step_{step + 1}"] = weight.detach().clone()
        state = optimizer.state[weight]
        tensors |= {f"{name}.exp_avg": state["exp_avg"], f"{name}.exp_avg_sq": state["exp_avg_sq"]}
    golden.save(out / "adamw.safetensors", tensors, {"hyper": json.dumps(HYPER, sort_keys=True)}, SCRIPT, SEED)


main()
