"""Configs: what a person may set, how, and what is said about a mistake."""

import argparse
import errno
from pathlib import Path

import pytest

from labelgen.core.command import command, parser
from labelgen.core.config import SOURCES, load_config
from labelgen.core.errors import UserError
from labelgen.core.files import digest
from labelgen.sources import folders, registry
from tests.worlds.paths import ROOT

DEFAULT = str(ROOT / "configs/default.py")


def config_file(folder: Path, *lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    path = folder / "mine.py"
    path.write_text(
        "from configs.default import get_config as default\n"
        f"def get_config():\n    config = default()\n{body}    return config\n"
    )
    return str(path)


def test_fields_are_set_by_the_type_they_have() -> None:
    overrides = [
        "train.steps=7",
        "clip.crop_scales=1,0.5",
        "train.soft_targets=false",
        "train.learning_rate=1",
        "ontology=w=x",
    ]
    config = load_config(DEFAULT, overrides)
    assert config.train.steps == 7 and config.clip.crop_scales == (1.0, 0.5)
    assert config.train.soft_targets is False and config.train.learning_rate == 1.0 and config.ontology == "w=x"
    with pytest.raises(AttributeError):
        config.train.stepz = 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stesp=3", "--config.train.stesp: no such field; did you mean train.steps"),
        ("steps=3", "did you mean train.steps"),
        ("train=3", "--config.train: no such field"),
        ("train.steps", "--config.train.steps: no value"),
        ("train.steps=1.5", "--config.train.steps=1.5: a whole number is wanted, like 2000"),
        ("train.soft_targets=maybe", "true or false is wanted"),
        ("photos.splits=a", "a group of fields is wanted"),
        ("presence.threshold=3", "presence.threshold = 3.0; wanted is between 0 and 1"),
        ("dtype=float8", "dtype = 'float8'; wanted is one of auto, float32"),
        ("device=gpu", "device = 'gpu'; wanted is auto, cpu"),
        ("labels.variant=foo", "labels.variant = 'foo' is not among clip.variants"),
        ("labels.variant=naclip+sclip", r"labels.variant = 'naclip\+sclip' is not among .* or two as 'a\+b'"),
        ("labels.variant=naclip+naclip", r"labels.variant = 'naclip\+naclip'; wanted is one variant, or two different"),
        ("labels.variant=naclip+maskclip+proxyclip", "wanted is one variant, or two different"),
        ("encoder.height_px=-14", "encoder.height_px = -14; wanted is a whole number, 0 or more"),
        ("encoder.window_px=518", "encoder.stride_px = 0 with encoder.window_px = 518; wanted is a stride above 0"),
        ("encoder.stride_px=14", "encoder.stride_px = 14 with encoder.window_px = 0; wanted is"),
        ("labels.name=a/b", "labels.name = 'a/b'; wanted is letters"),
        ("labels.templates=a photo", "labels.templates .* patterns with {} for the word, or imagenet alone"),
        ("labels.templates=imagenet,a {}", "labels.templates .* or imagenet alone"),
        ("clip.crop_scales=", "clip.crop_scales .* shares above 0"),
    ],
)
def test_mistakes_on_the_command_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(DEFAULT, [override])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.train.stesp = 3", r"mine.py: no field 'train.stesp'; did you mean train.steps"),
        ("config.labels.name = 3", r"mine.py: does not give a config: TypeError"),
        ("del config.train.steps", r"mine.py: field 'train.steps' is missing"),
        ("config = {}", r"mine.py: get_config\(\) returns dict"),
        ("config.nothing.there = 1", r"mine.py: does not give a config: AttributeError"),
        ("config.photos.splits.train = {'photo': 'x'}", r"photos.splits.train: wanted are `photos`"),
        ("config.photos.splits['a/b'] = {'photos': 'x', 'masks': ''}", r"photos.splits has a split 'a/b'"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(config_file(tmp_path, line))


def test_own_splits_are_no_unknown_fields(tmp_path: Path) -> None:
    lines = ("config.photos.splits.train = {'photos': 'p', 'masks': ''}", "config.eval.groups.stuff = ('sky',)")
    path = config_file(tmp_path, *lines)
    config = load_config(path, ["photos.splits.train.photos=q"])
    assert config.photos.splits.train.photos == "q"
    with pytest.raises(UserError, match="no such config file"):
        load_config(str(tmp_path / "none.py"))


def test_windows_and_the_mean_of_two_variants_are_valid() -> None:
    config = load_config(DEFAULT, ["encoder.window_px=518", "encoder.stride_px=518", "labels.variant=naclip+proxyclip"])
    assert config.encoder.stride_px == 518 and config.labels.variant == "naclip+proxyclip"


def test_digest_is_of_the_meaning() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": (1, 2), "a": 1}) != digest({"a": 1, "b": [2, 1]})


def run(body: object, *argv: str, config: bool = True) -> int:
    def main(args: argparse.Namespace) -> int:
        if isinstance(body, BaseException):
            raise body
        return body(args)  # type: ignore[operator]

    return command(main, parser("doc", config), argv)


def test_overrides_reach_the_command() -> None:
    seen: list[argparse.Namespace] = []
    code = run(lambda args: seen.append(args) or 3, "--config=a.py", "--config.x.y=1", "--config.z", "2")
    assert code == 3 and seen[0].config == "a.py" and seen[0].overrides == ["x.y=1", "z=2"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            FileNotFoundError(errno.ENOENT, "gone", "/d/x"),
            2,
            "error: /d/x: No such file or directory; nothing",
        ),
        (IsADirectoryError(errno.EISDIR, "folder", "/d/x"), 2, "error: /d/x: Is a directory; there is a folder where"),
        (FileExistsError(errno.EEXIST, "file", "/d/x"), 2, "error: /d/x: File exists; there is a file where a folder"),
        (UserError("two\nlines"), 2, "error: two lines\n"),
        (KeyboardInterrupt(), 130, "interrupted; nothing is half written; the same command begins again\n"),
        (OSError(errno.ENOSPC, "No space", "/d/x"), 2, "error: /d/x: No space left on device; make room"),
        (PermissionError(errno.EACCES, "denied", "/d/x"), 2, "error: /d/x: Permission denied; let this user write"),
    ],
)
def test_errors_become_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(error, "--config=a.py") == code
    printed = capsys.readouterr().err
    assert printed.startswith(message) and printed.count("\n") == 1


