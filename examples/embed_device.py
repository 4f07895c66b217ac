"""A device inside an app: python examples/embed_device.py HOST:PORT FOLDER FILE"""

import sys

from cooperllm import Device, read_examples

server, folder, file = sys.argv[1:]


def my_examples():
    """Whatever the app knows about its user. Asked for anew at every session; never stored, never sent."""
    return read_examples(file)


with Device(server=server, store=folder, examples=my_examples) as device:
    device.run_until_finished()  # or, in the background: device.schedule(interval_s=3600)
    for prediction in device.predict(["wake me at six", "we're out of milk"]):
        print(prediction.label, f"{prediction.probabilities[prediction.label]:.2f}")
