"""What ships with the packages, found wherever they lie: configs, lists of words, the miniature models' weights.

In a checkout they are folders beside the packages; a wheel has configs/ in labelgen/shipped, and pocket/ as a package.
"""

from pathlib import Path

_BESIDE = Path(__file__).parents[2]
_INSIDE = Path(__file__).parents[1] / "shipped"
HOME = _INSIDE if (_INSIDE / "configs").is_dir() else _BESIDE
"""The folder that has configs/."""


def find(path: str | Path) -> Path:
    """The path itself where it is absolute or there is such a file or folder, else what ships under that name, if any.

    So "configs/words/voc21.txt" is the user's own file where there is one, and the shipped one from any other folder.
    """
    path = Path(path)
    if path.exists():
        return path
    return next((home / path for home in (HOME, _BESIDE) if (home / path).exists()), path)


def config_names() -> list[str]:
    """Names of the shipped configs, as --config takes them: "voc", "pocket" ..."""
    return sorted(file.stem for file in (HOME / "configs").glob("*.py"))


def config_file(name: str) -> Path:
    """The config file of a path, or of a shipped config's name; the path itself where there is neither."""
    path = find(name)
    named = HOME / "configs" / f"{name}.py"
    return path if path.is_file() or not named.is_file() else named
