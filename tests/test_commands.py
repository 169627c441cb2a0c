"""Every command starts and explains itself; every config loads and is valid."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from labelgen.config import command, load_config, validate

ROOT = Path(__file__).parents[1]
ROOMS = ("labelgen", "fmbseg_jax", "pocket", "benchmarks")
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains(name: str) -> None:
    out = subprocess.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "usage:" in out.stdout and len(out.stdout) > 200


@pytest.mark.parametrize("name", [c for c in COMMANDS if c.split(".")[0] in ("labelgen", "fmbseg_jax")])
def test_a_missing_argument_is_one_clear_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    with pytest.raises(SystemExit, match="2"):
        command(module.main, module.arguments(), [])
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("path", CONFIGS)
def test_config_loads(path: str) -> None:
    config = load_config(str(ROOT / path), [])
    validate(config)
    assert set(config) == set(load_config(str(ROOT / "configs/default.py"), []))
