"""Children whose parent is killed with SIGKILL end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .test_processes import alive

# A parent that starts two children, says who they are, and waits to be killed. Their own code is real; one is
# the command line (waiting for a service that is not there), the other ignores SIGTERM.
PARENT = """
import json, sys, time
from pathlib import Path
from cooperllm.simulate.processes import Children
folder = Path(sys.argv[1])
device = [sys.executable, "-m", "cooperllm", "device", "--server", "127.0.0.1:9", "--first-contact-s", "600",
          "--data", str(folder / "data.tsv"), "--state", str(folder / "state"), "--format", "json"]
stubborn = [sys.executable, "-c", "import signal, time; from cooperllm.lifeline import hold_on;"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); hold_on();"
            "print('{}', flush=True); time.sleep(600)"]
with Children() as children:
    first = children.start("device", device, folder / "device.log")
    second = children.start("stubborn", stubborn, folder / "stubborn.log")
    while (event := children.next_event(60)) is None or event.child != "stubborn":
        pass
    print(json.dumps([first.process.pid, second.process.pid]), flush=True)
    time.sleep(600)
"""


def gone_within(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.ci
def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "data.tsv").write_text("text\tlabel\n" + "".join(f"words {i}\tone\n" for i in range(20)))
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    pids: list[int] = []
    try:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().strip("[]\n ").split(",")]
        # The device is up once its folder is there: nothing but its parent's end could end it now.
        deadline = time.monotonic() + 60
        while not (tmp_path / "state").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        assert [alive(pid) for pid in pids] == [True, True]
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        assert gone_within(pids, 10.0)
    finally:
        parent.kill()
        parent.wait(10)
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


def test_without_the_variable_an_empty_stdin_ends_nothing(tmp_path: Path) -> None:
    code = (
        "from cooperllm.lifeline import hold_on; hold_on(); import time; time.sleep(0.3); print('still here')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "COOPERLLM_LIFELINE"}
    command = [sys.executable, "-c", code]
    for given, expected in ((environment, 0), ({**environment, "COOPERLLM_LIFELINE": "1"}, -signal.SIGTERM)):
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, env=given, timeout=60, check=False)
        assert ended.returncode == expected
