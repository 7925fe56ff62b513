"""Names of folders that mean a split of a dataset: `train`, `Testing`, `seg_val`, `val2017`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Role = Literal["train", "val", "test"]

SPLIT_WORDS: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validating", "validation", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "te", "ts", "eval", "evaluate", "evaluation", "holdout", "heldout"), "test"),
    # German, French, Spanish, Portuguese, Italian and Dutch, without accents
    **dict.fromkeys(
        ("trainings", "entrainement", "apprentissage", "entrenamiento", "treino", "treinamento", "addestramento"), "train"
    ),
    **dict.fromkeys(("validierung", "validierungs", "validacion", "validacao", "validazione", "validatie"), "val"),
    **dict.fromkeys(("prueba", "pruebas", "teste", "testes"), "test"),
}
# Words beside those of the splits: seg_train, training_set, test-images, val2017, Trainingsdaten.
FILLER = (
    "set|data|dataset|images|image|imgs|img|pictures|photos|samples|files|folder|dir|split|seg|cls|class|classes|frames|events|"
    "daten|datensatz|bilder|donnees|datos|imagenes|dados|imagens|dati|immagini|de|d"
)

# Words for masks.
MASKS = r"masks?|labels?|annotations?|annots?|ground[\W_]?truths?|gts?"


def role_of(name: str) -> Role | None:
    """Return the split that the name of a folder means.

    Args:
        name: For example `Training`, `seg_test`, `val2017`.

    Returns:
        The split, or None.
    """
    role, others = _parse(name)
    return None if others else role


def has_role(name: str) -> bool:
    """Return whether one word of a name means a split, so that the name may mean one beside others.

    Args:
        name: Name of a folder or file.
    """
    return _parse(name)[0] is not None


def roles_of(names: Sequence[str]) -> dict[str, Role]:
    """Return the splits that names of folders beside each other mean.

    Args:
        names: For example `train`, `test`; or `cats_train`, `cats_test`, which mean splits only together.

    Returns:
        The names that mean a split.
    """
    exact = {name: role for name in names if (role := role_of(name))}
    if exact:
        return exact
    parsed = {name: (role, others) for name in names for role, others in [_parse(name)] if role}
    roles_beside = {others: {role for role, rest in parsed.values() if rest == others} for _, others in parsed.values()}
    return {name: role for name, (role, others) in parsed.items() if role and len(roles_beside[others]) > 1}


def _parse(name: str) -> tuple[Role | None, tuple[str, ...]]:
    """The split that one word of a name means, and the words that are neither this one nor filler."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain).lower()  # DogsTrain
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[\W_]+", re.sub(r"h[eo]ld[\W_]*out", "holdout", separated))]
    stems = [_stem(word) for word in words if word and not re.fullmatch(FILLER, word)]
    roles = [SPLIT_WORDS[stem] for stem in stems if stem in SPLIT_WORDS]
    return (roles[0] if len(roles) == 1 else None), tuple(stem for stem in stems if stem not in SPLIT_WORDS)


def _stem(word: str) -> str:
    """`trainset`, `testimages` without the second word."""
    shorter = re.sub(rf"(?:{FILLER})$", "", word)
    return shorter if shorter in SPLIT_WORDS else word


def masks_beside_images(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the folders of images and of their masks among folders beside each other, or None.

    Args:
        names: For example `images`, `masks`.
    """
    masks = next((name for name in names if re.fullmatch(rf"(?:{MASKS})[\W_]*\d*", name.lower())), None)
    images = next((name for name in names if re.fullmatch(rf"(?:{FILLER})[\W_]*\d*", name.lower())), None)
    return (images, masks) if images and masks else None
