"""docs/api.md says what the docstrings say; what is public is found, shown and left out as tools.api promises."""

import sys
from pathlib import Path

import pytest

from labelgen.core.command import command
from labelgen.core.errors import UserError
from tools import api

FACE = '''"""A world of two rooms.

More.
"""

__all__ = ["LIMIT", "shout"]

LIMIT = 3


def shout(text: str, times: int = 2, /, *rest: "Later", loud: bool = True, **more: int) -> "Later":
    """The text, shouted
    a number of times.

    Not here.
    """


class Later: ...
'''
ROOM = '''"""A room."""

from typing import NamedTuple

from world.inner.base import Base

__all__ = ["Box", "Pair", "far"]


class Box(Base):
    """Holds one thing."""

    def __init__(self, thing: int) -> None:
        self.thing = thing

    @property
    def size(self) -> int:
        """How large."""

    @classmethod
    def of(cls, *things: int) -> "Box":
        """A box of things,
        each once."""

    def __call__(self) -> int:
        """Opens it."""

    def _hidden(self) -> None: ...


class Pair(NamedTuple):
    """Two."""

    left: int
    """px."""
    right: int = 0


def far(a_rather_long_name: int, another_rather_long_name: int, the_longest_name_of_all_of_them: int = 1) -> int:
    """Far."""
'''
FACE_SHOWN = """
A world of two rooms.

### `LIMIT`

A constant: `int`.

### `shout`

```python
def shout(text: str, times: int = 2, /, *rest: Later, loud: bool = True, **more: int) -> Later
```

The text, shouted
a number of times.

"""
ROOM_SHOWN = """
A room.

### `Box`

```python
class Box(thing: int)
```

Holds one thing.

- `lift(how_high_px: int) -> None`: Lifts it.
- `size: int`: How large.
- `Box.of(*things: int) -> Box`: A box of things, each once.
- `__call__() -> int`: Opens it.

### `Pair`

```python
class Pair
```

Two.

- `left: int`: px.
- `right: int = 0`

### `far`

```python
def far(
    a_rather_long_name: int,
    another_rather_long_name: int,
    the_longest_name_of_all_of_them: int = 1,
) -> int
```

Far.
"""
BASE = '''"""Private."""


class Base:
    def lift(self, how_high_px: int) -> None:
        """Lifts it."""
'''


@pytest.fixture(name="world")
def world_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a room that is public and one that is not."""
    for name, text in {"": FACE, "inner": ROOM, "closed": '"""No names."""\n'}.items():
        (tmp_path / "world" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "world" / name / "__init__.py").write_text(text)
    (tmp_path / "world/inner/base.py").write_text(BASE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(api, "PACKAGES", ("world",))
    monkeypatch.setattr(api, "PAGE", tmp_path / "api.md")
    for name in [name for name in sys.modules if name.partition(".")[0] == "world"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_the_page_says_what_the_docstrings_say() -> None:
    assert api.PAGE.read_text(encoding="utf-8") == api.page(), "run python -m tools.api"


def test_the_faces_of_the_packages_are_on_the_page() -> None:
    text = api.page()
    assert "## `fmbseg_jax`\n" in text and "### `Segmenter`\n" in text
    assert "- `Segmenter.restore(workdir: str | Path" in text


def test_each_public_name_of_each_package_has_its_signature_and_first_paragraph(world: Path) -> None:
    assert [package.__name__ for package in api.public_packages()] == ["world", "world.inner"]
    head, text = api.page().split("## `world`\n")
    assert head == f"{api.HEAD}\n"
    face, room = text.split("## `world.inner`\n")
    assert (face, room) == (FACE_SHOWN, ROOM_SHOWN)


@pytest.mark.parametrize(
    ("whole", "without", "said"),
    [
        ('"""Holds one thing."""', "", "world.inner.Box: is public and has no docstring; write one"),
        ('"""How large."""', "...", "world.inner.Box.size: is public and has no docstring"),
        ('"""A room."""', "", "world.inner: is public and has no docstring"),
        ('"""Far."""', "...", "world.inner.far: is public and has no docstring"),
    ],
)
def test_a_public_name_without_a_docstring_is_an_error(world: Path, whole: str, without: str, said: str) -> None:
    (world / "world/inner/__init__.py").write_text(ROOM.replace(whole, without))
    with pytest.raises(UserError, match=f"^{said}"):
        api.page()


def test_a_page_that_differs_is_told(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(api.main, api.arguments(), ["--check"]) == 1
    assert "api.md differs" in capsys.readouterr().out and not api.PAGE.exists()
    assert command(api.main, api.arguments(), []) == 0
    assert "wrote api.md: world, world.inner" in capsys.readouterr().out
    assert command(api.main, api.arguments(), ["--check"]) == 0
    api.PAGE.write_text(f"{api.PAGE.read_text()}more\n")
    assert command(api.main, api.arguments(), ["--check"]) == 1
