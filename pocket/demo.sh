#!/usr/bin/env bash
# The whole pipeline on the pocket world, in the order a user runs it; `make demo` and `make figures` call this.
# Arguments are passed on to every command with a config: bash pocket/demo.sh --config.train.steps=100
# Variables: PYTHON, DEMO (folder, emptied first), TRAIN EVAL HELD_OUT (pictures a split), SEEDS (of the training),
# TARGETS ("labels", or "labels truth" to train the oracle too, for comparison).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} DEMO=${DEMO:-build/demo}
rm -rf "$DEMO"
config=(--config=configs/pocket.py --config.photos.root="$DEMO/scenes" "$@")
step() {
    printf '\n== %s\n' "$*"
    "$PYTHON" -m "$@"
}

step pocket.scenes --out="$DEMO/scenes" --train="${TRAIN:-300}" --eval="${EVAL:-100}" --held_out="${HELD_OUT:-50}"
step labelgen.run "${config[@]}" --out="$DEMO/data"
step labelgen.quality "${config[@]}" --data="$DEMO/data"
runs=()
for targets in ${TARGETS:-labels}; do
    for seed in ${SEEDS:-0}; do
        run=$DEMO/run-$targets-$seed
        step fmbseg_jax.train "${config[@]}" --config.train.seed="$seed" --config.train.targets="$targets" \
            --data="$DEMO/data" --workdir="$run"
        step fmbseg_jax.evaluate "${config[@]}" --data="$DEMO/data" --workdir="$run"
        runs+=("$run")
    done
done
mkdir -p "$DEMO/photos"
for i in 0 1 2 3; do cp "$DEMO/scenes/photos/eval/0000$i.png" "$DEMO/photos/"; done
step fmbseg_jax.predict --workdir="${runs[0]}" --photos="$DEMO/photos" --out="$DEMO/masks"
step tools.results --data="$DEMO/data" --out="$DEMO/results.md" "${runs[@]}"
oracle=()
for run in "${runs[@]}"; do if [[ $run == *-truth-* ]]; then oracle=(--oracle="$run"); fi; done
step fmbseg_jax.report --data="$DEMO/data" --workdir="${runs[0]}" --photos=30 --out="$DEMO/report" "${oracle[@]}"
printf '\n%s s in all. Open %s/report/index.html in a browser: it shows what was learnt, where it fails and why.\n' \
    "$SECONDS" "$DEMO"
