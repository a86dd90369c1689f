"""Golden values of Muon: `muon.safetensors`, and `muon_refined.safetensors` with nanochat's refinements.

    python make_muon_golden.py [--out FOLDER]

Three matrices, wide, tall and square, are moved for 40 updates on given gradients by the published algorithm as
autoresearch uses it (Nesterov momentum, five Polar Express steps, NorMuon's mean squares, cautious decay), written
here from its definition. A file holds `<name>.start`, `<name>.gradients` [STEPS, rows, columns], `<name>.step_<n>` (the
weights after n updates), and `<name>.momentum` and `<name>.second` after the last one; `muon.safetensors` also
`<name>.orthogonal`, the orthogonal factor of the first gradient. The hyper-parameters are in the metadata.

The refinements: rows of equal norm before the iteration (MuonEq, arXiv 2603.28254), a factor of 1.01 in its
normalisation, and a Frobenius norm of sqrt(min(rows, columns)) after it (after Muon+, arXiv 2602.21545). Rows of the
gradients differ by up to a hundred times there, and one is nothing, as of a neuron that is dead.

Everything is computed in float64 from inputs that are exact in f32, so a test has to allow what f32 arithmetic does,
and nothing for PyTorch.
"""

import json

import numpy as np
import torch

import golden

SCRIPT = "make_muon_golden.py"
STEPS = 40
SNAPSHOTS = (1, 2, 10, 40)
SHAPES = {"wide": (6, 11), "tall": (13, 5), "square": (8, 8)}
PLAIN = {
    "lr": 0.02,
    "weight_decay": 0.2,
    "momentum": 0.95,
    "momentum_start": 0.85,
    "momentum_warmup": 30,
    "beta2": 0.95,
    "equilibrate": False,
    "margin": 1.02,
    "renormalize": False,
}
REFINED = PLAIN | {"equilibrate": True, "margin": 1.01, "renormalize": True}
# Polar Express, arXiv 2505.16932, for five steps.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonal(matrix, margin):
    """-> near U V^T of matrix = U S V^T"""
    x = matrix / (margin * torch.linalg.norm(matrix) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        if x.shape[0] <= x.shape[1]:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        else:
            gram = x.T @ x
            x = a * x + x @ (b * gram + c * gram @ gram)
    return x


def direction(matrix, hyper):
    """The orthogonal factor that a step goes by."""
    if hyper["equilibrate"]:
        norms = torch.linalg.norm(matrix, dim=1, keepdim=True)
        matrix = matrix * norms.square().mean().sqrt() / norms.clamp_min(1e-6)
    factor = orthogonal(matrix, hyper["margin"])
    if hyper["renormalize"]:
        factor = factor * min(factor.shape) ** 0.5 / torch.linalg.norm(factor).clamp_min(1e-6)
    return factor


def train(start, gradients, hyper, tensors, name):
    weight = start.clone()
    momentum = torch.zeros_like(weight)
    rows, columns = weight.shape
    # One mean square for each row of a tall matrix, for each column of a wide one.
    along = 1 if rows >= columns else 0
    second = torch.zeros((rows, 1) if along else (1, columns), dtype=torch.float64)
    lr = hyper["lr"] * max(1.0, rows / columns) ** 0.5
    for step, gradient in enumerate(gradients):
        risen = min(step / hyper["momentum_warmup"], 1)
        mu = (1 - risen) * hyper["momentum_start"] + risen * hyper["momentum"]
        momentum = torch.lerp(momentum, gradient, 1 - mu)
        update = direction(torch.lerp(gradient, momentum, mu), hyper)
        mean_square = update.square().mean(dim=along, keepdim=True)
        norm = torch.linalg.norm(update)
        second = torch.lerp(second, mean_square, 1 - hyper["beta2"])
        update = update / second.clamp_min(1e-10).sqrt()
        update = update * norm / torch.linalg.norm(update).clamp_min(1e-10)
        agree = (update * weight >= 0).to(weight.dtype)
        weight = weight - lr * update - lr * hyper["weight_decay"] * weight * agree
        if step + 1 in SNAPSHOTS:
            tensors[f"{name}.step_{step + 1}"] = weight
    tensors |= {f"{name}.momentum": momentum, f"{name}.second": second.flatten()}


def write(path, hyper, seed):
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        start = golden.exact_f32(rng.standard_normal(shape))
        # Of very different sizes from step to step, as gradients are.
        sizes = 10.0 ** rng.uniform(-4, 1, size=(STEPS, 1, 1))
        gradients = rng.standard_normal((STEPS, *shape)) * sizes
        if hyper["equilibrate"]:
            of_rows = 10.0 ** rng.uniform(-1, 1, size=(shape[0], 1))
            of_rows[0] = 0
            gradients = gradients * of_rows
        gradients = golden.exact_f32(gradients)
        tensors |= {f"{name}.start": start, f"{name}.gradients": gradients}
        if hyper is PLAIN:
            tensors[f"{name}.orthogonal"] = orthogonal(gradients[0], hyper["margin"])
        train(start, gradients, hyper, tensors, name)
    golden.save(path, tensors, {"hyper": json.dumps(hyper, sort_keys=True)}, SCRIPT, seed)


def main():
    out = golden.output_folder(__doc__)
    write(out / "muon.safetensors", PLAIN, 20261124)
    write(out / "muon_refined.safetensors", REFINED, 20261202)


main()
