"""What the packages that people use make of an export, and what they write of it: run in their own environment.

tools.round_trips calls `main` there, with WORLD, TOOL and OUT. WORLD has photos/ (the folder that names of pictures
start from), classes.json, and export/ with every format. A tool reads one of them, OUT/maps.npz has what it understood
(NAME -> int32 [H, W] index of classes.json, -1 unlabelled), and OUT/back holds what it wrote by itself, for
--labels_from, where it writes such a format. OUT/version is the package's. Nothing of this project is imported but what
helps torchvision beside a CPU build of torch.
"""

import importlib.util
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Map = NDArray[np.int32]
Maps = dict[str, Map]
UNLABELLED = "__ignore__"
ROOT = Path(__file__).parents[1]


class World:
    """The export, and where a tool may write."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.photos, self.export, self.back, self.scratch = folder / "photos", folder / "export", out / "back", out
        fields = json.loads((folder / "export/classes.json").read_text())
        self.names = [name for name, _ in sorted(fields.items(), key=lambda pair: pair[1]["index"])]
        self.index = {name: i for i, name in enumerate(self.names)} | {UNLABELLED: -1}

    def pairs(self, folder: str, suffix: str) -> Iterable[tuple[str, Path, Path]]:
        """(NAME, the export's file, the picture) of every photo."""
        for file in sorted((self.export / folder).rglob(f"*{suffix}")):
            name = file.relative_to(self.export / folder).as_posix().removesuffix(suffix)
            yield name, file, next((self.photos / "photos").glob(f"{name}.*"))

    def name(self, file: str) -> str:
        """NAME of a picture: its path, whatever stands in front, from the split on."""
        return os.path.splitext(file.replace("\\", "/").rpartition("photos/")[2])[0]


def blank(height: int, width: int) -> Map:
    """A map without a label."""
    return np.full((height, width), -1, np.int32)


def painted(size_hw: tuple[int, int], polygons: Iterable[tuple[int, NDArray[Any]]]) -> Map:
    """Polygons float [n, 2] x, y laid one on the other, along the edges of pixels: COCO's own rule (pycocotools)."""
    mask = import_module("pycocotools.mask")
    label_map = blank(*size_hw)
    for value, points in polygons:
        rle = mask.frPyObjects([np.asarray(points, float).ravel().tolist()], *size_hw)
        label_map[mask.decode(rle)[..., 0] > 0] = value
    return label_map


def of_coco(world: World, module: str) -> Maps:
    """By a class COCO with the interface of pycocotools."""
    coco = import_module(module).COCO(str(world.export / "coco/semantic.json"))
    maps = {}
    for image in coco.loadImgs(coco.getImgIds()):
        label_map = blank(image["height"], image["width"])
        for annotation in coco.loadAnns(coco.getAnnIds([image["id"]])):
            mask = np.asarray(coco.annToMask(annotation)).astype(bool)
            assert mask.sum() == annotation["area"]
            label_map[mask] = world.index[coco.loadCats([annotation["category_id"]])[0]["name"]]
        maps[world.name(image["file_name"])] = label_map
    return maps


def pycocotools(world: World) -> Maps:
    """The masks; back: encoded again by its own encoder, as a json of instances."""
    maps = of_coco(world, "pycocotools.coco")
    mask = import_module("pycocotools.mask")
    read = json.loads((world.export / "coco/semantic.json").read_text())
    for annotation in read["annotations"]:
        rle = mask.encode(np.asfortranarray(mask.decode(annotation["segmentation"])))
        annotation["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        annotation["bbox"] = mask.toBbox(rle).tolist()
    world.back.mkdir()
    (world.back / "instances.json").write_text(json.dumps(read))
    return maps


def faster_coco_eval(world: World) -> Maps:
    """The masks; and its evaluation of the export against itself."""
    module = import_module("faster_coco_eval")
    truth = module.COCO(str(world.export / "coco/semantic.json"))
    found = [{**annotation, "score": 1.0} for annotation in truth.loadAnns(truth.getAnnIds())]
    judged = module.COCOeval_faster(truth, truth.loadRes(found), iouType="segm")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == 1
    return of_coco(world, "faster_coco_eval")


def panopticapi(world: World) -> Maps:
    """The segments of panoptic.json; and pq_compute of the export against itself."""
    file = world.export / "coco/panoptic.json"
    scores = import_module("panopticapi.evaluation").pq_compute(str(file), str(file))
    assert [scores[kind]["pq"] for kind in ("All", "Things", "Stuff")] == [1, 1, 1]
    read, maps = json.loads(file.read_text()), {}
    names = {category["id"]: world.index[category["name"]] for category in read["categories"]}
    for annotation in read["annotations"]:
        pixels = np.asarray(Image.open(file.with_suffix("") / annotation["file_name"]), np.uint32)
        ids = import_module("panopticapi.utils").rgb2id(pixels)
        label_map = blank(*ids.shape)
        for segment in annotation["segments_info"]:
            label_map[ids == segment["id"]] = names[segment["category_id"]]
        maps[world.name(annotation["file_name"])] = label_map
    return maps


def supervision_coco(world: World) -> Maps:
    """A DetectionDataset of semantic.json; back: as_coco."""
    data = import_module("supervision").DetectionDataset.from_coco(
        str(world.photos), str(world.export / "coco/semantic.json"), force_masks=True
    )
    world.back.mkdir()
    data.as_coco(annotations_path=str(world.back / "instances.json"))
    return of_detections(world, data)


def supervision_yolo(world: World) -> Maps:
    """A DetectionDataset of data.yaml and the labels of train."""
    data = import_module("supervision").DetectionDataset.from_yolo(
        str(world.photos / "photos/train"),
        str(world.export / "yolo/labels/train"),
        str(world.export / "yolo/data.yaml"),
        force_masks=True,
    )
    return of_detections(world, data)


def of_detections(world: World, data: Any) -> Maps:
    """Masks in their order."""
    maps = {}
    for path, image, found in data:
        label_map = blank(*image.shape[:2])
        for mask, number in zip(found.mask, found.class_id, strict=True):
            label_map[np.asarray(mask).astype(bool)] = world.index[data.classes[number]]
        maps[world.name(path)] = label_map
    return maps


def mend_torchvision() -> None:
    """See labelgen.models.torchvision_shim."""
    spec: Any = importlib.util.spec_from_file_location("shim", ROOT / "labelgen/models/torchvision_shim.py")
    shim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shim)
    shim.install()


def torchvision(world: World) -> Maps:
    """A CocoDetection over the photos."""
    mend_torchvision()
    kind = import_module("torchvision.datasets").CocoDetection
    data = kind(str(world.photos), str(world.export / "coco/semantic.json"))
    maps = {}
    for i in range(len(data)):
        image, annotations = data[i]
        label_map = blank(image.height, image.width)
        for annotation in annotations:
            name = data.coco.loadCats([annotation["category_id"]])[0]["name"]
            label_map[data.coco.annToMask(annotation).astype(bool)] = world.index[name]
        maps[world.name(data.coco.loadImgs([data.ids[i]])[0]["file_name"])] = label_map
    return maps


def mask2former(world: World) -> Maps:
    """The image processor that Mask2Former is trained with, on the PNGs; the photo is neither resized nor scaled."""
    mend_torchvision()
    kind = import_module("transformers.models.mask2former.image_processing_pil_mask2former")
    processor = kind.Mask2FormerImageProcessorPil(
        do_resize=False, do_rescale=False, do_normalize=False, ignore_index=255, num_labels=len(world.names)
    )
    maps = {}
    for name, file, picture in world.pairs("masks", ".png"):
        image, mask = np.asarray(Image.open(picture).convert("RGB")), np.asarray(Image.open(file))
        made = processor(images=[image], segmentation_maps=[mask], return_tensors="np")
        label_map = blank(*mask.shape)
        for piece, number in zip(np.asarray(made["mask_labels"][0]), np.asarray(made["class_labels"][0]), strict=True):
            label_map[piece[: mask.shape[0], : mask.shape[1]] > 0] = int(number)
        maps[name] = label_map
    return maps


def labelme(world: World) -> Maps:
    """LabelMe's own reading and drawing; back: saved again by LabelMe."""
    module, draw = import_module("labelme._label_file"), import_module("labelme.utils")
    maps = {}
    for name, file, picture in world.pairs("labelme", ".json"):
        read = module.read_label_file(str(file))
        assert (file.parent / read.image_path).samefile(picture)
        width, height = Image.open(picture).size
        label_map = blank(height, width)
        for shape in read.shapes:
            mask = draw.shape_to_mask((height, width), shape["points"], shape["shape_type"])
            label_map[mask] = world.index[shape["label"]]
        maps[name] = label_map
        written = world.back / f"{name}.json"
        written.parent.mkdir(parents=True, exist_ok=True)
        shapes = [{key: value for key, value in shape.items() if key != "other_data"} for shape in read.shapes]
        sizes = {"image_height": height, "image_width": width}
        module.write_label_file(str(written), shapes=shapes, image_path=read.image_path, flags=read.flags, **sizes)
    return maps


def ultralytics(world: World) -> Maps:
    """Labels that Ultralytics accepts, drawn along the edges of pixels."""
    return of_ultralytics(world, lambda size_hw, numbers, rings: painted(size_hw, zip(numbers, rings, strict=True)))


def ultralytics_drawn(world: World) -> Maps:
    """The same, drawn by Ultralytics as for training with overlap."""

    def draw(size_hw: tuple[int, int], numbers: list[int], rings: list[NDArray[Any]]) -> Map:
        masks, order = import_module("ultralytics.data.utils").polygons2masks_overlap(size_hw, rings)
        label_map: Map = np.array([-1, *(numbers[i] for i in order)], np.int32)[masks]
        return label_map

    return of_ultralytics(world, draw)


def of_ultralytics(world: World, draw: Callable[[tuple[int, int], list[int], list[NDArray[Any]]], Map]) -> Maps:
    """By its own check of a label file, which must refuse none."""
    verify, maps = import_module("ultralytics.data.utils").verify_image_label, {}
    for name, file, picture in world.pairs("yolo/labels", ".txt"):
        arguments = (str(picture), str(file), "", False, len(world.names), 0, 0, False)
        _, boxes, size_hw, rings, _, _, _, _, corrupt, message = verify(arguments)
        assert not corrupt and not message, message
        rings = [ring * np.array(size_hw[::-1]) for ring in rings]
        maps[name] = draw(tuple(size_hw), [int(value) for value in boxes[:, 0]], rings)
    return maps


def datumaro(kind: str, written: str) -> Callable[[World], Maps]:
    """Reads format `kind`; back: the same in format `written`."""

    def read(world: World) -> Maps:
        data = import_module("datumaro").Dataset.import_from(str(arranged(world, kind)), kind)
        data.export(str(world.back), written, save_media=written.startswith("voc"))
        return of_datumaro(world, data)

    return read


def arranged(world: World, kind: str) -> Path:
    """The export in the folders in which datumaro looks for a format."""
    folder, export = world.scratch / "arranged", world.export
    (folder / "annotations").mkdir(parents=True)
    shutil.copytree(world.photos / "photos", folder / "images/photos")
    if kind == "cvat":
        shutil.copy(export / "cvat/annotations.xml", folder)
        return folder
    what = "panoptic" if kind == "coco_panoptic" else "semantic"
    known = "panoptic" if kind == "coco_panoptic" else "instances"
    (folder / f"annotations/{known}_train.json").symlink_to(export / f"coco/{what}.json")
    if kind == "coco_panoptic":
        (folder / "annotations/panoptic_train").symlink_to(export / "coco/panoptic")
    return folder


def of_datumaro(world: World, data: Any) -> Maps:
    """Masks and polygons by their z_order."""
    labels, maps = data.categories()[import_module("datumaro").AnnotationType.label], {}
    for item in data:
        height, width = item.media.size if item.media else item.attributes["size"]
        label_map = blank(height, width)
        pieces = [piece for piece in item.annotations if piece.type.name in ("polygon", "mask")]  # not their boxes
        for piece in sorted(pieces, key=lambda piece: piece.z_order):
            value = world.index[labels[piece.label].name]
            if hasattr(piece, "points"):
                here = painted((height, width), [(1, np.reshape(piece.points, (-1, 2)))]) > 0
            else:
                here = np.asarray(piece.image).astype(bool)
            label_map[here] = value
        maps[world.name(f"photos/train/{Path(item.id).name}")] = label_map
    return maps


def task_of(
    world: World, name: str, size_hw: tuple[int, int], kind: str, values: list[dict[str, Any]]
) -> dict[str, Any]:
    """A task of Label Studio's with an annotation; values: of its regions, of one kind: brushlabels, polygonlabels."""
    size = {"original_width": size_hw[1], "original_height": size_hw[0], "image_rotation": 0}
    regions = [{"from_name": "l", "to_name": "i", "type": kind, **size, "value": value} for value in values]
    number = int(Path(name).name)
    annotation = {"id": number, "result": regions, "was_cancelled": False, "completed_by": 1}
    return {"id": number, "data": {"image": f"/data/upload/1/1a2b3c4d-{name}.png"}, "annotations": [annotation]}


def brushes(world: World, name: str, file: Path) -> tuple[dict[str, Any], Map]:
    """A task with a brush for each class of a photo, packed by Label Studio's own encoder; and what it unpacks."""
    brush, values = import_module("label_studio_sdk.converter.brush"), np.asarray(Image.open(file)).astype(np.int32)
    label_map, regions = blank(*values.shape), []
    for value in sorted(set(np.unique(values).tolist()) - {255}):
        runs = brush.mask2rle(((values == value) * 255).astype(np.uint8))
        label_map[np.reshape(brush.decode_rle(runs), (*values.shape, 4))[..., 3] > 0] = value
        regions.append({"format": "rle", "rle": runs, "brushlabels": [world.names[value]]})
    return task_of(world, name, label_map.shape, "brushlabels", regions), label_map


def label_studio_brush(world: World) -> Maps:
    """A brush for each class of a photo; back: its tasks as JSON."""
    maps, tasks = {}, []
    for name, file, _ in world.pairs("masks", ".png"):
        task, maps[name] = brushes(world, name, file)
        tasks.append(task)
    world.back.mkdir()
    (world.back / "project.json").write_text(json.dumps(tasks))
    return maps


def label_studio_png(world: World) -> Maps:
    """The same brushes by its converter's PNGs; back: these with the tasks they are of beside them, a file each."""
    maps, kind = {}, import_module("label_studio_sdk.converter").Converter
    world.back.mkdir()
    for name, file, _ in world.pairs("masks", ".png"):
        task, label_map = brushes(world, name, file)
        (world.back / f"{task['id']}.json").write_text(json.dumps(task))
        (world.scratch / "one.json").write_text(json.dumps([task]))
        made = world.scratch / f"png-{task['id']}"
        made.mkdir()
        converter = kind(view(world, "BrushLabels"), str(world.scratch), download_resources=False)
        converter.convert(str(world.scratch / "one.json"), str(made), "BRUSH_TO_PNG", is_dir=False)
        maps[name] = blank(*label_map.shape)
        for png in made.glob("*.png"):
            label = png.stem.partition("-l-")[2].rpartition("-")[0]
            maps[name][np.asarray(Image.open(png)) > 0] = world.index[label]
            shutil.copy(png, world.back)
    return maps


def view(world: World, control: str) -> str:
    """A labelling interface with every class."""
    values = "".join(f'<Label value="{name}"/>' for name in world.index)
    return f'<View><Image name="i" value="$image"/><{control} name="l" toName="i">{values}</{control}></View>'


def polygon_tasks(world: World) -> tuple[list[dict[str, Any]], Maps]:
    """The polygons of cvat/annotations.xml as tasks of Label Studio, and as they are painted."""
    root, maps = ElementTree.parse(world.export / "cvat/annotations.xml").getroot(), {}
    tasks: list[dict[str, Any]] = []
    for image in root.iterfind("image"):
        width, height = int(image.attrib["width"]), int(image.attrib["height"])
        values, drawn = [], []
        for polygon in sorted(image.iterfind("polygon"), key=lambda piece: int(piece.attrib["z_order"])):
            points = np.array([pair.split(",") for pair in polygon.attrib["points"].split(";")], float)
            label = polygon.attrib["label"]
            drawn.append((world.index[label], points))
            shares = (points * 100 / [width, height]).tolist()
            values.append({"points": shares, "closed": True, "polygonlabels": [label]})
        name = world.name(image.attrib["name"])
        maps[name] = painted((height, width), drawn)
        tasks.append(task_of(world, name, (height, width), "polygonlabels", values))
        tasks[-1]["data"]["image"] = image.attrib["name"]
    (world.scratch / "tasks.json").write_text(json.dumps(tasks))
    return tasks, maps


def label_studio_polygons(world: World) -> Maps:
    """Polygons as tasks of Label Studio; back: its converter's COCO."""
    _, maps = polygon_tasks(world)
    kind = import_module("label_studio_sdk.converter").Converter
    converter = kind(view(world, "PolygonLabels"), str(world.scratch), download_resources=False)
    converter.convert_to_coco(str(world.scratch / "tasks.json"), str(world.back), is_dir=False)
    return maps


def label_studio_json(world: World) -> Maps:
    """Polygons as tasks of Label Studio; back: these tasks."""
    tasks, maps = polygon_tasks(world)
    world.back.mkdir()
    (world.back / "project.json").write_text(json.dumps(tasks))
    return maps


def label_studio_yolo(world: World) -> Maps:
    """Polygons as tasks of Label Studio; what its converter's YOLO has of them, along the edges of pixels."""
    _, maps = polygon_tasks(world)
    kind, made = import_module("label_studio_sdk.converter").Converter, world.scratch / "yolo"
    converter = kind(view(world, "PolygonLabels"), str(world.scratch), download_resources=False)
    converter.convert_to_yolo(str(world.scratch / "tasks.json"), str(made), is_dir=False)
    names, found = (made / "classes.txt").read_text().split("\n"), {}
    for name, label_map in maps.items():
        size_hw, drawn = label_map.shape, []
        for line in next(made.glob(f"labels/*{Path(name).name}.txt")).read_text().splitlines():
            number, *points = line.split()
            ring = np.array(points, float).reshape(-1, 2) * size_hw[::-1]
            drawn.append((world.index[names[int(number)]], ring))
        found[name] = painted(size_hw, drawn)
    return found


def labelme_shapes(world: World) -> Maps:
    """A shape of each other kind of LabelMe's on each photo, drawn by LabelMe; back: its file of them."""
    module, draw = import_module("labelme._label_file"), import_module("labelme.utils")
    rng, maps = np.random.default_rng(0), {}
    for name, file, _ in world.pairs("masks", ".png"):
        values = np.asarray(Image.open(file))
        height, width = values.shape
        left, top = int(rng.integers(4, width // 8)), int(rng.integers(4, height // 8))
        right, bottom = left + width // 3, top + height // 3
        ring = [[width * 0.7, top], [width * 0.9, top + 20], [width * 0.8, top + 40], [width * 0.6, top + 20]]
        part = values[height // 2 : height - 2, 2 : width // 2] == values[height // 2, 2]
        corners = [[2, height // 2], [width // 2 - 1, height - 3]]
        shapes = [
            (0, "rectangle", [[left, top], [right, bottom]], None),
            (1, "oriented_rectangle", ring, None),
            (2, "circle", [[width * 0.75, height * 0.75], [width * 0.75, height * 0.6]], None),
            (3, "mask", corners, part),
        ]
        label_map, written = blank(height, width), []
        for value, kind, points, mask in shapes:
            if mask is None:
                label_map[draw.shape_to_mask((height, width), points, kind)] = value
            else:
                label_map[height // 2 : height - 2, 2 : width // 2][mask] = value
            packed = None if mask is None else draw.img_arr_to_b64(mask.astype(np.uint8))
            shape = {"label": world.names[value], "points": points, "shape_type": kind, "flags": {}, "mask": packed}
            written.append({**shape, "description": "", "group_id": None})
        maps[name] = label_map
        path = world.back / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes = {"image_height": height, "image_width": width}
        module.write_label_file(str(path), shapes=written, image_path=f"{Path(name).name}.png", flags={}, **sizes)
    return maps


TOOLS: dict[str, tuple[str, Callable[[World], Maps]]] = {
    "pycocotools": ("pycocotools", pycocotools),
    "faster-coco-eval": ("faster-coco-eval", faster_coco_eval),
    "torchvision": ("torchvision", torchvision),
    "panopticapi": ("panopticapi", panopticapi),
    "supervision-coco": ("supervision", supervision_coco),
    "supervision-yolo": ("supervision", supervision_yolo),
    "datumaro-coco": ("datumaro", datumaro("coco", "coco_instances")),
    "datumaro-panoptic": ("datumaro", datumaro("coco_panoptic", "coco_panoptic")),
    "datumaro-cvat": ("datumaro", datumaro("cvat", "cvat")),
    "datumaro-voc": ("datumaro", datumaro("coco", "voc_segmentation")),
    "ultralytics": ("ultralytics", ultralytics),
    "ultralytics-drawn": ("ultralytics", ultralytics_drawn),
    "labelme": ("labelme", labelme),
    "labelme-shapes": ("labelme", labelme_shapes),
    "label-studio-brush": ("label-studio-sdk", label_studio_brush),
    "label-studio-png": ("label-studio-sdk", label_studio_png),
    "label-studio-polygons": ("label-studio-sdk", label_studio_polygons),
    "label-studio-json": ("label-studio-sdk", label_studio_json),
    "label-studio-yolo": ("label-studio-sdk", label_studio_yolo),
    "mask2former": ("transformers", mask2former),
}
"""Name -> (package, what it does)."""


def main(folder: str, tool: str, to: str) -> None:
    """Writes OUT/maps.npz, OUT/version and maybe OUT/back."""
    out = Path(to)
    package, read = TOOLS[tool]
    maps = read(World(Path(folder), out))
    with open(out / "maps.npz", "wb") as file:
        np.savez(file, **maps)  # type: ignore[arg-type]
    (out / "version").write_text(version(package))
