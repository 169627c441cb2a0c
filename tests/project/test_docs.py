"""Every command line of the README and of docs/ is run as it stands there, shrunk, or is named here with a reason.

What is put in place of the reader's own: `my_photos` and the other folders hold a few scenes of the pocket world, VOC's
tree too; every command with a config gets SMALL added, so that the miniature models stand in for the real ones and few
steps are trained; labelgen.run takes PHOTOS of a split. Files that a page has the reader write are written as it says.
"""

import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelgen.core.command import command
from labelgen.core.config import load_config
from pocket.scenes import draw
from tests.worlds.paths import ROOT

PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")])
HEADS = ("python", "python3", "make", "pip", "bash", "aws", "gcloud")
NOT_RUN = {
    "python -m labelgen.features": "goes on from the DATA of another block; tests/labelgen/test_features.py runs it",
    "make ": "installs a virtual environment from a package index; the commands in it are run by .ci/run",
    "bash .ci/run": "runs these tests",
    "python3 -m venv": "installs; .ci/venv does the same",
    "pip install": "installs, some of it for a GPU, a TPU or an object store",
    "aws s3 sync": "needs a bucket; tests/labelgen/data/test_s3.py has a server in its place",
    "gcloud storage": "needs a bucket",
    "python -m labelgen.fetch": "fetches gigabytes; tests/labelgen/test_fetch.py runs it against a local server",
    "python -m benchmarks.": "takes minutes to hours; tests/benchmarks/test_benchmarks.py runs them small",
    "python -m tools.round_trips": "installs other packages (3 GB); tests/project/test_round_trips.py runs its parts",
    "python -m tools.bridges": "installs the tools (2 GB) and runs tests/fmbseg_jax/bridges with them",
    "python -m tools.fuzz": "wants Atheris and minutes; tests/project/test_reliability.py has every reader read",
    "python -m tools.mutants": "wants Cosmic Ray and minutes; tests/project/test_reliability.py",
    "python -m fmbseg_jax.connect": "names what the reader has; tests/fmbseg_jax/bridges runs it for both tools",
    "python -m fmbseg_jax.rehearse": "takes compilers that tests have beside them; tests/fmbseg_jax/test_rehearse.py",
    "python -m fmbseg_jax.serve": "serves until it is stopped; tests/fmbseg_jax/test_serve_command.py runs it",
    **dict.fromkeys(
        (
            "python -m fmbseg_jax.predict --workdir=run --picture=field.tif",
            "python -m fmbseg_jax.predict --workdir=run --video=clip.mp4",
            "python -m labelgen.tiles --picture=field.tif",
        ),
        "needs a large picture, or a video; tests/fmbseg_jax/test_predict_large.py runs the page",
    ),
    **dict.fromkeys(
        (
            "python -m fmbseg_jax.export --workdir=run --out=exported",
            "python -m fmbseg_jax.export --workdir=RUN --out=FOLDER --to=hub-folder",
            "python -m fmbseg_jax.report --data=DATA",
            "python -m fmbseg_jax.predict --workdir=RUN --photos=FOLDER",
            "python -m fmbseg_jax.train --config=CONFIG",
            "python -m labelgen.export --config=CONFIG",
            "python -m labelgen.run --config=CONFIG",
        ),
        "names what the reader has; the tutorial runs the same",
    ),
}
POCKET = load_config(str(ROOT / "configs/pocket.py"))
SMALL = [
    "weights_dir=pocket/weights",
    *(f"{group}.{name}={POCKET[group][name]}" for group in ("clip", "sam", "encoder")
      for name in ("name", "pretrained", "weights", "short_side_px", "window_px", "stride_px", "size_px")
      if name in POCKET[group] and not (group == "encoder" and name in ("window_px", "stride_px"))),
    "clip.crop_scales=1",
    "sam.points_per_side=4",
    "sam.pred_iou_threshold=0.6",
    "sam.stability_threshold=0.4",
    "train.steps=2",
    "train.warmup_steps=1",
    "train.batch_size=4",
    "train.virtual_shards=4",
]  # fmt: skip
PHOTOS = 5
"""Enough for a batch over the four devices that tests have, and one to spare."""

