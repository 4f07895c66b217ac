"""Torch's side of local_step.py: the same model, batch and adapter, by MeZO or by back-propagation.

MeZO is Malladi et al. 2023, algorithm 1, on all weights as published or on the adapter alone: Gaussian noise
drawn again from its seed for each of the three passes over the parameters, two forwards without gradients,
one step. AdamW moves the same parameters by back-propagation.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

from benchmarks.processes import finish, wait_for_reading
from benchmarks.step_inputs import batch_arrays
from device_runtime.bundle import Bundle
from export.model import Model
from export.network import network_of
from export.source import locate

EPSILON = 1e-3
LEARNING_RATE = 1e-4


def mezo_step(parameters: list[torch.Tensor], loss: Callable[[], torch.Tensor]) -> Callable[[int], None]:
    """One step: theta + eps z, theta - eps z, back and on to theta - rate * rho z."""
    generator = torch.Generator()

    def add(seed: int, multiple: float) -> None:
        generator.manual_seed(seed)
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=multiple)

    def step(seed: int) -> None:
        with torch.no_grad():
            add(seed, EPSILON)
            loss_plus = float(loss())
            add(seed, -2 * EPSILON)
            loss_minus = float(loss())
            rho = (loss_plus - loss_minus) / (2 * EPSILON)
            add(seed, EPSILON - LEARNING_RATE * rho)

    return step


def adamw_step(parameters: list[torch.Tensor], loss: Callable[[], torch.Tensor]) -> Callable[[int], None]:
    """One step of AdamW by back-propagation."""
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE)

    def step(seed: int) -> None:
        optimiser.zero_grad()
        torch.autograd.backward([loss()])
        optimiser.step()

    return step


def lean_model(bundle: Bundle, folder: str) -> Model:
    """The torch model without transformers, whose import would be a third of what this process holds.

    Only its configuration classes are needed of it, and a file says all but two of what is read.
    """
    manifest = bundle.manifest
    network = network_of(
        manifest,
        locate(folder),
        manifest.chain.segments,
        lambda fields: SimpleNamespace(**{"is_decoder": False, "tie_word_embeddings": True, **fields}),
    )
    assert "transformers" not in sys.modules
    return Model(network, bundle.layout)


def trained(model: Model, which: str) -> list[torch.Tensor]:
    """The tensors that move: the adapter, or that and every weight of the network (which are its buffers)."""
    if which == "adapter":
        return [model.adapter]
    constants = ("average", "epsilon", "masked", "scale", "scaling")
    named = model.named_buffers()
    weights = [tensor for name, tensor in named if name.rpartition(".")[2] not in constants]
    return [model.adapter, *(weight.requires_grad_() for weight in weights)]


def main(method: str, which: str, folder: str, source: str, tokens: int, steps: int, threads: int) -> None:
    """Loads the model, warms up and times `steps` steps."""
    wait_for_reading()
    torch.set_num_threads(threads)
    bundle = Bundle.open(folder)
    model = lean_model(bundle, source)
    model.load_adapter(bundle.adapter)
    names = ("input_ids", "attention_mask", "labels", "weights")
    batch = SimpleNamespace(**dict(zip(names, batch_arrays(bundle, tokens), strict=True)))
    steppers = {"mezo": mezo_step, "adamw": adamw_step}
    step = steppers[method](trained(model, which), lambda: model.loss(batch))
    step(0)
    step_ms = []
    for seed in range(1, steps + 1):
        begin = time.perf_counter()
        step(seed)
        step_ms.append(1e3 * (time.perf_counter() - begin))
    finish({"step_ms": statistics.median(step_ms)})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], *map(int, sys.argv[5:]))
