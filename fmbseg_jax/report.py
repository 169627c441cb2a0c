"""The report: how good the masks are, where they fail and why, as a page that opens from disk without a network.

    python -m fmbseg_jax.report --data=DATA --workdir=RUN --out=FOLDER

Reads DATA, RUN and, while they are where the config says, the photos; no encoder runs. At the top are the figures that
`evaluate` and `quality` wrote; below, for photos of each evaluated and each labelled split, every step from the
picture to its mask. Without truth there are no scores, but the pictures are the same. Writes into FOLDER:

    index.html            the page, with style, script and figures inside
    files/SPLIT-ROW.js    label maps, similarity maps and masks of a photo, which the page loads when it shows them
    files/SPLIT-ROW.jpg   the photo

The page's parts lie in fmbseg_jax/reporting/page/. What comes from outside (names of classes and photos, reasons of
failures) goes into it as JSON alone, and it writes that as text, never as HTML.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax.inference.embedder import Embedder, check_fits
from fmbseg_jax.inference.label_maps import Background
from fmbseg_jax.inference.other_words import Asked, split_words
from fmbseg_jax.reporting.evaluation import class_names, read_tally
from fmbseg_jax.reporting.figures import evaluations, label_figures, sentence, split_figures, training
from fmbseg_jax.reporting.photo_view import Labelling, Look, Looker, payload, script, shown_size, summary
from fmbseg_jax.reporting.readings import HEAD
from fmbseg_jax.runs.checkpoint import Restored, restore_run
from labelgen.core.command import command, parser
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import naming, write_atomic
from labelgen.core.progress import Progress
from labelgen.data.dataset import Dataset, SplitReader
from labelgen.data.records import EvidenceRow, FeatureRow, LabelRow, check_same_photo
from labelgen.data.staging import open_data
from labelgen.data.thumbnail import is_same
from labelgen.formats.exporter import split_source
from labelgen.formats.palette import palette
from labelgen.labels.free_labels import LabelSettings
from labelgen.labels.presence import Calibration, sample
from labelgen.labels.scores import TruthReader
from labelgen.sources.finding import check_apart
from labelgen.sources.photos import Source
from labelgen.sources.registry import photo_folders

PARTS = Path(__file__).parent / "reporting/page"
SCRIPTS = ("dom.js", "charts.js", "maps.js", "photos.js", "detail.js", "main.js")
PHOTOS = 60
Json = dict[str, Any]


def main(args: argparse.Namespace) -> int:
    """Write the page and its files."""
    restored, out = restore_run(args.workdir), Path(args.out)
    data = open_data(args.data, restored.config.get("data_cache", ""))
    check_fits(restored, data)
    check_apart(out, photo_folders(restored.config.photos))
    subject = Subject(data, Path(args.workdir), restored, labelling(data, restored))
    fields = figures(subject, args.oracle and Path(args.oracle))
    clean(out)
    fields["photos"] = [photo for split in subject.splits() for photo in split_photos(subject, split, args.photos, out)]
    write_atomic(out / "index.html", page(fields).encode())
    pictures = sum(photo["picture"] for photo in fields["photos"])
    lost = len(fields["photos"]) - pictures
    without = "" if pictures else ", without the pictures, which are not at photos.root any more"
    if pictures and lost:
        without = f", {lost} of them without the picture, which is not at photos.root any more, or is another one now"
    print(f"wrote {out / 'index.html'}: {len(fields['photos'])} photos{without}; open it in a browser")
    return 0


class Subject(NamedTuple):
    """What the report is about."""

    data: Dataset
    workdir: Path
    restored: Restored
    labelling: Labelling | None

    @property
    def config(self) -> ConfigDict:
        """As RUN was trained."""
        return self.restored.config

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that are counted, the background of a threshold among them."""
        return class_names(self.restored.ontology, self.config.eval.background_threshold)

    def splits(self) -> list[str]:
        """Evaluated splits, unseen photos first, then the labelled ones; all of DATA where there is neither."""
        found = evaluations(self.workdir)
        own = [split for split in found if not found[split]["protocol"]["use"].startswith("unseen")]
        labelled = self.data.labels_info(self.config.labels.name)["splits"] if self.labelling else []
        wanted = dict.fromkeys([*(split for split in found if split not in own), *own, *labelled])
        return [split for split in wanted if split in self.data.splits] or list(self.data.splits)


