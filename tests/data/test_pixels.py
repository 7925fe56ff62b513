"""Every kind of image becomes 8 bits by the arithmetic that the documentation states, or one line with the file's name."""

from __future__ import annotations

import io
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from builders import one_line_error
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import png, tiff
from PIL import Image, ImageCms

from autospike.data.pixels import WHITE, Encoded, has_grey_mode, is_grey, printable, read_image
from autospike.errors import UserError


def grey(path: Path, **settings: Any) -> list[list[int]]:
    image = read_image(path, channels=1, **settings)
    assert image.mode == "L"
    return np.asarray(image).tolist()


def rgb(path: Path, **settings: Any) -> list[list[list[int]]]:
    image = read_image(path, channels=3, **settings)
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def refused(path: Path, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        read_image(path, channels=3)
    assert str(error.value).startswith(printable(path))
    assert "\n" not in str(error.value)


SIXTEEN = [[0, 257, 20000], [32768, 50000, 65535]]
EIGHT = [[0, 1, 78], [128, 195, 255]]  # divided by 257 and rounded, by hand


@pytest.mark.parametrize(
    "write",
    {
        "png": lambda path: png(path, size=(3, 2), depth=16, colour=0, rows=[struct.pack(">3H", *row) for row in SIXTEEN]),
        "tiff, little endian": lambda path: tiff(path, np.array(SIXTEEN, "<u2").tobytes(), size=(3, 2), bits=(16,)),
        "tiff, big endian": lambda path: tiff(path, np.array(SIXTEEN, ">u2").tobytes(), size=(3, 2), bits=(16,), big_endian=True),
        "tiff, white is zero": lambda path: tiff(
            path, (65535 - np.array(SIXTEEN, "<u2")).tobytes(), size=(3, 2), bits=(16,), photometric=0
        ),
        "tiff, 32-bit unsigned": lambda path: tiff(path, np.array(SIXTEEN, "<u4").tobytes(), size=(3, 2), bits=(32,)),
        "tiff, 32-bit signed": lambda path: tiff(
            path, np.array(SIXTEEN, "<i4").tobytes(), size=(3, 2), bits=(32,), sample_format=2
        ),
        "tiff, 32-bit signed, big endian": lambda path: tiff(
            path, np.array(SIXTEEN, ">i4").tobytes(), size=(3, 2), bits=(32,), sample_format=2, big_endian=True
        ),
        "tiff, float": lambda path: tiff(
            path, (np.array(SIXTEEN) / 65535).astype("<f4").tobytes(), size=(3, 2), bits=(32,), sample_format=3
        ),
        "tiff, float, big endian": lambda path: tiff(
            path, (np.array(SIXTEEN) / 65535).astype(">f4").tobytes(), size=(3, 2), bits=(32,), sample_format=3, big_endian=True
        ),
        "pgm of 16 bits": lambda path: path.write_bytes(b"P5 3 2 65535\n" + np.array(SIXTEEN, ">u2").tobytes()),
        "plain pgm of 16 bits": lambda path: path.write_text("P2 3 2 65535\n" + " ".join(str(v) for row in SIXTEEN for v in row)),
        "saved by Pillow as I": lambda path: Image.fromarray(np.array(SIXTEEN, np.int32)).save(path, format="TIFF"),
        "saved by Pillow as I;16": lambda path: Image.fromarray(np.array(SIXTEEN, np.uint16)).save(path, format="TIFF"),
        "saved by Pillow as F": lambda path: Image.fromarray((np.array(SIXTEEN) / 65535).astype(np.float32)).save(
            path, format="TIFF"
        ),
    }.values(),
)
def test_more_than_8_bits_are_scaled_by_the_range_of_the_type(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    write(tmp_path / "image")
    assert grey(tmp_path / "image") == EIGHT
    assert rgb(tmp_path / "image") == [[[v] * 3 for v in row] for row in EIGHT]
    assert is_grey(tmp_path / "image")


def test_the_declared_number_of_bits_is_the_range(tmp_path: Path) -> None:
    """Two samples of 12 bits, 0x000 and 0xFFF, then 0x800 and 0x010: divided by 4095."""
    tiff(tmp_path / "twelve.tif", bytes.fromhex("000fff800010"), size=(2, 2), bits=(12,))
    assert grey(tmp_path / "twelve.tif") == [[0, 255], [128, 1]]
    tiff(tmp_path / "stored_in_16.tif", np.array([[0, 4095]], "<u2").tobytes(), size=(2, 1), bits=(16,))
    assert grey(tmp_path / "stored_in_16.tif") == [[0, 16]]  # dark, as documented: the file says 16 bits
    (tmp_path / "maxval.pgm").write_bytes(b"P5 2 1 1023\n" + struct.pack(">2H", 1023, 512))
    assert grey(tmp_path / "maxval.pgm") == [[255, 128]]


def test_signed_integers_are_scaled_by_their_largest_value(tmp_path: Path) -> None:
    tiff(tmp_path / "i16.tif", np.array([[0, 16384, 32767]], "<i2").tobytes(), size=(3, 1), bits=(16,), sample_format=2)
    assert grey(tmp_path / "i16.tif") == [[0, 128, 255]]
    tiff(tmp_path / "i8.tif", np.array([[0, 64, 127]], "i1").tobytes(), size=(3, 1), bits=(8,), sample_format=2)
    assert grey(tmp_path / "i8.tif") == [[0, 129, 255]]


@pytest.mark.parametrize(
    ("values", "kind", "bits", "sample_format", "reason"),
    [
        ([0, 65536], "<i4", 32, 2, "from 0 to 65536 have no defined white"),
        ([-1, 5], "<i4", 32, 2, "from -1 to 5 have no defined white"),
        ([0, 255], "<i4", 32, 2, "up to 255 may be 8-bit or 16-bit values"),
        ([-5, 5], "<i2", 16, 2, r"negative pixels \(the least is -5\)"),
        ([-5, 5], "i1", 8, 2, r"negative pixels \(the least is -5\)"),
        ([0, 255], "<f4", 32, 3, r"from 0 to 255; scale them to 0\.\.1"),
        ([-0.1, 1], "<f4", 32, 3, r"from -0\.1 to 1; scale them"),
        ([np.nan, 1], "<f4", 32, 3, "not finite"),
        ([np.inf, 1], "<f4", 32, 3, "not finite"),
    ],
)
def test_values_without_a_brightness_are_refused(
    tmp_path: Path, values: list[float], kind: str, bits: int, sample_format: int, reason: str
) -> None:
    path = tmp_path / "image.tif"
    tiff(path, np.array(values, kind).tobytes(), size=(2, 1), bits=(bits,), sample_format=sample_format)
    refused(path, reason)


def test_a_black_image_of_32_bits_is_black(tmp_path: Path) -> None:
    assert grey(tiff(tmp_path / "black.tif", np.zeros(2, "<i4").tobytes(), size=(2, 1), bits=(32,), sample_format=2)) == [[0, 0]]


def test_16_bits_of_colour_keep_the_high_byte(tmp_path: Path) -> None:
    path = png(tmp_path / "rgb.png", size=(1, 1), depth=16, colour=2, rows=[struct.pack(">3H", 0x12FF, 0x8000, 0xFFFF)])
    assert rgb(path) == [[[0x12, 0x80, 0xFF]]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 65535), min_size=2, max_size=20))
