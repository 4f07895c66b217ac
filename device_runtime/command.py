"""`cooperllm device`: take part in a job with a file of this machine's own examples.

Its verbs, for what needs no network, are in own_command.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .budget import Budget
from .errors import OptionError
from .own_command import (
    DEFAULT_STATE,
    add_data_arguments,
    add_limit_arguments,
    add_verbs,
    limits_of,
    run_verb,
    source_of,
)
from .retry import Retry

if TYPE_CHECKING:
    from .journal import Event


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `cooperllm device`."""
    parser.add_argument("--server", metavar="HOST:PORT", help="the service's gRPC address")
    add_data_arguments(parser, required=False)
    parser.add_argument(
        "--state",
        default=DEFAULT_STATE,
        metavar="DIR",
        help=f"folder for this device's key, adapter and bundle (default: ./{DEFAULT_STATE})",
    )
    parser.add_argument(
        "--artifacts", default="", metavar="URL", help="where artifacts are (default: as told)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of a computation (default 1)"
    )
    parser.add_argument("--name", default="", help="how the service's operator sees this device")
    parser.add_argument("--token", default="", help="enrollment token, where the service asks for one")
    parser.add_argument("--tls", action="store_true", help="encrypt both connections")
    parser.add_argument(
        "--ca", metavar="FILE", help="PEM of the authority that signed the service's certificate"
    )
    parser.add_argument("--until-finished", action="store_true", help="end when the job is over")
    parser.add_argument(
        "--interval-s", type=float, default=3600.0, metavar="S", help="pause between sessions"
    )
    parser.add_argument("--max-scalars", type=int, metavar="N", help="disclose at most N scalars a round")
    add_limit_arguments(parser)
    parser.add_argument(
        "--first-contact-s", type=float, default=10.0, metavar="S", help="patience at the start"
    )
    parser.add_argument(
        "--patience-s", type=float, default=300.0, metavar="S", help="patience once it answered"
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: one event a line on stdout"
    )
    add_verbs(parser)


def run(options: argparse.Namespace) -> int:
    """Runs a device until the job is over or Ctrl-C. Raises CooperLLMError: show its line."""
    if options.verb:
        return run_verb(options)
    if options.server is None:
        raise OptionError("--server HOST:PORT is needed to take part in a job")
    limits, examples = limits_of(options), source_of(options)
    examples.read(None)  # a file that cannot be read should be told before anything else is done
    from .device import Device

    device = Device(
        server=options.server,
        store=Path(options.state),
        examples=examples,
        artifacts_url=options.artifacts,
        budget=Budget(max_scalars_per_round=options.max_scalars),
        threads=options.threads,
        tls=options.tls or options.ca is not None,
        ca_file=options.ca,
        token=options.token,
        name=options.name,
        limits=limits,
        on_event=_print_json if options.format == "json" else _print_text,
        retry=Retry(first_contact_s=options.first_contact_s, patience_s=options.patience_s),
    )
    with device:

        def work() -> None:
            while not (device.run_until_finished() and options.until_finished):
                time.sleep(options.interval_s)

        _run_in_thread(work, device.stop)
    return 0


def _run_in_thread(work: Callable[[], None], stop: Callable[[], None]) -> None:
    """Works in another thread, because Ctrl-C reaches this one only, and not while it computes."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=target, name="device", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)
    except KeyboardInterrupt:
        stop()
        thread.join(5.0)
        raise
    if failures:
        raise failures[0]


def _print_json(event: Event) -> None:
    body = {"event": event.name, "time_ms": round(event.time_ms, 3), **event.fields}
    print(json.dumps(body), flush=True)


def _print_text(event: Event) -> None:
    line = _line(event.name, event.fields)
    if line:
        print(line, file=sys.stderr, flush=True)


def _line(name: str, fields: dict[str, object]) -> str:
    """One line for a person; "" for events that would only make noise."""
    match name:
        case "task":
            return f"round {fields['round']}: {fields['kind']}"
        case "version":
            sha256 = str(fields["adapter_sha256"])
            return f"adapter version {fields['version']} by {fields['form']}, {sha256[:12]}"
        case "report":
            down, up = fields["downlink_bytes"], fields["uplink_bytes"]
            status = f"{fields['status']} ({fields['detail']})" if fields["detail"] else fields["status"]
            return f"reported {status}: {fields['scalars']} scalars, {down} bytes down, {up} up"
        case "paused":
            missing = fields["missing"]
            return f"paused until it is {', '.join(missing) if isinstance(missing, list) else missing}"
        case "resumed":
            return "going on"
        case "lost":
            return f"dropped: {fields['detail']}"
        case "error":
            return f"will try again: {fields['detail']}"
        case "finished":
            return f"finished: adapter version {fields['version']}, {str(fields['adapter_sha256'])[:12]}"
    return ""
