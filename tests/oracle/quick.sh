#!/usr/bin/env bash
# The outside oracles that need only light packages: part of the gate. Five minutes, installation included.
#
#   tests/oracle/quick.sh
#
# Makes a virtual environment in target/oracle; ORACLE_PYTHON=/path/to/python uses one that has the packages.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_python "$oracle/requirements-quick.txt"
export ORACLE_PYTHON=$python
cd "$root"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tokenizer() {
    cargo build --quiet -p anneal-data --example encode_dump --example encode_with &&
        "$target/debug/examples/encode_dump" "$work/data" &&
        "$python" "$oracle/data_check.py" "$work/data"
}

metric() {
    cargo build --quiet -p anneal -p anneal-data --bin anneal --example pack_dump &&
        "$python" "$oracle/metric_check.py" "$work/metric" \
            --anneal "$target/debug/anneal" --dump "$target/debug/examples/pack_dump"
}

tokenizer_forms() { "$python" "$oracle/tokenizer_forms.py" "$work/data" "$target/debug/examples/encode_with"; }

packages() {
    cargo build --quiet -p anneal-model --example package_dump &&
        "$target/debug/examples/package_dump" "$work/packages" &&
        "$python" "$oracle/mlpackage_check.py" "$work/packages"
}

check "programs of ANEForge against NumPy" "$oracle/aneforge.sh"
check "tokenizer, byte tables and window order against rustbpe, tiktoken and tokenizers" tokenizer
check "all forms of tokenizers on hard text against tiktoken, sentencepiece and tokenizers" tokenizer_forms
check "packed rows and val_bpb of every protocol against their definitions" metric
check "Core ML packages of every op and preset against coremltools" packages
tally
