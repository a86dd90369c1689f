#!/usr/bin/env bash
# Every outside oracle that takes minutes, not hours. Ends with a line for each and the counts.
#
#   tests/oracle/all.sh               all but regenerating the golden files
#   tests/oracle/all.sh --golden      that too
#
# Makes virtual environments in target/oracle (PyPI's torch takes some gigabytes on Linux);
# ORACLE_PYTHON=/path/to/python uses one that has the packages of requirements.txt.
# With the classics beside the workspace, or under ANNEAL_SHARED, tokenizers are compared on all of them.
# The long proofs are f16_learns.py and torch_train.py on a whole run; see README.md.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
golden=no
case "${1-}" in
    "") ;;
    --golden) golden=yes ;;
    *) echo "all.sh: unknown argument '$1'; expected nothing or --golden" >&2; exit 2 ;;
esac
cd "$root"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export ANNEAL_CACHE=$work/cache

has() { "$python" -c "import importlib, sys; [importlib.import_module(m) for m in sys.argv[1:]]" "$@" >/dev/null 2>&1; }

train_run() {
    # With a longer warm-up than a run of 20 steps has by default, rounding is amplified less.
    cargo build --release --quiet -p anneal -p anneal-model --example logits_check --bin anneal &&
        "$target/release/anneal" train --preset tiny --seed 1 --budget 20steps --out "$work/run" --quiet \
            --set schedule.warmup=0.5 --set eval.every=0.5 --set eval.windows=8 --set eval.final_windows=16 </dev/null >/dev/null
}

classics=${ANNEAL_SHARED:-$root/../shared}/data/classics

classics_tokenizer() {
    cargo build --release --quiet -p anneal-data --example encode_dump --example tokenizer_speed &&
        "$target/release/examples/encode_dump" "$work/classics" "$classics" &&
        "$python" "$oracle/data_check.py" "$work/classics" &&
        "$python" "$oracle/tokenizer_speed.py" "$classics" "$target/release/examples/tokenizer_speed" --rounds 1
}

# On real books, with the model of tests/golden in PyTorch.
metric() {
    cargo build --release --quiet -p anneal -p anneal-data --bin anneal --example pack_dump &&
        "$python" "$oracle/metric_check.py" "$work/metric" --torch --corpus "$classics" --preset tiny --vocab 8192 \
            --seq-len 256 --rows 3000 --anneal "$target/release/anneal" --dump "$target/release/examples/pack_dump"
}

compare_run() { "$python" "$oracle/torch_train.py" "$work/run" --compare "$@"; }

if ! use_python "$oracle/requirements.txt"; then
    skip "everything" "the packages of requirements.txt could not be installed"
    tally
    exit 1
fi
export ORACLE_PYTHON=$python ORACLE_BIN=$target/release/examples

if has aneforge coremltools tokenizers rustbpe tiktoken sentencepiece numpy; then
    check "quick.sh" "$oracle/quick.sh"
else
    skip "quick.sh" "a package of requirements-quick.txt is missing"
fi
if [ ! -d "$classics" ]; then
    skip "tokenizers on the classics" "there is no $classics"
elif ! has rustbpe tiktoken tokenizers pyarrow; then
    skip "tokenizers on the classics" "rustbpe, tiktoken, tokenizers or pyarrow is missing"
else
    check "tokenizers on the classics" classics_tokenizer
fi
guard() { cargo build --release --quiet -p anneal && "$python" "$oracle/guard_recovers.py" "$target/release/anneal" &&
    "$python" "$oracle/guard_recovers.py" "$target/release/anneal" --budget 14s; }
check "diverging runs are carried on" guard
# Not a pipe: with pipefail, a grep that leaves early would make a failure of ldconfig.
if grep -q 'libopenblas\.so ' <<<"$(ldconfig -p)"; then
    check "products through BLAS" "$oracle/cblas.sh"
else
    skip "products through BLAS" "OpenBLAS is missing (libopenblas-dev)"
fi
if has torch safetensors; then
    check "a short run to compare with" train_run
    check "the same run in PyTorch" compare_run
    # Without a run every comparison fails, and no fault is told apart.
    if [ -f "$work/run/summary.json" ]; then
        for fault in lr beta2 decay multiplier order; do
            check "PyTorch with a planted fault in $fault is told apart" refuses compare_run --steps 8 --plant "$fault"
        done
    else
        skip "planted faults in PyTorch" "there is no run"
    fi
    if ! has pyarrow tiktoken; then
        skip "rows and val_bpb on books" "pyarrow or tiktoken is missing"
    elif [ -d "$classics" ]; then
        check "rows and val_bpb on books" metric
    else
        skip "rows and val_bpb on books" "there is no $classics"
    fi
    if [ $golden = yes ]; then
        check "golden files are as their scripts write them" \
            env GOLDEN_PYTHON="$python" tests/golden/make_all.sh --check
    else
        skip "golden files" "only with --golden"
    fi
else
    skip "PyTorch" "torch or safetensors is missing"
fi
if has torch transformers; then
    check "weight files in transformers" "$python" "$oracle/weights_check.py" --random
    check "the run's checkpoint in transformers" "$python" "$oracle/weights_check.py" "$work/run/checkpoints/step_000020"
    compact=$work/metric/compact/checkpoints/step_000030
    if [ -d "$compact" ]; then
        check "a checkpoint of a shortened vocabulary in transformers" "$python" "$oracle/weights_check.py" "$compact"
    else
        skip "a checkpoint of a shortened vocabulary" "there is no run"
    fi
else
    skip "weight files" "torch or transformers is missing"
fi
tally
