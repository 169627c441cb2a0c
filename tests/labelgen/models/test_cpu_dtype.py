"""Which dtype auto is on a CPU: by the processor's instructions and a trial, both given here."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from labelgen.models import compute, cpu_dtype
from labelgen.models.cpu_dtype import TOKENS, Trial, choose, instructions, run_trial
from labelgen.models.teachers import Encoders
from labelgen.models.trunks import load_encoder
from labelgen.sources.photos import Photo
from tests.worlds import tiny_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_models.write(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def photo() -> Photo:
    return Photo("a", np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8), None)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What this processor was found to be is not remembered."""
    cpu_dtype.of_this_processor.cache_clear()
    yield
    cpu_dtype.of_this_processor.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "found"),
    [
        ({"architecture": "x86_64", "avx2": True, "amx_bf16": False, "avx512_bf16": False}, ""),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_vnni": True}, ""),
        ({"architecture": "x86_64", "amx_int8": True, "amx_tile": True}, ""),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, "AVX512-BF16"),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}, "AMX"),
        ({"architecture": "aarch64", "neon": True, "bf16": False, "sve_bf16": False}, ""),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, "ARM BF16"),
        ({"architecture": "aarch64", "sve_bf16": True, "bf16": True}, "SVE BF16"),
        ({}, ""),
    ],
)
def test_instructions_are_read_from_what_torch_says(capabilities: dict[str, Any], found: str) -> None:
    assert instructions(capabilities) == found


def test_names_of_capabilities_are_torchs() -> None:
    there = torch.cpu.get_capabilities()
    if there["architecture"] == "x86_64":
        assert {"amx_bf16", "avx512_bf16"} <= there.keys()


@pytest.mark.parametrize(
    ("trial", "dtype", "why"),
    [
        (Trial(6.6, 4.4), torch.bfloat16, "by AMX, 4.4 times as fast as float32 in a short trial"),
        (Trial(1.2, 1.6), torch.bfloat16, "by AMX, 1.2 times as fast"),
        (Trial(1.19, 3.0), torch.float32, "bfloat16 by AMX is only 1.2 times as fast"),
        (Trial(3.0, 0.4), torch.float32, "bfloat16 by AMX is only 0.4 times as fast"),
    ],
)
def test_a_processor_that_can_must_also_be_faster(trial: Trial, dtype: torch.dtype, why: str) -> None:
    chosen = choose("AMX", lambda: trial)
    assert chosen.dtype == dtype and chosen.why.startswith(why)


def test_without_instructions_nothing_is_tried() -> None:
    def never() -> Trial:
        raise AssertionError

    assert choose("", never) == (torch.float32, "this processor has no instructions for bfloat16")


def test_the_trial_runs_a_product_and_a_block_in_both_dtypes_and_takes_medians() -> None:
    ran: list[torch.dtype] = []
    fast = iter([0.001] * 99)

    def seconds(run: Any) -> float:
        result = run()
        assert len(result.flatten()) in (TOKENS * 128, TOKENS * 512) and torch.isfinite(result).all()
        narrow = torch.is_autocast_enabled("cpu")
        ran.append(torch.bfloat16 if narrow else torch.float32)
        outlier = len(ran) in (3, 11)
        return next(fast) * (50.0 if outlier else 1.0) if narrow else 0.004

    assert run_trial(150, seconds) == pytest.approx((4.0, 4.0))
    assert Counter(ran) == {torch.float32: 8, torch.bfloat16: 8}


def test_the_trial_takes_a_moment_here() -> None:
    trial = run_trial(64)
    assert trial.product > 0 and trial.block > 0


def able(monkeypatch: pytest.MonkeyPatch, gains: dict[int, float]) -> list[int]:
    """This processor has AMX now, and so much is gained at a width; which widths were tried."""
    tried: list[int] = []

    def trial(width: int) -> Trial:
        tried.append(width)
        return Trial(9.0, gains[width])

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(cpu_dtype, "run_trial", trial)
    monkeypatch.setattr(cpu_dtype, "LEAST_WIDTH", 0)
    return tried


