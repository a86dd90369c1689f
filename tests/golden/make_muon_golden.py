"""Golden values of Muon: `muon.safetensors`.

    python make_muon_golden.py [--out FOLDER]

Three matrices, wide, tall and square, are moved for 40 updates on given gradients by the published algorithm as
autoresearch uses it (Nesterov momentum, five Polar Express steps, NorMuon's mean squares, cautious decay), written
here from its definition. The file holds `<name>.start`, `<name>.gradients` [STEPS, rows, columns], `<name>.step_<n>` (the
weights after n updates), `<name>.momentum` and `<name>.second` after the last one, and `<name>.orthogonal`, the
orthogonal factor of the first gradient. The hyper-parameters are in the metadata.

Everything is computed in float64 from inputs that are exact in f32, so a test has to allow what f32 arithmetic does,
and nothing for PyTorch.
"""

import json

import numpy as np
import torch

import golden

SCRIPT = "make_muon_golden.py"
SEED = 20261124
STEPS = 40
SNAPSHOTS = (1, 2, 10, 40)
SHAPES = {"wide": (6, 11), "tall": (13, 5), "square": (8, 8)}
HYPER = {
    "lr": 0.02,
    "weight_decay": 0.2,
    "momentum": 0.95,
    "momentum_start": 0.85,
    "momentum_warmup": 30,
    "beta2": 0.95,
}
# Polar Express, arXiv 2505.16932, for five steps.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonal(matrix):
    """-> near U V^T of matrix = U S V^T"""
    x = matrix / (1.02 * torch.linalg.norm(matrix) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        if x.shape[0] <= x.shape[1]:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        else:
            gram = x.T @ x
            x = a * x + x @ (b * gram + c * gram @ gram)
    return x


def train(start, gradients, tensors, name):
    weight = start.clone()
    momentum = torch.zeros_like(weight)
    rows, columns = weight.shape
    # One mean square for each row of a tall matrix, for each column of a wide one.
    along = 1 if rows >= columns else 0
    second = torch.zeros((rows, 1) if along else (1, columns), dtype=torch.float64)
    lr = HYPER["lr"] * max(1.0, rows / columns) ** 0.5
    for step, gradient in enumerate(gradients):
        risen = min(step / HYPER["momentum_warmup"], 1)
        mu = (1 - risen) * HYPER["momentum_start"] + risen * HYPER["momentum"]
        momentum = torch.lerp(momentum, gradient, 1 - mu)
        update = orthogonal(torch.lerp(gradient, momentum, mu))
        mean_square = update.square().mean(dim=along, keepdim=True)
        norm = torch.linalg.norm(update)
        second = torch.lerp(second, mean_square, 1 - HYPER["beta2"])
        update = update / second.clamp_min(1e-10).sqrt()
        update = update * norm / torch.linalg.norm(update).clamp_min(1e-10)
        agree = (update * weight >= 0).to(weight.dtype)
        weight = weight - lr * update - lr * HYPER["weight_decay"] * weight * agree
        if step + 1 in SNAPSHOTS:
            tensors[f"{name}.step_{step + 1}"] = weight
    tensors |= {f"{name}.momentum": momentum, f"{name}.second": second.flatten()}


def main():
    out = golden.output_folder(__doc__)
    rng = np.random.default_rng(SEED)
    tensors = {}
    for name, shape in SHAPES.items():
        start = golden.exact_f32(rng.standard_normal(shape))
        # Of very different sizes from step to step, as gradients are.
        sizes = 10.0 ** rng.uniform(-4, 1, size=(STEPS, 1, 1))
        gradients = golden.exact_f32(rng.standard_normal((STEPS, *shape)) * sizes)
        tensors |= {f"{name}.start": start, f"{name}.gradients": gradients}
        tensors[f"{name}.orthogonal"] = orthogonal(gradients[0])
        train(start, gradients, tensors, name)
    golden.save(out / "muon.safetensors", tensors, {"hyper": json.dumps(HYPER, sort_keys=True)}, SCRIPT, SEED)


main()
