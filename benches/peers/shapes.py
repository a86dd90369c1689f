"""The models that all peers train, and the check that they train the same one."""

import argparse
import dataclasses
import json
import resource
import statistics
import sys
import time

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama with a tied classifier, gated SiLU, no biases, logits capped by `softcap * tanh(logits / softcap)`, and both
    branches of a layer scaled before they are added. `anneal bench step` says how many parameters it has; `run.py`
    compares."""

    n_layers: int
    width: int
    n_heads: int
    head_dim: int
    ffn_hidden: int
    vocab_size: int
    seq_len: int
    batch: int
    softcap: float = 15.0
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def residual_scale(self):
        return (2 * self.n_layers) ** -0.5

    def weights(self, seed=0):
        """-> name: [out, in] or [n], normal with a deviation of 0.02; gains near 1"""
        rng = np.random.default_rng(seed)
        inner = self.n_heads * self.head_dim
        matrices = {"wq": (inner, self.width), "wk": (inner, self.width), "wv": (inner, self.width), "wo": (self.width, inner),
                    "w1": (self.ffn_hidden, self.width), "w3": (self.ffn_hidden, self.width), "w2": (self.width, self.ffn_hidden)}  # fmt: skip
        found = {"embed": rng.normal(0, 0.02, (self.vocab_size, self.width)), "norm": rng.normal(1, 0.1, self.width)}
        for i in range(self.n_layers):
            for name, shape in matrices.items():
                found[f"{i}/{name}"] = rng.normal(0, 0.02, shape)
            for name in ("norm1", "norm2"):
                found[f"{i}/{name}"] = rng.normal(1, 0.1, self.width)
        return {name: value.astype(np.float32) for name, value in found.items()}

    def tokens(self, seed=0):
        """-> [batch, seq_len + 1]"""
        return np.random.default_rng(seed).integers(0, self.vocab_size, (self.batch, self.seq_len + 1))

    def save(self, path, steps=4):
        """All of it as the Rust peers read it: safetensors with sizes in its metadata, the tokens of a few steps as u32."""
        tensors = {**self.weights(), **dict(zip(("cos", "sin"), self.rotary())),
                   "tokens": np.stack([self.tokens(i) for i in range(steps)]).astype(np.uint32)}  # fmt: skip
        sizes = {name: str(value) for name, value in {**dataclasses.asdict(self), "residual_scale": self.residual_scale}.items()}
        head, at = {"__metadata__": sizes}, 0
        for name, value in tensors.items():
            dtype = "U32" if value.dtype == np.uint32 else "F32"
            head[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [at, at := at + value.nbytes]}
        head = json.dumps(head).encode()
        head += b" " * (-len(head) % 8)
        with open(path, "wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for value in tensors.values():
                file.write(value.tobytes())

    def table(self):
        """-> the table [model] of a config.toml of anneal"""
        sizes = {key: value for key, value in dataclasses.asdict(self).items() if key != "batch"}
        init = {"embedding_std": 0.02, "matrix_gain": 1.0, "zero_output_projections": False}
        return {**sizes, "n_kv_heads": self.n_heads, "residual_scale": self.residual_scale, "ffn": "swiglu", "qk_norm": False,
                "tied": True, "window": 0, "init": init}  # fmt: skip

    def rotary(self):
        """-> cos, sin [seq_len, head_dim]: the two halves of a head are turned"""
        angles = np.outer(np.arange(self.seq_len), self.rope_theta ** -(np.arange(0, self.head_dim, 2) / self.head_dim))
        return tuple(np.concatenate([f(angles)] * 2, -1).astype(np.float32) for f in (np.cos, np.sin))


PRESETS = {
    "gpt-48m": Shape(6, 768, 6, 128, 2048, 8192, seq_len=512, batch=1),
    "tiny": Shape(4, 192, 3, 64, 512, 2048, seq_len=256, batch=8),
    "stories110m": Shape(12, 768, 12, 64, 2048, 32_000, seq_len=256, batch=1),
}
# What a step is: clipping of the gradient norm to 1, then AdamW.
ADAMW = dict(lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
# The small model whose loss and gradient norm all sides must agree on.
SMALL = Shape(2, 48, 4, 12, 80, 160, seq_len=24, batch=2)


def arguments(description):
    """The options that every peer has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="gpt-48m")
    parser.add_argument("--seq", type=int, help="tokens in a sequence [default: the preset's]")
    parser.add_argument("--batch", type=int, help="sequences in a step [default: the preset's]")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of matrix products; weights stay in f32")
    parser.add_argument("--steps", type=int, default=10, help="timed steps; the median is reported")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def shape_of(args):
    shape = PRESETS[args.preset]
    return dataclasses.replace(shape, seq_len=args.seq or shape.seq_len, batch=args.batch or shape.batch)


def measure(args, shape, step, parameters, check):
    """Times `step(tokens) -> loss` and prints what `run.py` reads: one JSON object."""
    seconds, loss = [], None
    for i in range(args.warmup + args.steps):
        tokens = shape.tokens(i)
        start = time.perf_counter()
        loss = step(tokens)
        seconds.append(time.perf_counter() - start)
    if not 0 < loss < 20:
        raise SystemExit(f"{args.preset}: the loss is {loss}")
    ms = statistics.median(seconds[args.warmup :]) * 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "tok_s": shape.batch * shape.seq_len / ms * 1e3, "ms_step": ms, "parameters": parameters, "check": check,
        "peak_rss_bytes": peak if sys.platform == "darwin" else peak * 1024,
    }))  # fmt: skip


def main():
    """Writes a preset and SMALL for the Rust peers, or prints a preset as anneal's configuration."""
    parser = arguments(main.__doc__)
    parser.add_argument("files", nargs="*", help="of the preset, and of SMALL")
    parser.add_argument("--table", action="store_true", help="print the table [model] as JSON")
    args = parser.parse_args()
    if args.table:
        return print(json.dumps(shape_of(args).table()))
    shape_of(args).save(args.files[0])
    SMALL.save(args.files[1])


if __name__ == "__main__":
    main()
