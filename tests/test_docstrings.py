"""Docstrings of the package are complete.

Every public function and method has `Args:` with each parameter, `Returns:` or `Yields:` if it gives a value, and `Raises:` if its
body raises an exception. Every public dataclass and named tuple has `Attributes:` with each field that it does not inherit.
Exceptions:

- Properties: the docstring names the value.
- Methods that override a method of a public class of the package, or implement one of its protocols: it is documented there.
- Functions of which the docstring says "see `Name`", where the protocol of this name documents the same parameters.
- `forward` of a module whose class docstring states the shapes of input and output.
- Commands of the command line (`@app.command`): the help text of each option is in its annotation.
- Parameters with a leading underscore, which are unused.
- `Returns:`, if the first sentence begins with "Return" or "Yield", as Google's style guide permits.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autospike"
SHAPE = re.compile(r"`\[[^\]`]+\]`")
DOCUMENTED_OTHERWISE = {"property", "cached_property", "command", "callback"}  # decorators
Function = ast.FunctionDef | ast.AsyncFunctionDef
Classes = dict[str, list[ast.ClassDef]]


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A public function or method, and the class that contains it."""

    function: Function
    owner: ast.ClassDef | None = None


def test_docstrings_are_complete() -> None:
    trees = {path.relative_to(PACKAGE.parent): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    classes = public_classes(trees.values())
    found = []
    for path, tree in trees.items():
        for each in public_functions(tree):
            found += [f"{path}:{each.function.lineno} {each.function.name}: {gap}" for gap in gaps(each, classes)]
        for node in (node for same_name in public_classes([tree]).values() for node in same_name):
            found += [f"{path}:{node.lineno} {node.name}: {gap}" for gap in missing_attributes(node, classes)]
    assert found == []


GAPS = {
    "no docstring": ("docstring", "def area() -> None:\n    pass"),
    "no arguments": ("Args: size", "def area(size: int) -> None:\n    'Print the area.'"),
    "one argument": (
        "Args: width",
        "def area(size: int, *, width: int) -> None:\n    '''Print.\n\n    Args:\n        size: Pixels.\n    '''",
    ),
    "many arguments": ("Args: sizes", "def area(*sizes: int) -> None:\n    'Print the area.'"),
    "result": ("Returns", "def area() -> int:\n    'Compute the area.'"),
    "generator": ("Yields", "def areas() -> Iterator[int]:\n    'Compute areas.'\n    yield 1"),
    "exception": ("Raises", "def area() -> None:\n    'Print.'\n    if True:\n        raise ValueError('size')"),
    "no shapes": (
        "Args: x",
        "class Mean(nn.Module):\n    'Mean.'\n\n    def forward(self, x: Tensor) -> None:\n        'Print it.'",
    ),
    "part of a protocol": (
        "Returns",
        """
class Shape(Protocol):
    def area(self) -> int:
        'Return the area.'

    def side(self) -> int:
        'Return the side.'

class Square:
    def area(self) -> int:
        'Square the size.'
""",
    ),
    "not a protocol": ("Args: x", "class Rule:\n    'A rule.'\n\ndef double(x: int) -> int:\n    'Return x; see `Rule`.'"),
}


@pytest.mark.parametrize("case", GAPS)
def test_a_gap_is_found(case: str) -> None:
    gap, source = GAPS[case]
    assert all_gaps(source) == [gap]


COMPLETE = {
    "all sections": """
def area(size: int, _unused: int = 0) -> int:
    '''Compute the area.

    Args:
        size: Pixels.

    Returns:
        Pixels.
    '''
""",
    "first word": "def area() -> int:\n    'Return the area.'",
    "raised again": "def area() -> None:\n    'Print.'\n    try:\n        pass\n    except OSError:\n        raise",
    "raised in a function inside": "def area() -> None:\n    'Print.'\n    def inner() -> None:\n        raise ValueError('size')",
    "context": "@contextmanager\ndef area() -> Iterator[None]:\n    'Set the area in a block.'\n    yield",
    "private function": "def _area(size: int) -> int:\n    'Compute.'",
    "private class": "class _Area:\n    def of(self, size: int) -> int:\n        'Compute.'",
    "property": "class Area:\n    @property\n    def size(self) -> int:\n        'Area in pixels.'",
    "command": "@app.command()\ndef area(size: Annotated[int, typer.Option(help='Pixels.')]) -> None:\n    'Print the area.'",
    "override": """
class Shape:
    def area(self) -> int:
        'Return the area.'

class Square(Shape):
    def area(self) -> int:
        'Square the size.'
""",
    "protocol": """
class Shape(Protocol):
    def area(self) -> int:
        'Return the area.'

class Square:
    def area(self) -> int:
        'Square the size.'
""",
    "protocol of functions": """
class Rule(Protocol):
    def __call__(self, x: int) -> int:
        '''Return another number.

        Args:
            x: A number.
        '''

def double(x: int) -> int:
    'Double a number; see `Rule`.'
""",
    "shapes of a module": """
class Mean(nn.Module):
    'Mean over time, `[T, B, C]` to `[1, B, C]`.'

    def forward(self, x: Tensor) -> Tensor:
        'Compute the mean.'
""",
}


@pytest.mark.parametrize("case", COMPLETE)
def test_complete_docstrings_have_no_gap(case: str) -> None:
    assert all_gaps(COMPLETE[case]) == []


def test_a_field_without_documentation_is_found() -> None:
    source = """
@dataclass(frozen=True)
class Box:
    '''A box.

    Attributes:
        width: Pixels.
    '''

    width: int
    height: int
"""
    classes = public_classes([ast.parse(source)])
    assert list(missing_attributes(classes["Box"][0], classes)) == ["Attributes: height"]


def all_gaps(source: str) -> list[str]:
    """Return the gaps in the functions of a module."""
    tree = ast.parse(source)
    return [gap for definition in public_functions(tree) for gap in gaps(definition, public_classes([tree]))]


def public_functions(tree: ast.Module) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, Function):
            members = [Definition(function=node)]
        elif isinstance(node, ast.ClassDef) and is_public(node.name):
            members = [Definition(function=member, owner=node) for member in node.body if isinstance(member, Function)]
        else:
            continue
        yield from (member for member in members if is_public(member.function.name))