def labelling(data: Dataset, restored: Restored) -> Labelling | None:
    """How the RUN's labels were made; None where DATA has them no more. UserError when they are of other classes."""
    name = restored.config.labels.name
    if not (data.path / "labels" / name / "labels.json").exists():
        return None
    info, (ontology, prototypes) = data.labels_info(name), data.labels(name)
    if ontology.names != restored.ontology.names:
        raise UserError(
            f"{data.path}/labels/{name}: has other classes than the RUN was trained with; label again with its words, "
            "under another labels.name, or train anew"
        )
    fields = {group: info[group] for group in ("presence", "points", "masks", "merge")}
    settings = LabelSettings.from_config(ConfigDict({"labels": {"variant": info["variant"]}, **fields}))
    scale = Calibration.from_json(data.labels_file(name, "calibration.json"))
    return Labelling(settings, ontology, prototypes, scale)


def figures(subject: Subject, oracle: Path | None) -> Json:
    """Everything above the photos, JSON-able. oracle: a RUN that was trained on truth and evaluated."""
    results, beside = evaluations(subject.workdir), evaluations(oracle) if oracle else {}
    if oracle and not beside:
        raise UserError(f"{oracle}/eval: no figures there; run fmbseg_jax.evaluate with --workdir={oracle}")
    splits = [
        split_figures(subject.workdir, split, results[split], beside.get(split))
        for split in sorted(results, key=lambda s: (not results[s]["protocol"]["use"].startswith("unseen"), s))
    ]
    labels = subject.data.path / "labels" / subject.config.labels.name
    colours = palette(max(256, len(subject.names)))
    words = subject.restored.ontology
    return {
        "data": str(subject.data.path),
        "workdir": str(subject.workdir),
        "step": subject.restored.step,
        "variant": subject.config.labels.variant,
        "classes": [
            {
                "name": name,
                "colour": "#" + colours[i].tobytes().hex(),
                "words": [w for w, c in zip(words.words, words.word_class, strict=True) if c == i],
            }
            for i, name in enumerate(subject.names)
        ],
        "sentence": sentence(splits) if splits else "",
        "splits": splits,
        "labels": label_figures(labels / "quality.json"),
        "training": training(subject.workdir),
        "failures": failures(subject.data.path / "failures.jsonl"),
    }