PAGES_BY_BLOCK = ("README.md", "docs/datasets.md")
WHOLE_PAGES = ("docs/tutorial.md", "docs/troubleshooting.md")  # the second goes on where the first ends


def blocks(page: str) -> Iterator[str]:
    """Blocks of code: indented by four, or fenced."""
    text = (ROOT / page).read_text()
    for fenced, indented in re.findall(r"^```\w*\n((?:.*\n)*?)```|((?:^    .*\n)+)", text, re.MULTILINE):
        yield fenced or re.sub(r"^    ", "", indented, flags=re.MULTILINE)


def commands(block: str) -> list[str]:
    """The command lines of a block, without their comments."""
    lines = [line.split("  #")[0].strip() for line in block.splitlines()]
    return [" ".join(line.split()) for line in lines if line.split(" ")[0] in HEADS]


def inline(page: str) -> list[str]:
    """Command lines within a sentence; a command's name alone is none."""
    text = re.sub(r"^```(?:.*\n)*?```|^    .*\n", "", (ROOT / page).read_text(), flags=re.MULTILINE)
    lines = [" ".join(line.split()) for line in re.findall(rf"`((?:{'|'.join(HEADS)})\s[^`]+)`", text)]
    return [line for line in lines if not re.fullmatch(r"python -m [\w.]+", line)]


def reason_not_to_run(line: str) -> str | None:
    return next((reason for head, reason in NOT_RUN.items() if line.startswith(head)), None)


def test_every_reason_is_still_needed() -> None:
    lines = [line for page in PAGES for line in [*inline(page), *chain.from_iterable(map(commands, blocks(page)))]]
    assert [head for head in NOT_RUN if not any(line.startswith(head) for line in lines)] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_stands_in_a_sentence_or_in_other_pages_is_not_run_for_a_reason(page: str) -> None:
    lines = inline(page)
    if page not in (*PAGES_BY_BLOCK, *WHOLE_PAGES):
        lines += chain.from_iterable(map(commands, blocks(page)))
    assert [line for line in lines if not reason_not_to_run(line)] == []


def anchors(page: Path) -> set[str]:
    """What a link may name behind #: the headings, as they are on the web."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```(?:.*\n)*?```", "", page.read_text(), flags=re.M), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if not link.startswith(("http://", "https://")):
            name, _, anchor = link.partition("#")
            target = (ROOT / page).parent / name if name else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_index_names_each_page_once_with_a_line() -> None:
    lines = re.findall(r"^- \[\S+\]\((\S+)\): .+", (ROOT / "docs/README.md").read_text(), re.MULTILINE)
    named = sorted(str((ROOT / "docs" / name).resolve().relative_to(ROOT)) for name in lines)
    assert named == [page for page in PAGES if page != "docs/README.md"]


def in_configs() -> list[str]:
    texts = [path.read_text().split('"""')[1] for path in sorted((ROOT / "configs").glob("*.py"))]
    return sorted({line for text in texts for line in commands(text)})


def test_commands_that_are_not_run_have_options_that_there_are() -> None:
    lines = [line for page in PAGES for line in [*inline(page), *chain.from_iterable(map(commands, blocks(page)))]]
    ours = [line for line in [*lines, *in_configs()] if line.startswith("python -m")]
    assert len(ours) > 40
    for line in ours:
        name, *arguments = shlex.split(line)[2:]
        known = importlib.import_module(name).arguments()._option_string_actions
        options = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
        assert [o for o in options if o not in known and not o.startswith("--config.")] == [], line


