"""Find images whose labels are in tables, or whose files are in archives.

| `data.name` | files under `data.root`                                                                                           |
|-------------|-------------------------------------------------------------------------------------------------------------------|
| `metadata`  | `metadata.csv`, `.jsonl` or `.parquet` with a column `file_name` and one of labels, beside the images, for each   |
|             | split in its folder: the image folders of Hugging Face                                                            |
| `parquet`   | parquet files with a column of encoded images (`bytes`, `path`) and one of labels: datasets of Hugging Face        |
| `tars`      | archives with `CLASS/IMAGE`, or one archive for each class (ImageNet), or `KEY.jpg` with `KEY.cls` (WebDataset)    |

A file or folder belongs to the split that its name begins with: `train`, `train-00000-of-00002.parquet`, `test/`, `validation/`, in
any case (`data.split_names`). The test split is that for testing, or else for validation. Without splits, they are sampled from the
whole.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pandas as pd

from autospike.data.pixels import IMAGE_EXTENSIONS, Encoded, printable, reason_of
from autospike.data.split_names import Role, role_of
from autospike.errors import UserError

Kind = Literal["metadata", "parquet", "tars"]
Label = str | int

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Names of the column of labels that Hugging Face's datasets and other tables use, in the order in which they are looked for.
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "fine_label")
FILE_COLUMN = "file_name"


@dataclass(frozen=True, kw_only=True)
class EncodedPart:
    """Images of one part of a dataset.

    Attributes:
        names: Of the images, unique.
        labels: Class of each, as the data name it.
        content: Returns the encoded bytes of the image with an index.
        class_names: Names of the classes 0, 1, ..., if the data state them.
    """

    names: tuple[str, ...]
    labels: tuple[Label, ...]
    content: Callable[[int], bytes]
    class_names: tuple[str, ...] | None = None

    def __call__(self, index: int) -> Encoded:
        """Return an image as it is stored."""
        return Encoded(name=self.names[index], content=self.content(index))


@dataclass(frozen=True, kw_only=True)
class EncodedDataset:
    """The images of a dataset.

    Attributes:
        classes: Names of the classes.
        parts: For training and for testing, or one of which splits are sampled.
        labels: Class of each image of each part, an index of `classes`.
    """

    classes: tuple[str, ...]
    parts: tuple[EncodedPart, ...]
    labels: tuple[tuple[int, ...], ...]


def find_encoded(root: Path, kind: Kind, label_column: str | None) -> EncodedDataset:
    """Find the images and the labels of a dataset.

    Args:
        root: The folder of the data.
        kind: How they are stored.
        label_column: Column of the labels in tables; None to look for one of the usual names.

    Returns:
        The dataset.

    Raises:
        UserError: There are no such files, a table has no column of labels, a file cannot be read, or there is one class only.
    """
    read, patterns = READERS[kind]
    paths = sorted(path for pattern in patterns for path in root.rglob(pattern) if not path.name.startswith("."))
    by_role: dict[Role | None, list[Path]] = {}
    for path in paths:
        by_role.setdefault(_role(path.relative_to(root)), []).append(path)
    if not paths:
        raise UserError(f"data.root: {printable(root)} has no {' or '.join(patterns)}; see docs/images.md for the layouts")
    test: Role = "test" if "test" in by_role else "val"
    if "train" in by_role and test in by_role:
        groups = [by_role["train"], by_role[test]]
    elif by_role.keys() & {"test", "val"} and "train" not in by_role:
        raise UserError(f"data.root: {printable(root)} has files for testing, but none whose folder or name begins with train")
    else:
        groups = [[path for role in ("train", None) for path in by_role.get(role, [])]]
    return _with_classes(root, tuple(read(root, group, label_column) for group in groups))


def _role(path: Path) -> Role | None:
    """The split of a file, by the first folder on its path, or the prefix of its name, that names one."""
    words = [*path.parts[:-1], *(path.stem.replace("_", "-").split("-")[:1])]
    return next((role for role in map(role_of, words) if role is not None), None)


def _with_classes(root: Path, parts: tuple[EncodedPart, ...]) -> EncodedDataset:
    """Number the classes: by the data's own numbers if they name them, else in the order of numbers or of names."""
    first = parts[0]
    if not first.names:
        raise UserError(f"data.root: {printable(root)} has no images")
    named: Sequence[Label] = range(len(first.class_names or ()))
    values = list(named) or sorted(set(first.labels), key=lambda value: (isinstance(value, str), value))
    if len(values) < 2:
        raise UserError(f"data.root: {printable(root)} has one class ({printable(values[0])}); a classifier needs two or more")
    written = list(map(str, values))
    if len(set(written)) < len(written):
        twice = next(name for name in written if written.count(name) > 1)
        raise UserError(f"data.root: {printable(root)} has the class {printable(twice)} as text and as a number; write one")
    numbers = {value: number for number, value in enumerate(values)}
    for part in parts:
        if part.class_names != first.class_names:
            raise UserError(f"data.root: {printable(root)} has other names of classes for testing than for training")
        unknown = next((label for label in part.labels if label not in numbers), None)
        if unknown is not None:
            name = part.names[part.labels.index(unknown)]
            raise UserError(f"{printable(name)}: the class {printable(unknown)} is not one of the {len(values)} for training")
    return EncodedDataset(
        classes=first.class_names or tuple(written),
        parts=parts,
        labels=tuple(tuple(numbers[label] for label in part.labels) for part in parts),
    )