def test_programming_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError(), "--config=a.py")
    with pytest.raises(OSError, match="unnamed"):
        run(OSError(errno.ENOSPC, "unnamed"), "--config=a.py")


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, config in ((["--config=a", "--outt=x"], True), (["--config.x=1"], False), ([], True)):
        with pytest.raises(SystemExit) as stop:
            run(lambda args: 0, *argv, config=config)
        assert stop.value.code == 2
    assert "--outt=x" in capsys.readouterr().err


def test_the_layouts_that_a_config_may_name_are_those_that_can_be_opened() -> None:
    assert sorted(SOURCES) == sorted([*registry.FOLDERS, *folders.LAYOUTS, *registry.JSONS])


def test_a_home_is_found_in_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = [
        "config.weights_dir = '~/weights'",
        "config.photos.splits.train = {'photos': '~/p', 'masks': ''}",
        "config.eval.ontologies.val = '~/other.txt'",
        "config.data_cache, config.compile_cache = '~/cache', '~/compiled'",
    ]
    config = load_config(config_file(tmp_path, *lines), ["photos.root=~/photos", "ontology=~nobody-of-this-name/x"])
    home = str(tmp_path)
    assert (config.photos.root, config.weights_dir) == (f"{home}/photos", f"{home}/weights")
    assert config.photos.splits.train.photos == f"{home}/p" and config.eval.ontologies.val == f"{home}/other.txt"
    assert config.ontology == "~nobody-of-this-name/x"
    assert (config.data_cache, config.compile_cache) == ("~/cache", "~/compiled"), "RUN keeps these as written"
    assert config.clip.variants == load_config(DEFAULT).clip.variants


def test_templates_by_the_name_of_a_set() -> None:
    assert load_config(DEFAULT, ["labels.templates=imagenet"]).labels.templates == ("imagenet",)
    assert load_config(DEFAULT, ["labels.templates=a {},{}"]).labels.templates == ("a {}", "{}")
