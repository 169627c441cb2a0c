"""jax beside torch on one GPU: how jax is to allocate when its backend starts, and what the commands say of it."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fmbseg_jax import Segmenter
from fmbseg_jax.runs.shared_gpu import ALLOCATION, PREALLOCATE, backend_started, how_shared, leave_room_for_torch
from labelgen.core.config import load_config
from tests.worlds import synthetic, tiny, tiny_models, tiny_run
from tests.worlds.backend_start import Started, started
from tests.worlds.paths import ROOT
from tests.worlds.run import write_run
from tests.worlds.training import argv

ON_DEMAND = {PREALLOCATE: "false"}
H100 = "NVIDIA H100 80GB HBM3"
SHARED = f"{H100}: its memory is for jax and torch; jax takes "


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run and photos for tiny models; encoded and data, which belong together, for no torch."""
    folder = tmp_path_factory.mktemp("world")
    tiny_run.write(folder / "run", tiny_models.write(tmp_path_factory.mktemp("weights")))
    (folder / "photos").mkdir()
    tiny_run.picture(40, 48).save(folder / "photos/a.png")
    (folder / "words.txt").write_text("lid\nball\n")
    write_run(folder / "encoded", load_config(str(ROOT / "configs/default.py")))
    tiny.write_data(folder / "data")
    return folder


def predict(world: Path, out: Path, *flags: str, **environment: str) -> Started:
    return started(out, "-m", "fmbseg_jax.predict", *flags, f"--out={out / 'masks'}", **environment)


def on_photos(world: Path, out: Path, **environment: str) -> Started:
    return predict(world, out, f"--workdir={world / 'run'}", f"--photos={world / 'photos'}", **environment)


@pytest.mark.slow
def test_prediction_on_photos_starts_jax_on_demand_and_says_so_on_a_gpu_alone(world: Path, tmp_path: Path) -> None:
    on_cpu = on_photos(world, tmp_path)
    assert (on_cpu.code, on_cpu.at_start) == (0, ON_DEMAND), on_cpu.err
    assert on_cpu.out.startswith("time: ") and "memory" not in on_cpu.out + on_cpu.err
    on_gpu = on_photos(world, tmp_path, PRETENDED=H100)
    assert on_gpu.at_start == ON_DEMAND
    assert on_gpu.out.splitlines()[0] == SHARED + "what it needs as it goes (XLA_PYTHON_CLIENT_PREALLOCATE=false)"
    assert on_gpu.out.count("\n") == on_cpu.out.count("\n") + 1 and not on_gpu.err


@pytest.mark.slow
def test_new_words_for_encoded_photos_need_torch_too(world: Path, tmp_path: Path) -> None:
    flags = [f"--workdir={world / 'encoded'}", f"--data={world / 'data'}", f"--words={world / 'words.txt'}"]
    found = predict(world, tmp_path, *flags, PRETENDED=H100)
    assert found.at_start == ON_DEMAND and found.out.startswith(SHARED)
    assert found.code == 2 and "weights" in found.err  # this RUN names some that are not there


def test_what_the_user_sets_stays(tmp_path: Path) -> None:
    code = (
        "import os\nfrom fmbseg_jax.runs.shared_gpu import *\nfound = {}\n"
        "for name in ALLOCATION:\n    for value in ('true', ''):\n"
        "        for other in ALLOCATION: os.environ.pop(other, None)\n"
        "        os.environ[name] = value\n        leave_room_for_torch()\n        found[name, value] = settings()\n"
        "print(found)"
    )
    found = started(tmp_path, "-c", code)
    set_by_user = {(name, "true"): {name: "true"} for name in ALLOCATION}
    empty_is_unset = {(name, ""): ON_DEMAND for name in ALLOCATION}
    assert found.at_start is None and ast.literal_eval(found.out) == set_by_user | empty_is_unset, found.err


@pytest.mark.slow
def test_prediction_by_the_user_s_own_setting(world: Path, tmp_path: Path) -> None:
    own = {"XLA_CLIENT_MEM_FRACTION": ".3"}
    found = on_photos(world, tmp_path, PRETENDED=H100, **own)
    assert (found.code, found.at_start) == (0, own), found.err
    assert found.out.splitlines()[0] == f"{SHARED}as the environment says (XLA_CLIENT_MEM_FRACTION=.3)"