def _metadata(root: Path, paths: Sequence[Path], label_column: str | None) -> EncodedPart:
    files: list[str] = []
    labels: list[Label] = []
    for path in paths:
        table = _table(path)
        if FILE_COLUMN not in table:
            raise UserError(f"{printable(path)}: no column {FILE_COLUMN}; it has {_listed(table.columns)}")
        names = [PurePosixPath(str(name)) for name in table[FILE_COLUMN]]
        outside = next((name for name in names if name.is_absolute() or ".." in name.parts), None)
        if outside is not None:
            raise UserError(f"{printable(path)}: {printable(outside)} is outside of the folder")
        folder = PurePosixPath(path.parent.relative_to(root))
        by_name = _by_name(path, [str(folder / name) for name in names], _labels(path, table, label_column))
        files += by_name.keys()
        labels += by_name.values()

    def content(index: int) -> bytes:
        path = root / files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{printable(path)}: cannot be read ({error.strerror or error}); repair the table or the file"
            ) from None

    return EncodedPart(names=tuple(files), labels=tuple(labels), content=content)


def _by_name(path: Path, names: Sequence[str], labels: Sequence[Label]) -> dict[str, Label]:
    """The class of each file of a table; equal rows count once.

    Raises:
        UserError: A file has two classes.
    """
    found: dict[str, Label] = {}
    for name, label in zip(names, labels, strict=True):
        if found.setdefault(name, label) != label:
            both = f"{printable(found[name])} and {printable(label)}"
            raise UserError(f"{printable(path)}: {printable(name)} has the classes {both}; keep one row")
    return found


def _table(path: Path) -> pd.DataFrame:
    """Read a table; its values keep their types."""
    try:
        if path.suffix == ".parquet":
            return _parquet(path).to_pandas()
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True, dtype=False)
        return pd.read_csv(path, keep_default_na=False)
    except UserError:
        raise
    except Exception as error:  # a parser may raise anything
        raise UserError(f"{printable(path)}: not a readable table ({reason_of(error)})") from None