def public_classes(trees: Iterable[ast.Module]) -> Classes:
    """Return the classes by name; classes of several modules may have one name."""
    classes = defaultdict(list)
    for node in (node for tree in trees for node in tree.body):
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            classes[node.name].append(node)
    return classes


def is_public(name: str) -> bool:
    return not name.startswith("_")


def gaps(definition: Definition, classes: Classes) -> Iterator[str]:
    """Yield what the docstring of a function lacks."""
    function, owner = definition.function, definition.owner
    text = ast.get_docstring(function) or ""
    if DOCUMENTED_OTHERWISE & decorators(function) or is_documented_elsewhere(function, owner, classes):
        return
    if not text:
        yield "docstring"
        return
    documented = entries(text, "Args")
    yield from (f"Args: {name}" for name in parameters(function) if name not in documented)
    values = "Yields" if is_generator(function) else "Returns"
    if gives_value(function) and not re.search(rf"^({values}|Yields):|\A(Return|Yield)s?\b", text, re.MULTILINE):
        yield values
    if raises(function) and "\nRaises:\n" not in text:
        yield "Raises"


def missing_attributes(node: ast.ClassDef, classes: Classes) -> Iterator[str]:
    """Yield the public fields of a dataclass or named tuple that its docstring lacks."""
    if "dataclass" in decorators(node) or "NamedTuple" in bases(node):
        inherited = {name for ancestor in ancestors(node, classes) for name in fields(ancestor)}
        missing = fields(node) - inherited - entries(ast.get_docstring(node) or "", "Attributes")
        yield from (f"Attributes: {name}" for name in sorted(missing) if is_public(name))


def is_documented_elsewhere(function: Function, owner: ast.ClassDef | None, classes: Classes) -> bool:
    if owner is None:
        return implements_protocol(function, classes)
    if function.name == "forward" and len(SHAPE.findall(ast.get_docstring(owner) or "")) >= 2:
        return True
    protocols = [each for same_name in classes.values() for each in same_name if "Protocol" in bases(each) and each is not owner]
    implemented = [each for each in protocols if methods(each) <= methods(owner) | fields(owner)]
    return any(function.name in methods(each) for each in [*ancestors(owner, classes), *implemented])


def implements_protocol(function: Function, classes: Classes) -> bool:
    """Return whether the docstring says "see `Name`", and a protocol of this name documents the same parameters."""
    named = re.search(r"see `(\w+)`", ast.get_docstring(function) or "")
    protocols = classes.get(named[1], []) if named else []
    calls = [member for node in protocols for member in node.body if isinstance(member, Function)]
    documented = [entries(ast.get_docstring(call) or "", "Args") for call in calls if call.name == "__call__"]
    return set(parameters(function)) in documented


def ancestors(node: ast.ClassDef, classes: Classes) -> Iterator[ast.ClassDef]:
    for base in (base for name in bases(node) for base in classes.get(name, []) if base is not node):
        yield base
        yield from ancestors(base, classes)


def bases(node: ast.ClassDef) -> list[str]:
    """Return the names of the bases, without module and type parameters."""
    return [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]


def methods(node: ast.ClassDef) -> set[str]:
    return {member.name for member in node.body if isinstance(member, Function)}


def fields(node: ast.ClassDef) -> set[str]:
    return {each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)}


def decorators(node: Function | ast.ClassDef) -> set[str]:
    """Return the names of the decorators, without module and arguments."""
    return {ast.unparse(each).split("(")[0].split(".")[-1] for each in node.decorator_list}


def parameters(function: Function) -> list[str]:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
    return [each.arg for each in named if is_public(each.arg) and each.arg not in ("self", "cls")]


def entries(text: str, section: str) -> set[str]:
    """Return the names in a section of a docstring."""
    found = re.search(rf"^{section}:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    return set(re.findall(r"^    \*{0,2}(\w+):", found[1], re.MULTILINE)) if found else set()


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yield the nodes of the body, without those of functions and classes inside it."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def is_generator(function: Function) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own_nodes(function))


def gives_value(function: Function) -> bool:
    annotation = ast.unparse(function.returns) if function.returns else "None"
    return annotation not in ("None", "Iterator[None]", "Generator[None]", "NoReturn", "Never")


def raises(function: Function) -> bool:
    nodes = [node.exc for node in own_nodes(function) if isinstance(node, ast.Raise) and node.exc]
    return any("NotImplementedError" not in ast.unparse(each) for each in nodes)
