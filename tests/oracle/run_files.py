"""Reads what anneal leaves on disk: runs, token shards, prepared data, tokenizers.

Written from the descriptions in crates/train/src/run_dir.rs, crates/data/src/shard.rs and
crates/data/src/prepare.rs, not from their code.
"""

import hashlib
import json
import os
import pathlib
import struct
import subprocess
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Problem(Exception):
    """Something that the caller of a script can repair."""


def config_of(run):
    """RUN/config.toml: everything resolved."""
    path = run / "config.toml"
    if not path.is_file():
        raise Problem(f"{run} is no run: it has no config.toml")
    return tomllib.loads(path.read_text())


def json_lines(path):
    """The objects of a .jsonl file; a last line that was cut off is left out."""
    lines = path.read_text().split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines[:-1] if line]


def shard(path):
    """The ids of a token shard, memory-mapped, after its checksums were compared."""
    import numpy as np  # scripts that read no arrays do without

    data = np.memmap(path, np.uint8, "r")
    header = bytes(data[:128])
    magic, version, width, _vocab, count = struct.unpack_from("<8sIIQQ", header)
    if magic != b"ANNEALTK" or version != 1 or width not in (2, 4) or len(data) != 128 + width * count:
        raise Problem(f"{path} is no whole token shard of version 1")
    if hashlib.sha256(header[:96]).digest() != header[96:] or hashlib.sha256(data[128:]).digest() != header[64:96]:
        raise Problem(f"{path} does not fit its checksums")
    return data[128:].view("<u2" if width == 2 else "<u4")


def dataset_of(config, given=None):
    """The folder with the tokens of a run: `given`, or the one in the cache that fits its [data]."""
    wanted = config["data"]
    folders = [given] if given else sorted((cache_folder() / "datasets").glob("*/"))
    for folder in folders:
        path = folder / "dataset.json"
        if not path.is_file():
            continue
        info = json.loads(path.read_text())
        found = (info["tokenizer_hash"], info["train"]["tokens"], info["valid"]["tokens"])
        if found == (wanted["tokenizer_hash"], wanted["train_tokens"], wanted["valid_tokens"]):
            return folder
    places = given or cache_folder() / "datasets"
    raise Problem(f"no data for tokenizer {wanted['tokenizer_hash'][:16]} in {places}; name the folder with --data")


def cache_folder():
    return pathlib.Path(os.environ.get("ANNEAL_CACHE") or pathlib.Path.home() / ".cache" / "anneal")


def byte_chars():
    """GPT-2's printable alphabet: character -> byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return {chr(b) if b in printable else chr(next(extra)): b for b in range(256)}


def byte_table(path):
    """tokenizer.json -> bytes of each token [V], 0 for special tokens."""
    import numpy as np

    file = json.loads(path.read_text())
    special = {token["id"] for token in file["added_tokens"] if token["special"]}
    vocab = {**file["model"]["vocab"], **{token["content"]: token["id"] for token in file["added_tokens"]}}
    known = byte_chars()
    table = np.zeros(max(vocab.values()) + 1, np.int64)
    for token, i in vocab.items():
        if i not in special:
            if not set(token) <= known.keys():
                raise Problem(f"{path}: token {token!r} is not byte-level BPE")
            table[i] = len(token)  # one character of the alphabet for each byte
    return table


def logits_check(*arguments):
    """Runs the example `logits_check`, building it first unless ORACLE_BIN names a folder that holds it."""
    built = os.environ.get("ORACLE_BIN")
    program = [pathlib.Path(built) / "logits_check"] if built else [
        "cargo", "run", "--release", "--quiet", "--manifest-path", ROOT / "Cargo.toml",
        "-p", "anneal-model", "--example", "logits_check", "--",
    ]  # fmt: skip
    done = subprocess.run([str(a) for a in (*program, *arguments)], text=True, stderr=subprocess.PIPE)
    if done.returncode:
        raise Problem(f"logits_check failed: {done.stderr.strip()}")
