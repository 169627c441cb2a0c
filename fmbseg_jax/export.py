"""The head of a RUN for people without this code: StableHLO for any JAX, and plain arrays for anything else.

    python -m fmbseg_jax.export --workdir=run --out=exported

Writes into FOLDER (docs/export.md says how to use them):

    head.stablehlo      patch features -> unit vectors in CLIP's text space, any batch and grid, on CPU, CUDA and TPU;
                        jax.export.deserialize opens it, with nothing but jax and flatbuffers installed
    head.safetensors    the parameters by name, and `prototypes`, the text embeddings of the trained words, float32
    head.json           words, temperature, and what makes the features: encoder, its digest, pixels, patches
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.typing import DTypeLike
from numpy.typing import NDArray
from safetensors.numpy import save

from fmbseg_jax.runs.checkpoint import Restored, restore_run
from labelgen.core.command import command, parser
from labelgen.core.errors import UserError
from labelgen.core.files import write_atomic

PLATFORMS = ("cpu", "cuda", "tpu")


def main(args: argparse.Namespace) -> int:
    """Writes the three files."""
    restored = restore_run(args.workdir, args.which)
    files = {
        "head.stablehlo": stablehlo(restored),
        "head.safetensors": save(arrays(restored)),
        "head.json": (json.dumps(about(restored), indent=1) + "\n").encode(),
    }
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)
    sizes = ", ".join(f"{name} ({-(-len(data) // 1000)} kB)" for name, data in files.items())
    print(f"wrote {sizes} of step {restored.step} to {folder}; next: docs/export.md has examples that read them")
    return 0


def stablehlo(restored: Restored) -> bytes:
    """The head, parameters included, as jax.export writes it.

    It takes features float32 [b, h, w, D] and valid bool [b, h, w], and gives float32 [b, h, w, E] unit rows, for any
    b, h, w. UserError without flatbuffers.
    """
    head, params = restored.head_module("cpu"), restored.params  # its attention is the one for any
    b, h, w = export.symbolic_shape("b, h, w")
    features = _array((b, h, w, restored.feature_width), jnp.float32)
    embed = jax.jit(lambda features, valid: head.apply({"params": params}, features, valid))
    exported = export.export(embed, platforms=PLATFORMS)(features, _array((b, h, w), jnp.bool_))
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise UserError("head.stablehlo is written by flatbuffers; run: pip install flatbuffers") from None


def _array(shape: tuple[Any, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def arrays(restored: Restored) -> dict[str, NDArray[np.float32]]:
    """The parameters by dotted name, "project.kernel" [D, E] and so on, and `prototypes` [K, E]; float32."""
    return {**_flat(restored.params, ""), "prototypes": np.ascontiguousarray(restored.prototypes, np.float32)}


def _flat(tree: Mapping[str, Any], prefix: str) -> dict[str, NDArray[np.float32]]:
    flat: dict[str, NDArray[np.float32]] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = np.ascontiguousarray(value, np.float32)
    return flat


def about(restored: Restored) -> dict[str, Any]:
    """What using the arrays takes besides them, as JSON; no path."""
    config, ontology, clip = restored.config, restored.ontology, restored.encoders["clip"]
    return {
        "classes": list(ontology.names),
        "words": list(ontology.words),
        "word_class": list(ontology.word_class),
        "templates": list(config.labels.templates),
        "temperature": restored.temperature,
        "head": asdict(restored.head),
        "feature_width": restored.feature_width,
        "feature_dtype": config.encode.feature_dtype,
        "text_width": restored.prototypes.shape[1],
        "grid_hw": list(restored.grid_hw),
        "encoder": {"name": config.encoder.name, **restored.encoders["encoder"]},
        "clip": {name: config.clip[name] for name in ("name", "pretrained")} | {"sha256": clip["sha256"]},
        "step": restored.step,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
    }


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.export`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder that fmbseg_jax.train wrote")
    flags.add_argument("--which", default="best", choices=("best", "latest"), help="checkpoint (default: %(default)s)")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="folder to write to")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