def failures(path: Path) -> list[Json]:
    """The photos that labelgen.run could not use, or not as they are: file, reason, fix."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def clean(out: Path) -> None:
    """Takes away what an earlier report left in FOLDER, and nothing else."""
    (out / "index.html").unlink(missing_ok=True)
    (out / "files").mkdir(parents=True, exist_ok=True)
    for path in [*out.glob("files/*-*.js"), *out.glob("files/*-*.jpg")]:
        path.unlink()


class Readers(NamedTuple):
    """The readers of a split."""

    features: SplitReader
    evidence: SplitReader
    labels: SplitReader | None
    truth: TruthReader | None

    @staticmethod
    def open(subject: Subject, split: str) -> "Readers":
        """Labels and truth only where the split has them."""
        data, name = subject.data, subject.config.labels.name
        labelled = bool(subject.labelling) and split in data.labels_info(name)["splits"]
        return Readers(
            data.reader("features", split),
            data.reader("evidence", split),
            data.label_reader(name, split) if labelled else None,
            TruthReader(data, split, subject.names, subject.config.eval.truth) if data.has_truth(split) else None,
        )


def split_photos(subject: Subject, split: str, limit: int, out: Path) -> Iterator[Json]:
    """The chosen photos of a split, each written to FOLDER/files; what the page lists of them."""
    readers = Readers.open(subject, split)
    tally = read_tally(subject.workdir / "eval" / f"{split}.npz", HEAD)
    chosen = choose(None if tally is None else tally.miou, len(readers.features), limit)
    families = ["features", "evidence", *(["truth"] if readers.truth else [])]
    families += [f"labels/{subject.config.labels.name}"] if readers.labels else []
    subject.data.stage(split, families, chosen)
    look, embed, source = (
        looker(subject, split),
        Embedder(subject.restored, 1),
        split_source(subject.config.photos, split),
    )
    progress = Progress(len(chosen), "photos", f"report {split}")
    for i in chosen:
        row, evidence = FeatureRow.decode(readers.features[i]), EvidenceRow.decode(readers.evidence[i])
        labels = LabelRow.decode(readers.labels[i]) if readers.labels else None
        truth = readers.truth[i] if readers.truth else None
        check_same_photo(split, i, row.photo_id, evidence.photo_id, *(r.photo_id for r in (labels, truth) if r))
        dense_z = None if look.vocabulary.by_head else embed.dense(row)
        shown = look(embed([row])[0], dense_z, evidence, labels, None if truth is None else truth.label_map)
        image = None if source is None else picture(source, row)
        yield {"key": f"{split}-{i}", "split": split, **write_photo(subject, out, f"{split}-{i}", shown, image)}
        progress.add()
    progress.close()


def looker(subject: Subject, split: str) -> Looker:
    """What looks at the photos of a split."""
    config, threshold = subject.config, subject.config.eval.background_threshold
    settings = subject.labelling.settings if subject.labelling else LabelSettings.from_config(config)
    background = Background(threshold, subject.restored.temperature) if threshold else None
    words = split_words(subject.data, subject.restored, config, split)
    vocabulary = Asked(subject.restored, words.ontology, words.prototypes)
    return Looker(vocabulary, settings, subject.labelling, config.eval.refine_min_iou, background)


def choose(miou: NDArray[np.float32] | None, count: int, limit: int) -> list[int]:
    """Rows of a split to show, at most `limit`: two fifths the worst, two fifths the best, the others evenly between.

    miou: [N] of each photo, NaN where it has no truth; None: evenly over the split.
    """
    if miou is None:
        return sample(count, limit)
    order = np.argsort(miou, kind="stable")[: np.isfinite(miou).sum()].tolist()
    ends = min(len(order), limit) * 2 // 5
    between = [*order[ends : len(order) - ends], *np.flatnonzero(np.isnan(miou)).tolist()]
    rest = min(count, limit) - 2 * ends
    return sorted([*order[:ends], *(between[i] for i in sample(len(between), rest)), *order[len(order) - ends :]])


def write_photo(subject: Subject, out: Path, key: str, look: Look, image: bytes | None) -> Json:
    """The photo's two files; what the page lists of it. The page is written last, so these need not be atomic."""
    classes = len(subject.names)
    files = {"js": script(key, payload(look, classes)).encode()} | ({} if image is None else {"jpg": image})
    for suffix, content in files.items():
        path = out / "files" / f"{key}.{suffix}"
        with naming(path):
            path.write_bytes(content)
    return {**summary(look, classes), "picture": image is not None}


def picture(source: Source, row: FeatureRow) -> bytes | None:
    """The photo as the page shows it, a JPEG; None where it is not there any more or is another one."""
    try:
        image = source.load(row.photo_id).image
    except (PhotoError, KeyError):
        return None
    if not is_same(image, row.size_hw, row.thumbnail):
        return None
    height, width = shown_size(row.size_hw)
    buffer = io.BytesIO()
    Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def page(fields: Mapping[str, Any]) -> str:
    """The whole index.html; fields are what its scripts read."""
    parts = {
        "STYLE": (PARTS / "style.css").read_text(encoding="utf-8"),
        "SCRIPT": "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "DATA": embedded(fields),
    }
    html = (PARTS / "index.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        before, mark, after = html.partition(f"{{{{{name}}}}}")
        html = before + text + after if mark else html
    return html


def embedded(fields: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: no character in it ends the element or opens a comment."""
    text = json.dumps(fields, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.report`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--data", required=True, metavar="DATA", help="folder that labelgen.run wrote")
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder that fmbseg_jax.train wrote")
    flags.add_argument("--oracle", metavar="RUN", help="one that was trained on truth, to compare with")
    flags.add_argument("--photos", type=int, default=PHOTOS, metavar="N", help=f"at most N of each split ({PHOTOS})")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="folder to write to")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
