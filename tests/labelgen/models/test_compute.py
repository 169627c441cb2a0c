"""Device, dtype and batches: what is chosen, and what happens when memory runs out."""

import numpy as np
import pytest
import torch

from labelgen.core.errors import UserError
from labelgen.models import compute, cpu_dtype
from labelgen.models.compute import Batches, OutOfMemoryError, enough_memory, fitting, torch_device, torch_dtype
from labelgen.models.teachers import Encoders
from labelgen.models.trunks import load_timm
from labelgen.sources.photos import Photo
from tests.worlds import tiny_models

CPU = torch.device("cpu")
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, max allowed: 9.07 GB). Tried to allocate 1 GB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError("Unable to allocate 3. GiB for an array"),
]


def test_a_device_that_is_there_is_used_and_another_refused():
    assert torch_device("cpu") == CPU
    for name in ("cuda:7", "mps", "gpu"):
        with pytest.raises(UserError, match=rf"device = '{name}' cannot be used \(.+\); set auto, cpu, mps, cuda or"):
            torch_device(name)


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert torch_device("auto") == torch.device(chosen)


def test_a_dtype_is_taken_by_name_or_refused():
    assert torch_dtype("float16", CPU) == torch.float16
    with pytest.raises(UserError, match="dtype = 'int8'; choose one of auto, float32, bfloat16, float16"):
        torch_dtype("int8", CPU)


@pytest.mark.parametrize(
    ("device", "native", "chosen"),
    [("cpu", False, "float32"), ("mps", False, "float16"), ("cuda", True, "bfloat16"), ("cuda:1", False, "float16")],
)
def test_the_auto_dtype_is_the_devices(monkeypatch, device, native, chosen):
    asked = []

    def supported(including_emulation):
        asked.append(including_emulation)
        return native

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    cpu_dtype.of_this_processor.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", lambda device: enough_memory("", ""))  # a context that does nothing
    assert compute.dtype_name(torch_dtype("auto", torch.device(device))) == chosen
    assert asked == [False] * device.startswith("cuda")


def test_a_dtype_that_the_device_cannot_compute_in_is_refused(monkeypatch):
    def refuses(*arguments, **options):
        raise RuntimeError("Current CUDA Device does not support bfloat16.")

    monkeypatch.setattr(torch, "autocast", refuses)
    with pytest.raises(UserError, match="dtype = 'bfloat16': not possible on cpu .*support bfloat16.*; set auto"):
        torch_dtype("bfloat16", CPU)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_autocast_computes_products_in_the_dtype_on_the_cpu_and_is_legal_on_mps(recwarn, dtype):
    with compute.autocast(CPU, compute.DTYPES[dtype]):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == compute.DTYPES[dtype]
    with compute.autocast(torch.device("mps"), compute.DTYPES[dtype]):
        assert torch.is_autocast_enabled("mps") == (dtype != "float32")
    assert not recwarn.list


def test_mps_gets_float32_and_the_others_float64(monkeypatch):
    points = np.array([[0.1, 0.2]])
    assert compute.onto(points, CPU).dtype == torch.float64
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    assert compute.onto(points, torch.device("mps")).dtype == torch.float32


def above(most, error):
    """A function of rows that doubles them, and runs out of memory with more than `most`; it keeps what it saw."""
    seen = []

    def run(rows):
        seen.append(len(rows))
        if len(rows) > most:
            raise error
        return rows * 2

    return run, seen


@pytest.mark.parametrize("error", ERRORS)
def test_too_many_rows_are_halved_and_give_the_same_results_in_order(capsys, error):
    rows = torch.arange(23.0)
    run, seen = above(5, error)
    batches = Batches("CLIP", "fix", CPU, 16)
    assert torch.equal(torch.cat(batches.over(rows, run)), rows * 2)
    assert seen == [16, 8, 4, 4, 4, 4, 4, 3]
    said = "CLIP: out of memory with {} at a time; goes on with {}\n"
    assert capsys.readouterr().err == said.format(16, 8) + said.format(8, 4)


