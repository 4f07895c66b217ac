"""Who imports whom, read from the source with ast: nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("cooperllm", "protos", "export", "device_runtime", "cloud_service")


@dataclass(frozen=True)
class Import:
    """One import: `lazy` when it stands in a function, so that it happens only when that is called."""

    importer: str
    imported: str
    lazy: bool
    line: int

    def __str__(self) -> str:
        how = "imports lazily" if self.lazy else "imports"
        return f"{self.importer}:{self.line} {how} {self.imported}"


def read_modules(root: Path) -> dict[str, Path]:
    """Return every module of the distribution by its dotted name."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def read_imports(modules: dict[str, Path]) -> list[Import]:
    """Return all imports; those under `if TYPE_CHECKING` never happen and are left out."""
    found = []
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        tree = ast.parse(path.read_text(), str(path))
        for node, lazy in _import_nodes(tree, lazy=False):
            for imported in _imported(node, package, modules):
                found.append(Import(name, imported, lazy, node.lineno))
    return found


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of the packages or inside one."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def reached_eagerly(module: str, imports: list[Import], modules: dict[str, Path]) -> set[str]:
    """Return every module that importing `module` loads, parents included, through our own modules."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        if name.rpartition(".")[0] in modules:
            waiting.append(name.rpartition(".")[0])
        waiting.extend(item.imported for item in imports if item.importer == name and not item.lazy)
    return reached


def _import_nodes(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.stmt | ast.Call, bool]]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, lazy
    if isinstance(node, ast.Call) and _is_import_call(node):
        yield node, lazy
    inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = list(node.orelse)
    for child in children:
        yield from _import_nodes(child, inside)


def _is_import_call(node: ast.Call) -> bool:
    """Whether a call is import_module("name") or __import__("name")."""
    if not node.args or not isinstance(node.args[0], ast.Constant):
        return False
    return ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")


def _imported(node: ast.stmt | ast.Call, package: str, modules: dict[str, Path]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call):
        assert isinstance(node.args[0], ast.Constant)
        return [str(node.args[0].value)]
    assert isinstance(node, ast.ImportFrom)
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
        base = ".".join([*above, base] if base else above)
    # `from package import name` loads package.name where that is a module.
    inner = [f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in modules]
    return inner if len(inner) == len(node.names) else [base, *inner]
