#!/usr/bin/env bash
# The whole pipeline on the pocket world, in the order a user runs it; `make demo` calls this.
# Arguments are passed on to every command with a config: bash pocket/demo.sh --config.train.steps=100
# Variables: PYTHON, DEMO (folder, emptied first), TRAIN EVAL HELD_OUT (pictures a split).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} DEMO=${DEMO:-build/demo}
rm -rf "$DEMO"
config=(--config=configs/pocket.py --config.photos.root="$DEMO/scenes" "$@")
step() { printf '\n== %s\n' "$*" | cut -c1-150; "$PYTHON" -m "$@"; }

step pocket.scenes --out="$DEMO/scenes" --train="${TRAIN:-300}" --eval="${EVAL:-100}" --held_out="${HELD_OUT:-50}"
step labelgen.run "${config[@]}" --out="$DEMO/data"
step labelgen.quality "${config[@]}" --data="$DEMO/data"
step fmbseg_jax.train "${config[@]}" --data="$DEMO/data" --workdir="$DEMO/run"
step fmbseg_jax.evaluate "${config[@]}" --data="$DEMO/data" --workdir="$DEMO/run"
mkdir -p "$DEMO/photos"
for i in 0 1 2 3; do cp "$DEMO/scenes/photos/eval/0000$i.png" "$DEMO/photos/"; done
step fmbseg_jax.predict --workdir="$DEMO/run" --photos="$DEMO/photos" --out="$DEMO/masks"
step benchmarks.results --data="$DEMO/data" "$DEMO/run"
printf '\n%s s in all. Look at the overlays in %s.\n' "$SECONDS" "$DEMO/masks"
