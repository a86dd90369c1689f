"""ANEForge's own driver and trainer on the library that stands in for Espresso.

    pip install aneforge==0.4.0 numpy
    python aneforge_corpus.py CORPUS
    cargo build -p anneal-standin
    python aneforge_driver.py CORPUS target/debug/libstandin.so

ANEForge ships its driver as source, which a Mac compiles when it is first needed. Here a C++ compiler does, and
the driver is as it was shipped but for two things: Foundation's header is three lines of ours, of which one
makes dlopen open LIBRARY, and the source ends where it says that the rest is experimental and not used by
its Python side (that rest needs blocks). What calls the driver is ANEForge's runtime and trainer, unchanged.

Whoever wrote the driver wrote it against the real framework, so what it does must be right on the stand-in: no
call fails, nothing is done that the stand-in takes for a mistake, everything is released, and the results are
those that NumPy computes. The exit status is 1 when that is not so, or when a planted fault is not seen.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PROFILE = "M5/ANEForge"

FOUNDATION = """
#include <dlfcn.h>
#include <stdlib.h>
typedef struct objc_object *id;
static inline void *open_library(const char *, int flags) { return dlopen(getenv("LIBRARY"), flags); }
#define dlopen open_library
"""

# A wrong port, stale bytes or a missed run are wrong by the size of the values. That f16 is right to the last
# bit is what aneforge_check shows on the same programs; the longest chains have some 60 roundings of 2^-11.
ALLOWED = 0.03
# Of a loss. A step on the engine rounds the weights to f16, by 2^-11 of their size; twenty of them do so twenty times.
ALLOWED_LOSS = 0.01


def build(folder):
    """Compiles ANEForge's driver; the path of the library."""
    import importlib.util

    package = Path(importlib.util.find_spec("aneforge").origin).parent
    source = (package / "_lib/ane_e5rt_dispatch.mm").read_text()
    driver, mark, _ = source.partition("// EXPERIMENTAL SURFACE")
    assert mark, "ANEForge's driver says where its experimental part begins"
    for header, text in (("Foundation/Foundation.h", FOUNDATION), ("dispatch/dispatch.h", "")):
        (folder / header).parent.mkdir()
        (folder / header).write_text(text)
    (folder / "driver.cc").write_text(driver)
    built = folder / "libdriver.so"
    command = [os.environ.get("CXX", "c++"), "-shared", "-fPIC", "-O1", "-w", f"-I{folder}", f"-I{package}/_lib"]
    subprocess.run([*command, str(folder / "driver.cc"), "-o", str(built)], check=True)
    return built


