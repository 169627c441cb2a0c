"""The head of a RUN for people without this code: StableHLO for any JAX, and plain arrays for anything else.

    python -m fmbseg_jax.export --workdir=run --out=exported
    python -m fmbseg_jax.export --workdir=run --out=for_the_hub --to=hub-folder

Writes into FOLDER (docs/export.md says how to use them):

    head.stablehlo      patch features -> unit vectors in CLIP's text space, any batch and grid, on CPU, CUDA and TPU;
                        jax.export.deserialize opens it, with nothing but jax and flatbuffers installed
    head.safetensors    the parameters by name, `prototypes`, the text embeddings of the trained words, and `dense_map`
                        where RUN has one, float32
    head.json           words, temperature, and what makes the features: encoder, its digest, pixels, patches

and, with --to=hub-folder, what else a hub wants, so that `Segmenter.restore("hf://OWNER/NAME")`, `predict`, `serve` and
`connect` take it from there:

    run.json            the settings, without this machine's paths, and the sha256 of head.safetensors
    README.md           a model card: words, figures of RUN/eval, the frozen models with their licences
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import json
import sys
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

from fmbseg_jax.inference.embedder import teachers
from fmbseg_jax.reporting.model_card import card, evaluated
from fmbseg_jax.runs.checkpoint import Restored, restore_run
from fmbseg_jax.runs.published import ABOUT, about_run, dotted
from labelgen.core.command import command, parser
from labelgen.core.errors import UserError
from labelgen.core.files import write_atomic
from labelgen.core.progress import say
from labelgen.core.remote import is_remote

PLATFORMS = ("cpu", "cuda", "tpu")


def main(args: argparse.Namespace) -> int:
    """Writes the three files."""
    restored = restore_run(args.workdir, args.which)
    files = {
        "head.stablehlo": stablehlo(restored),
        "head.safetensors": save(arrays(restored)),
        "head.json": (json.dumps(about(restored), indent=1) + "\n").encode(),
    }
    following = "docs/export.md has examples that read them"
    if args.to == "hub-folder":
        files |= hub_files(args.workdir, restored, files["head.safetensors"])
        following = f"add a licence of your choice to README.md, then hf upload OWNER/NAME {args.out}"
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)
    sizes = ", ".join(f"{name} ({-(-len(data) // 1000)} kB)" for name, data in files.items())
    print(f"wrote {sizes} of step {restored.step} to {folder}; next: {following}")
    return 0


def hub_files(workdir: str, restored: Restored, head: bytes) -> dict[str, bytes]:
    """run.json and README.md; head: the content of head.safetensors. Licences that are not known are said."""
    known = teachers(restored)
    if unknown := [each.name for each in known if not each.licence]:
        say(f"README.md: the licence of {', '.join(unknown)} is not known here; look it up, and write it there")
    figures = [] if is_remote(workdir) else evaluated(workdir)
    if not figures:
        say(f"README.md: no figures, as {workdir} has no eval/; fmbseg_jax.evaluate writes it")
    data = {
        "feature_width": restored.feature_width,
        "text_width": int(restored.prototypes.shape[1]),
        "grid_hw": list(restored.grid_hw),
        "encoders": restored.encoders,
    }
    meta = {
        "config": restored.config.to_dict(),
        "data": data,
        "ontology": restored.ontology.to_json(),
        "step": restored.step,
        "temperature": restored.temperature,
    }
    return {ABOUT: about_run(meta, head), "README.md": card(restored, known, figures).encode()}


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
    """The parameters by dotted name, "project.kernel" [D, E] and so on, `prototypes` [K, E] and, where there is one,
    `dense_map` [D + 1, E]; float32."""
    words = {"prototypes": restored.prototypes, "dense_map": restored.dense_map}
    named = {**dict(dotted(restored.params)), **words}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in named.items() if array is not None}


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
    flags.add_argument("--to", default="files", choices=("files", "hub-folder"), help="(default: %(default)s)")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
