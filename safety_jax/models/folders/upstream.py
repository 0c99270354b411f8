"""Finds the attributes of a config.json that a class of `transformers` reads, in its source.

An attribute that the class for a `model_type` never reads cannot change what it computes. The
installed source is parsed and not imported, because an import would need PyTorch:

- the model's own files, such as `models/llama/modeling_llama.py` and `configuration_llama.py`;
- the functions and classes that the first of these imports from elsewhere in the library (the
  causal mask, the cache), with what they use in the same module; and all rotary functions, because
  the library finds these through a table.

They read an attribute as `config.NAME` or `getattr(config, "NAME")`; the configuration itself reads
it as `self.NAME` or `kwargs.pop("NAME")`.
"""

import ast
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import transformers
from transformers.models.auto.configuration_auto import model_type_to_module_name

WHOLE = ("modeling_rope_utils",)  # modules whose functions are chosen by name at run time
# Modules that all models share, for loading, devices and training. They are not parsed: whatever
# matters for a model is in its own files.
SHARED = ("modeling_utils", "generation", "configuration_utils")


@functools.cache
def read_by_transformers(model_type: str) -> frozenset[str]:
    """Attributes that the classes of a model type read. If the source of its model is not
    installed, the attributes that its configuration declares."""
    root = Path(transformers.__file__).parent
    folder = root / "models" / model_type_to_module_name(model_type)
    own = sorted(folder.glob("modeling_*.py"))
    if not own:
        declared = dataclasses.fields(type(transformers.AutoConfig.for_model(model_type)))
        return frozenset(field.name for field in declared)
    found: set[str] = set()
    for file in own:
        tree = _parse(file)
        found |= set(_read_in(tree))
        for module, names in _imports(tree):
            found |= _read_by_imported(root, module, names)
    for file in sorted(folder.glob("configuration_*.py")):
        found |= set(_read_in(_parse(file), names=("self",)))
    return frozenset(found)


@functools.cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imports(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Imports from modules outside `models`: the module, and the imported names."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level == 3 and node.module:
            yield node.module, [alias.name for alias in node.names]


def _read_by_imported(root: Path, module: str, names: Iterable[str]) -> set[str]:
    file = root / f"{module.replace('.', '/')}.py"
    if module.split(".")[0] in SHARED or not file.is_file():
        return set()
    tree = _parse(file)
    if module in WHOLE:
        return set(_read_in(tree, names=("self", "kwargs")))
    parts = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    found: set[str] = set()
    waiting, seen = list(names), set(names)
    while waiting:
        part = parts.get(waiting.pop())
        if part is not None:
            found |= set(_read_in(part))
            called = {node.id for node in ast.walk(part) if isinstance(node, ast.Name)} - seen
            waiting += called
            seen |= called
    return found


def _read_in(tree: ast.AST, names: tuple[str, ...] = ()) -> Iterator[str]:
    """Attributes that are read from a variable whose name ends in "config" or is in `names`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=owner, attr=name) if _is_config(owner, names):
                yield name
            case ast.Call(func=ast.Name(id="getattr"), args=[owner, ast.Constant(str(name)), *_]):
                if _is_config(owner, names):
                    yield name
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="kwargs"), attr="get" | "pop"),
                args=[ast.Constant(str(name)), *_],
            ) if names:
                yield name


def _is_config(node: ast.expr, names: tuple[str, ...]) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.endswith("config") or name in names
    return False
