#!/bin/sh
# Tests and measures this machine: `run.sh [--out DIR] [--device cuda|cpu] [--quick] [--parts 1,2,...]`.
# PYTHON names another Python than python3; it needs PyTorch 2.11.
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    echo "error: there is no \`$python\` here; install Python 3 with PyTorch 2.11, or export PYTHON" >&2
    exit 2
fi
exec "$python" "$(dirname "$0")/run.py" "$@"
