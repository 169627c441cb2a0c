#!/usr/bin/env bash
# The trainer's tests with the newest jax, flax and numpy beside the other pins of requirements.txt:
#     tools/newest_jax.sh [PYTHON]      # 3.12 or newer, as the newest jax wants; python3 where none is named
# PYTHON needs venv. On a machine with an older one: tools/new_system.sh FOLDER tools/newest_jax.sh
# The virtual environment is new, and gone at the end. The last line says what was run and how it ended.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export NPROC=16 OMP_NUM_THREADS=1
fail() { echo "$0: $1" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || fail "$("$python" --version): name 3.12 or newer"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

trainer_tests() {  # those of fmbseg_jax, by their folder or by what they import
    if [[ -d tests/fmbseg_jax ]]; then
        echo tests/fmbseg_jax
    else
        grep -lE '^(from|import) (fmbseg_jax|training)\b' tests/test_*.py
    fi
}

sed -E 's/^(jax|flax|numpy)==.*/\1/' requirements.txt > "$work/requirements.txt"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$work/requirements.txt"
mapfile -t tests < <(trainer_tests)
status=0
"$work/venv/bin/python" -m pytest "${tests[@]}" 2>&1 | tee "$work/log" || status=$?
"$work/venv/bin/python" - "$(tail -n 1 "$work/log") (exit code $status)" <<'PYTHON'
import platform
import sys
from importlib.metadata import version

names = ("jax", "flax", "numpy", "optax", "orbax-checkpoint")
print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in names)}: {sys.argv[1]}")
PYTHON
exit "$status"
