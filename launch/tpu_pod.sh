#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice, from a machine with gcloud:
#     PROJECT=p ZONE=us-west4-a TYPE=v5litepod-256 launch/tpu_pod.sh NAME CONFIG DATA RUN [--config.FIELD=VALUE ...]
# DATA and RUN are urls (gs://bucket/data, gs://bucket/run), or paths that every host of the slice has (NFS).
# Run it again after a preemption (exit code 75, or a slice that is gone): it goes on from the step that was saved.
set -euo pipefail
: "${PROJECT:?}" "${ZONE:?}" "${TYPE:?}"
name=$1 config=$2 data=$3 run=$4
where=(--project="$PROJECT" --zone="$ZONE")
tpu() { gcloud compute tpus tpu-vm "$@" "${where[@]}"; }
everywhere() { tpu ssh "$name" --worker=all --command="$1"; }

tpu describe "$name" >/dev/null 2>&1 ||
    tpu create "$name" --accelerator-type="$TYPE" --version="${VERSION:-v2-alpha-tpuv5-lite}" --spot
tpu scp --recurse --worker=all "$(dirname "$0")/.." "$name:fmbseg-jax"
everywhere "cd fmbseg-jax && { [ -e .venv/stamp ] || bash .ci/venv .venv; } &&
    .venv/bin/python -m pip install -q 'jax[tpu]==0.10.2' gcsfs==2026.9.0"
# auto: the slice itself says who is first. Quoted once more, for the shell on the other side.
everywhere "cd fmbseg-jax && exec .venv/bin/python -m fmbseg_jax.train $(printf '%q ' \
    --config="$config" --data="$data" --workdir="$run" --config.distributed=auto "${@:5}")"
