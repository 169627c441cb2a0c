#!/usr/bin/env bash
# nvidia-cudnn-cu12 9.28.0.42 beside nvidia-cudnn-cu13 9.20.0.48, as `pip install 'jax[cuda12]==0.10.2' torch==2.13.0`
# plans them: two packages that write the same files, nvidia/cudnn/lib/libcudnn*.so.9. pip says nothing; the one
# unpacked last wins, and to uninstall either removes what the other still claims to have. nvidia-nccl and nvidia-nvshmem
# share their files the same way.
# Why it matters here: fmbseg needs jax and torch in one environment (predict --photos, serve, Segmenter). With
# jax[cuda12] torch runs on a cuDNN and an NCCL of CUDA 12, which it was not built with, and `pip uninstall` of the
# mistake breaks torch. jax[cuda13] takes torch's own; the extra `cuda` asks for it, tools/gpu_plan.py holds it.
# Seen without a GPU: cudnnGetVersion needs none. Downloads 1 GB. Exits with 0 while it is so, 1 once it is not.
set -euo pipefail
JAX=0.10.2 TORCH=2.13.0 CU12=9.28.0.42 CU13=9.20.0.48
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A CPU build of torch on this machine would go first and have no cuDNN.
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL PIP_CONSTRAINT
export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
python3 -m venv "$work/venv"
python=$work/venv/bin/python

cudnn() {  # the version that libcudnn.so.9 of the environment says it is, or that there is none
    "$python" - <<'PYTHON'
import ctypes
import sysconfig
from pathlib import Path

path = Path(sysconfig.get_path("purelib")) / "nvidia/cudnn/lib/libcudnn.so.9"
print(ctypes.CDLL(str(path)).cudnnGetVersion() if path.exists() else "gone")
PYTHON
}

"$python" -m pip install --quiet --dry-run --ignore-installed --report "$work/plan" \
    "jax[cuda12]==$JAX" "torch==$TORCH"
planned=$("$python" - "$work/plan" <<'PYTHON'
import json
import sys

packages = [entry["metadata"] for entry in json.load(open(sys.argv[1]))["install"]]
print(*sorted(p["name"] for p in packages if p["name"].startswith("nvidia-cudnn")))
PYTHON
)
echo "jax[cuda12]==$JAX torch==$TORCH plans: $planned"
"$python" -m pip install --quiet --no-deps "nvidia-cudnn-cu13==$CU13"
first=$(cudnn)
echo "nvidia-cudnn-cu13 $CU13 installed: cudnnGetVersion() = $first"
"$python" -m pip install --quiet --no-deps "nvidia-cudnn-cu12==$CU12"
second=$(cudnn)
echo "nvidia-cudnn-cu12 $CU12 installed too: cudnnGetVersion() = $second, of the same file"
"$python" -m pip uninstall --quiet --yes nvidia-cudnn-cu12
third=$(cudnn) left=$("$python" -m pip list --format=freeze | grep -c '^nvidia-cudnn-cu13==' || true)
echo "nvidia-cudnn-cu12 uninstalled: libcudnn.so.9 is $third, nvidia-cudnn-cu13 is installed $left time"
if [[ "$planned $first $second $third $left" != "nvidia-cudnn-cu12 nvidia-cudnn-cu13 92000 92800 gone 1" ]]; then
    echo "changed: read the lines above" >&2
    exit 1
fi
