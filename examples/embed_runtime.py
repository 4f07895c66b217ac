"""A device that learns for its owner alone: python examples/embed_runtime.py BUNDLE FILE"""

import sys
from pathlib import Path

from cooperllm import Bundle, read_examples
from device_runtime.engine import Engine
from device_runtime.learned import evaluation, predictions
from device_runtime.personal import Practice, applied, personalise

bundle, file = sys.argv[1:]
engine = Engine(Bundle.open(Path(bundle)))  # no torch, no network
examples = read_examples(file, engine.bundle.class_names)
everything = engine.example_set(examples)
print(f"shared adapter:  loss {evaluation(engine, everything).loss:.3f}")

private = engine.private_examples(lambda names: examples)  # nine tenths to learn from, one to judge by
personal, found = personalise(engine, private, None, Practice(steps=40))
if found.kept:  # an app keeps personal.to_bytes(), and over a newer version the same difference
    with applied(engine, personal):
        print(f"private adapter: loss {evaluation(engine, everything).loss:.3f}")
        print(predictions(engine, [examples[0].text])[0].label)
