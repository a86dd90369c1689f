"""How fast documents come out of Parquet files, beside pyarrow.

    cargo build --release -p anneal-data --example parquet_speed
    python tests/oracle/parquet_speed.py FOLDER target/release/examples/parquet_speed [--rounds N]

Both sides read the column `text` of every file of FOLDER, by turns, in this one run, and must find the same documents
and bytes. pyarrow reads row group by row group, as autoresearch's loader does, on one thread and on as many as it
likes; into its own columns, all of them at once into one table, and on to Python strings (`to_pylist`), which is what a Python tokenizer needs.
"""

import argparse
import pathlib
import statistics
import subprocess
import time

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq


def groups(folder, threads):
    names = sorted(path.name for path in folder.glob("*.parquet"))
    for name in names:
        file = pq.ParquetFile(folder / name)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=["text"], use_threads=threads).column("text")


def columns(folder, threads):
    """-> documents, bytes"""
    documents = size = 0
    for column in groups(folder, threads):
        documents += len(column)
        size += pc.sum(pc.binary_length(column)).as_py()
    return documents, size


def table(folder):
    """All files at once on all cores, all of it in memory."""
    column = ds.dataset(folder, format="parquet").to_table(columns=["text"]).column("text")
    return len(column), pc.sum(pc.binary_length(column)).as_py()


def strings(folder, threads):
    documents, size = 0, 0
    for column in groups(folder, threads):
        for text in column.to_pylist():
            documents += 1
            size += len(text)  # characters: encoding each would be time of its own
    return documents, size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    ours = subprocess.Popen([args.binary, args.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def anneal():
        ours.stdin.write("\n")
        ours.stdin.flush()
        seconds, documents, size, _ = ours.stdout.readline().split()
        return float(seconds), (int(documents), int(size))

    sides = {
        "pyarrow, columns, 1 thread": lambda: columns(args.folder, False),
        "pyarrow, columns, its threads": lambda: columns(args.folder, True),
        "pyarrow, a table, its threads": lambda: table(args.folder),
        "pyarrow, strings, 1 thread": lambda: strings(args.folder, False),
    }
    times = {name: [] for name in ["anneal", *sides]}
    expected = columns(args.folder, True)
    for number in range(args.rounds + 1):
        seconds, found = anneal()
        assert found == expected, f"anneal finds {found}, pyarrow {expected}"
        round_times = {"anneal": seconds}
        for name, read in sides.items():
            begun = time.perf_counter()
            found = read()
            round_times[name] = time.perf_counter() - begun
            assert found[0] == expected[0]
        if number > 0:  # the first round warms the caches
            for name, seconds in round_times.items():
                times[name].append(seconds)
    print(f"{expected[0]:,} documents, {expected[1]:,} bytes of text; medians of {args.rounds} rounds")
    mine = times["anneal"]
    print(f"\n{'who':<32}{'seconds':>10}{'MB/s':>10}{'anneal is':>14}")
    for name, all_seconds in times.items():
        seconds = statistics.median(all_seconds)
        ratio = statistics.median(theirs / own for theirs, own in zip(all_seconds, mine))
        print(f"{name:<32}{seconds:>10.4f}{expected[1] / seconds / 1e6:>10.0f}{ratio:>11.2f} x")
    ours.stdin.close()
    ours.wait()


if __name__ == "__main__":
    main()
