#!/usr/bin/env bash
# Labels on a Ray cluster:
#     launch/ray_label.sh HOST:6379 CONFIG DATA [--config.FIELD=VALUE ...]
# The cluster: `ray start --head --port=6379` on HOST, `ray start --address=HOST:6379` on every other node, at any time;
# nodes that come later get work too. DATA, photos, weights and the repository lie on a disk that all share, under the
# same paths; a CONFIG or DATA that does not begin with / lies in the repository. Set for each of these commands:
#     export PYTHONPATH=REPOSITORY RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE
# FILE, on that disk and for your eyes only, holds a secret (`openssl rand -hex 32 > FILE`): who reaches a cluster without
# one runs what he likes on it. In a network of your own set RAY_AUTH_MODE=disabled instead. Do set it: Ray 2.60 otherwise
# wants a token wherever ~/.ray/auth_token is, as it is once Ray has started a cluster by itself, and refuses the others.
set -euo pipefail
cd "$(dirname "$0")/.."
(($# >= 3)) || { echo "usage: launch/ray_label.sh HOST:PORT CONFIG DATA [--config.FIELD=VALUE ...]" >&2; exit 2; }
exec "${PYTHON:-python}" -m labelgen.run --engine=ray --ray_address="$1" --config="$2" --out="$3" "${@:4}"
