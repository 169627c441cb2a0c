"""Tests run with the annotations of some modules checked in each call, shapes of arrays too."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from fmbseg_jax.training.losses import class_scores
from labelgen.labels.presence import detect
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES, SETTINGS, evidence
from tests.worlds.paths import ROOT
from tests.worlds.shapes import SHAPED

Z, WORDS = jnp.zeros((2, 5, 8)), jnp.zeros((4, 8))


@pytest.mark.parametrize("name", SHAPED)
def test_the_functions_of_the_module_are_checked(name: str) -> None:
    module = importlib.import_module(name)
    functions = [f for f in vars(module).values() if isinstance(f, FunctionType) and f.__module__ == name]
    # A module new in SHAPED may lie compiled without checks in a __pycache__ of before: delete those folders.
    assert functions and [f.__name__ for f in functions if not hasattr(f, "__wrapped__")] == []


@pytest.mark.parametrize("words", [WORDS[:, :7], WORDS[0], WORDS.astype(jnp.int32)], ids=["width", "rank", "dtype"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
def test_class_scores_of_another_shape_or_dtype_raise(transform: Callable[..., Any], words: jax.Array) -> None:
    def scores(z: jax.Array) -> jax.Array:
        return class_scores(z, words, (0, 0, 1, 2))

    with pytest.raises(TypeCheckError, match=r"(?s)class_scores.*parameter 'prototypes'.*Float32\[.*'K E'\]"):
        transform(scores)(Z)


def test_detect_with_prototypes_of_another_rank_or_dtype_raises() -> None:
    assert detect(evidence(), PROTOTYPES, ONTOLOGY, SETTINGS.presence).present.tolist() == [True, True, False]
    for wrong in (PROTOTYPES[0], PROTOTYPES.astype(np.float64)):
        with pytest.raises(TypeCheckError, match=r"(?s)detect.*parameter 'prototypes'.*Float32\[.*'K E'\]"):
            detect(evidence(), wrong, ONTOLOGY, SETTINGS.presence)


def test_a_result_whose_fields_do_not_fit_each_other_raises() -> None:
    found = detect(evidence(), PROTOTYPES, ONTOLOGY, SETTINGS.presence)
    with pytest.raises(TypeCheckError, match=r"(?s)Presence.__init__.*parameter 'gate'"):
        replace(found, gate=found.gate[..., :2])


def test_shapes_are_said_of_a_class_of_arrays() -> None:
    """labelgen.core.arrays has why: this environment's numpy may be too old to show it."""
    files = [path for room in ("labelgen", "fmbseg_jax") for path in (ROOT / room).rglob("*.py")]
    said = re.compile(r"\b(?:Float|Int|UInt|Bool|Shaped|Real|Num|Key)\d*\[NDArray\b")
    assert [str(path) for path in files if said.search(path.read_text())] == []


def test_outside_of_tests_nothing_is_checked_and_no_checker_loaded() -> None:
    code = (
        "import sys, numpy as np; from labelgen.labels.presence import softmax; softmax(np.zeros((2, 3)))\n"
        "loaded = {'jax', 'beartype', 'typeguard'} & set(sys.modules)\n"
        "import jax.numpy as jnp; from fmbseg_jax.runs.head import unit; unit(jnp.ones(3, jnp.bfloat16))\n"
        "print(loaded, 'beartype' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "set() False\n"
