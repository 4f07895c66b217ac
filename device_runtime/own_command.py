"""`cooperllm device personalise`, `eval`, `predict`: what a device does for its owner, without a network."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .conditions import CONDITIONS
from .errors import OptionError
from .limits import Limits
from .private_examples import FileSource

if TYPE_CHECKING:
    from .device import Device

DEFAULT_STATE = "cooperllm-device"


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Adds the three verbs, each with options of its own."""
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", title="what else it can do, with what it holds and without a network"
    )
    line = "learn from this device's own examples, for this device alone"
    personalise = verbs.add_parser("personalise", help=line, description=line[0].upper() + line[1:] + ".")
    add_data_arguments(personalise, required=True)
    personalise.add_argument("--steps", type=int, default=160, metavar="N", help="local steps (default 160)")
    personalise.add_argument(
        "--segments",
        choices=("head", "all"),
        default="",
        help="what moves: head is quick, all takes whole forwards (default: head, where it has parameters)",
    )
    add_limit_arguments(personalise)
    line = "loss and accuracy on a file of examples"
    evaluate = verbs.add_parser("eval", help=line, description=line[0].upper() + line[1:] + ".")
    add_data_arguments(evaluate, required=True)
    line = "the class of texts"
    predict = verbs.add_parser("predict", help=line, description=line[0].upper() + line[1:] + ".")
    predict.add_argument("texts", nargs="*", metavar="TEXT", help="default: the lines of standard input")
    for verb in (evaluate, predict):
        which = verb.add_mutually_exclusive_group()
        which.add_argument("--private", action="store_true", help="with what `personalise` changed")
        which.add_argument(
            "--shared",
            action="store_false",
            dest="private",
            default=False,
            help="with the shared adapter (default)",
        )
    for verb in (personalise, evaluate, predict):
        # No default: it would hide what stands before the verb.
        verb.add_argument("--state", default=argparse.SUPPRESS, metavar="DIR", help="this device's folder")
        verb.add_argument("--threads", type=int, default=argparse.SUPPRESS, metavar="N", help="(default 1)")
        verb.add_argument(
            "--format", choices=("text", "json"), default=argparse.SUPPRESS, help="json: one object a line"
        )


def add_data_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds --data and the names of its columns."""
    parser.add_argument(
        "--data", required=required, metavar="FILE", help="this device's examples: CSV, TSV or JSONL"
    )
    parser.add_argument(
        "--text-column", metavar="NAME", help="column of the text (default: found by its name)"
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="column of the label (default: found by its name)"
    )


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the device may take from its machine."""
    parser.add_argument(
        "--max-memory-bytes",
        type=int,
        metavar="N",
        help="refuse a bundle whose weights, activations, adapter and hidden states take more",
    )
    parser.add_argument(
        "--max-duration-s",
        type=float,
        metavar="S",
        help="work at most S seconds a session; the next one goes on at the next direction",
    )
    parser.add_argument(
        "--require",
        default="",
        metavar="LIST",
        help=f"work only while these hold, commas between: {', '.join(CONDITIONS)} (see docs/device.md)",
    )


def limits_of(options: argparse.Namespace) -> Limits:
    """The limits that options name. Raises OptionError."""
    require = frozenset(name for name in options.require.split(",") if name)
    return Limits(options.max_memory_bytes, options.max_duration_s, require)


def source_of(options: argparse.Namespace) -> FileSource:
    """The file of examples that options name. Raises OptionError without one."""
    if options.data is None:
        raise OptionError("--data FILE is needed: this device's examples, as CSV, TSV or JSONL")
    return FileSource(options.data, options.text_column, options.label_column)


def run_verb(options: argparse.Namespace) -> int:
    """Does what the verb says. Raises CooperLLMError: show its line."""
    if not Path(options.state).is_dir():
        raise OptionError(f"{options.state} is no device's folder: take part first, or name it with --state")
    from .device import Device

    source = None if options.verb == "predict" else source_of(options)
    if source is not None:
        source.read(None)  # a file that cannot be read should be told before anything else is done
    limits = limits_of(options) if options.verb == "personalise" else None
    with Device(
        server=None, store=options.state, examples=source or [], threads=options.threads, limits=limits
    ) as device:
        if options.verb == "personalise":
            _personalise(device, options)
        elif source is not None:
            _evaluate(device, source, options)
        else:
            _predict(device, options)
    return 0


def _personalise(device: Device, options: argparse.Namespace) -> None:
    from .personal import Practice

    found = device.personalise(Practice(steps=options.steps, segments=options.segments))
    if options.format == "json":
        print(json.dumps(vars(found)))
        return
    print(f"{found.steps} steps on {found.examples} examples: loss {found.loss_before:.4f}", end="")
    print(f" -> {found.loss_after:.4f}", end="")
    if found.held_out_loss_before is not None:
        print(f", held out {found.held_out_loss_before:.4f} -> {found.held_out_loss_after:.4f}", end="")
    print("; kept" if found.kept else "; no better, so not kept")


def _evaluate(device: Device, source: FileSource, options: argparse.Namespace) -> None:
    found = device.evaluate(source.read(None), options.private)
    if options.format == "json":
        print(json.dumps({**vars(found), "private": options.private}))
        return
    which = "private" if options.private else "shared"
    print(
        f"{which} adapter: loss {found.loss:.4f} nats, accuracy {found.accuracy:.4f}, {found.count} targets"
    )


def _predict(device: Device, options: argparse.Namespace) -> None:
    texts = options.texts or [line.rstrip("\n") for line in sys.stdin]
    for prediction in device.predict(texts, options.private):
        if options.format == "json":
            print(json.dumps(vars(prediction)))
        else:
            print(f"{prediction.label}\t{prediction.probabilities[prediction.label]:.4f}")
