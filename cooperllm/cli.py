"""The `cooperllm` command. A sub-command's module is imported only when that sub-command is asked for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cooperllm import __version__
from device_runtime.errors import CooperLLMError

# name -> (module, its function that adds the options, its function that runs, one line for the overview)
COMMANDS: dict[str, tuple[str, str, str, str]] = {
    "simulate": (
        "cooperllm.simulate.command", "add_arguments", "run",
        "run a whole federation on this machine: the real service and real device processes",
    ),
    "export": (
        "export.command", "add_arguments", "run",
        "turn a Hugging Face model into a bundle for devices",
    ),
    "inspect": (
        "export.inspect", "add_arguments", "run",
        "check a bundle and show what is in it",
    ),
    "serve": (
        "cloud_service.command", "add_arguments", "run",
        "run the cloud service for one job",
    ),
    "device": (
        "device_runtime.command", "add_arguments", "run",
        "take part in a job with this machine's own data",
    ),
}  # fmt: skip

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted.

    Whatever goes wrong on purpose is one line on stderr that says what to do.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except CooperLLMError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough (`cooperllm ... | head`); without this the interpreter
        # complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in (
            "cooperllm",
            "device_runtime",
            "cloud_service",
            "export",
        ):
            raise
        return _fail(
            f"this command needs the Python package {error.name}: pip install 'cooperllm[simulate]'", 1
        )
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)


def _run(given: list[str]) -> int:
    chosen = next((word for word in given if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="cooperllm",
        description="Fine-tune language models on devices, with the cloud's help and without their data.",
        epilog="`cooperllm COMMAND --help` explains a command. Start with: cooperllm simulate",
    )
    parser.add_argument("--version", action="version", version=f"cooperllm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, adder, _, line) in COMMANDS.items():
        command = commands.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
        if name == chosen:
            getattr(import_module(module), adder)(command)
    options = parser.parse_args(given)
    module, _, runner, _ = COMMANDS[options.command]
    code: int = getattr(import_module(module), runner)(options)
    return code


def _fail(line: str, code: int) -> int:
    print(f"cooperllm: {line}", file=sys.stderr)
    return code
