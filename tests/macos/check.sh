#!/usr/bin/env bash
# Type-checks the libraries and the binary of the workspace for macOS on Apple Silicon, from Linux: what is compiled only there (the
# calls of Accelerate, say) must not rot where nobody has a Mac.
#
#   tests/macos/check.sh
#
# rustup's toolchain has no standard library for macOS here, so it is checked from source: Debian's rustc-web,
# cargo-web and rust-web-src (1.96 or newer), which are installed if this may be done. C code of dependencies
# is compiled by zig, from PyPI's ziglang.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/macos
triple=aarch64-apple-darwin
# The oldest macOS of Apple Silicon whose Neural Engine the routes are known on.
minimum=13.0
ziglang=0.17.1

sources=/usr/lib/rustlib/src/rust/library
if ! [ -x /usr/bin/rustc ] || ! [ -x /usr/bin/cargo ] || ! [ -d "$sources" ]; then
    apt-get update -q
    apt-get install -y -q --no-install-recommends rustc-web cargo-web rust-web-src
fi

venv=$target/zig
if ! [ -x "$venv/bin/python" ] || [ "$("$venv/bin/python" -m ziglang version)" != "$ziglang" ]; then
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "ziglang==$ziglang"
fi
# What build scripts call as the compiler and archiver for the target. zig knows targets by other names than
# clang, so what the callers pass is left out.
cat >"$target/cc" <<END
#!/bin/sh
for arg do
    shift
    case \$arg in --target=*) ;; *) set -- "\$@" "\$arg" ;; esac
done
exec "$venv/bin/python" -m ziglang cc -target aarch64-macos.$minimum "\$@"
END
printf '#!/bin/sh\nexec "%s" -m ziglang ar "$@"\n' "$venv/bin/python" >"$target/ar"
chmod +x "$target/cc" "$target/ar"

cd "$root"
# -Zbuild-std is not stable; RUSTC_BOOTSTRAP lets this toolchain take it.
env RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTUP_TOOLCHAIN= CARGO_TARGET_DIR="$target" \
    CC_aarch64_apple_darwin="$target/cc" AR_aarch64_apple_darwin="$target/ar" MACOSX_DEPLOYMENT_TARGET=$minimum \
    /usr/bin/cargo check --quiet --locked --workspace -Zbuild-std=std,panic_abort --target $triple
echo "the workspace type-checks for $triple"
