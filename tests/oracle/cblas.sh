#!/usr/bin/env bash
# The code that calls Accelerate on a Mac, on OpenBLAS: the kernels' tests against f64, and the plans' against sim.
#
#   tests/oracle/cblas.sh
#
# Needs OpenBLAS (Debian's libopenblas-dev), which it does not install.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
# A target folder of its own: the feature would have the usual tests built anew.
CARGO_TARGET_DIR=$target/oracle/cblas cargo test --quiet -p anneal-cpu --features openblas
