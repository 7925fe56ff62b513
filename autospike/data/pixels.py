"""Decode an image file to 8 bits: one grey channel, or red, green and blue.

| file                                      | result                                                                             |
|-------------------------------------------|------------------------------------------------------------------------------------|
| 1, 2, 4, 8 bits; palette                  | as decoded by Pillow                                                               |
| unsigned 12 or 16 bits                    | divided by the largest number of the type: 4095 or 65535                           |
| signed 8 or 16 bits                       | divided by 127 or 32767; negative values are an error                              |
| 32-bit integers                           | read as 16-bit values; an error outside 0..65535, or if the largest is in 1..255   |
| floating point                            | 0..1 times 255; an error outside 0..1 or for NaN                                   |
| alpha channel, transparent colour         | composited on `data.background`; 16-bit colours are compared by their high bytes   |
| CMYK, YCbCr, LAB, HSV                     | converted to sRGB by Pillow; ICC profiles are ignored                              |
| EXIF orientation                          | applied                                                                            |
| animation, several pages                  | the first frame or page                                                            |

A bit depth that the file does not declare is not guessed: 12-bit data in a 16-bit file is divided by 65535, and is dark.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops

from autospike.errors import UserError

# The image files that are read; torchvision's IMG_EXTENSIONS.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

RGB = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)

# Modes of Pillow with one channel of brightness.
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
# PNG specification, 5.2 and 11.2.2: signature, offset of the colour type in a file, and the colour types without colour.
PNG_SIGNATURE, PNG_COLOUR_TYPE, PNG_GREY = b"\x89PNG\r\n\x1a\n", 25, (0, 4)

# Numbers of TIFF tags, of TIFF 6.0: PhotometricInterpretation, BitsPerSample, SampleFormat.
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339
WHITE_IS_ZERO, SIGNED = 0, 2

# TIFF 6.0, Orientation: how to transpose an image so that its first row is at the top. Without an entry, it is already there.
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An encoded image that is not a file of its own.

    Attributes:
        name: Where it is stored, for error messages.
        content: The bytes of the file.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        """Return the name."""
        return self.name


Source = str | PathLike[str] | Encoded
"""A regular file, or its bytes."""


def read_image(path: Source, *, channels: Literal[1, 3], background: RGB = WHITE) -> Image.Image:
    """Decode an image.

    Args:
        path: The image.
        channels: 1 for a grey image (ITU-R 601 luma of a coloured one), 3 for RGB.
        background: Colour behind transparent pixels.

    Returns:
        An image of mode L or RGB, in the orientation in which it is viewed.

    Raises:
        UserError: The file cannot be decoded, or its values have no defined brightness. The message is one line with its name.
    """
    image, mode = _decode(path, background), "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def is_grey(path: Source, *, background: RGB = WHITE) -> bool:
    """Return whether an image has no colour: its mode is grey, or red, green and blue are equal in every pixel.

    Only the header is read if the mode is enough to know.

    Args:
        path: The image.
        background: Colour behind transparent pixels.

    Raises:
        UserError: The file cannot be decoded.
    """
    return has_grey_mode(path, background=background) or has_grey_pixels(path, background=background)


def has_grey_pixels(path: Source, *, background: RGB = WHITE) -> bool:
    """Return whether a decoded image has no colour: red, green and blue are equal in every pixel.

    Args:
        path: The image.
        background: Colour behind transparent pixels.

    Raises:
        UserError: The file cannot be decoded.
    """
    image = _decode(path, background)
    if image.mode == "L":
        return True
    red, green, blue = image.split()
    return all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))


def has_grey_mode(path: Source, *, background: RGB = WHITE) -> bool:
    """Return whether the header of an image says that it has no colour. Only the header is read.

    Args:
        path: The image.
        background: Colour behind transparent pixels.

    Raises:
        UserError: The file cannot be read, or its format is not known.
    """
    if not _is_colourless(background):
        return False
    try:
        head = _head(path)
        if head.startswith(PNG_SIGNATURE) and len(head) > PNG_COLOUR_TYPE:  # Pillow takes seven times as long
            return head[PNG_COLOUR_TYPE] in PNG_GREY
        with _opened(path) as opened:
            return opened.mode in GREY_MODES
    except Exception as error:  # see _decode
        raise _unreadable(path, error) from None


def _head(path: Source) -> bytes:
    if isinstance(path, Encoded):
        return path.content[: PNG_COLOUR_TYPE + 1]
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - half the time of Path.open for 50,000 small files
        return file.read(PNG_COLOUR_TYPE + 1)


def printable(name: object) -> str:
    """Return a file name for a message of one line: control characters and undecodable bytes are escaped.

    Args:
        name: A path, or another value whose text is a file name.
    """
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason_of(error: BaseException) -> str:
    """Return the message of an exception in one line, or its type if it has none.

    Args:
        error: The exception.
    """
    return " ".join(printable(" ".join(str(error).split())).split())[:200] or type(error).__name__


def _unreadable(path: Source, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {reason_of(error)}" if str(error).strip() else type(error).__name__
    return UserError(f"{printable(path)}: not a readable image ({reason}); repair or remove it")


@contextlib.contextmanager
def _opened(path: Source) -> Iterator[Image.Image]:
    """Context manager of an opened image, whose pixels are not decoded yet."""
    # a path instead of a file would be memory-mapped: Pillow 13 then scrambles an uncompressed TIFF of orientation 5 to 8
    with BytesIO(path.content) if isinstance(path, Encoded) else Path(path).open("rb") as file, Image.open(file) as opened:
        yield opened


def _decode(path: Source, background: RGB) -> Image.Image:
    """The image in mode L or RGB."""
    try:
        with _opened(path) as opened:
            rawmode = _rawmode(opened)
            opened.load()
            image = _upright(opened, _flatten(opened, rawmode, background))
    except UserError as error:
        raise UserError(f"{printable(path)}: {error}") from None
    except Exception as error:  # a decoder may raise anything: SyntaxError, struct.error, zlib.error, DecompressionBombError, ...
        raise _unreadable(path, error) from None
    return image


def _rawmode(image: Image.Image) -> str:
    """How the pixels are stored in the file; known before they are loaded."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _flatten(image: Image.Image, rawmode: str, background: RGB) -> Image.Image:
    """Scale a loaded image to 8 bits and composite it on the background. The result has mode L or RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # most images
    alpha = _alpha(image, rawmode)
    opaque = _opaque(image)
    if alpha is None:
        return opaque
    if not _is_colourless(background):
        opaque = opaque.convert("RGB")
    behind = Image.new(opaque.mode, opaque.size, background if opaque.mode == "RGB" else background[0])
    return Image.composite(opaque, behind, alpha)


def _is_colourless(colour: RGB) -> bool:
    return len(set(colour)) == 1


def _alpha(image: Image.Image, rawmode: str) -> Image.Image | None:
    """The alpha channel; None if every pixel is opaque."""
    if not image.has_transparency_data:
        return None
    transparent = image.info.get("transparency")
    if image.mode in ("1", "L", "I;16", "I", "RGB") and transparent is not None:
        return _where_opaque(image, rawmode, transparent)
    return _straight(image).getchannel("A")


def _straight(image: Image.Image) -> Image.Image:
    """An image with alpha, not premultiplied, in mode LA or RGBA."""
    if image.mode == "La":
        return image.convert("LA")
    return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")


def _where_opaque(image: Image.Image, rawmode: str, transparent: int | tuple[int, int, int]) -> Image.Image:
    """Alpha of an image with one transparent colour, which PNG gives in the bit depth of the file."""
    pixels = np.asarray(image)
    if image.mode == "1":
        pixels = pixels.astype(np.uint8) * 255
    elif rawmode in ("L;2", "L;4"):
        transparent = np.multiply(transparent, {"L;2": 85, "L;4": 17}[rawmode]).tolist()
    elif "16" in rawmode and image.mode == "RGB":
        transparent = np.right_shift(transparent, 8).tolist()  # Pillow keeps the high byte of each channel
    equal = pixels == np.asarray(transparent)
    return Image.fromarray(np.where(equal.all(axis=-1) if equal.ndim == 3 else equal, 0, 255).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """An image without its alpha channel, in mode L or RGB. Premultiplied colours are divided by alpha."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_scaled(image))
    if image.mode == "L" and _is_signed(image):
        return Image.fromarray(_to_8_bits(np.asarray(image).view(np.int8), 127))
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode in ("LA", "La"):
        return _straight(image).getchannel("L")
    if image.mode != "RGB" and image.has_transparency_data:
        return Image.merge("RGB", _straight(image).split()[:3])
    return image.convert("RGB")


