"""The texts are pieces of what XLA made of a training step for 8 H100 and for 4 TPU v5e."""

from fmbseg_jax.rehearsal.optimized import Collective, array_bytes, read

H100 = """\
HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, may-alias), {2}: (2, {1}, must-alias) }, entry_computation_layout={(s32[], f32[768]{0}, u16[8,37,37,3]{3,2,1,0})->(s32[], f32[])}, num_partitions=8

FileNames
1 "step.py"

%fused_add.6 (param_0: s32[]) -> u32[1] {
  %param_0 = s32[] parameter(0)
  ROOT %add.6 = u32[1]{0} add(%param_0, %param_0)
}

%region_7.10 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.7 = f32[] add(%a, %b)
}

%body (carried: (s32[], f32[4096,768])) -> (s32[], f32[4096,768]) {
  %carried = (s32[], f32[4096,768]{1,0}) parameter(0)
  %fusion.9 = f32[1024,21]{1,0} fusion(%carried), kind=kCustom, calls=%fused_add.6
  %custom-call.8 = (f32[1024,768]{1,0}, s8[33554432]{0}) custom-call(%fusion.9), custom_call_target="__cublas$lt$matmul"
  %all-reduce.5 = f32[2]{0} all-reduce(%fusion.9), to_apply=%region_7.10
  ROOT %tuple.1 = (s32[], f32[4096,768]{1,0}) tuple(%carried, %fusion.9)
}

%condition (carried: (s32[], f32[4096,768])) -> pred[] {
  %carried = (s32[], f32[4096,768]{1,0}) parameter(0)
  ROOT %fusion.10 = pred[] fusion(%carried), kind=kLoop, calls=%fused_add.6
}

ENTRY %main.28_spmd (param.16: s32[], param.17: f32[768], param.22: f32[1024,768]) -> (s32[], f32[]) {
  %param.16 = s32[] parameter(0), sharding={replicated}, metadata={op_name="state.step"}
  %loop_add_fusion.6 = u32[1]{0} fusion(%param.16), kind=kLoop, calls=%fused_add.6, metadata={op_name="jit(step)/add"}
  %all-gather-start = ((pred[8,64]{1,0}, s32[8,64]{1,0}, s32[8,64]{1,0}, f32[8,64,768]{2,1,0}), (pred[64,64]{1,0}, s32[64,64]{1,0}, s32[64,64]{1,0}, f32[64,64,768]{2,1,0})) all-gather-start(%loop_add_fusion.6), channel_id=3
  %all-gather-done = (pred[64,64]{1,0}, s32[64,64]{1,0}, s32[64,64]{1,0}, f32[64,64,768]{2,1,0}) all-gather-done(%all-gather-start)
  %while.20 = (s32[], f32[4096,768]{1,0}, /*index=5*/f32[4]{0}) while(%tuple.73), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"4"},"known_init_step":{"init":"0","step":"1"}}
  %all-reduce-start.3 = bf16[13379328]{0} all-reduce-start(%while.20), channel_id=21, to_apply=%region_7.10
  %all-reduce-done.3 = bf16[13379328]{0} all-reduce-done(%all-reduce-start.3)
  %copy.37 = s32[] copy(%param.18), metadata={scheduling_name="copy.37"}
  ROOT %tuple.37 = (s32[], f32[]) tuple(%copy.37, %all-reduce-done.3)
}
"""  # noqa: E501  # as it is

TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%async_computation (p: f32[8,128]) -> f32[2,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %reduce-scatter.1 = f32[2,128]{1,0:T(2,128)} reduce-scatter(%p), channel_id=4, dimensions={0}
}

