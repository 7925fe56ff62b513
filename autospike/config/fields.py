"""Types and bounds of the fields of an experiment, and the base class of its sections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from autospike.errors import quoted

# Upper bounds of counts. They are far above every sensible value: a larger number is a mistake, which would otherwise end in a
# hang or in memory that cannot be allocated.
MAX_IMAGE_SIZE = 4096  # pixels; published networks read 224
MAX_BATCH = 65_536  # images
MAX_EPOCHS = 100_000
MAX_PROCESSES = 1024  # or threads
MAX_PATH = 4096  # characters, PATH_MAX of Linux
# Folders of Linux whose files are not stored anywhere; reading some of them has no end. /dev/shm may hold data.
VIRTUAL_FOLDERS = ("/proc", "/sys")

OpenFraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
ResizeFactor = Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)]
Epochs = Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH)]
ProcessCount = Annotated[int, Field(ge=1, le=MAX_PROCESSES)]
Limit = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
CountLimit = Annotated[int, Field(ge=1, le=10**15)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


def _check_path(path: object) -> object:
    """Raise ValueError for a path that no file can have."""
    text = str(path)
    if not text:
        raise ValueError("an empty path; write a path, or leave the field out")
    if len(text) > MAX_PATH:
        raise ValueError(f"a path of {len(text):,} characters; at most {MAX_PATH:,} are allowed")
    if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"a path with control characters or bytes that are not UTF-8, got {quoted(text)}")
    return path


def is_system_folder(folder: str | Path) -> bool:
    """Return whether a folder is one of the system in which no data are stored, also through links.

    Args:
        folder: The folder.
    """
    real = os.path.realpath(folder)
    return real in ("/", "/dev") or any(real == virtual or real.startswith(f"{virtual}/") for virtual in VIRTUAL_FOLDERS)


def _check_stored(folder: Path) -> Path:
    """Raise ValueError for a folder of the system in which no data are stored."""
    if is_system_folder(folder):
        raise ValueError(f"{folder} is a folder of the system; give the folder of the data")
    return folder


FilePath = Annotated[Path, BeforeValidator(_check_path)]
DataFolder = Annotated[FilePath, AfterValidator(_check_stored)]
Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Level, Level, Level]


class Section(BaseModel):
    """Base class of the sections: immutable, and unknown fields are errors.

    Numbers may be given as strings, because YAML 1.1 reads `5e-4` as a string. Every number has a lower and an upper bound, which
    its type states, and must be finite. Booleans are accepted by fields of type `StrictBool` only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans(cls, value: object, info: ValidationInfo) -> object:
        is_boolean = info.field_name is not None and cls.model_fields[info.field_name].annotation is bool
        if isinstance(value, bool) and not is_boolean:
            raise ValueError(f"booleans are not accepted here, got {str(value).lower()}")
        return value
