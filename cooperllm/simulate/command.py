"""`cooperllm simulate`: its options, and what it prints."""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path
from types import FrameType

from cooperllm.simulate.link import parse_links
from cooperllm.simulate.material import Sources
from cooperllm.simulate.settings import Settings, job_table
from cooperllm.simulate.shards import Sharding
from device_runtime.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cooperllm simulate`."""
    data = parser.add_argument_group(
        "data (default: embedded requests to a phone, to be sorted into intents)"
    )
    data.add_argument(
        "--data", type=Path, metavar="FILE", help="private examples: .csv, .tsv or .jsonl with text and label"
    )
    data.add_argument("--eval", type=Path, metavar="FILE", help="labelled examples that nobody learns from")
    data.add_argument(
        "--public-data", type=Path, metavar="FILE", help="public examples (default: drawn from --data)"
    )
    data.add_argument(
        "--public", type=int, default=128, metavar="N", help="how many public examples (default 128)"
    )
    data.add_argument(
        "--hf-dataset", metavar="ID[:CONFIG]", help="a Hugging Face data set instead of --data and --eval"
    )
    data.add_argument(
        "--text-column", metavar="NAME", help="column of the text; several are joined: title,description"
    )
    data.add_argument("--label-column", metavar="NAME", help="column of the label")
    data.add_argument(
        "--shards",
        default="dirichlet:0.5",
        metavar="KIND",
        help='how examples are spread over devices: "iid" or "dirichlet:ALPHA" (default dirichlet:0.5)',
    )
    data.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="leave out private texts that are also public or in the eval file, instead of refusing them",
    )
    learning = parser.add_argument_group("learning")
    learning.add_argument("--devices", type=int, default=8, metavar="N", help="device processes (default 8)")
    learning.add_argument("--rounds", type=int, metavar="N", help="rounds")
    learning.add_argument(
        "--estimator", choices=("isotropic", "zgr", "fedspzo", "chainfed"), help="how directions are chosen"
    )
    learning.add_argument("--job", type=Path, metavar="FILE", help="a TOML file with any settings of a job")
    learning.add_argument(
        "--model", default="", metavar="ID", help="Hugging Face id or local folder (default: MiniLM)"
    )
    learning.add_argument("--bundle", type=Path, metavar="DIR", help="use this exported bundle")
    learning.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default 0)")
    learning.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="how many seeds, from --seed on (default 1)"
    )
    learning.add_argument(
        "--no-baselines", action="store_true", help="only the run itself, nothing to compare it with"
    )
    link = parser.add_argument_group("link (default: none, everything on loopback)")
    link.add_argument(
        "--link",
        metavar="SPEC",
        help="put every device behind a link of its own: 4g, poor-4g, wifi, or "
        '"down=2mbit,up=1mbit,rtt=80ms", also with jitter=5ms, stall=2s/60s (2 s every 60 s) and reset=20MB '
        '(all connections break every 20 MB); several, separated by ";", go to the devices in turn. The '
        "bundle is then on the devices from the start, as in an app that ships with it",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default runs/DATE-TIME)")
    output.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: one object, nothing else"
    )


def settings_of(options: argparse.Namespace) -> Settings:
    """Check the options. Raises OptionError, one line that says what to correct: show it and stop."""
    if options.seeds < 1:
        raise OptionError(f"--seeds {options.seeds}: use at least 1")
    out = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"--out {out}: is not empty; choose a new folder, so that no earlier run is lost")
    return Settings(
        sources=Sources(options.data, options.public_data, options.eval, options.hf_dataset,
                        options.text_column, options.label_column),
        devices=options.devices,
        seeds=tuple(range(options.seed, options.seed + options.seeds)),
        public=options.public,
        sharding=Sharding.parse(options.shards),
        model=options.model,
        bundle=options.bundle,
        out=out,
        baselines=not options.no_baselines,
        drop_duplicates=options.drop_duplicates,
        job=job_table(options.job, {"rounds": options.rounds, "estimator": options.estimator}),
        links=() if options.link is None else parse_links(options.link),
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Simulate, and print what came of it. Exit code 1 when a device's adapter is not the cloud's."""
    settings = settings_of(options)
    # A terminal that closes and a supervisor that stops us must leave no process behind either.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    from cooperllm.simulate.campaign import (
        simulate,
    )  # after the options are known to be good: it loads much more
    from cooperllm.simulate.live import watching

    with watching(options.format) as view:
        outcome = simulate(settings, view)
        for line in outcome.lines():
            view.say(line)
    if options.format == "json":
        print(json.dumps(outcome.to_json_object()))
    return 1 if outcome.unequal else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
