"""Finding the images and masks of ADE20K and PASCAL VOC under a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autospike.data.pixels import printable
from autospike.errors import UserError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
MASK_EXTENSION = ".png"

ADE20K_CLASSES = 150
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True, kw_only=True)
class MaskedFiles:
    """Images with masks of one split.

    Attributes:
        images: Paths of the images, relative to the root.
        masks: Paths of the masks, relative to the root.
        sizes: Sizes of the image files in bytes.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class MaskedFolders:
    """Images with masks of a dataset.

    Attributes:
        classes: Names of the classes.
        train: The training split.
        test: The test split.
        zero_is_ignored: Whether 0 has no class in the masks.
    """

    classes: tuple[str, ...]
    train: MaskedFiles
    test: MaskedFiles
    zero_is_ignored: bool


def find_ade20k(root: Path) -> MaskedFolders:
    """Find images and masks in the folders of ADE20K.

    The classes are named by the lines of `root/classes.txt`, if there is one; otherwise there are 150, named by their numbers.

    Args:
        root: The folder with `images` and `annotations`.

    Returns:
        The files; the validation split of ADE20K is the test split.

    Raises:
        UserError: A folder is missing, or an image has no mask.
    """
    named = root / "classes.txt"
    try:
        lines = named.read_text(encoding="utf-8").split("\n") if named.exists() else map(str, range(1, ADE20K_CLASSES + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{named}: cannot be read ({error}); write one name in each line") from None
    classes = tuple(name.strip() for name in lines if name.strip())
    if not 2 <= len(classes) <= 254 or len(set(classes)) < len(classes):
        raise UserError(f"{named}: 2 to 254 different names of classes, one in each line; got {len(classes)}")
    train, test = (_paired(root, f"images/{part}", f"annotations/{part}") for part in ("training", "validation"))
    return MaskedFolders(classes=classes, train=train, test=test, zero_is_ignored=True)


def find_voc(root: Path) -> MaskedFolders:
    """Find images and masks in the folders of PASCAL VOC.

    Args:
        root: The folder with `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation` (`train.txt`, `val.txt`).

    Returns:
        The files; `val` is the test split.

    Raises:
        UserError: A folder or a list is missing, or a listed file does not exist.
    """
    train, test = (_listed(root, f"ImageSets/Segmentation/{part}.txt") for part in ("train", "val"))
    return MaskedFolders(classes=VOC_CLASSES, train=train, test=test, zero_is_ignored=False)


def _paired(root: Path, images: str, masks: str) -> MaskedFiles:
    for folder in (images, masks):
        if not (root / folder).is_dir():
            raise UserError(
                f"data.root: {root} has no folder {folder}; ADE20K has images/ and annotations/ with training/ and validation/"
            )
    names = sorted(path.name for path in (root / images).iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS)
    return _files(
        root, [f"{images}/{name}" for name in names], [f"{masks}/{Path(name).stem}{MASK_EXTENSION}" for name in names], images
    )


def _listed(root: Path, path: str) -> MaskedFiles:
    try:
        names = (root / path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{root / path}: cannot be read ({reason}); VOC lists its images there, one name in each line") from None
    return _files(root, [f"JPEGImages/{name}.jpg" for name in names], [f"SegmentationClass/{name}.png" for name in names], path)


def _files(root: Path, images: list[str], masks: list[str], source: str) -> MaskedFiles:
    if len(images) < 2:
        raise UserError(f"{root / source}: {len(images)} images; a split needs at least 2")
    for name in (*images, *masks):
        if not (root / name).is_file():
            raise UserError(f"{printable(root / name)}: no such file; each image needs a mask of the same name")
    return MaskedFiles(images=tuple(images), masks=tuple(masks), sizes=tuple((root / name).stat().st_size for name in images))