@pytest.mark.slow
def test_what_needs_no_torch_keeps_the_default_of_jax(world: Path, tmp_path: Path) -> None:
    flags = [f"--workdir={world / 'encoded'}", f"--data={world / 'data'}"]
    small = ["--config.eval.splits=eval", "--config.eval.batch_size=2"]
    data = synthetic.write_data(tmp_path / "data")
    found = [
        predict(world, tmp_path, *flags, PRETENDED=H100),
        started(tmp_path, "-m", "fmbseg_jax.evaluate", f"--config={ROOT / 'configs/default.py'}", *flags, *small),
        started(tmp_path, "-m", "fmbseg_jax.train", *argv(data, tmp_path / "run", train_steps=2, train_warmup_steps=1)),
    ]
    assert [(one.code, one.at_start) for one in found] == [(0, {})] * 3, [one.err for one in found]
    assert "jax" not in found[0].out.replace("fmbseg_jax", "")


def test_a_segmenter_restored_before_jax_starts_sets_it(world: Path, tmp_path: Path) -> None:
    code = f"from fmbseg_jax import Segmenter\nSegmenter.restore({str(world / 'run')!r})"
    found = started(tmp_path, "-c", code, PRETENDED=H100)
    assert found == Started(0, "", "", ON_DEMAND)


def test_a_segmenter_restored_too_late_says_what_to_set_and_sets_nothing(world: Path, tmp_path: Path) -> None:
    code = (
        "import jax, os\nfrom fmbseg_jax import Segmenter\njax.numpy.zeros(1)\nbefore = dict(os.environ)\n"
        f"Segmenter.restore({str(world / 'run')!r})\nassert before == dict(os.environ)\n"
        f"os.environ['XLA_CLIENT_MEM_FRACTION'] = '.3'\nSegmenter.restore({str(world / 'run')!r})"
    )
    found = started(tmp_path, "-c", code, PRETENDED=H100)
    said = (
        f"{H100}: jax started with three quarters of its memory, and torch has what is left; set "
        "XLA_PYTHON_CLIENT_PREALLOCATE=false before jax's first use of a device\n"
    )
    assert found == Started(0, "", said, {})


def test_a_segmenter_restored_too_late_says_nothing_on_a_cpu(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.asarray(jax.numpy.zeros(1))
    Segmenter.restore(world / "run")
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_serve_starts_jax_on_demand_and_says_so_first(world: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tests.worlds.backend_start", str(tmp_path / "at_start.json"), "-m"]
    line += ["fmbseg_jax.serve", f"--workdir={world / 'run'}", "--port=0"]
    environment = {**os.environ, "JAX_PLATFORMS": "watched", "PRETENDED": H100}
    server = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        said = [server.stdout.readline() for _ in range(2)]
        assert said[0].startswith(SHARED + "what it needs as it goes") and "ready after" in said[1], said
        assert PREALLOCATE in (tmp_path / "at_start.json").read_text()
    finally:
        server.kill()
        server.communicate()


def test_imports_set_nothing_and_start_no_backend(tmp_path: Path) -> None:
    modules = ["predict", "serve", "train", "evaluate", "runs.shared_gpu", "inference.segmenter"]
    code = "import os; before = dict(os.environ)\n" + "".join(f"import fmbseg_jax.{name}\n" for name in modules)
    code += "from fmbseg_jax import Segmenter\nprint(before == dict(os.environ))"
    found = started(tmp_path, "-c", code)
    assert (found.out, found.at_start) == ("True\n", None), found.err


def test_asking_whether_jax_has_started_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import jax\nfrom fmbseg_jax.runs.shared_gpu import backend_started\n"
        "said = [jax.config.jax_num_cpu_devices, backend_started(), jax.config.jax_num_cpu_devices]\n"
        "count = len(jax.devices('cpu'))\n"
        "print(*said, count, backend_started(), jax.config.jax_num_cpu_devices)"
    )
    found = started(tmp_path, "-c", code, JAX_NUM_CPU_DEVICES="3", JAX_PLATFORMS="cpu")
    assert found.out == "3 False 3 3 True 3\n", found.err


def test_in_a_process_where_jax_has_started_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALLOCATION:
        monkeypatch.delenv(name, raising=False)
    np.asarray(jax.numpy.zeros(1))
    leave_room_for_torch()
    assert backend_started() and not set(ALLOCATION) & set(os.environ)


def test_no_word_on_other_devices() -> None:
    cpu, tpu = (SimpleNamespace(platform=name, device_kind=name) for name in ("cpu", "tpu"))
    assert how_shared([cpu, cpu]) == how_shared([tpu]) == how_shared(jax.local_devices()) == ""
