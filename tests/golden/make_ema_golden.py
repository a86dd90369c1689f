"""Golden values of the running mean of weights: `ema.safetensors`.

    python make_ema_golden.py [--out FOLDER]

A matrix takes 100 values, which torch.optim.swa_utils.AveragedModel averages with
get_ema_multi_avg_fn. The decay is 2^(-p / half_life) of the progress p of each step, steps being of
different lengths as they are under a budget in time. The average begins at zeros and is divided by
what its terms' weights add up to, as Adam's moments are. The file holds `weights` [STEPS, 4, 5], `progress`
[STEPS], and for each half-life `mean_<half_life>.step_<n>` after n steps.

Everything is computed in float64 from inputs that are exact in f32.
"""

import json

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import golden

SCRIPT = "make_ema_golden.py"
SEED = 20261127
STEPS = 100
SNAPSHOTS = (1, 2, 10, 100)
HALF_LIVES = (0.02, 0.3)

rng = np.random.default_rng(SEED)


def main():
    out = golden.output_folder(__doc__)
    # A walk whose steps become smaller, as those of training do.
    walk = rng.standard_normal((STEPS, 4, 5)) * np.linspace(0.3, 0.01, STEPS)[:, None, None]
    weights = golden.exact_f32(rng.standard_normal((4, 5)) + np.cumsum(walk, axis=0))
    progress = golden.exact_f32(rng.uniform(0.5, 1.5, STEPS) / STEPS)
    tensors = {"weights": weights, "progress": progress}
    for half_life in HALF_LIVES:
        model = torch.nn.Linear(5, 4, bias=False, dtype=torch.float64)
        model.weight.data.zero_()
        average = AveragedModel(model)
        average.update_parameters(model)  # the first call copies: zeros
        not_yet = 1.0
        for step in range(STEPS):
            decay = 2.0 ** (-progress[step].item() / half_life)
            average.multi_avg_fn = get_ema_multi_avg_fn(decay)
            model.weight.data.copy_(weights[step])
            average.update_parameters(model)
            not_yet *= decay
            if step + 1 in SNAPSHOTS:
                mean = average.module.weight.detach() / (1 - not_yet)
                tensors[f"mean_{half_life}.step_{step + 1}"] = mean.clone()
    about = {"half_lives": json.dumps(HALF_LIVES)}
    golden.save(out / "ema.safetensors", tensors, about, SCRIPT, SEED)


main()