def test_what_was_done_before_memory_ran_out_is_not_done_again():
    starts = []

    def run(rows):
        if len(starts) == 2 and len(rows) > 2:
            raise MemoryError
        starts.append(int(rows[0]))
        return rows

    parts = Batches("SAM", "fix", CPU, 4).over(np.arange(12), run)
    assert np.concatenate(parts).tolist() == list(range(12)) and starts == [0, 4, 8, 10]


def test_the_halved_number_stays(capsys):
    run, seen = above(5, MemoryError())
    batches = Batches("CLIP", "fix", CPU, 8)
    batches.over(torch.zeros(8), run)
    batches.over(torch.zeros(8), run)
    assert seen == [8, 4, 4, 4, 4] and capsys.readouterr().err.count("\n") == 1


def test_a_call_may_allow_fewer_rows_and_no_rows_are_no_parts():
    run, seen = above(99, MemoryError())
    batches = Batches("SAM", "fix", CPU, 300)
    assert batches.over(torch.zeros(0), run) == []
    batches.over(torch.zeros(5), run, most=2)
    batches.over(torch.zeros(90), run)
    assert seen == [2, 2, 1, 90]


@pytest.mark.parametrize("error", ERRORS)
def test_one_row_that_does_not_fit_names_the_encoder_and_the_fix(error):
    run, seen = above(0, error)
    reason = str(error).partition("\n")[0][:30].replace("[", r"\[").replace("(", r"\(")
    with pytest.raises(UserError, match=rf"^CLIP: out of memory with one at a time \({reason}.*; set it smaller$"):
        Batches("CLIP", "set it smaller", CPU, 4).over(torch.zeros(4), run)
    assert seen == [4, 2, 1]


def test_other_errors_are_not_taken_for_want_of_memory():
    run, seen = above(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        Batches("CLIP", "fix", CPU, 4).over(torch.zeros(4), run)
    assert seen == [4]


def plain(held):
    raise MemoryError


def in_a_circle(held):
    error = MemoryError()
    error.itself = error  # until the collector of circles comes by
    raise error


def after_another(held):
    try:
        in_a_circle(held)
    except MemoryError:
        del held  # the first error has it
        raise torch.OutOfMemoryError("CUDA out of memory.")  # noqa: B904  (as torch raises within a handler)


@pytest.mark.parametrize("run_out", [plain, in_a_circle, after_another])
def test_a_failed_pass_lets_go_of_its_tensors_before_the_next(run_out):
    alive = []

    class Held:
        def __init__(self, number):
            self.number = number
            alive.append(number)

        def __del__(self):
            alive.remove(self.number)

    def run(rows):
        if len(rows) > 1:
            run_out(Held(len(rows)))
        assert alive == []

    Batches("CLIP", "fix", CPU, 4).over(torch.zeros(2), run)


def test_the_cache_of_a_gpu_is_emptied(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: emptied.append(1))
    run, _ = above(1, MemoryError())
    Batches("CLIP", "fix", torch.device("mps"), 4).over(torch.zeros(4), run)
    assert emptied == [1, 1]


GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "cached", "row_bytes", "rows"),
    [
        (8 * GIB, 0, 10 << 20, 64),  # half of it would hold 102
        (3 * GIB, 5 * GIB, 10 << 20, 64),  # what torch holds for nothing counts as free
        (8 * GIB, 0, 16 << 20, 64),
        (80 * GIB, 0, 1 << 18, 256),
        (1 * GIB, 0, 2 * GIB, 1),
    ],
)
def test_a_gpu_begins_with_a_power_of_two_that_fits_its_lanes_part_of_half_of_its_free_memory(
    monkeypatch, free, cached, row_bytes, rows
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: cached + 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7)
    assert fitting(torch.device("cuda"), row_bytes, on_cpu=32) == rows


def test_cpu_and_mps_begin_with_fixed_numbers():
    assert [fitting(torch.device(kind), 1, on_cpu=32) for kind in ("cpu", "mps")] == [32, 8]
    assert fitting(torch.device("mps"), 1, on_cpu=2) == 1
    batches = Batches("CLIP", "fix", CPU, 0, on_cpu=3)
    assert [len(part) for part in batches.over(torch.zeros(7), lambda rows: rows)] == [3, 3, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def photo():
    return Photo("a", np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8), None)


