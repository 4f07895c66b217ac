"""The direction of imports: which part may know which other part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.import_graph import Import, is_within, reached_eagerly, read_imports, read_modules

ROOT = Path(__file__).parents[1]
MODULES = read_modules(ROOT)
IMPORTS = read_imports(MODULES)

NETWORK = ("grpc", "http", "urllib", "socket", "ssl", "socketserver", "asyncio", "httpx", "requests")
TORCH = ("torch", "torchao", "transformers", "peft")
SERVERS = ("grpc", "fastapi", "starlette", "uvicorn", "sqlalchemy", "asyncio")
PURE_ROUNDS = ("rounds", "aggregation", "estimators", "rectify", "chain", "step")


def by(*importers: str) -> list[Import]:
    """Return the imports made within some packages."""
    return [item for item in IMPORTS if is_within(item.importer, importers)]


def refuse(imports: list[Import], forbidden: tuple[str, ...]) -> None:
    """Fail with every import of something forbidden."""
    offences = [str(item) for item in imports if is_within(item.imported, forbidden)]
    assert not offences, "\n" + "\n".join(offences)


def test_the_walk_sees_the_tree() -> None:
    """An empty walk would pass every other test."""
    assert {"device_runtime.zo.philox", "protos.federation_pb2", "cooperllm.cli"} <= set(MODULES)
    assert any(item.imported == "device_runtime.zo.layout" for item in by("device_runtime.zo.spsa"))
    assert any(item.lazy for item in IMPORTS)


def test_the_walk_tells_eager_lazy_and_typed_imports_apart(tmp_path: Path) -> None:
    (tmp_path / "export" / "inner").mkdir(parents=True)
    (tmp_path / "export" / "__init__.py").write_text("from .inner import leaf\n")
    (tmp_path / "export" / "inner" / "__init__.py").write_text("import torch.nn\n")
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import grpc\nelse:\n    import ssl\n"
        "from .. import inner\n"
        "def late():\n    import asyncio\n    import_module('fastapi')\n"
    )
    (tmp_path / "export" / "inner" / "leaf.py").write_text(source)
    modules = read_modules(tmp_path)
    imports = read_imports(modules)
    leaf = {(item.imported, item.lazy) for item in imports if item.importer == "export.inner.leaf"}
    expected = {
        ("typing", False),
        ("ssl", False),
        ("export.inner", False),
        ("asyncio", True),
        ("fastapi", True),
    }
    assert leaf == expected
    assert reached_eagerly("export", imports, modules) >= {"export.inner.leaf", "export.inner", "torch.nn"}


def test_zo_is_a_leaf() -> None:
    allowed = (*sys.stdlib_module_names, "numpy", "device_runtime.zo")
    offences = [str(item) for item in by("device_runtime.zo") if not is_within(item.imported, allowed)]
    assert not offences, "\n" + "\n".join(offences)
    refuse(by("device_runtime.zo"), NETWORK)


def test_protos_are_a_leaf() -> None:
    allowed = (*sys.stdlib_module_names, "google.protobuf", "grpc", "protos")
    offences = [str(item) for item in by("protos") if not is_within(item.imported, allowed)]
    assert not offences, "\n" + "\n".join(offences)


def test_core_and_local_update_know_no_network() -> None:
    ours = ("device_runtime.transport", "device_runtime.session", "device_runtime.download", "protos")
    refuse(by("device_runtime.core"), NETWORK + ours)
    refuse(by("device_runtime.local_update"), NETWORK + ours[:-1])


def test_a_device_never_loads_torch_or_the_cloud() -> None:
    refuse(by("device_runtime"), (*TORCH, "executorch", "cloud_service", "export", "cooperllm"))


@pytest.mark.parametrize("name", PURE_ROUNDS)
def test_rounds_are_pure(name: str) -> None:
    """Also through what they import: no wire, no web, no SQL, no event loop, no torch."""
    module = f"cloud_service.{name}"
    if module not in MODULES:
        pytest.fail(f"{module} is gone: say here where its functions went")
    refuse(by(module), SERVERS + TORCH)
    reached = reached_eagerly(module, IMPORTS, MODULES)
    offences = sorted(loaded for loaded in reached if is_within(loaded, SERVERS + TORCH))
    assert not offences, f"importing {module} loads {offences}"


def test_guides_are_the_only_user_of_torch_in_the_cloud() -> None:
    others = [item for item in by("cloud_service") if item.importer != "cloud_service.guides"]
    refuse(others, (*TORCH, "executorch"))
    eager = [item for item in by("cloud_service.guides") if not item.lazy]
    refuse(eager, (*TORCH, "executorch", "export"))


def test_guides_alone_import_the_model_that_is_lowered() -> None:
    """The command line may call export's commands, the service may differentiate its model; nobody else."""
    users = [item for item in IMPORTS if is_within(item.imported, ("export",))]
    offences = []
    for item in users:
        inside = is_within(item.importer, ("export",))
        differentiates = item.importer == "cloud_service.guides" and item.imported == "export.model"
        commands = is_within(item.importer, ("cooperllm",)) and item.imported == "export.command"
        if not (inside or (item.lazy and (differentiates or commands))):
            offences.append(str(item))
    assert not offences, "\n" + "\n".join(offences)


def test_export_knows_no_cloud_and_no_session() -> None:
    refuse(by("export"), ("cloud_service", "cooperllm", "grpc", "device_runtime.session"))


def test_importing_the_command_line_loads_no_part() -> None:
    reached = reached_eagerly("cooperllm.cli", IMPORTS, MODULES)
    heavy = (*TORCH, *SERVERS, "executorch", "numpy", "matplotlib", "rich", "cloud_service", "export")
    offences = sorted(loaded for loaded in reached if is_within(loaded, heavy))
    assert not offences, f"importing cooperllm.cli loads {offences}"