class StandIn:
    """What tests ask of the library."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))

    def set(self, what, value):
        assert self.library[f"anneal_standin_set_{what}"](value.encode()) == 0, value

    def told(self, what):
        tell = self.library[f"anneal_standin_{what}"]
        tell.restype, tell.argtypes = ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t]
        text = ctypes.create_string_buffer(tell(None, 0) + 1)
        tell(text, len(text))
        return text.value.decode()

    def calls(self, name):
        return sum(f" {name}(" in line for line in self.told("trace").splitlines())


def distance(found, expected):
    """The largest difference over the largest magnitude."""
    if not np.isfinite(found).all():
        return np.inf
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 2.0**-14))


def run_case(case, corpus):
    """Compiles and runs a program by ANEForge's runtime; how far its outputs are from NumPy's."""
    from aneforge._runtime import E5RT

    folder = corpus / case["folder"]

    def read(entry):
        return np.fromfile(folder / entry["file"], "<f4").reshape(entry["shape"])

    shapes = {way: {e["port"]: tuple(e["shape"]) for e in case[way]} for way in ("inputs", "outputs")}
    with E5RT.compile(folder / "model.mil", cache_dir=folder / "cache", **shapes) as program:
        found = program.eval({e["port"]: read(e) for e in case["inputs"]})
        return max(distance(found[e["port"]].astype(np.float64), read(e)) for e in case["outputs"])


def train(optimizer, steps, rate, resident):
    """A classifier, trained by ANEForge's trainer; its losses and weights, and those of NumPy in f64."""
    import aneforge as af

    rng = np.random.default_rng(7)
    batch, width, hidden, classes, scale, eps = 16, 8, 12, 4, 8.0, 1e-2
    shapes = [(width, hidden), (1, hidden), (hidden, classes), (1, classes)]
    half = lambda values: np.asarray(values).astype(np.float16).astype(np.float64)
    x, start = half(rng.normal(size=(batch, width))), [half(rng.normal(size=s) * 0.4) for s in shapes]
    target = np.eye(classes)[rng.integers(0, classes, batch)]

    w1, b1, w2, b2 = parameters = [af.parameter(w.astype(np.float32)) for w in start]
    tx, tt = af.input(x.shape), af.input(target.shape)
    logits = (tx @ w1 + b1).tanh() @ w2 + b2
    trainer = af.Trainer(
        af.softmax_cross_entropy(logits, tt), parameters, rate, loss_scale=scale, eps=eps,
        data_inputs={tx: x, tt: target}, optimizer=optimizer, resident_state=resident,
    )
    losses = [trainer.loss()]
    for _ in range(steps):
        trainer.step()
        losses.append(trainer.loss())
    found = [p.attrs["value"].astype(np.float64) for p in parameters]
    trainer.release()

    def softmax(z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    w, expected = [v.copy() for v in start], []
    m, v = ([np.zeros(s) for s in shapes] for _ in range(2))
    for step in range(1, steps + 2):
        inner = np.tanh(x @ w[0] + w[1])
        p = softmax(inner @ w[2] + w[3])
        expected.append(float(-(np.log(p) * target).sum(1).mean()))
        if step > steps:
            break
        d = (p - target) / batch * scale
        di = d @ w[2].T * (1 - inner**2)
        grads = [x.T @ di, di.sum(0, keepdims=True), inner.T @ d, d.sum(0, keepdims=True)]
        for at, g in enumerate(grads):
            if optimizer == "sgd":
                w[at] -= rate * g / scale
                continue
            # On the engine the scale stays in the gradient: only eps sees it.
            g = g if resident else g / scale
            m[at] = 0.9 * m[at] + 0.1 * g
            v[at] = 0.999 * v[at] + 0.001 * g * g
            first, second = 1 - 0.9**step, 1 - 0.999**step
            if resident:
                w[at] -= rate * np.sqrt(second) / first * m[at] / (np.sqrt(v[at]) + eps)
            else:
                w[at] -= rate * (m[at] / first) / (np.sqrt(v[at] / second) + eps)
    return losses, expected, found, w


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("library", type=Path)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Both are read when they are first needed.
        os.environ["LIBRARY"] = str(arguments.library.resolve())
        os.environ["ANEFORGE_DYLIB"] = str(build(Path(folder)))
        os.environ["ANEFORGE_COMPILE_BACKOFF"] = "0"
        os.environ["ANEFORGE_CACHE"] = folder
        # Which family it is for; off a Mac it cannot find out.
        os.environ["ANEFORGE_TARGET"] = "h17s"
        return check(arguments.corpus, StandIn(arguments.library.resolve()), Path(folder))


def check(corpus, stand_in, folder):
    wrong = []
    stand_in.set("profile", PROFILE)
    manifest = json.loads((corpus / "manifest.json").read_text())
    cases = [case for case in manifest["cases"] if case["folder"].startswith("cases/")]
    worst = 0.0
    for case in cases:
        far = run_case(case, corpus)
        worst = max(worst, far)
        if far > ALLOWED:
            wrong.append(f"{case['name']}: off by {far:.3g} of the largest value")
    print(f"{len(cases)} programs by ANEForge's driver: off by {worst:.2g} at most")

    for optimizer, steps, rate, resident in (
        ("sgd", 20, 0.5, True), ("adam", 20, 0.02, True), ("adam", 20, 0.02, False)
    ):
        losses, expected, found, weights = train(optimizer, steps, rate, resident)
        far = max(distance(f, w) for f, w in zip(found, weights))
        off = max(abs(a - b) for a, b in zip(losses, expected))
        where = "on the engine" if resident else "on the host"
        print(f"{optimizer} {where}: loss {losses[0]:.4f} to {losses[-1]:.4f}, off by {off:.2g}; weights by {far:.2g}")
        if not (off < ALLOWED_LOSS and far < ALLOWED and losses[-1] < 0.8 * losses[0]):
            wrong.append(f"{optimizer} {where}: losses {losses[-1]:.4f}, expected {expected[-1]:.4f}")

    for what, told in (("mistakes", stand_in.told("violations")), ("not released", stand_in.told("live"))):
        if told:
            wrong.append(f"{what}: {told.strip()}")

    # What makes this check fail: a run that did not happen, and a program that is not released.
    case = next(case for case in cases if case["name"] == "linear")
    runs = stand_in.calls("e5rt_execution_stream_execute_sync")
    stand_in.set("fault", f"silent-zero@{runs + 1}")
    if run_case(case, corpus) <= ALLOWED:
        wrong.append("a run that left zeros is not seen")
    from aneforge._runtime import E5RT

    kept = E5RT.compile(
        corpus / case["folder"] / "model.mil", cache_dir=folder / "kept",
        inputs={e["port"]: tuple(e["shape"]) for e in case["inputs"]},
        outputs={e["port"]: tuple(e["shape"]) for e in case["outputs"]},
    )
    if not stand_in.told("live"):
        wrong.append("a program that is kept is not seen")
    kept.release()

    for line in wrong:
        print(f"FAIL {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
