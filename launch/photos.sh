#!/usr/bin/env bash
# A folder of photos and a list of words to masks, free labels and a report; `make photos` and `make water` call this:
#     launch/photos.sh FOLDER [WORDS] [--config.FIELD=VALUE ...]
# With CONFIG=configs/river_water.py FOLDER has Image/ and Mask/, and there are figures too. The same command goes on
# where it stopped. NOT YET RUN with the real models. Variables: PYTHON, OUT (folder), CONFIG; HF_ENDPOINT, SAM_ENDPOINT
# and HF_HOME as labelgen.weights has them.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} OUT=${OUT:-build/photos} CONFIG=${CONFIG:-configs/my_photos.py}
if [[ ! -d ${1:-} ]]; then
    echo "error: no folder of photos; make photos FOLDER=… WORDS=…, make water FOLDER=…" >&2
    exit 2
fi
source launch/steps.sh
config=(--config="$CONFIG" --config.photos.root="$1")
if [[ ${2:---} != --* ]]; then config+=(--config.ontology="$2"); shift; fi
config+=("${@:2}")
truth=
if [[ $CONFIG == configs/river_water.py ]]; then truth=yes; fi

"$PYTHON" -m labelgen.budget "${config[@]}" --out="$OUT"
step weights labelgen.weights "${config[@]}"
step words labelgen.words "${config[@]}"
step label labelgen.run "${config[@]}" --out="$OUT/data"
if [[ $truth ]]; then step quality labelgen.quality "${config[@]}" --data="$OUT/data"; fi
step train fmbseg_jax.train "${config[@]}" --data="$OUT/data" --workdir="$OUT/run"
if [[ $truth ]]; then
    step evaluate fmbseg_jax.evaluate "${config[@]}" --data="$OUT/data" --workdir="$OUT/run"
    step table fmbseg_jax.results --data="$OUT/data" --out="$OUT/table.md" "$OUT/run"
fi
step predict fmbseg_jax.predict --workdir="$OUT/run" --data="$OUT/data" --out="$OUT/masks"
step report fmbseg_jax.report --data="$OUT/data" --workdir="$OUT/run" --out="$OUT/report"
printf '\n%s s this time. Masks are in %s/masks; open %s/report/index.html in a browser.\n' "$SECONDS" "$OUT" "$OUT"
