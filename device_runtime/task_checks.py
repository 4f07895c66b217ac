"""What a directions task must look like to make sense, before anything is fetched or measured for it."""

from __future__ import annotations

import math

from protos import federation_pb2 as pb

from .errors import UnsupportedTask

MOST_DIRECTIONS = 2**20  # in one task; a larger count is a mistake, and would only fill the memory


def check_task(task: pb.DirectionsTask) -> None:
    """Refuses what could not be carried out, before anything is measured. Raises UnsupportedTask."""
    if any(direction.count < 1 for step in task.steps for direction in step.directions):
        raise UnsupportedTask("a direction needs a count of at least 1: correct the task")
    if sum(direction.count for step in task.steps for direction in step.directions) > MOST_DIRECTIONS:
        raise UnsupportedTask(f"over {MOST_DIRECTIONS} directions in one task: send fewer")
    numbers = [task.epsilon, task.scalar_form.clip, task.scalar_form.noise_std, task.global_weight]
    numbers += [step.local_learning_rate for step in task.steps]
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or task.epsilon == 0:
        raise UnsupportedTask(
            "epsilon, rates, clip, noise and global_weight must be finite and not negative, and epsilon "
            "above 0: correct the task"
        )
    segments = list(task.active_segments)
    if not segments or sorted(set(segments)) != segments:
        raise UnsupportedTask("active_segments must be ascending and not empty: correct the task")
    for direction in (direction for step in task.steps for direction in step.directions):
        if not set(direction.active_segments) <= set(segments):
            raise UnsupportedTask("a direction is active outside the task's segments: correct the task")


def check_window(task: pb.DirectionsTask, segments: int, has_branches: bool) -> None:
    """Refuses a window that the chain of `segments` segments has not. Raises UnsupportedTask.

    `has_branches`: whether the program has methods auxiliary_k, which a global_weight needs.
    """
    check_exit(task.exit_segment, segments)
    exit_segment = task.exit_segment or segments
    for segment in task.active_segments:
        if segment > segments:
            raise UnsupportedTask(
                f"segment {segment} is active, the head is number {segments}: correct the task"
            )
        if exit_segment <= segment < segments:
            raise UnsupportedTask(
                f"segment {segment} is active and does not run: with exit_segment {exit_segment} use "
                f"segments below it and the head, {segments}"
            )
    if task.global_weight > 0 and not has_branches:
        raise UnsupportedTask(
            "this bundle has no auxiliary branches: use global_weight 0, or a bundle exported with "
            "bottlenecks"
        )


def check_exact(task: pb.DirectionsTask, head_segment: int, has_head_gradient: bool) -> None:
    """Refuses exact directions that cannot be had, or that would say more than noise does.

    The exact slope along a guide could be that along one bias, which counts a label. Raises UnsupportedTask.
    """
    exact = [direction for step in task.steps for direction in step.directions if direction.exact]
    if exact and not has_head_gradient:
        raise UnsupportedTask("this bundle has no method head_gradient: ask for differences, or export again")
    if exact and task.global_weight > 0:
        raise UnsupportedTask("exact directions measure one loss: use global_weight 0, or differences")
    for direction in exact:
        if list(direction.active_segments or task.active_segments) != [head_segment]:
            raise UnsupportedTask(
                f"an exact direction is active outside the head, segment {head_segment}: ask for differences"
            )
        if direction.guides:
            raise UnsupportedTask("an exact direction names a guide: exact ones take noise alone")


def check_exit(exit_segment: int, segments: int) -> None:
    """Refuses an exit behind the last segment. Raises UnsupportedTask."""
    if exit_segment > segments:
        raise UnsupportedTask(
            f"exit_segment is {exit_segment}: use 1 to {segments}, or 0 for the whole chain"
        )