def failing(monkeypatch, owner, name, most):
    """The method runs out of memory when its first argument has more than `most` rows."""
    real = getattr(owner, name)

    def method(self, rows, *more):
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, rows, *more)

    monkeypatch.setattr(owner, name, method)


def test_encoders_that_run_out_of_memory_give_what_smaller_batches_give(folder, photo, monkeypatch, capsys):
    config = tiny_models.config(folder)
    config.clip.batch_size, config.sam.batch_size = 1, 9
    expected = Encoders(config).encode_photo(photo)[1].encode()
    config.clip.batch_size = config.sam.batch_size = 0
    encoders = Encoders(config)
    failing(monkeypatch, type(encoders._clip), "embed", 1)
    decode = type(encoders._sam)._decode

    def small(self, features, points, needed):
        if len(points) > 9:
            raise RuntimeError("MPS backend out of memory")
        return decode(self, features, points, needed)

    monkeypatch.setattr(type(encoders._sam), "_decode", small)
    assert encoders.encode_photo(photo)[1].encode() == expected
    said = capsys.readouterr().err
    assert "CLIP: out of memory with 2 at a time; goes on with 1\n" in said
    assert said.endswith("SAM: out of memory with 18 at a time; goes on with 9\n")


def test_full_size_masks_are_made_fewer_at_a_time(folder, photo, monkeypatch, capsys):
    config = tiny_models.config(folder)
    encoders = Encoders(config)
    expected = encoders.encode_photo(photo)[1].encode()
    failing(monkeypatch, type(encoders._sam), "_stability", 3)
    assert encoders.encode_photo(photo)[1].encode() == expected
    assert "SAM: out of memory with " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("_clip.visual.conv1", "^CLIP: out of memory with one at a time .*; set clip.window_px smaller"),
        ("_sam.model.image_encoder.patch_embed", "^SAM: out of memory .*; set sam.points_per_side or"),
        ("_patches.trunk.model", "^encoder: out of memory .*; set encoder.size_px smaller"),
    ],
)
def test_each_encoder_says_what_to_set_when_one_is_too_much(folder, photo, monkeypatch, part, message):
    encoders = Encoders(tiny_models.config(folder))
    *path, last = part.split(".")
    owner = encoders
    for name in path:
        owner = getattr(owner, name)

    def hook(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model = getattr(owner, last)
    monkeypatch.setattr(model, "forward_intermediates" if last == "model" else "forward", hook)
    with pytest.raises(OutOfMemoryError, match=message):
        encoders.encode_photo(photo)


def test_the_dtype_that_auto_became_is_what_identity_says(folder, monkeypatch):
    config = tiny_models.config(folder)
    assert config.dtype == "auto" and Encoders(config).identity()["dtype"] == "float32"
    config.dtype = "bfloat16"
    assert Encoders(config).identity()["dtype"] == "bfloat16"
    assert load_timm(config.encoder, folder, "cpu", "auto").trunk.dtype == torch.float32
    monkeypatch.setattr(compute, "best_dtype", lambda device, width: compute.Choice(torch.float16, "so"))
    config.dtype = "auto"
    assert Encoders(config).identity()["dtype"] == "float16"


@pytest.mark.parametrize("shape", [(3, 257, 64), (1, 5, 7, 64), (2, 64)])
def test_a_feed_forward_network_sees_some_rows_at_a_time_and_gives_the_same_bits(monkeypatch, shape):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 32))
    monkeypatch.setattr(compute, "CACHED_BYTES", 4 * 256 * 32)
    seen = []

    def run(x):
        seen.append(x.numel() // 64)
        return network(x)

    x = torch.randn(*shape)
    with torch.inference_mode():
        torch.testing.assert_close(compute.by_rows(run, x), network(x))
    rows = x.numel() // 64
    assert seen == ([32] * (rows // 32) + [rows % 32] * bool(rows % 32) if rows > 32 else [rows])