def test_scaling_is_monotone_and_within_half_a_level(values: list[int]) -> None:
    with TemporaryDirectory() as folder:
        (found,) = grey(tiff(Path(folder) / "i.tif", np.array(sorted(values), "<u2").tobytes(), size=(len(values), 1), bits=(16,)))
    assert found == sorted(found)
    assert all(abs(level - value * 255 / 65535) <= 0.5 for level, value in zip(found, sorted(values), strict=True))


# On white: a black pixel of alpha 64 is 255 - 64 = 191.
TRANSPARENT: dict[str, tuple[Callable[[Path], Any], list[list[int]]]] = {
    "grey with alpha": (lambda p: png(p, size=(3, 1), depth=8, colour=4, rows=[bytes((0, 255, 0, 64, 99, 0))]), [[0, 191, 255]]),
    "grey with alpha of 16 bits": (
        lambda p: png(p, size=(3, 1), depth=16, colour=4, rows=[bytes((0, 0, 255, 255, 0, 0, 64, 0, 99, 0, 0, 0))]),
        [[0, 191, 255]],
    ),
    "RGB with alpha": (
        lambda p: png(p, size=(3, 1), depth=8, colour=6, rows=[bytes((0, 0, 0, 255, 0, 0, 0, 64, 9, 9, 9, 0))]),
        [[0, 191, 255]],
    ),
    "palette with alpha": (
        lambda p: png(p, size=(3, 1), depth=8, colour=3, rows=[bytes((0, 1, 2))], plte=bytes(9), trns=bytes((255, 64, 0))),
        [[0, 191, 255]],
    ),
    "palette with one transparent colour": (
        lambda p: png(p, size=(3, 1), depth=8, colour=3, rows=[bytes((0, 1, 0))], plte=bytes(6), trns=bytes((255, 0))),
        [[0, 255, 0]],
    ),
    "palette of 2 bits": (
        lambda p: png(p, size=(3, 1), depth=2, colour=3, rows=[bytes((0b00011000,))], plte=bytes(9), trns=bytes((255, 64, 0))),
        [[0, 191, 255]],
    ),
    "transparent grey": (
        lambda p: png(p, size=(3, 1), depth=8, colour=0, rows=[bytes((0, 7, 8))], trns=struct.pack(">H", 7)),
        [[0, 255, 8]],
    ),
    "transparent grey of 4 bits": (
        lambda p: png(p, size=(3, 1), depth=4, colour=0, rows=[bytes((0x05, 0x60))], trns=struct.pack(">H", 5)),
        [[0, 255, 102]],
    ),
    "transparent grey of 2 bits": (
        lambda p: png(p, size=(3, 1), depth=2, colour=0, rows=[bytes((0b00011000,))], trns=struct.pack(">H", 1)),
        [[0, 255, 170]],
    ),
    "transparent grey of 1 bit": (
        lambda p: png(p, size=(3, 1), depth=1, colour=0, rows=[bytes((0b01000000,))], trns=struct.pack(">H", 0)),
        [[255, 255, 255]],
    ),
    "transparent grey of 16 bits": (
        lambda p: png(p, size=(3, 1), depth=16, colour=0, rows=[struct.pack(">3H", 0, 300, 25700)], trns=struct.pack(">H", 300)),
        [[0, 255, 100]],
    ),
    "transparent colour": (
        lambda p: png(p, size=(2, 1), depth=8, colour=2, rows=[bytes((5, 5, 5, 5, 5, 5))], trns=struct.pack(">3H", 5, 5, 5)),
        [[255, 255]],
    ),
    "another colour is opaque": (
        lambda p: png(p, size=(2, 1), depth=8, colour=2, rows=[bytes((5, 5, 5, 6, 6, 6))], trns=struct.pack(">3H", 5, 5, 6)),
        [[5, 6]],
    ),
    "transparent colour of 16 bits": (
        lambda p: png(
            p,
            size=(2, 1),
            depth=16,
            colour=2,
            rows=[struct.pack(">6H", *[0x0501] * 3, *[0x4000] * 3)],
            trns=struct.pack(">3H", *[0x0501] * 3),
        ),
        [[255, 64]],
    ),
    "tiff, premultiplied grey": (
        lambda p: tiff(p, bytes((0, 255, 0, 64, 0, 0)), size=(3, 1), bits=(8, 8), extra_samples=(1,)),
        [[0, 191, 255]],
    ),
    "tiff, grey with alpha": (
        lambda p: tiff(p, bytes((0, 255, 0, 64, 9, 0)), size=(3, 1), bits=(8, 8), extra_samples=(2,)),
        [[0, 191, 255]],
    ),
    "tiff, premultiplied RGB": (
        lambda p: tiff(p, bytes((64, 64, 64, 64, 0, 0, 0, 0)), size=(2, 1), bits=(8,) * 4, photometric=2, extra_samples=(1,)),
        [[255, 255]],  # 64 of alpha 64 is white
    ),
    "saved by Pillow as LA": (lambda p: Image.fromarray(np.array([[[0, 64]]], np.uint8)).save(p, format="TIFF"), [[191]]),
    "webp": (
        lambda p: Image.fromarray(np.full((4, 4, 4), (0, 0, 0, 0), np.uint8)).save(p, format="WEBP", lossless=True),
        [[255] * 4] * 4,
    ),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pixels_show_the_background(tmp_path: Path, name: str) -> None:
    write, expected = TRANSPARENT[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        write(tmp_path / "image")
    assert grey(tmp_path / "image") == expected
    assert rgb(tmp_path / "image") == [[[v] * 3 for v in row] for row in expected]
    assert is_grey(tmp_path / "image")


def test_a_transparent_gif_shows_the_background(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "image.gif", transparency=1)
    assert rgb(tmp_path / "image.gif") == [[[10, 20, 30], [255, 255, 255]]]
    assert rgb(tmp_path / "image.gif", background=(1, 2, 3)) == [[[10, 20, 30], [1, 2, 3]]]


def test_a_coloured_background_makes_a_transparent_grey_image_coloured(tmp_path: Path) -> None:
    path = png(tmp_path / "la.png", size=(2, 1), depth=8, colour=4, rows=[bytes((0, 255, 200, 0))])
    assert rgb(path, background=(255, 0, 0)) == [[[0, 0, 0], [255, 0, 0]]]
    assert grey(path, background=(255, 0, 0)) == [[0, 76]]  # 0.299 * 255
    assert not is_grey(path, background=(255, 0, 0))
    opaque = png(tmp_path / "opaque.png", size=(1, 1), depth=8, colour=4, rows=[bytes((9, 255))])
    assert is_grey(opaque, background=(255, 0, 0))


LEVEL = st.integers(0, 255)


@settings(deadline=None, max_examples=50)
@given(pixel=st.tuples(LEVEL, LEVEL, LEVEL, LEVEL), background=st.tuples(LEVEL, LEVEL, LEVEL))
def test_compositing_is_a_weighted_mean(pixel: tuple[int, int, int, int], background: tuple[int, int, int]) -> None:
    with TemporaryDirectory() as folder:
        path = png(Path(folder) / "rgba.png", size=(1, 1), depth=8, colour=6, rows=[bytes(pixel)])
        found = rgb(path, background=background)[0][0]
    alpha = pixel[3] / 255
    assert all(abs(f - (alpha * c + (1 - alpha) * b)) <= 1 for f, c, b in zip(found, pixel, background, strict=False))


def test_cmyk_is_converted(tmp_path: Path) -> None:
    """Cyan without black: no red. 60 of 255 black: 195 of 255 remain."""
    tiff(tmp_path / "cmyk.tif", bytes((255, 0, 0, 0, 0, 0, 0, 60)), size=(2, 1), bits=(8,) * 4, photometric=5)
    assert rgb(tmp_path / "cmyk.tif") == [[[0, 255, 255], [195, 195, 195]]]
    assert not is_grey(tmp_path / "cmyk.tif")


def test_inverted_cmyk_of_adobe_has_the_same_colours(tmp_path: Path) -> None:
    """Pillow writes the JPEG inverted with Adobe's marker, as Photoshop does."""
    Image.new("CMYK", (16, 16), (200, 30, 60, 20)).save(tmp_path / "adobe.jpg", quality=100)
    raw = (tmp_path / "adobe.jpg").read_bytes()
    assert b"Adobe" in raw
    black = 255 - 20
    expected = [black * (255 - ink) / 255 for ink in (200, 30, 60)]
    np.testing.assert_allclose(rgb(tmp_path / "adobe.jpg")[8][8], expected, atol=4)


def test_ycbcr_and_lab_are_converted(tmp_path: Path) -> None:
    """JFIF: Y 76, Cb 85, Cr 255 is red."""
    tiff(tmp_path / "ycbcr.tif", bytes((76, 85, 255)), size=(1, 1), bits=(8,) * 3, photometric=6)
    np.testing.assert_allclose(rgb(tmp_path / "ycbcr.tif")[0][0], (254, 0, 0), atol=2)
    lab = ImageCms.applyTransform(
        Image.new("RGB", (2, 2), (200, 40, 90)),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert lab is not None
    lab.save(tmp_path / "lab.tif")
    np.testing.assert_allclose(rgb(tmp_path / "lab.tif")[0][0], (200, 40, 90), atol=4)


ARROW = np.array([[0, 50], [100, 150], [200, 250]], np.uint8)  # 2 wide, 3 high
# TIFF 6.0, Orientation: what the viewer sees of the stored rows and columns.
ORIENTED: dict[int, np.ndarray[Any, Any]] = {
    1: ARROW,
    2: ARROW[:, ::-1],
    3: ARROW[::-1, ::-1],
    4: ARROW[::-1],
    5: ARROW.T,
    6: np.rot90(ARROW, -1),
    7: ARROW[::-1, ::-1].T,
    8: np.rot90(ARROW),
}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
def test_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / f"arrow.{kind}"
    if kind == "tif":
        tiff(path, ARROW.tobytes(), size=(2, 3), bits=(8,), orientation=orientation)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        image = Image.fromarray(ARROW).convert("RGB" if kind == "webp" else "L")
        image.save(path, exif=exif, lossless=True)  # the option is for WebP
    assert grey(path) == ORIENTED[orientation].tolist()


def test_orientation_of_a_jpeg_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    half = np.zeros((16, 32), np.uint8)
    half[:, 16:] = 255  # the right half is white; turned clockwise, the lower half
    Image.fromarray(half).save(tmp_path / "turned.jpg", exif=exif)
    found = np.array(grey(tmp_path / "turned.jpg"))
    assert found.shape == (32, 16)
    assert found[:12].max() < 20
    assert found[20:].min() > 235


def test_metadata_that_cannot_be_parsed_are_ignored(tmp_path: Path) -> None:
    Image.fromarray(ARROW).save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array(grey(tmp_path / "odd.jpg")).shape == (3, 2)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(tmp_path: Path, kind: str) -> None:
    first, second = (Image.new("RGB", (8, 8), (level,) * 3) for level in (10, 200))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    first.save(tmp_path / "frames", format=kind, save_all=True, append_images=[second], **options)
    assert {v for row in grey(tmp_path / "frames") for v in row} == {10}


def test_grey_is_seen_in_modes_and_in_pixels(tmp_path: Path) -> None:
    shades = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for name, pixels, expected in (
        ("equal", np.repeat(shades[..., :1], 3, axis=2), True),
        ("one pixel differs", np.where(np.indices((2, 2, 3)).sum(axis=0) == 4, 1, 0).astype(np.uint8), False),
        ("colours", shades, False),
    ):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert is_grey(tmp_path / f"{name}.png") is expected
    for mode in ("1", "L"):
        Image.new(mode, (2, 2)).save(tmp_path / f"{mode}.png")
        assert is_grey(tmp_path / f"{mode}.png")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "P", "RGB", "RGBA"])
def test_a_header_tells_grey_modes_apart(tmp_path: Path, mode: str, kind: str) -> None:
    """The header of PNG is parsed here, and that of another format by Pillow."""
    image = Image.new(mode, (4, 4))
    image.save(tmp_path / "image", format=kind)
    content = (tmp_path / "image").read_bytes()
    for source in (tmp_path / "image", Encoded(name="image", content=content)):
        assert has_grey_mode(source) is (mode in {"1", "L", "LA", "I;16"})
        assert not has_grey_mode(source, background=(255, 0, 0))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
def test_a_header_that_cannot_be_read_is_a_one_line_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image.png").write_bytes(content)
    assert "image.png: not a readable image" in one_line_error(lambda: has_grey_mode(tmp_path / "image.png"))


def test_grey_levels_of_colours_are_luma(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [77, 77, 77]]], np.uint8)).save(tmp_path / "rgb.png")
    assert grey(tmp_path / "rgb.png") == [[76, 150, 29, 77]]  # ITU-R 601: 0.299, 0.587, 0.114


