"""The core on emulated arm64 beside this machine: sizes, memory, correctness, and times that are no phone's.

    python -m benchmarks.emulator [--quick] [--json FILE]

The emulated machine is set up where it is not (scripts/emulator). Losses and projected gradients are compared
with this machine's, on one thread each; what the kernels make must be equal bit for bit. An int8 program
rounds its activations on the way, so a last bit that differs before can move one by a 255th of its range
after. The emulator is hundreds of times slower than the machine under it, and slow at other things than a
phone.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.emulated import NATIVE, Emulator, set_up
from benchmarks.emulator_bundles import MINILM_TOKENS, TINY_TOKENS, minilm, tiny

PROGRAM = "benchmarks.emulator_on_device"
GOLDEN = [f"tests/device_runtime/{file}" for file in ("core/test_kernels.py", "zo", "test_text.py")]
LIMIT_S = 600.0


def measure(emulator: Emulator, quick: bool) -> dict[str, Any]:
    """All figures. Raises RuntimeError when a program or a test fails there."""
    with ThreadPoolExecutor(2) as pool:  # both wait for processes
        tests = pool.submit(emulator.passed_tests, *GOLDEN, "-k", "golden", timeout_s=LIMIT_S)
        there, here = (machine.ask(PROGRAM, "kernels", timeout_s=LIMIT_S) for machine in (emulator, NATIVE))
        golden = tests.result()
    ours = there.pop("results")
    equal = sum(here["results"][name] == result for name, result in ours.items())
    del here["results"]
    bundles = {"tiny fp32": (tiny(), TINY_TOKENS, 4)}
    if not quick:
        bundles |= {f"MiniLM {kind}": (minilm(kind), tokens, 1) for kind, tokens in MINILM_TOKENS.items()}
    return {
        "golden_tests_passed": golden,
        "kernel_results": len(ours),
        "kernel_results_equal": equal,
        "emulated": there,
        "native": here,
        "steps": {name: _step(emulator, *given) for name, given in bundles.items()},
    }


def _step(emulator: Emulator, bundle: Path, tokens: int, directions: int) -> dict[str, Any]:
    """One row of the second table: a few directions and an update, there and here."""
    arguments = ("step", str(bundle), str(tokens), str(directions))
    there, here = (machine.ask(PROGRAM, *arguments, timeout_s=LIMIT_S) for machine in (emulator, NATIVE))
    return {
        "tokens": tokens,
        "loss_apart": abs(there["loss"] - here["loss"]),
        "rho_apart": max(abs(a - b) for a, b in zip(there["rho"], here["rho"], strict=True)),
        "adapter_equal": there["restored"] and there["updated_sha256"] == here["updated_sha256"],
        "emulated": there,
        "native": here,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for a terminal, in MB of 10^6 bytes."""
    there, here = figures["emulated"], figures["native"]
    lines = [f"{'':28}{there['machine']:>12}{here['machine']:>12}"]
    for name, key in (("core, MB", "core_bytes"), ("its libraries, MB", "libraries_bytes")):
        lines.append(f"{name:28}{there[key] / 1e6:12.2f}{here[key] / 1e6:12.2f}")
    lines.append(f"{'kernels chosen':28}{there['instructions']:>12}{here['instructions']:>12}")
    lines.append(f"{'tests of golden files':28}{figures['golden_tests_passed']:>12} passed")
    equal, of = figures["kernel_results_equal"], figures["kernel_results"]
    lines += [f"{'results of kernels':28}{equal:>12} of {of} equal bit for bit to {here['machine']}'s", ""]
    heads = (
        "rows",
        "program MB",
        "loss apart",
        "rho apart",
        "adapter",
        "imports MB",
        "peak MB",
        "s/direction",
    )
    lines.append(f"{'':12}" + "".join(f"{head:>12}" for head in heads))
    for name, row in figures["steps"].items():
        own = row["emulated"]
        sizes = f"{own['rows']} × {row['tokens']}"
        memory = [own[f"{key}_rss_bytes"] / 1e6 for key in ("imported", "peak")]
        lines.append(
            f"{name:12}{sizes:>12}{own['program_bytes'] / 1e6:12.1f}{row['loss_apart']:12.1e}"
            f"{row['rho_apart']:12.1e}{'equal' if row['adapter_equal'] else 'DIFFERENT':>12}"
            f"{memory[0]:12.0f}{memory[1]:12.0f}{own['direction_s']:12.2f}"
        )
    return "\n".join(
        [
            *lines,
            "",
            "imports, peak: resident memory as the emulated process reports it, the emulator's own in it",
            "s/direction: under emulation, not a phone's time",
        ]
    )


def correct(figures: dict[str, Any]) -> bool:
    """Whether everything that must be equal is."""
    kernels = figures["kernel_results_equal"] == figures["kernel_results"]
    return kernels and all(row["adapter_equal"] for row in figures["steps"].values())


def main() -> int:
    """Measures, prints, and writes JSON where asked. Answers 1 when something is not equal."""
    parser = argparse.ArgumentParser(prog="benchmarks.emulator", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the tiny bundle only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    try:
        figures = measure(set_up(), arguments.quick)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if correct(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
