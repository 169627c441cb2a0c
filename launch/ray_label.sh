#!/usr/bin/env bash
# Labels on a Ray cluster:
#     launch/ray_label.sh HOST:6379 CONFIG DATA [--config.FIELD=VALUE ...]
# The cluster: `ray start --head --port=6379` on HOST, `ray start --address=HOST:6379` on every other node, at any time,
# each with PYTHONPATH set to this repository; nodes that come later get work too. DATA, photos, weights and the
# repository lie on a disk that all share, under the same paths.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" -m labelgen.run --engine=ray --ray_address="$1" --config="$2" --out="$3" "${@:4}"
