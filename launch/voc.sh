#!/usr/bin/env bash
# Pascal VOC 2012 from an empty machine to the filled table; `make voc` calls this. The same command goes on where it
# stopped. NOT YET RUN with the real photos and models: only against a local server with small ones.
# Arguments are passed on to every command with a config: bash launch/voc.sh --config.device=cuda:1
# Variables: PYTHON, OUT (folder), SBD=1 (train on 10,582 photos instead of 1,464; fetches 1.4 GB more), SEEDS (of the
# training; claims take as many), CLAIMS (which are tried), CONFIG; FETCH, more arguments of labelgen.fetch voc;
# HF_ENDPOINT, SAM_ENDPOINT, HF_HOME as labelgen.weights has them.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} OUT=${OUT:-build/voc} CONFIG=${CONFIG:-configs/voc.py} SEEDS=${SEEDS:-0 1 2}
CLAIMS=${CLAIMS:-labels,stages,alignment,encoders,little_data,training,zero_shot,own_photos,losses}
source launch/steps.sh
fields=(--config.photos.root="$OUT/VOCdevkit/VOC2012" "$@")
archives=(voc ${SBD:+sbd})

"$PYTHON" -m labelgen.budget --config="$CONFIG" "${fields[@]}" --out="$OUT" --fetch="$(IFS=,; echo "${archives[*]}")"
read -ra more <<< "${FETCH:-}"
step fetch-voc labelgen.fetch voc --out="$OUT" "${more[@]}"
if [[ -n ${SBD:-} ]]; then step fetch-sbd labelgen.fetch sbd --out="$OUT"; fi
step weights labelgen.weights --config="$CONFIG" "${fields[@]}"

read -ra seeds <<< "$SEEDS"
runs=() status=0
for words in voc21 voc20; do
    config=(--config="$CONFIG:$words" "${fields[@]}")
    step "label-$words" labelgen.run "${config[@]}" --out="$OUT/data"
    step "quality-$words" labelgen.quality "${config[@]}" --config.labels.splits=val --data="$OUT/data"
    for seed in $SEEDS; do
        run=$OUT/run-$words-$seed
        step "train-$words-$seed" fmbseg_jax.train "${config[@]}" --config.train.seed="$seed" \
            --data="$OUT/data" --workdir="$run"
        step "evaluate-$words-$seed" fmbseg_jax.evaluate "${config[@]}" --data="$OUT/data" --workdir="$run"
        runs+=("$run")
    done
    step "report-$words" fmbseg_jax.report --data="$OUT/data" --workdir="$OUT/run-$words-${SEEDS%% *}" \
        --out="$OUT/report-$words"
done
step claims experiments.claims --config="$CONFIG:voc21" "${fields[@]}" --data="$OUT/data" --out="$OUT/claims" \
    --seeds="${#seeds[@]}" --only="$CLAIMS" || status=$?  # the table comes all the same
"$PYTHON" -m tools.beside --out="$OUT/table.md" "${runs[@]}"
printf '\n%s s this time. The table is in %s/table.md; open %s/report-voc21/index.html in a browser.\n' \
    "$SECONDS" "$OUT" "$OUT"
exit $status
