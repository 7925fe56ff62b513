"""Find the classes, the splits and the files of a dataset in a folder.

| layout                                            | result                                                             |
|---------------------------------------------------|--------------------------------------------------------------------|
| `root/CLASS/*`                                    | splits are sampled from the whole                                  |
| `root/train/CLASS/*`, `root/test/CLASS/*`         | the test split is the folder for testing, or else for validation   |
| one folder in `root`, `train` or `test`           | stands for its content: `root/images/CLASS/*`                      |

Folders of splits are recognised by their names (`data.split_names`), in any case. A folder with one of these names that contains
images itself is a class. Folders of other names that have the same subfolders are an error: they are splits or groups. Only regular
files are read; what is not read is counted, by reason.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autospike.config.fields import is_system_folder
from autospike.data.pixels import printable
from autospike.data.split_names import Role, has_role, masks_beside_images, role_of, roles_of
from autospike.errors import UserError

# Folders that operating systems and storage devices create, besides those whose names begin with a dot.
SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
)

HIDDEN, IRREGULAR, REPEATED, OUTSIDE, SYSTEM_LINK = (
    "hidden or system",
    "not a regular file",
    "link to a file read elsewhere",
    "outside the classes",
    "link to a folder of the system",  # reading /proc has no end
)


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """The files that a dataset consists of.

    Attributes:
        description: Of a folder of them, for error messages.
        example: Name of a file.
        extensions: In lower case, with the dot.
    """

    description: str
    example: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ClassFolder:
    """The files of a folder with one subfolder for each class, sorted by class.

    Attributes:
        classes: Names of the classes.
        labels: Class of each file.
        names: Path of each file, relative to the root of the dataset.
        sizes: Of the files, in bytes.
    """

    classes: tuple[str, ...]
    labels: list[int]
    names: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FoundFolders:
    """The result of a scan.

    Attributes:
        folders: One, or those for training and for testing.
        left_out: What was not read: for each reason, the number and the first name.
    """

    folders: tuple[ClassFolder, ...]
    left_out: dict[str, tuple[int, str]]


def scan(root: Path, kind: FileKind) -> FoundFolders:
    """Find classes and files.

    Args:
        root: An existing folder.
        kind: Which files to read.

    Returns:
        The files. Their order depends on their names only.

    Raises:
        UserError: There are fewer than two classes, a class without files, a split without its counterpart, or a file in two
            classes.
    """
    found = _Scan(root=root, kind=kind)
    folders = found.folders()
    return FoundFolders(folders=folders, left_out=dict(found.left_out))


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """The visible entries of a folder, sorted by name.

    Attributes:
        path: Of the folder.
        folders: Names of the folders in it.
        files: Names of the other entries with the extension of a sample.
    """

    path: str
    folders: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """All entries of a folder, sorted by name: folders, regular files, and what is neither, with the reason."""

    folders: tuple[str, ...]
    files: tuple[tuple[str, os.stat_result], ...]
    others: tuple[tuple[str, str], ...]


@dataclass(kw_only=True)
class _Scan:
    """Reads folders, and counts what it leaves out."""

    root: Path
    kind: FileKind
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    seen: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)

    def folders(self) -> tuple[ClassFolder, ...]:
        """The root itself, or its folders for training and for testing."""
        top = self._unwrapped(str(self.root))
        candidates = [name for name in top.folders if has_role(name) and self._holds_classes(f"{top.path}/{name}")]
        roles = roles_of(candidates)
        if not roles:
            return (self._classes(top),)
        training, held_out = self._train_and_test(roles)
        for name in top.folders:
            if name not in (training, held_out):
                self._leave_out(OUTSIDE, f"{top.path}/{name}/")
        self._count_outside(top)
        if _identity(f"{top.path}/{training}") == _identity(f"{top.path}/{held_out}"):
            raise self._problem(f"{printable(training)}/ and {printable(held_out)}/, which are the same folder", "keep one of them")
        # files that are in both, by links, are read for testing
        test = self._classes(self._unwrapped(f"{top.path}/{held_out}"))
        train = self._classes(self._unwrapped(f"{top.path}/{training}"))
        if train.classes != test.classes:
            unmatched = min(set(train.classes) ^ set(test.classes))
            raise UserError(
                f"data.root: {printable(training)}/ and {printable(held_out)}/ must have the same classes; only one of them has "
                f"{unmatched!r}"
            )
        return train, test

    def _train_and_test(self, roles: dict[str, Role]) -> tuple[str, str]:
        """The names of the folders for training and for testing."""
        named: dict[Role, list[str]] = {role: [name for name in roles if roles[name] == role] for role in ("train", "val", "test")}
        training, testing = named["train"], named["test"] or named["val"]
        if not training:
            raise self._problem(f"{_listed(roles)} but no folder for training (train/)", "add it, or set data.root to one of them")
        if not testing:
            raise self._problem(
                f"{_listed(training)} but neither test/ nor val/ with class folders",
                f"add one of them, or set data.root to {printable(training[0])}/ to sample the test split from it",
            )
        for names, purpose in ((training, "training"), (testing, "testing")):
            if len(names) > 1:
                raise self._problem(f"{_listed(names)}, which are all for {purpose}", "keep one of them")
        return training[0], testing[0]

    def _problem(self, what: str, remedy: str) -> UserError:
        return UserError(f"data.root: {printable(self.root)} has {what}; {remedy}")

    def _unwrapped(self, path: str) -> _Folder:
        """A folder, or the one in it if that stands alone and is neither a class nor a split."""
        folder, above = self._entries(path), {_identity(path)}
        while len(folder.folders) == 1 and not folder.files:
            inner = f"{folder.path}/{folder.folders[0]}"
            inside = self._entries(inner)
            another_role = role_of(folder.folders[0]) not in (None, role_of(Path(folder.path).name))
            if inside.files or not inside.folders or another_role or _identity(inner) in above:
                break
            above.add(_identity(inner))
            self._count_outside(folder)
            folder = inside
        return folder

    def _holds_classes(self, path: str) -> bool:
        """Whether a folder has class folders, rather than being a class."""
        inside = self._entries(path)
        return len(inside.folders) > 1 or (bool(inside.folders) and not inside.files)

    def _is_sample(self, name: str) -> bool:
        return name.lower().endswith(self.kind.extensions)

    def _entries(self, path: str) -> _Folder:
        """List the visible entries of a folder without reading their status."""
        folders: list[str] = []
        files: list[str] = []
        for entry, reason in self._scandir(path):
            if reason is None:
                (folders if _is_dir(entry) else files).append(entry.name)
        return _Folder(path=path, folders=tuple(sorted(folders)), files=tuple(sorted(filter(self._is_sample, files))))

    def _list(self, path: str) -> _Listing:
        """List all entries of a folder; the status of each file is read once."""
        folders: list[str] = []
        files: list[tuple[str, os.stat_result]] = []
        others: list[tuple[str, str]] = []
        for entry, reason in self._scandir(path):
            if reason is not None:
                others.append((reason, entry.name))
            elif _is_dir(entry):
                folders.append(entry.name)
            elif (status := _status(entry)) is not None and stat.S_ISREG(status.st_mode):
                files.append((entry.name, status))
            else:
                others.append((IRREGULAR, entry.name))
        files.sort(key=lambda file: file[0])
        return _Listing(folders=tuple(sorted(folders)), files=tuple(files), others=tuple(sorted(others)))

    def _scandir(self, path: str) -> list[tuple[os.DirEntry[str], str | None]]:
        """The entries of a folder, each with the reason to leave it out that its name gives."""
        try:
            with os.scandir(path) as entries:
                return [(entry, self._reason(entry)) for entry in entries]
        except OSError as error:
            raise UserError(f"data.root: {printable(path)} cannot be read ({error.strerror}); check its permissions") from None

    def _reason(self, entry: os.DirEntry[str]) -> str | None:
        if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
            return HIDDEN
        if entry.is_symlink() and is_system_folder(entry.path):
            return SYSTEM_LINK
        return IRREGULAR if self._is_sample(entry.name) and _is_dir(entry) else None

    def _classes(self, top: _Folder) -> ClassFolder:
        """The class folders of a folder, with all files below them."""
        self._count_outside(top)
        self._check_names(top)
        labels: list[int] = []
        files: list[tuple[str, int]] = []
        inside: list[_Listing] = []
        for label, name in enumerate(top.folders):
            listing, found = self._files_of(f"{top.path}/{name}")
            if not found:
                raise self._invalid(top.path, f"no valid file for the classes {printable(name)}", "add files or remove the folder")
            inside.append(listing)
            files.extend(found)
            labels.extend([label] * len(found))
        self._check_subfolders(top, inside)
        prefix = len(str(self.root).rstrip("/")) + 1
        return ClassFolder(
            classes=top.folders,
            labels=labels,
            names=tuple(path[prefix:] for path, _ in files),
            sizes=tuple(size for _, size in files),
        )

    def _invalid(self, path: str, problem: str, remedy: str) -> UserError:
        layout = f"{self.kind.description} (root/CLASS/{self.kind.example})"
        found = f"; found {describe(self.left_out)}" if self.left_out else ""
        return UserError(
            f"data.root: {printable(path)} is not a valid {layout}: {problem}{found}; {remedy} ({' '.join(self.kind.extensions)})"
        )

    def _count_outside(self, top: _Folder) -> None:
        listing = self._list(top.path)
        for reason, name in (*((OUTSIDE, name) for name, _ in listing.files), *listing.others):
            self._leave_out(reason, f"{top.path}/{name}")

    def _check_names(self, top: _Folder) -> None:
        if not top.folders:
            raise self._invalid(top.path, "no class folders", "put the files of each class into a folder of its own")
        if roles_of(top.folders).keys() == set(top.folders):
            raise self._problem(
                f"{_listed(top.folders)} without class folders in them",
                f"put the files of each class into a folder of its own ({printable(top.folders[0])}/CLASS/{self.kind.example})",
            )
        if len(top.folders) == 1:
            raise self._problem(f"one class ({printable(top.folders[0])})", "a classifier needs two or more")

    def _check_subfolders(self, top: _Folder, inside: Sequence[_Listing]) -> None:
        """Reject splits inside the classes, and parts (images/, masks/; fold1/, fold2/) that would be taken for classes."""
        for name, listing in zip(top.folders, inside, strict=True):
            roles = roles_of(listing.folders).values()
            if "train" in roles and len(set(roles)) > 1:
                raise self._problem(
                    f"folders for training and testing inside the class {printable(name)}",
                    f"move them above the classes (train/{printable(name)}/, test/{printable(name)}/)",
                )
            if beside := masks_beside_images(listing.folders):
                raise self._problem(
                    f"{_listed(beside)} inside the class {printable(name)}, and would read masks as images of it",
                    f"move {printable(beside[1])}/ out of every class",
                )
        if common := self._common_subfolders(inside):
            raise self._problem(
                f"{_listed(top.folders)}, each with the folders {_listed(common)}; splits are named train/ and test/",
                f"rename them, or set data.root to one of them, for example {printable(top.folders[0])}/; if they are classes, put "
                "their files directly into them",
            )
        if len(top.folders) == 2 and (beside := masks_beside_images(top.folders)):
            raise self._problem(f"{_listed(beside)}, which are no classes", "set data.root to a folder of class folders")

    def _common_subfolders(self, inside: Sequence[_Listing]) -> list[str]:
        """The subfolders that the folders of a dataset have in common, if these look like the classes of splits or groups.

        Splits in another language, folds, patients and forms of the same images have (almost) the same subfolders. Folders of
        classes contain files, or one subfolder each (`CLASS/images/`), or subfolders of their own.
        """
        with_files = sum(any(self._is_sample(file) for file, _ in listing.files) for listing in inside)
        occurrences = Counter(name for listing in inside for name in listing.folders)
        common = [name for name, count in sorted(occurrences.items()) if 3 * count >= 2 * len(inside)]
        covered = sum(occurrences[name] for name in common)
        alike = len(common) > 1 and 3 * covered >= 2 * occurrences.total()
        return common if alike and 2 * with_files < len(inside) and all(listing.folders for listing in inside) else []

    def _files_of(self, path: str) -> tuple[_Listing, list[tuple[str, int]]]:
        """The listing of a class folder, and path and size of all files below it, sorted by folder, then by name.

        Symbolic links are followed, except to a folder above.
        """
        by_folder: list[tuple[str, list[tuple[str, int]]]] = []
        listings: list[_Listing] = []
        waiting = [(path, frozenset((_identity(str(self.root)), _identity(str(Path(path).parent)))))]
        while waiting:
            folder, above = waiting.pop()
            identity = _identity(folder)
            if identity in above:
                self._leave_out(REPEATED, folder + "/")
                continue
            listing = self._list(folder)
            listings.append(listing)
            for reason, name in listing.others:
                self._leave_out(reason, f"{folder}/{name}")
            by_folder.append((folder, self._new_files(folder, listing, owner=Path(path).name)))
            waiting.extend((f"{folder}/{name}", above | {identity}) for name in listing.folders)
        empty = _Listing(folders=(), files=(), others=())
        files = [file for _, files in sorted(by_folder, key=lambda item: item[0]) for file in files]
        return (listings or [empty])[0], files

    def _new_files(self, folder: str, listing: _Listing, *, owner: str) -> list[tuple[str, int]]:
        """The samples in a folder of a class, without those that were read before through another link."""
        found = []
        for name, status in listing.files:
            path = f"{folder}/{name}"
            if not self._is_sample(name):
                self._leave_out(printable(Path(name).suffix.lower()) or "without extension", path)
                continue
            first_owner, first = self.seen.setdefault((status.st_dev, status.st_ino), (owner, path))
            if first == path:
                found.append((path, status.st_size))
            elif first_owner == owner:
                self._leave_out(REPEATED, path)
            else:
                raise UserError(
                    f"data.root: {printable(first)} and {printable(path)} are the same file in two classes; remove one of them"
                )
        return found

    def _leave_out(self, reason: str, path: str) -> None:
        if reason in self.left_out:
            count, first = self.left_out[reason]
            self.left_out[reason] = (count + 1, first)
        else:
            self.left_out[reason] = (1, os.path.relpath(path, self.root) + ("/" if path.endswith("/") else ""))


def describe(left_out: dict[str, tuple[int, str]]) -> str:
    """Return what was left out, in one line.

    Args:
        left_out: For each reason, the number and the first name.

    Returns:
        For example `3 .gif (cat/0.gif, ...), 1 not a regular file (dog/pipe.png)`.
    """
    return ", ".join(
        f"{count:,} {reason} ({printable(first)}{', ...' if count > 1 else ''})" for reason, (count, first) in left_out.items()
    )


def _listed(names: Iterable[str]) -> str:
    """Names of folders, at most five."""
    shown = [f"{printable(name)}/" for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """The status of a file; None for a link that leads nowhere or in a circle."""
    try:
        return entry.stat()
    except OSError:
        return None