def scenes(folder: Path, count: int, kind: str = "photo", suffix: str = "png", start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        pixels = getattr(draw(0, index, "train"), kind)
        # my_photos.txt has seven classes
        Image.fromarray(pixels % 7 if kind == "mask" else pixels).save(folder / f"{index}.{suffix}")


@pytest.fixture(scope="module", name="reader")
def reader_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: the project, photos, annotated ones, VOC."""
    home = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "configs", home / "configs")
    (home / "pocket").symlink_to(ROOT / "pocket")
    scenes(home / "my_photos/plain", PHOTOS)
    scenes(home / "my_photos/annotated", 2, start=5)
    scenes(home / "my_photos/masks", 2, "mask", start=5)
    scenes(home / "other_photos", 1, start=6)
    voc = home / "VOCdevkit/VOC2012"
    scenes(voc / "JPEGImages", PHOTOS, suffix="jpg")
    scenes(voc / "SegmentationClass", PHOTOS, "mask")
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    for split in ("train", "val"):
        (voc / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{i}\n" for i in range(PHOTOS)))
    (home / "other_words.txt").write_text("lawn\nsphere: sphere, globe\n")
    as_told = [block for block in blocks("docs/tutorial.md") if block.startswith("config.photos.splits")]
    own = (home / "configs/my_photos.py").read_text()
    written = "".join(f"    {line}\n" for line in as_told[0].splitlines())
    (home / "configs/my_annotated.py").write_text(own.replace("    return config", f"{written}    return config"))
    return home


def run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a line as its process would; what it printed."""
    name, *arguments = shlex.split(line)[2:]
    module = importlib.import_module(name)
    if any(argument.startswith("--config=") for argument in arguments):
        arguments += [f"--config.{field}" for field in SMALL]
    arguments += [f"--limit={PHOTOS}"] if name == "labelgen.run" and "--stage=label" not in arguments else []
    arguments += [f"--train={PHOTOS}", "--eval=2", "--held_out=2"] if name == "pocket.scenes" else []
    code = command(module.main, module.arguments(), arguments)
    said = capsys.readouterr()
    assert code == 0, f"{line}\n{said.err}"
    return said.out


def follow(folder: Path, reader: Path, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(reader, folder, symlinks=True, dirs_exist_ok=True)
    for line in lines:
        if not reason_not_to_run(line):
            assert re.search(r"^(wrote|ready|trained|data|.*next: )", run(line, capsys), re.MULTILINE), line


BY_BLOCK = {
    f"{page}, {block[0].split('=')[-1]}": block
    for page in PAGES_BY_BLOCK
    for block in map(commands, blocks(page))
    if not all(map(reason_not_to_run, block))
}


def test_each_page_of_blocks_has_one_to_run() -> None:
    assert {name.partition(",")[0] for name in BY_BLOCK} == set(PAGES_BY_BLOCK)


@pytest.mark.parametrize("block", BY_BLOCK.values(), ids=BY_BLOCK)
def test_the_blocks_of_a_page_run_each_by_itself(
    block: list[str], reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    follow(tmp_path, reader, block, capsys)


def test_the_tutorial_runs_from_its_first_line_to_its_last(
    reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for page in WHOLE_PAGES for block in blocks(page) for line in commands(block)]
    assert len(lines) > 25
    follow(tmp_path, reader, lines, capsys)
    assert np.asarray(Image.open("masks-other/masks/6.png")).shape == draw(0, 6, "train").mask.shape
    assert len(list(Path("masks/overlays").rglob("*.jpg"))) == PHOTOS


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("CHANGELOG.md", "docs/claims.md")])
def test_files_that_a_page_names_are_there(page: str) -> None:
    rooms = "labelgen|fmbseg_jax|pocket|configs|tests|launch|tools|experiments|benchmarks"
    named = re.findall(rf"`((?:{rooms})/[\w/.]+)`", (ROOT / page).read_text())
    assert [name for name in named if not (ROOT / name).exists() and not re.search("NAME|my_annotated", name)] == []


def told_rooms() -> dict[str, set[str]]:
    """Folder -> the files that docs/architecture.md names of it."""
    text = (ROOT / "docs/architecture.md").read_text()
    told: dict[str, set[str]] = {}
    package = ""
    for paragraph in re.split(
        r"\n(?=- \*\*)|\n\n", text[text.index("## The rooms") : text.index("Beside the packages:")]
    ):
        names = re.findall(r"`([\w/]+)`", paragraph)
        if re.match(r"\*\*`", paragraph):
            package = names[0]
            told[package] = set(names[1:])
        elif paragraph.startswith("- **"):
            told[package + names[0]] = {name for name in names[1:] if not name.endswith("/")}
    return told


def test_the_architecture_names_each_file_of_each_room() -> None:
    told = told_rooms()
    assert len(told) == 17
    assert told == {room: {path.stem for path in (ROOT / room).glob("[!_]*.py")} for room in told}