def _is_signed(image: Image.Image) -> bool:
    return _tag(image, SAMPLE_FORMAT, 1) == SIGNED


def _tag(image: Image.Image, number: int, default: int) -> int:
    """The first value of a TIFF tag."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _scaled(image: Image.Image) -> NDArray[np.uint8]:
    """Integers of more than 8 bits, or floating-point numbers, to 8 bits."""
    if image.mode == "F":
        scaled = _from_unit_interval(np.asarray(image))
    else:
        values = np.asarray(image).astype(np.int64)
        scaled = _to_8_bits(values, _white(image, values))
    inverted = _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO  # Pillow inverts images of up to 8 bits only
    return 255 - scaled if inverted else scaled


def _white(image: Image.Image, values: NDArray[np.int64]) -> int:
    """The number that means white: the largest of the type that the file declares.

    Raises:
        UserError: 32-bit integers that cannot be 16-bit values.
    """
    if image.mode != "I" or image.format in ("PNG", "PPM"):  # Pillow scales PGM to 16 bits
        return (1 << min(16, _tag(image, BITS, 16))) - 1
    bits = _tag(image, BITS, 32)
    if bits <= 16:
        return (1 << (bits - int(_is_signed(image)))) - 1
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UserError(f"32-bit integers from {low} to {high} have no defined white; convert it to 8 or 16 bits")
    if 0 < high <= 255:
        raise UserError(f"32-bit integers up to {high} may be 8-bit or 16-bit values; convert it to 8 or 16 bits")
    return 65535


def _to_8_bits(values: NDArray[np.signedinteger], white: int) -> NDArray[np.uint8]:
    """`round(255 * values / white)`."""
    if values.min(initial=0) < 0:
        raise UserError(
            f"negative pixels (the least is {values.min()}) have no defined brightness; convert it to unsigned 8 or 16 bits"
        )
    return ((values.astype(np.int64) * 510 + white) // (2 * white)).clip(0, 255).astype(np.uint8)


def _from_unit_interval(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """`round(255 * values)`."""
    if not np.isfinite(values).all():
        raise UserError("floating-point pixels that are not finite; convert it to values from 0 to 1, or to 8 or 16 bits")
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < 0 or high > 1:
        raise UserError(f"floating-point pixels from {low:g} to {high:g}; scale them to 0..1, or convert it to 8 or 16 bits")
    return np.floor(values.astype(np.float64) * 255 + 0.5).astype(np.uint8)


def _upright(opened: Image.Image, image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Pillow applies that of TIFF itself, and metadata that cannot be parsed have none."""
    orientation = None
    if opened.format != "TIFF" and opened.info.keys() & {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}:
        with contextlib.suppress(Exception):  # Pillow parses them in Python and raises what indexing and struct raise
            orientation = opened.getexif().get(ExifTags.Base.Orientation)
    method = TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)