ENTRY %main.26_spmd (param.16: s32[], param.27: s32[]) -> s32[] {
  %copy-start = (bf16[8,37,37,1024]{3,0,2,1:T(8,128)(2,1)S(1)}, bf16[8,37,37,1024]{3,0,2,1:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%param.19), cross_program_prefetch_index=0
  %copy.65 = s32[]{:T(128)S(6)} copy(%param.27), backend_config={"flag_configs":[]}
  %lt.18 = pred[]{:T(512)S(6)} compare(%copy.65, %constant.230.clone), direction=LT
  %fusion.2 = (f32[768]{0:T(1024)S(1)}, f32[1024,768]{1,0:T(8,128)S(1)}) fusion(%copy-start), kind=kOutput, calls=%fused
  %all-reduce.7 = (f32[768]{0:T(1024)S(1)}, f32[1024,768]{1,0:T(8,128)S(1)}, f32[]{:T(128)}, /*index=3*/f32[]{:T(128)}) all-reduce(%fusion.2), channel_id=2
  %reduce-scatter-start = ((f32[8,128]{1,0}), f32[2,128]{1,0}, u32[]) async-start(%fusion.2), calls=%async_computation
  %cp = (u8[3,5]{1,0:T(8,128)(4,1)}, u8[3,5]{1,0:T(8,128)(4,1)}, u32[], u32[]) collective-permute-start(%fusion.2)
  %concat = f32[9]{0} custom-call(%fusion.2), custom_call_target="ConcatBitcast"
  %outfeed = token[] outfeed(%concat, %after-all)
  %send = (f32[], u32[], token[]) send(%concat, %after-all), channel_id=5, is_host_transfer=true
  %call = f32[2] custom-call(%concat), custom_call_target="xla_ffi_python_cpu_callback"
  ROOT %copy = s32[4]{0} copy(%param.16)
}
"""  # noqa: E501  # as it is


def test_collectives_with_types_bytes_and_how_often() -> None:
    gathered = 64 * 64
    assert read(H100).collectives == (
        Collective("all-reduce", {"f32": 8}, 4),
        Collective("all-gather", {"pred": gathered, "s32": 8 * gathered, "f32": 4 * 768 * gathered}, 1),
        Collective("all-reduce", {"bf16": 2 * 13379328}, 1),
    )
    assert read(TPU).collectives == (
        Collective("reduce-scatter", {"f32": 4 * 2 * 128}, 1),
        Collective("all-reduce", {"f32": 4 * (768 + 1024 * 768 + 2)}, 1),
        Collective("collective-permute", {"u8": 15}, 1),
    )


def test_a_tpus_exchange_in_parts_is_one() -> None:
    part = """
%fused.{0} (p: s32[256]) -> s32[4,256] {{
  %p = s32[256]{{0}} parameter(0)
  ROOT %all-gather.{0} = s32[4,256]{{1,0:T(4,128)}} all-gather(%p), channel_id=1, frontend_attributes={{chain_id="{1}"}}
}}
"""
    calls = "".join(f"  %fusion.{i} = s32[4,256]{{1,0}} fusion(%x), kind=kLoop, calls=%fused.{i}\n" for i in range(3))
    parts = [part.format(i, chain) for i, chain in enumerate("001")]
    text = f"HloModule jit_step\n{''.join(parts)}\nENTRY %main (x: s32[256]) -> s32[4,256] {{\n{calls}}}\n"
    assert read(text).collectives == (Collective("all-gather", {"s32": 4096}, 1),) * 2


def test_by_kind_has_each_as_often_as_it_runs() -> None:
    assert read(H100).by_kind()["all-reduce"] == [2 * 13379328, 8, 8, 8, 8]


def test_kernels_are_what_is_launched_in_loops_too() -> None:
    assert read(H100).kernels == {"fusion": 1 + 4 * 2, "custom-call": 4, "copy": 1}
    assert read(TPU).kernels == {"fusion": 1, "custom-call": 1, "copy": 1}


def test_what_is_donated_and_what_the_host_is_asked() -> None:
    assert (read(H100).reused, read(H100).host_calls, read(H100).unknown_loops) == (3, (), 0)
    assert (read(TPU).reused, read(TPU).host_calls) == (0, ("outfeed", "send", "xla_ffi_python_cpu_callback"))


def test_a_loop_that_nobody_can_count_is_said() -> None:
    program = read(H100.replace('"known_trip_count":{"n":"4"},', ""))
    assert program.unknown_loops == 1 and program.by_kind()["all-reduce"] == [2 * 13379328, 8]


COUNTED = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%body (carried: (s32[], f32[4096,768])) -> (s32[], f32[4096,768]) {
  %carried = (s32[]{:T(128)}, f32[4096,768]{1,0:T(8,128)}) parameter(0)
  %fusion.9 = f32[1024,21]{1,0:T(8,128)} fusion(%carried), kind=kCustom, calls=%fused
}

%region_21.24 (wide.param.40: (s32[], f32[4096,768])) -> pred[] {
  %constant.218.clone.3 = s32[]{:T(128)} constant(4), metadata={op_name="jit(step)/jvp()/shard_map"}
  %wide.param.40 = (s32[]{:T(128)}, f32[4096,768]{1,0:T(8,128)S(1)}) parameter(0)
  %get-tuple-element.649 = s32[]{:T(128)} get-tuple-element(%wide.param.40), index=0
  ROOT %lt.115 = pred[]{:T(512)} compare(%get-tuple-element.649, %constant.218.clone.3), direction=LT, metadata={}
}

ENTRY %main.26_spmd (param.16: s32[]) -> s32[] {
  %reshape.122 = bf16[1,57498,1024]{2,1,0:T(8,128)(2,1)} reshape(%param.28), metadata={op_name="jit(step)/reshape"}
  ROOT %while.3 = (s32[], f32[4096,768]{1,0}) while(%tuple.163), condition=%region_21.24, body=%body
}
"""


def test_a_tpus_loops_are_counted_by_their_condition() -> None:
    program = read(COUNTED)
    assert (program.kernels, program.unknown_loops) == ({"reshape": 1, "fusion": 4}, 0)


def test_bytes_of_a_type() -> None:
    assert array_bytes("(f32[3,4]{1,0:T(8,128)}, bf16[], s8[0]{0}, u32[2]{0:S(2)})") == {
        "f32": 48,
        "bf16": 2,
        "s8": 0,
        "u32": 8,
    }


def test_what_goes_into_an_exchange_is_not_counted_with_what_comes_out() -> None:
    text = """HloModule step

ENTRY %main {
  %p = f32[4096,768]{1,0} parameter(0)
  %rs = ((f32[4096,768]{1,0}), f32[512,768]{1,0}) reduce-scatter-start(%p), channel_id=1, dimensions={0}
  ROOT %done = f32[512,768]{1,0} reduce-scatter-done(%rs)
}
"""
    assert read(text).by_kind() == {"reduce-scatter": [4 * 512 * 768]}
