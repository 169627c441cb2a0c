"""Pictures that Pillow does not write, by the formats' own pages: PNG and TIFF of any bits and bands."""

import struct
import zlib
from typing import Any

import numpy as np


def png(values: np.ndarray, significant: int = 0) -> bytes:
    """16 bits a channel of [H, W, 1 to 4]; significant: what sBIT says, 0 for none."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    chunks += [(b"sBIT", bytes([significant] * channels))] * bool(significant)
    chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def tiff(values: np.ndarray, photometric: int, extras: tuple[int, ...] = (), order: str = "<", **more: Any) -> bytes:
    """One strip of [H, W, bands] of any dtype; photometric: 1 grey, 2 RGB; more: further tags, t281=(4095,)."""
    strip = values.astype(values.dtype.newbyteorder(order)).tobytes()
    return _file([strip], values, photometric, extras, order, **more)


def separate(values: np.ndarray, photometric: int, extras: tuple[int, ...] = (), deflated: bool = False) -> bytes:
    """A TIFF with a strip for each band, as GDAL's INTERLEAVE=BAND writes it."""
    strips = [band.tobytes() for band in values.transpose(2, 0, 1)]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    return _file(strips, values, photometric, extras, "<", t259=(8 if deflated else 1,), t284=(2,))


def _file(
    strips: list[bytes], values: np.ndarray, photometric: int, extras: tuple[int, ...], order: str, **more: Any
) -> bytes:
    height, width, bands = values.shape
    raw = b"".join(strips)
    offsets = (8, *(8 + np.cumsum([len(strip) for strip in strips])[:-1]).tolist())
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags: dict[int, Any] = {
        256: (width,), 257: (height,), 258: (values.dtype.itemsize * 8,) * bands, 259: (1,), 262: (photometric,),
        273: offsets, 277: (bands,), 278: (height,), 279: tuple(map(len, strips)), 284: (1,), 339: (kind,) * bands,
    }  # fmt: skip
    tags |= {338: extras} if extras else {}
    tags |= {int(name[1:]): value for name, value in more.items()}
    start = 8 + len(raw) + len(raw) % 2
    at = start + 2 + 12 * len(tags) + 4
    entries, behind = b"", b""
    for tag, numbers in sorted(tags.items()):
        text = isinstance(numbers, str)
        packed = numbers.encode() + b"\0" if isinstance(numbers, str) else b""
        packed = packed or struct.pack(f"{order}{len(numbers)}I", *numbers)
        count = len(packed) if text else len(numbers)
        packed = packed.ljust(4, b"\0")
        if len(packed) > 4:
            packed, behind = struct.pack(f"{order}I", at + len(behind)), behind + packed
        entries += struct.pack(f"{order}HHI", tag, 2 if text else 4, count) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return head + raw + bytes(len(raw) % 2) + directory + behind
