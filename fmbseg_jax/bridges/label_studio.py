"""A RUN, or the labels of a DATA, as a machine learning backend of Label Studio, by its own SDK (label-studio-ml).

    label-studio-ml start FOLDER -p 9090          # FOLDER: what `python -m fmbseg_jax.connect --to=label-studio` wrote

Asked for predictions it answers with brushes where the labelling interface has BrushLabels, else with polygons in the
order to paint them where it has PolygonLabels. Classes are matched by name (or `predicted_values`); those that the
interface lacks are left out, and said. Annotations that Label Studio sends back, once a person submitted or changed
them, are kept as FOLDER/corrections/TASK.json, which `labelgen.run --labels_from=FOLDER/corrections` takes.
"""

import argparse
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from fmbseg_jax.bridges.answers import Answer, Labeller, colours, open_labeller, package
from labelgen.core.files import write_json
from labelgen.core.ontology import UNLABELLED
from labelgen.core.progress import say
from labelgen.formats.regions import outlines
from labelgen.sources.decoding import read_photo
from labelgen.sources.label_studio import picture_name

INSTALL = "git+https://github.com/HumanSignal/label-studio-ml-backend"
CONTROLS = ("BrushLabels", "PolygonLabels")
MAX_PIXELS = 100_000_000


def interface(names: Sequence[str], control: str) -> str:
    """The labelling interface (xml) of a project with these classes; control: one of CONTROLS."""
    labels = zip([*names, UNLABELLED], [*colours(names), "#ffffff"], strict=True)
    lines = [f"    <Label value={quoteattr(name)} background={quoteattr(colour)}/>" for name, colour in labels]
    return "\n".join(
        [
            "<View>",
            '  <Image name="image" value="$image" zoom="true"/>',
            f'  <{control} name="label" toName="image">',
            *lines,
            f"  </{control}>",
            "</View>\n",
        ]
    )


def wsgi_file(arguments: Mapping[str, Any]) -> str:
    """The text of _wsgi.py, which `label-studio-ml start` runs; arguments: of `application`."""
    return (
        '"""Started by label-studio-ml start FOLDER -p 9090, or by any WSGI server as _wsgi:app."""\n\n'
        "from pathlib import Path\n\n"
        "from fmbseg_jax.bridges import label_studio\n\n"
        f"ARGUMENTS = {dict(arguments)!r}\n\n"
        'app = label_studio.application(Path(__file__).parent / "corrections", **ARGUMENTS)\n\n'
        "if __name__ == '__main__':\n"
        "    label_studio.serve(app)\n"
    )


def application(corrections: Path, **arguments: Any) -> Any:
    """The WSGI application, by label_studio_ml.api.init_app; arguments: of answers.open_labeller.

    UserError where one of them is wrong, and where label-studio-ml is not installed.
    """
    api = package("label_studio_ml.api", INSTALL)
    return api.init_app(backend(open_labeller(**arguments), corrections))


def serve(app: Any) -> None:
    """What label-studio-ml's own _wsgi.py does of its flags: --host and --port."""
    flags = argparse.ArgumentParser(epilog="a password: BASIC_AUTH_USER and BASIC_AUTH_PASS of the environment")
    flags.add_argument("--host", default="127.0.0.1", help="(default: %(default)s, this machine only)")
    flags.add_argument("-p", "--port", type=int, default=9090)
    args = flags.parse_args()
    app.run(host=args.host, port=args.port)


