# Sourced by check.sh: tools and settings for building for macOS on Apple Silicon from Linux.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
macos=$root/tests/macos
target=${CARGO_TARGET_DIR:-$root/target}/macos
triple=aarch64-apple-darwin
export SDKROOT=$macos/sdk
# The oldest macOS of Apple Silicon whose Neural Engine the routes are known on.
export MACOSX_DEPLOYMENT_TARGET=13.0
mkdir -p "$target"

# rustup's toolchain has no standard library for macOS here, so it is built from source, by Debian's compiler
# (1.96 or newer), which brings it along.
rust_sources=/usr/lib/rustlib/src/rust/library
if ! [ -x /usr/bin/rustc ] || ! [ -x /usr/bin/cargo ] || ! [ -d "$rust_sources" ]; then
    apt-get update -q
    apt-get install -y -q --no-install-recommends rustc-web cargo-web rust-web-src
fi

venv=$target/venv
python=$venv/bin/python
if [ "$(cat "$venv/made-of" 2>/dev/null)" != "$(cksum <"$macos/requirements.txt")" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check --requirement "$macos/requirements.txt"
    cksum <"$macos/requirements.txt" >"$venv/made-of"
fi
ziglang=$("$python" -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__))')
export MACOS_ZIG=$ziglang/zig
export ZIG_GLOBAL_CACHE_DIR=$target/zig-cache ZIG_LOCAL_CACHE_DIR=$target/zig-cache

# The form in which zig is told of a C library that is not its own; all fields must be there.
export MACOS_LIBC=$target/libc.txt
cat >"$MACOS_LIBC" <<END
include_dir=$SDKROOT/usr/include
sys_include_dir=$SDKROOT/usr/include
crt_dir=$SDKROOT/usr/lib
msvc_lib_dir=
kernel32_lib_dir=
gcc_dir=
darwin_sdk_dir=$SDKROOT
END

# Cargo for macOS: `macos_cargo build --bin anneal`. RUSTC_BOOTSTRAP lets this toolchain take what cargo.toml asks
# for and is not stable yet. Without link-time optimisation, which costs minutes; MACOS_LTO=thin is the release as
# it is elsewhere.
macos_cargo() {
    local command=$1
    shift
    env RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTUP_TOOLCHAIN= CARGO_TARGET_DIR="$target" \
        CC_aarch64_apple_darwin="$macos/tools/cc" AR_aarch64_apple_darwin="$macos/tools/ar" \
        CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER="$macos/tools/link-cc" \
        CARGO_PROFILE_RELEASE_LTO="${MACOS_LTO-off}" \
        /usr/bin/cargo "$command" --quiet --locked --release --target $triple --config "$macos/cargo.toml" "$@"
}
