"""How long training a vocabulary and encoding with it take, ours beside rustbpe and tiktoken.

    cargo build --release -p anneal-data --example tokenizer_speed
    python tests/oracle/tokenizer_speed.py FOLDER target/release/examples/tokenizer_speed [--rounds 7] [--vocab 8192]

FOLDER holds Parquet shards with a column `text`, the last of which is for validation and left out. Needs `rustbpe`,
`tiktoken` and `pyarrow`. Both sides are processes with the text in memory that do one thing when told; they take turns
in one run. Before the clock starts, the tokens learned and all ids are compared. Training is counting and merging, on
the first 10,000 characters of each document; encoding starts without remembered pieces. With each number of threads:
RAYON_NUM_THREADS for ours and for rustbpe, num_threads for tiktoken.
"""

import argparse
import array
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from data_check import PATTERN, merges_of


def theirs(folder, vocab, threads, out):
    """The other process: obeys `train`, `encode` and `write` as the Rust example does."""
    import pyarrow.parquet
    import rustbpe
    import tiktoken

    texts = [t for shard in sorted(folder.glob("*.parquet"))[:-1] for t in pyarrow.parquet.read_table(shard)["text"].to_pylist()]
    cut = [text[:10_000] for text in texts]

    def train():
        trained = rustbpe.Tokenizer()
        trained.train_from_iterator(iter(cut), vocab_size=vocab - 4, pattern=PATTERN)
        return trained

    ranks = {bytes(token): i for token, i in train().get_mergeable_ranks()}
    encoding = tiktoken.Encoding("speed", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    print(f"{len(texts)} documents", flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        match line.strip():
            case "train":
                train()
            case "encode":
                encoding.encode_ordinary_batch(texts, num_threads=threads)
            case "write":
                ids = array.array("I")
                for each in encoding.encode_ordinary_batch(texts, num_threads=threads):
                    ids.extend(each)
                (out / "ids").write_bytes(ids.tobytes())
                lines = (f"{rank} {token.hex()}\n" for token, rank in sorted(ranks.items(), key=lambda pair: pair[1]))
                (out / "ranks").write_text("".join(lines))
        print(time.perf_counter() - begun, flush=True)


class Process:
    def __init__(self, command, threads):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            list(map(str, command)), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.documents = self.process.stdout.readline()

    def tell(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        assert self.process.wait() == 0


def compare(ours, others):
    """The tokens learned and the ids of all documents; how many ids."""
    _, vocab, back = merges_of(ours / "tokenizer.json")
    lines = sorted((i, bytes(back[c] for c in token).hex()) for token, i in vocab.items())
    assert "".join(f"{i} {token}\n" for i, token in lines) == (others / "ranks").read_text(), "other tokens are learned"
    ids = (ours / "ids").read_bytes()
    assert ids == (others / "ids").read_bytes(), "the ids differ"
    return len(ids) // 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--theirs", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.theirs:
        return theirs(args.folder, args.vocab, args.theirs, args.binary)
    print("| what | threads | ours, s | theirs, s | times as fast | slowest round |\n| --- | --- | --- | --- | --- | --- |")
    for threads in args.threads:
        with tempfile.TemporaryDirectory() as work:
            folders = pathlib.Path(work, "ours"), pathlib.Path(work, "theirs")
            for folder in folders:
                folder.mkdir()
            me = [sys.executable, __file__, args.folder, folders[1], "--vocab", args.vocab, "--theirs", threads]
            ours = Process([args.binary, folders[0], args.vocab, args.folder], threads)
            others = Process(me, threads)
            assert ours.documents == others.documents, f"ours {ours.documents}, theirs {others.documents}"
            for process in ours, others:
                process.tell("write")
            ids = compare(*folders)
            for order, name in [("train", "train"), ("encode", "encode")]:
                rounds = [(ours.tell(order), others.tell(order)) for _ in range(args.rounds)]
                mine, other = (statistics.median(column) for column in zip(*rounds))
                worst = min(b / a for a, b in rounds)
                print(f"| {name} | {threads} | {mine:.3f} | {other:.3f} | {other / mine:.1f} | {worst:.1f} |", flush=True)
            for process in ours, others:
                process.end()
    print(f"\nthe same {args.vocab - 4} tokens and {ids} ids; {args.rounds} rounds, medians")


if __name__ == "__main__":
    main()
