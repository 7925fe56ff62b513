"""What a file is that was given as a checkpoint, by its first bytes: a checkpoint, or something saved under its name by mistake."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

# First bytes of a file that are enough to recognise its kind.
HEADER_BYTES = 4096
CHUNK = 2**24  # bytes that are read at once

DOWNLOAD_AGAIN = "download the checkpoint itself"
# Kinds that text files start with, after white space and in lower case.
TEXTS = {
    "version https://git-lfs.github.com/spec/": (
        "it is a git-LFS pointer, not the checkpoint; fetch the file with git lfs pull, or download it from the website"
    ),
    "/annex/objects/": "it is a git-annex pointer, not the checkpoint; fetch the file with git annex get",
    "<!doctype html": f"it is an HTML page, such as an error or a download page, not the checkpoint; {DOWNLOAD_AGAIN}",
    "<html": f"it is an HTML page, such as an error or a download page, not the checkpoint; {DOWNLOAD_AGAIN}",
    "<head": f"it is an HTML page, such as an error or a download page, not the checkpoint; {DOWNLOAD_AGAIN}",
    "<?xml": f"it is an XML document, such as an error of a download, not the checkpoint; {DOWNLOAD_AGAIN}",
    "{": f"it is a JSON document, not a checkpoint; {DOWNLOAD_AGAIN}",
    "[": f"it is a JSON document, not a checkpoint; {DOWNLOAD_AGAIN}",
}
UNPACK = "unpack it and give the checkpoint inside"
# Kinds that other files start with.
MAGIC = {
    b"\x1f\x8b": f"it is a gzip archive; {UNPACK}",
    b"BZh": f"it is a bzip2 archive; {UNPACK}",
    b"\xfd7zXZ\x00": f"it is an xz archive; {UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"it is a 7-Zip archive; {UNPACK}",
    b"\x28\xb5\x2f\xfd": f"it is a Zstandard archive; {UNPACK}",
    b"Rar!": f"it is a RAR archive; {UNPACK}",
    b"%PDF": "it is a PDF document, not a checkpoint",
    b"\x89PNG": "it is a PNG image, not a checkpoint",
    b"\xff\xd8\xff": "it is a JPEG image, not a checkpoint",
    b"GIF8": "it is a GIF image, not a checkpoint",
    b"\x89HDF": "it is an HDF5 file, as Keras writes; give a checkpoint of torch or safetensors",
    b"\x93NUMPY": "it is an array of numpy (.npy); give a checkpoint of torch or safetensors",
    b"GGUF": "it is a GGUF file; give a checkpoint of torch or safetensors",
    b"SQLite format 3": "it is an SQLite database, not a checkpoint",
    b"\x7fELF": "it is a program, not a checkpoint",
    b"MZ": "it is a program, not a checkpoint",
}
TAR_MAGIC, TAR_OFFSET = b"ustar", 257


def is_safetensors(path: Path) -> bool:
    """Return whether a file is of safetensors: it begins with the length of a header and the header in JSON.

    If the file is incomplete, its suffix decides.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        first_bytes = file.read(9)
    size = path.stat().st_size
    header = len(first_bytes) == 9 and first_bytes[8:] == b"{" and int.from_bytes(first_bytes[:8], "little") <= size - 8
    return header or (path.suffix == ".safetensors" and not zipfile.is_zipfile(path) and _text(path) is None)


def is_torch_zip(path: Path) -> bool:
    """Return whether a file has torch's zip format, complete or not.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def count_zip_entries(path: Path) -> int:
    """Return the number of tensors, and a few other entries, in torch's zip format; 0 for another format.

    It is read from the end of the file, without the entries: 2 bytes, or 8 for 65,535 or more.

    Args:
        path: The file.
    """
    if not is_torch_zip(path):
        return 0
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65_536 - 22 - 76))  # the end records, after which a comment may follow
        end = file.read()
    record, wide = end.rfind(b"PK\x05\x06"), end.rfind(b"PK\x06\x06")
    count = int.from_bytes(end[record + 10 : record + 12], "little") if record >= 0 else 0
    return int.from_bytes(end[wide + 32 : wide + 40], "little") if count == 0xFFFF and wide >= 0 else count


def has_wrong_checksum(path: Path) -> bool:
    """Whether an entry of torch's zip format has another checksum than its content, which torch's reader does not check.

    Entries without a checksum (`torch.serialization.set_crc32_options(False)` writes 0) and compressed ones are not checked.

    Args:
        path: A complete zip file.

    Returns:
        Whether there is such an entry.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.CRC or entry.compress_type != zipfile.ZIP_STORED:
                continue
            with archive.open(entry) as content:
                try:
                    while content.read(CHUNK):
                        pass
                except zipfile.BadZipFile:
                    return True
    return False


def describe_file(path: Path) -> str | None:
    """Describe what a file is, if it is of a kind that is not a checkpoint.

    Args:
        path: The file, which could not be read as a checkpoint.

    Returns:
        A sentence for an error message; None if the kind is not known, or is that of a checkpoint.
    """
    with path.open("rb") as file:
        first_bytes = file.read(HEADER_BYTES)
    if not first_bytes:
        return "it is empty; download it again"
    kind = next((kind for magic, kind in MAGIC.items() if first_bytes.startswith(magic)), None)
    if kind is not None:
        return kind
    if first_bytes[TAR_OFFSET:].startswith(TAR_MAGIC):
        return f"it is a tar archive; {UNPACK}"
    if first_bytes.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    text = _text(path)
    if text is None:
        return None
    known = next((kind for start, kind in TEXTS.items() if text.lstrip().lower().startswith(start)), None)
    if known is None and re.search(r"<html|<!doctype html", text, re.IGNORECASE):
        known = TEXTS["<html"]
    first = " ".join(text.split())[:60]
    return known or f"it is a text file ({first!r}), not a checkpoint; {DOWNLOAD_AGAIN}"


def _describe_zip(path: Path) -> str | None:
    """Describe what a zip file is, if it is not a checkpoint: torch's has `data.pkl`, and TorchScript's has code too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # the others by a damaged list of its files
        return "it is an incomplete or damaged zip file, as torch.save writes; download it again"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return "it is a TorchScript program; give the weights alone, as torch.save(model.state_dict(), FILE) writes"
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "it holds arrays of numpy (.npz); give a checkpoint of torch or safetensors"
    return f"it is a zip archive; {UNPACK}"


def _text(path: Path) -> str | None:
    """The first characters of a text file; None for binary files."""
    with path.open("rb") as file:
        first_bytes = file.read(HEADER_BYTES)
    try:
        text = first_bytes.decode("utf-16" if first_bytes[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "strict")
    except UnicodeDecodeError as error:
        if len(first_bytes) < HEADER_BYTES or error.start < HEADER_BYTES - 4:  # a character may be cut at the end
            return None
        text = first_bytes[: error.start].decode("utf-8-sig")
    return text if text.isprintable() or all(c.isprintable() or c.isspace() for c in text) else None
