"""The device's numeric core: one program, one adapter in memory, losses under perturbations, and the step.

    core = Core(path, layout, segments, batch_examples, max_tokens, hidden_size, threads=1)
    core.adapter[:] = ...                        # the vector that the program reads: no copy
    measured = core.measure(batches, directions, epsilon, active_segments)
    measured.rho                                 # (loss_plus - loss_minus) / (2 epsilon), one a direction

Whatever ends a call, the adapter is then the same as before it, bit for bit; only `update` and the caller
move it. A refused call raises CoreError with the status's name in `status` and one line that says what to
do. A core is used by one thread at a time, apart from `stop` and `resume`; calls release the GIL, so a
thread that must answer signals can wait for another that measures. Every signature and its meaning: see the
stub beside this file.

`threads` is of the process: while one Core lives, another with a different number is refused.
"""

from device_runtime.core._core import Batch, Core, CoreError, Counters, Direction, Measurement, Plan

__all__ = ["Batch", "Core", "CoreError", "Counters", "Direction", "Measurement", "Plan"]
