#!/usr/bin/env bash
# Write every golden file anew, or check that doing so would change nothing.
#
#   tests/golden/make_all.sh            write the files in tests/golden
#   tests/golden/make_all.sh --check    write them elsewhere and compare with the committed bytes
#
# Creates tests/golden/.venv from requirements.txt, or uses the Python that GOLDEN_PYTHON names.
set -euo pipefail
cd "$(dirname "$0")"

case "${1-}" in
    "" | --check) ;;
    *) echo "make_all.sh: unknown argument '$1'; expected nothing or --check" >&2; exit 2 ;;
esac

python=${GOLDEN_PYTHON-}
if [ -z "$python" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --requirement requirements.txt
    python=.venv/bin/python
fi

"$python" model.py --self-check

fresh=$(mktemp -d)
trap 'rm -r "$fresh"' EXIT
mkdir "$fresh/first" "$fresh/second"
for folder in first second; do # twice: a script whose output wanders must not get in
    "$python" make_model_goldens.py --out "$fresh/$folder"
    "$python" make_op_goldens.py --out "$fresh/$folder"
    "$python" make_adamw_golden.py --out "$fresh/$folder"
    "$python" make_ema_golden.py --out "$fresh/$folder"
    "$python" make_muon_golden.py --out "$fresh/$folder"
done
diff --recursive "$fresh/first" "$fresh/second"

if [ "${1-}" = --check ]; then
    for file in "$fresh"/first/*.safetensors; do
        cmp "$file" "$(basename "$file")"
    done
    echo "golden files are as the scripts write them"
else
    cp "$fresh"/first/*.safetensors .
fi
