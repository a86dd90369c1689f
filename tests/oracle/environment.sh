# Sourced by the scripts of this folder: where things are, and a virtual environment.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
oracle=$root/tests/oracle
# Where cargo puts what it builds. The quick oracles use the development profile, which `cargo test` has built.
target=${CARGO_TARGET_DIR:-$root/target}

# use_python REQUIREMENTS: sets `python` to an interpreter that has the packages of this file. It is a virtual
# environment in target/oracle, made anew when the file changes, unless ORACLE_PYTHON names an interpreter.
use_python() {
    if [ -n "${ORACLE_PYTHON-}" ]; then
        python=$ORACLE_PYTHON
        return
    fi
    # coremltools has no Linux build for anything newer.
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
        { echo "error: $(python3 --version 2>&1) will not do; the oracles need Python 3.11, 3.12 or 3.13" >&2; return 1; }
    local name sum venv
    name=$(basename "$1" .txt)
    venv=$target/oracle/$name
    sum=$(cat "$oracle"/requirements*.txt | cksum)
    python=$venv/bin/python
    if [ "$(cat "$venv/made-of" 2>/dev/null)" != "$sum" ]; then
        rm -rf "$venv"
        mkdir -p "$target/oracle"
        python3 -m venv "$venv"
        "$python" -m pip install --quiet --disable-pip-version-check --requirement "$1"
        echo "$sum" >"$venv/made-of"
    fi
}

passed=0 failed=0 skipped=0

# check NAME COMMAND...: runs it, shows its output, and counts.
check() {
    local name=$1 begun=$SECONDS
    shift
    echo "-- $name"
    if "$@"; then
        passed=$((passed + 1))
        echo "PASS $name ($((SECONDS - begun)) s)"
    else
        failed=$((failed + 1))
        echo "FAIL $name ($((SECONDS - begun)) s)"
    fi
}

# refuses COMMAND...: whether it fails as a comparison does, for planted faults; its output is indented.
refuses() {
    local status=0
    { "$@" 2>&1 || status=$?; echo "exit status $status"; } > >(sed 's/^/    /')
    wait $!
    [ "$status" = 1 ] || { echo "expected exit status 1, got $status"; return 1; }
}

skip() {
    skipped=$((skipped + 1))
    echo "SKIP $1: $2"
}

# Prints the counts; the exit status of the whole script.
tally() {
    echo "oracles: $passed passed, $failed failed, $skipped skipped, $SECONDS s"
    [ "$failed" = 0 ]
}