def a_file(kind: str) -> bytes:
    stream, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(stream, format=kind)
    return stream.getvalue()


KINDS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP")


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_one_line_with_its_name(tmp_path: Path, kind: str) -> None:
    whole = a_file(kind)
    for length in (0, 1, 8, 20, len(whole) // 3, len(whole) // 2):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        refused(tmp_path / "cut.png", "not a readable image")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_never_raise_another_error(tmp_path: Path, kind: str) -> None:
    whole, rng, path = a_file(kind), random.Random(0), tmp_path / "damaged.png"
    for _ in range(60):
        spoilt = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            spoilt[rng.randrange(min(len(spoilt), 80) if rng.random() < 0.7 else len(spoilt))] = rng.randrange(256)
        path.write_bytes(spoilt)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert read_image(path, channels=3).mode == "RGB"
        except UserError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"P6 0 0 255\n", b"P5 2 2 99999999\n", b"GIF89a", b"BM" + b"\xff" * 60],
)
def test_what_is_no_image_is_one_line_with_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    refused(tmp_path / "bad.png", "not a readable image")


def test_an_image_of_too_many_pixels_is_one_line_with_its_name(tmp_path: Path) -> None:
    png(tmp_path / "bomb.png", size=(60000, 60000), depth=1, colour=0, rows=[b""])
    refused(tmp_path / "bomb.png", "DecompressionBombError")


def test_a_missing_file_is_one_line_with_its_name(tmp_path: Path) -> None:
    refused(tmp_path / "gone.png", "not a readable image")


def test_a_name_with_line_breaks_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines.png"
    path.write_bytes(b"")
    refused(path, "not a readable image")
    assert printable("a\nb\udcff") == "a\\nb\\xff"
    assert WHITE == (255, 255, 255)
