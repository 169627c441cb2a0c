#!/usr/bin/env bash
# numpy 2.5.5 with jaxtyping 0.3.11: Float32[NDArray[np.float32], "h w"], the way to annotate shape and dtype of a numpy
# array, raises TypeError (issubclass() arg 1 must be a class) where the annotation is written, so the module cannot be
# imported; with numpy 2.4.6 it works. NDArray became a type alias of its own (PEP 695), whose subscript is no generic
# class any more. np.ndarray[Any, np.dtype[np.float32]] works with both.
# Why it matters here: labels, losses and step say shapes that way; `pip install fmbseg-jax` on Python 3.12 and newer takes
# numpy 2.5, and no command would start. Hence labelgen/core/arrays.py.
# Wants Python 3.12 or newer, which numpy 2.5 does: PYTHON=..., or one that is found. Exits with 0 while it is so.
set -euo pipefail
JAXTYPING=0.3.11 OLD=2.4.6 NEW=2.5.5
fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' > /dev/null 2>&1; }
for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python; do
    if fits "$python"; then break; fi
done
fits "$python" || { echo "numpy $NEW wants Python 3.12 or newer: name one, PYTHON=... $0"; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

said() {  # what numpy $1 makes of the annotation $2
    "$work/venv$1/bin/python" - "$2" <<'PYTHON'
import sys
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

known = {"NDArray": NDArray[np.float32], "ndarray": np.ndarray[Any, np.dtype[np.float32]]}
try:
    annotation = Float32[known[sys.argv[1]], "h w"]
    print("works", isinstance(np.zeros((2, 3), np.float32), annotation))
except TypeError as error:
    print(f"TypeError: {error}")
PYTHON
}

for numpy in $OLD $NEW; do
    "$python" -m venv "$work/venv$numpy"
    "$work/venv$numpy/bin/python" -m pip install --quiet --disable-pip-version-check "jaxtyping==$JAXTYPING" "numpy==$numpy"
done
seen=$(for numpy in $OLD $NEW; do for kind in NDArray ndarray; do echo "$numpy $kind: $(said $numpy $kind)"; done; done)
echo "$seen"
expected="$OLD NDArray: works True
$OLD ndarray: works True
$NEW NDArray: TypeError: issubclass() arg 1 must be a class
$NEW ndarray: works True"
[[ $seen == "$expected" ]] || { echo "changed; it was:"; echo "$expected"; exit 1; }
