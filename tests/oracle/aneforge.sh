#!/usr/bin/env bash
# MIL as another tool writes it: ANEForge lowers graphs to text, ours reads and runs them, NumPy says what is right.
#
#   tests/oracle/aneforge.sh
#
# Makes a virtual environment in target/oracle; ORACLE_PYTHON=/path/to/python uses one that has the packages.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_python "$oracle/requirements-quick.txt"
cd "$root"

corpus=$(mktemp -d)
trap 'rm -rf "$corpus"' EXIT
"$python" "$oracle/aneforge_corpus.py" "$corpus"
cargo build --quiet -p anneal-mil --example parse_check -p anneal-sim --example aneforge_check
# Our own text of every program reads back as an equal program.
"$target/debug/examples/parse_check" "$corpus/cases" | tail -n 1
"$target/debug/examples/aneforge_check" "$corpus"
# Its own driver and trainer, on the library that stands in for Espresso.
cargo build --quiet -p anneal-standin
"$python" "$oracle/aneforge_driver.py" "$corpus" "$target/debug/libstandin.so"
# Our programs as its graphs: its preflight and our rules say the same, chip by chip.
cargo build --quiet -p anneal
"$python" "$oracle/aneforge_preflight.py" "$target/debug/anneal"
