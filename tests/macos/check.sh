#!/usr/bin/env bash
# Builds for macOS on Apple Silicon, from Linux, so that nothing rots where nobody has a Mac: type-checks the
# workspace with its tests and examples, links the release binary, checks the binary, packs it. See the README.
#
#   tests/macos/check.sh
#
# The archive is left in target/macos.
set -euo pipefail
# shellcheck source=tests/macos/toolchain.sh
source "$(dirname "${BASH_SOURCE[0]}")/toolchain.sh"
cd "$root"

step() { echo "-- $* ($SECONDS s)"; }

step "type-check for $triple, warnings are errors"
macos_cargo check --workspace --all-targets

step "the stubs of libSystem against Apple's list"
"$python" "$macos/stubs.py"

step "the linker takes what a stub declares and refuses what none does"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
call() {
    printf 'void %s(void); int main(void) { %s(); return 0; }\n' "$1" "$1" >"$work/call.c"
    "$macos/tools/cc" -O2 -c "$work/call.c" -o "$work/call.o"
    "$macos/tools/link-cc" -framework Accelerate "$work/call.o" -o "$work/call" 2>"$work/said"
}
call cblas_sgemm || { cat "$work/said"; exit 1; }
! call cblas_sgemn || { echo "error: _cblas_sgemn, which no stub declares, was linked"; exit 1; }
grep "undefined symbol: _cblas_sgemn" "$work/said"

step "link"
if ! macos_cargo build --package anneal --bin anneal; then
    echo "If a symbol is undefined: look it up in its documentation and declare it in tests/macos/sdk."
    exit 1
fi
binary=$target/$triple/release/anneal

step "the binary"
cargo_home=${CARGO_HOME:-$HOME/.cargo}
"$python" "$macos/verify.py" "$binary" --minimum $MACOSX_DEPLOYMENT_TARGET \
    --forbid "$root" --forbid "$target" --forbid "$cargo_home" --forbid "$rust_sources"

step "planted faults"
"$python" "$macos/faults.py" "$binary" --minimum $MACOSX_DEPLOYMENT_TARGET --forbid "$root"

step "the archive"
pack() {
    /usr/bin/cargo metadata --quiet --locked --format-version 1 --filter-platform $triple |
        "$python" "$macos/pack.py" "$binary" "$1"
}
archive=$(pack "$target")
pack "$work" >"$work/again"
cmp "$archive" "$(cat "$work/again")"
tar -xzf "$archive" -C "$work"
cmp "$binary" "$work/$(basename "$archive" .tar.gz)/anneal"
ls -l "$archive"
step "done"