def test_auto_is_settled_once_for_all_three_by_the_width_of_clip(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_models.config(folder)
    assert config.dtype == "auto"
    width = Encoders(config)._clip.width
    assert capsys.readouterr().err == "dtype auto: float32 on cpu, as for every model narrower than 384\n"
    cpu_dtype.of_this_processor.cache_clear()
    tried = able(monkeypatch, {width: 4.0})
    for _ in range(2):
        encoders = Encoders(config)
        assert {encoders._clip.dtype, encoders._sam.dtype, encoders._patches.trunk.dtype} == {torch.bfloat16}
        assert encoders.identity()["dtype"] == "bfloat16"
    assert tried == [width], "once a process"
    said = "dtype auto: bfloat16 on cpu, by AMX, 4.0 times as fast as float32 in a short trial\n"
    assert capsys.readouterr().err == said * 2
    assert load_encoder(config).trunk.dtype == torch.bfloat16 and set(tried) == {width}, "by itself, of its own width"


def test_a_set_dtype_is_tried_by_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = able(monkeypatch, {})
    for name in ("float32", "bfloat16"):
        config = tiny_models.config(folder)
        config.dtype = name
        assert Encoders(config).identity()["dtype"] == name
    assert tried == [] and capsys.readouterr().err == "dtype float32 on cpu, as set\ndtype bfloat16 on cpu, as set\n"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert "has no instructions for it: slower" in compute.why_dtype("bfloat16", CPU, torch.bfloat16)
    assert "slower" not in compute.why_dtype("float32", CPU, torch.float32)


class Products(TorchFunctionMode):
    """Notes the dtype of what norms and softmax compute in, of the logits of attention, and of products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, str]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        result = func(*args, **(kwargs or {}))
        first = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        if first is not None and name in ("layer_norm", "softmax", "mean", "normalize", "pow", "rsqrt", "var"):
            dtype = (kwargs or {}).get("dtype") or first.dtype
            self.seen[name, compute.dtype_name(dtype)] += 1
        if name in ("linear", "conv2d", "scaled_dot_product_attention"):
            self.seen[name, compute.dtype_name(result.dtype)] += 1
        return result


@pytest.mark.parametrize("part", ["encoder", "clip", "sam"])
def test_norms_softmax_and_cosines_are_float32_and_products_bfloat16(folder: Path, photo: Photo, part: str) -> None:
    config = tiny_models.config(folder)
    config.dtype = "bfloat16"
    encoders = Encoders(config)
    features = encoders._patches.features(photo.image)
    run: dict[str, Any] = {
        "encoder": lambda: encoders._patches.features(photo.image),
        "clip": lambda: encoders._views.evidence(photo.image, features),
        "sam": lambda: encoders._sam.masks(photo.image),
    }
    with Products() as products:
        run[part]()
    narrow = {name for name, dtype in products.seen if dtype == "bfloat16"}
    assert narrow <= {"linear", "conv2d", "scaled_dot_product_attention"}, products.seen
    assert {"linear", "conv2d"} <= narrow
    assert products.seen["layer_norm", "float32"] and (part == "encoder" or products.seen["softmax", "float32"])


def test_what_sam_says_of_its_masks_is_float32(folder: Path, photo: Photo) -> None:
    config = tiny_models.config(folder)
    config.dtype = "bfloat16"
    sam = Encoders(config)._sam
    answers = sam.prompt(photo.image, np.array([[20.0, 30.0]]))
    assert {answers.low.dtype, answers.iou.dtype, sam._stability(answers.low).dtype} == {torch.float32}
    assert not torch.equal(answers.iou.bfloat16().float(), answers.iou), "computed, not only kept, in float32"


def test_weights_kept_narrow_give_what_autocast_gives(
    folder: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_models.config(folder)
    config.dtype = "bfloat16"
    kept = Encoders(config)
    monkeypatch.setattr(compute, "narrow", lambda model, dtype: None)
    cast = Encoders(config)
    assert kept._clip.blocks[0].module.mlp[0].weight.dtype == torch.bfloat16
    assert cast._clip.blocks[0].module.mlp[0].weight.dtype == torch.float32
    assert kept._clip.model.transformer.resblocks[0].mlp[0].weight.dtype == torch.float32, "the text tower's"
    assert kept._sam.model.mask_decoder.iou_token.weight.dtype == torch.float32
    ours, theirs = kept.encode_photo(photo), cast.encode_photo(photo)
    assert ours[0].encode() == theirs[0].encode()
    for name in ("runs", "iou", "stability", "point_masks"):
        np.testing.assert_array_equal(getattr(ours[1].masks, name), getattr(theirs[1].masks, name))
    config.dtype = "float32"
    exact = Encoders(config).encode_photo(photo)[1].crops
    apart = [np.abs(each[1].crops.astype(np.float32) - exact).mean() for each in (ours, theirs)]
    assert 0 < apart[0] <= 1.1 * apart[1], "CLIP's attention takes another kernel, which is no worse"
