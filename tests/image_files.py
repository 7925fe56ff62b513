"""Image files written byte by byte, so that tests do not depend on what Pillow can write."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path


def png(
    path: Path, *, size: tuple[int, int], depth: int, colour: int, rows: list[bytes], trns: bytes = b"", plte: bytes = b""
) -> Path:
    """A PNG file. `colour` is 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha; a row has the packed samples."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))]
    chunks += [(b"PLTE", plte)] * bool(plte) + [(b"tRNS", trns)] * bool(trns)
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def tiff(
    path: Path,
    pixels: bytes,
    *,
    size: tuple[int, int],
    bits: tuple[int, ...],
    photometric: int = 1,
    sample_format: int = 1,
    extra_samples: tuple[int, ...] = (),
    big_endian: bool = False,
    orientation: int = 1,
) -> Path:
    """An uncompressed TIFF file of one strip."""
    order = ">" if big_endian else "<"
    short, long = 3, 4
    tags: list[tuple[int, int, tuple[int, ...]]] = [
        (256, short, (size[0],)),
        (257, short, (size[1],)),
        (258, short, bits),
        (259, short, (1,)),
        (262, short, (photometric,)),
        (273, long, (8,)),
        (274, short, (orientation,)),
        (277, short, (len(bits),)),
        (278, short, (size[1],)),
        (279, long, (len(pixels),)),
        *([(338, short, extra_samples)] if extra_samples else []),
        (339, short, (sample_format,) * len(bits)),
    ]
    padded = pixels + b"\0" * (len(pixels) % 2)
    directory = 8 + len(padded)
    outside = directory + 2 + 12 * len(tags) + 4
    entries, far = b"", b""
    for number, kind, values in tags:
        data = struct.pack(f"{order}{len(values)}{'H' if kind == short else 'I'}", *values)
        if len(data) > 4:
            data, far = struct.pack(f"{order}I", outside + len(far)), far + data
        entries += struct.pack(f"{order}HHI", number, kind, len(values)) + data.ljust(4, b"\0")
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", directory)
    path.write_bytes(head + padded + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + far)
    return path
