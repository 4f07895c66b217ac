"""What back-propagation reaches: on public data alone, and on everything (the oracle no federation may be).

`python -m cooperllm.simulate.bounds JOB PRIVATE` computes both in a process of its own, so that torch's
memory is given back. Both fit the job's active segments from the bundle's adapter, each with its own tuned
penalty, and as version 0 is fitted: where more than the head is active, after a fit of the head.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cooperllm.lifeline import hold_on
from cooperllm.simulate.live import View
from cooperllm.simulate.processes import Children
from device_runtime.errors import CooperLLMError
from device_runtime.examples import Example, read_examples

NAME = "back-propagation"


@contextmanager
def measuring(job: Path, private: Path, log: Path) -> Iterator[Callable[[View], dict[str, float]]]:
    """Start the computation; what is yielded waits for it and returns the accuracy on the job's eval file,
    for "public_alone" and "oracle".

    It needs one core and nobody's answers, so a run goes on beside it. Leaving the context stops it. Waiting
    raises CooperLLMError with what the process said last: show it.
    """
    with Children() as children:
        command = [sys.executable, "-m", "cooperllm.simulate.bounds", str(job), str(private)]
        child = children.start(NAME, command, log)

        def levels(view: View) -> dict[str, float]:
            found: dict[str, float] = {}
            while True:
                event = children.next_event(timeout_s=0.25)
                if event is None:
                    continue
                if event.kind == "level":
                    key, accuracy = str(event.body["key"]), float(event.body["accuracy"])
                    found[key] = accuracy
                    view.say(f"  back-propagation, {key.replace('_', ' ')}: accuracy {accuracy:.1%}")
                elif event.kind == "exited":
                    if event.body["code"] != 0:
                        words = child.last_words().removeprefix("cooperllm: ")
                        raise CooperLLMError(f"{NAME} failed: {words}")
                    return found

        yield levels


def _main(job_file: str, private_file: str) -> int:
    """Compute both levels and print each as an event."""
    # Here and not above: the parent never loads torch.
    from cloud_service.guides import Objective, open_model
    from cloud_service.job import read_job
    from cloud_service.public_fit import fit_head_first
    from device_runtime.bundle import Bundle

    job = read_job(Path(job_file))
    bundle = Bundle.open(job.bundle)
    names = bundle.known_labels
    public, private = read_examples(job.public, names), read_examples(private_file, names)
    model = open_model(bundle, job.model)
    segments, head = job.segments_of(bundle), len(model.segments)

    def over(examples: Sequence[Example], which: tuple[int, ...]) -> Objective:
        return Objective(model, bundle, examples, which)

    scored = over(read_examples(job.eval, names), segments)
    scale = None
    for key, examples in (("public_alone", public), ("oracle", [*public, *private])):
        # Of a whole chain the public scale serves both: it takes a backward pass an example.
        if scale is None or segments == (head,):
            scale = over(examples, segments).scale(bundle.adapter)
        fitted = fit_head_first(partial(over, examples), segments, head, bundle.adapter, scale)
        _, correct, count = scored.score(fitted.adapter)
        print(json.dumps({"event": "level", "key": key, "accuracy": correct / count}), flush=True)
    return 0


if __name__ == "__main__":
    hold_on()
    try:
        sys.exit(_main(sys.argv[1], sys.argv[2]))
    except CooperLLMError as error:
        print(f"cooperllm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