def backend(labeller: Labeller, corrections: Path) -> Any:
    """The subclass of LabelStudioMLBase that answers by this labeller and keeps corrections in this folder."""
    base = package("label_studio_ml.model", INSTALL).LabelStudioMLBase
    response = package("label_studio_ml.response", INSTALL).ModelResponse

    class Backend(base):  # type: ignore[misc, valid-type]
        """See the module."""

        def setup(self) -> None:
            """Says which model it is."""
            self.set("model_version", labeller.version)

        def predict(self, tasks: Sequence[Mapping[str, Any]], context: Any = None, **more: Any) -> Any:
            """A prediction a task; one without regions where its picture cannot be answered, which is said."""
            control, to, value = self.get_first_tag_occurence(CONTROLS, "Image")
            kind = self.label_interface.get_control(control).tag
            labels = self.build_label_map(control, [*labeller.names, UNLABELLED])
            missing = [name for name in labeller.names if name not in labels]
            if missing:
                say(f"not in the labelling interface, left out: {', '.join(missing)}")
            answers = [self._answer(task, value) for task in tasks]
            made = [_prediction(found, kind, labels, control, to) for found in answers]
            return response(predictions=made, model_version=labeller.version)

        def _answer(self, task: Mapping[str, Any], value: str) -> Answer | None:
            url = task["data"][value]
            try:
                path = Path(self.get_local_path(url, task_id=task.get("id")))
                return labeller(picture_name(url), Image.fromarray(read_photo(path, MAX_PIXELS)))
            except Exception as error:  # of many kinds: networks, codecs; one picture must not end the server
                say(f"task {task.get('id')}: {url}: {error}")
                return None

        def fit(self, event: str, data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
            """Keeps, or takes away, what a person drew."""
            return keep(corrections, event, data)

    return Backend


_WRITING = threading.Lock()


def keep(corrections: Path, event: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Writes corrections/TASK.json of an annotation that came or changed, without the one that was deleted.

    data: what Label Studio's webhook sends. What is said of it, JSON-able.
    """
    if not event.startswith("ANNOTATION_"):
        return {"said": "nothing is trained here: label with --labels_from, then train"}
    task, annotation = data["task"], data["annotation"]
    path = corrections / f"{int(task['id'])}.json"
    with _WRITING:
        before = json.loads(path.read_text())["annotations"] if path.is_file() else []
        others = [each for each in before if each["id"] != annotation["id"]]
        now = [*others, annotation] if event != "ANNOTATION_DELETED" else others
        corrections.mkdir(parents=True, exist_ok=True)
        if now:
            write_json(path, {"id": task["id"], "data": task["data"], "annotations": now})
        else:
            path.unlink(missing_ok=True)
    said = f"{len(now)} annotations of task {task['id']} in {path}"
    say(said)
    return {"said": said}


def _prediction(found: Answer | None, *where: Any) -> dict[str, Any]:
    """Of an answer, without regions where there is none; where: what `_regions` takes."""
    if found is None:
        return {"result": [], "score": 0.0}
    sure = list(found.confidence.values())
    return {"result": list(_regions(found, *where)), "score": float(np.mean(sure)) if sure else 0.0}


def _regions(found: Answer, kind: str, labels: Mapping[str, str], control: str, to: str) -> Iterator[dict[str, Any]]:
    """Results in Label Studio's form. kind: of CONTROLS; labels: class -> label of the interface."""
    height, width = found.label_map.shape
    frame = {"from_name": control, "to_name": to, "original_width": width, "original_height": height}
    frame |= {"image_rotation": 0, "type": kind.lower()}
    if kind.lower() == "brushlabels":
        encode = package("label_studio_sdk.converter.brush", INSTALL).mask2rle
        for piece in found.pieces():
            if piece.name in labels:
                runs = encode(piece.mask.astype(np.uint8) * 255)
                value = {"format": "rle", "rle": runs, "brushlabels": [labels[piece.name]]}
                yield {**frame, "id": f"class{piece.value}", "score": piece.confidence, "value": value}
        return
    for number, region in enumerate(outlines(found.label_map).regions):
        name = found.names[region.value] if region.value >= 0 else UNLABELLED
        if name in labels:
            points = (region.ring_xy * 100 / np.array([width, height])).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [labels[name]]}
            yield {**frame, "id": f"region{number}", "score": found.confidence.get(region.value, 0.0), "value": value}