def _parquet(path: Path) -> Any:
    """A parquet file as a table of Arrow. Its images stay in memory."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError("parquet files need pyarrow; install it with: pip install 'autospike[parquet]'") from None
    try:
        return pyarrow.parquet.read_table(path)
    except Exception as error:
        raise UserError(f"{printable(path)}: not a readable parquet file ({reason_of(error)})") from None


def _labels(path: Path, table: pd.DataFrame, label_column: str | None) -> list[Label]:
    column = _label_column(path, [str(name) for name in table.columns], label_column)
    values = [value.strip() if isinstance(value, str) else value for value in table[column].tolist()]
    if not all(isinstance(value, str | int) and not isinstance(value, bool) and value != "" for value in values):
        raise UserError(f"{printable(path)}: the column {column} has values that are no class (a name or a whole number)")
    return values


def _label_column(path: Path, columns: Sequence[str], chosen: str | None) -> str:
    found = [name for name in ((chosen,) if chosen else LABEL_COLUMNS) if name in columns]
    if not found:
        raise UserError(f"{printable(path)}: no column of labels; set data.label_column to one of {_listed(columns)}")
    return found[0]


def _rows(root: Path, paths: Sequence[Path], label_column: str | None) -> EncodedPart:
    import pyarrow as pa

    names: list[str] = []
    labels: list[Label] = []
    images: list[Any] = []
    class_names: tuple[str, ...] | None = None
    for path in paths:
        table = _parquet(path)
        column = next((field.name for field in table.schema if pa.types.is_struct(field.type) and _has_bytes(field.type)), None)
        if column is None:
            raise UserError(f"{printable(path)}: no column of encoded images (bytes, path); it has {_listed(table.column_names)}")
        chosen = _label_column(path, table.column_names, label_column)
        labels += _labels(path, table.select([chosen]).to_pandas(), chosen)
        own_names = _class_names(table.schema.metadata, chosen)
        if path != paths[0] and own_names != class_names:
            raise UserError(f"{printable(path)}: other names of classes than {printable(paths[0])}; write all files with the same")
        class_names = own_names
        encoded = pa.compute.struct_field(table[column], "bytes")
        if encoded.null_count:
            raise UserError(f"{printable(path)}: {encoded.null_count:,} images have no bytes, only paths; embed them in the file")
        images += [encoded[i] for i in range(len(encoded))]
        names += [f"{path.relative_to(root)}#{i}" for i in range(len(encoded))]
    return EncodedPart(
        names=tuple(names), labels=tuple(labels), content=lambda index: bytes(images[index].as_buffer()), class_names=class_names
    )


def _has_bytes(kind: Any) -> bool:
    return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """The names of the classes in the metadata that Hugging Face's `datasets` writes."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        names = tuple(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError):
        return None
    return names if len(set(names)) == len(names) else None


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A file in an archive: the bytes of an uncompressed tar are those of its members, one after the other."""

    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        try:
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise UserError(f"{printable(self.archive)}: cannot be read ({error.strerror or error})") from None


def _archives(root: Path, paths: Sequence[Path], _label_column: str | None) -> EncodedPart:
    found: dict[str, tuple[Label, _Member]] = {}
    for path in paths:
        members, before = _members(path), len(found)
        classes = {name.removesuffix(".cls"): member for name, member in members.items() if name.endswith(".cls")}
        for name, member in members.items():
            pure = PurePosixPath(name)
            if pure.suffix.lower() not in IMAGE_EXTENSIONS:
                continue
            beside = classes.get(str(pure.with_suffix("")))
            sidecars = [pure.with_suffix(ending) for ending in (".json", ".txt")]
            if not beside and (classes or any(str(sidecar) in members for sidecar in sidecars)):
                raise UserError(
                    f"{printable(path)}: {printable(name)} has no file {printable(pure.stem)}.cls with its class; other files of "
                    "labels are not read"
                )
            label: Label = _class_of(path, name, beside) if beside else pure.parent.name or path.stem
            found[f"{path.relative_to(root)}/{name}"] = (label, member)
        if len(found) == before:
            raise UserError(f"{printable(path)}: no image ({' '.join(IMAGE_EXTENSIONS)}); repair or remove it")
    names = tuple(found)
    members_of = [member for _, member in found.values()]
    return EncodedPart(names=names, labels=tuple(label for label, _ in found.values()), content=lambda i: members_of[i].read())


def _class_of(archive: Path, name: str, member: _Member) -> int:
    """The number in a `.cls` file of WebDataset."""
    text = member.read().decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise UserError(f"{printable(archive)}: the class of {printable(name)} is {text[:40]!r}; a .cls file has a whole number")
    return int(text)


def _members(path: Path) -> dict[str, _Member]:
    """The files of an archive by name."""
    try:
        with tarfile.open(path, "r:") as archive:
            return {
                entry.name.removeprefix("./"): _Member(archive=path, offset=entry.offset_data, size=entry.size)
                for entry in archive
                if entry.isfile()
            }
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{printable(path)}: not an uncompressed tar ({reason_of(error)}); unpack it with gunzip") from None


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(printable, names))[:200] or "no columns"


READERS: dict[Kind, tuple[Callable[[Path, Sequence[Path], str | None], EncodedPart], tuple[str, ...]]] = {
    "metadata": (_metadata, TABLES),
    "parquet": (_rows, ("*.parquet",)),
    "tars": (_archives, ("*.tar",)),
}
"""Reader and file names of each kind."""
