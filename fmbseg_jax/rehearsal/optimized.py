"""What a compiled program does, read from its text: what it exchanges, launches, reuses, and asks of the host.

The text is XLA's: computations of instructions, one a line, the first of them named ENTRY. What is inside a loop counts
as often as the loop runs, where the compiler knows that.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"),
    *("collective-broadcast", "ragged-all-to-all"),
)
ITEM_BYTES = {
    **dict.fromkeys(("pred", "s4", "u4", "s8", "u8"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
}
_LAUNCHES = (
    *("fusion", "custom-call", "copy", "convolution", "dot", "sort", "reduce", "reduce-window", "scatter", "gather"),
    *("reshape", "transpose", "concatenate", "pad", "slice", "dynamic-slice", "dynamic-update-slice", "broadcast"),
)
"""Instructions that are kernels where they stand by themselves; others name memory, or are a scalar's arithmetic."""
_NO_KERNELS = (
    *("AllocateBuffer", "ConcatBitcast", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"),
    *("AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked"),
)
_SCALAR = re.compile(r"\w+\[\]\{:T\(|S\(6\)")
"""A TPU's, in a type: one number, or what lies where the processor that starts the kernels reads it."""
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<rest>.*)$")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_ROUNDS = re.compile(r'"?known_trip_count"?:\{"?n"?:"?(\d+)')
_BELOW = re.compile(r"ROOT .* compare\(.*?, %([\w.\-]+)\), direction=LT")
_CONSTANT = re.compile(r"constant\((\d+)\)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_ARRAY = re.compile(r"\b(?P<kind>[a-z]+\d*\w*)\[(?P<dims>[\d,]*)\]")
_HOST = re.compile(r"callback|host", re.IGNORECASE)


class Collective(NamedTuple):
    """An exchange between chips."""

    kind: str
    bytes: dict[str, int]
    """dtype -> bytes of the result, on each chip."""
    times: int
    """A step."""

    @property
    def total(self) -> int:
        """Bytes of the result, once."""
        return sum(self.bytes.values())


class Instruction(NamedTuple):
    """One line of the text."""

    result: str
    """Its type."""
    opcode: str
    line: str


Computations = dict[str, list[Instruction]]
"""Name -> its instructions."""


@dataclass(frozen=True)
class Optimized:
    """What is in a program."""

    collectives: tuple[Collective, ...]
    """In the order of the text."""
    kernels: dict[str, int]
    """Instruction -> how often a step launches such a kernel; collectives are none."""
    host_calls: tuple[str, ...]
    """What it asks of the host while it runs."""
    reused: int
    """Arguments whose memory a result takes: what was donated."""
    unknown_loops: int
    """Loops of which nobody knows how often they run; what is inside is counted once."""

    def by_kind(self) -> dict[str, list[int]]:
        """Collective -> bytes of the results, each as often as it runs, largest first."""
        sizes: dict[str, list[int]] = {}
        for found in self.collectives:
            sizes.setdefault(found.kind, []).extend([found.total] * found.times)
        return {kind: sorted(found, reverse=True) for kind, found in sizes.items()}


def read(text: str) -> Optimized:
    """Reads `compiled.as_text()`."""
    computations, entry = _computations(text)
    times, unknown = _times(computations, entry)
    found: dict[str, Collective] = {}
    kernels, host = Counter[str](), []
    for name, count in times.items():
        for i, instruction in enumerate(computations[name]):
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                # A TPU's compiler overlaps one with other work by fusing parts of it there: one chain is one exchange.
                chain = _CHAIN.search(instruction.line)
                once = f"chain {chain[1]}" if chain else f"{name} {i}"
                found.setdefault(once, Collective(kind, _result_bytes(instruction), count))
            host += _asks_host(instruction)
    for instruction, count in _launched(computations, entry, 1):
        kernels[instruction.opcode] += count
    header = text.partition("\n")[0]
    reused = len(re.findall(r"\(\d+, \{[\d,]*\}, \w+-alias\)", header))
    return Optimized(tuple(found.values()), dict(kernels), tuple(sorted(set(host))), reused, unknown)


def array_bytes(shape: str) -> dict[str, int]:
    """dtype -> bytes of all arrays of a type as the text has it: "(f32[3,4]{1,0}, bf16[])"."""
    sizes = Counter[str]()
    for array in _ARRAY.finditer(shape):
        count = math.prod(int(n) for n in array["dims"].split(",") if n)
        sizes[array["kind"]] += count * ITEM_BYTES.get(array["kind"], 1)
    return dict(sizes)


def _computations(text: str) -> tuple[Computations, str]:
    """Name -> instructions, and the name of the entry."""
    computations: Computations = {}
    name = entry = ""
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            name = begins["name"]
            computations[name] = []
            entry = name if begins["entry"] else entry
        elif name and (parts := _INSTRUCTION.match(line)):
            rest = parts["rest"]
            end = _type_end(rest)
            opcode = rest[end:].lstrip().partition("(")[0]
            computations[name].append(Instruction(rest[:end], opcode, line))
    return computations, entry


def _type_end(rest: str) -> int:
    """Where the type ends with which an instruction begins: a tuple in brackets, or no space."""
    if not rest.startswith("("):
        return rest.find(" ")
    depth = 0
    for i, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i + 1
    return len(rest)


def _called(instruction: Instruction) -> list[str]:
    names = [name for _, name in _CALLED.findall(instruction.line)]
    listed = (name.strip().lstrip("%") for names in _BRANCHES.findall(instruction.line) for name in names.split(","))
    return [*names, *listed]


def _rounds(instruction: Instruction, computations: Computations) -> int | None:
    """How often what an instruction calls runs; None where nobody knows.

    A TPU's text does not say it of a loop: then it is the number below which its counter must be, from 0 by ones as jax
    counts in all scans and maps.
    """
    if instruction.opcode != "while":
        return 1
    if known := _ROUNDS.search(instruction.line):
        return int(known[1])
    condition = dict(_CALLED.findall(instruction.line)).get("condition", "")
    lines = [each.line for each in computations.get(condition, ())]
    below = _BELOW.search(lines[-1]) if lines else None
    bounds = [line for line in lines if below and f"%{below[1]} = s32[]" in line]
    number = _CONSTANT.search(bounds[0]) if bounds else None
    return int(number[1]) if number else None


def _times(computations: Computations, entry: str) -> tuple[dict[str, int], int]:
    """Computation -> how often a step runs it, and the loops without a count."""
    times = Counter[str]()
    unknown = 0
    todo = [(entry, 1)]
    while todo:
        name, count = todo.pop()
        times[name] += count
        for instruction in computations.get(name, ()):
            called = [other for other in _called(instruction) if other in computations]
            rounds = _rounds(instruction, computations)
            unknown += rounds is None
            todo += [(other, count * (1 if rounds is None else rounds)) for other in called]
    return dict(sorted(times.items(), key=lambda item: list(computations).index(item[0]))), unknown


def _launched(computations: Computations, name: str, count: int) -> Iterator[tuple[Instruction, int]]:
    """(instruction, how often) of what is launched by itself: not the inside of a fusion, but of loops and calls."""
    for instruction in computations[name]:
        if instruction.opcode in ("while", "call", "conditional"):
            inside = [other for other in _called(instruction) if other in computations]
            for other in inside:
                yield from _launched(computations, other, count * (_rounds(instruction, computations) or 1))
        elif instruction.opcode in _LAUNCHES and not _is_no_kernel(instruction):
            yield instruction, count


def _is_no_kernel(instruction: Instruction) -> bool:
    target = _TARGET.search(instruction.line)
    scalar = instruction.opcode not in ("fusion", "custom-call") and _SCALAR.search(instruction.result)
    return bool(scalar) or bool(target and target[1] in _NO_KERNELS)


def _result_bytes(instruction: Instruction) -> dict[str, int]:
    """Of a collective; some begin with (what goes in, what comes out, ...)."""
    if instruction.opcode in ("all-gather-start", "collective-permute-start", "reduce-scatter-start"):
        return array_bytes(_second(instruction.result))
    return array_bytes(instruction.result)


def _second(shape: str) -> str:
    """The second element of a tuple's type."""
    depth, start, parts = 0, 1, []
    for i, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or not depth:
            parts.append(shape[start:i])
            start = i + 1
    return parts[1]


def _asks_host(instruction: Instruction) -> list[str]:
    target = _TARGET.search(instruction.line)
    if instruction.opcode == "custom-call" and target and _HOST.search(target[1]):
        return [target[1]]
    if instruction.opcode in ("infeed", "outfeed"):
        return [instruction.opcode]
    moves = instruction.opcode in ("send", "recv") and "is_host_transfer=true" in instruction.line
    return [instruction.opcode] if moves else []
