"""Process that runs Paddle's launcher as `python -m paddle.distributed.launch` does, and writes down each rank's exit code."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

from hubflow.stages.lifeline import EXIT_CODES_VARIABLE, die_with_parent

LAUNCHER = "paddle.distributed.launch"


def main() -> None:
    """Run the launcher on this process's arguments; ends the process with its exit code."""
    die_with_parent()
    from hubflow.stages.hub.runtime import paddle

    context = importlib.import_module(f"{LAUNCHER}.context").Context()
    context.node.device = _devices(paddle, bool(context.args.devices))
    controller = importlib.import_module(f"{LAUNCHER}.controllers").init(context)
    # These write all environment variables, and so every secret in them, into the log folder.
    controller.save_pod_env = lambda: None
    controller.save_pod_log = lambda info: None
    try:
        controller.run()
        controller.finalize()
    finally:
        _write_exit_codes(controller)


def _devices(paddle: Any, on_gpus: bool) -> Any:
    """GPUs numbered as everywhere in hubflow, from 0 among the visible ones; none for a run on CPUs.

    The launcher itself goes by CUDA_VISIBLE_DEVICES: it calls GPUs by their numbers there, and takes a CPU for a GPU where
    the variable is set.
    """
    device = importlib.import_module(f"{LAUNCHER}.context.device")
    if not on_gpus:
        return device.Device(dtype=device.DeviceType.CPU)
    return device.Device(dtype=device.DeviceType.GPU, labels=[str(index) for index in range(paddle.device.cuda.device_count())])


def _write_exit_codes(controller: Any) -> None:
    """The launcher's own exit code is that of the first rank it finds ended, often one that it ended itself."""
    codes = {container.rank: container.exit_code for container in controller.pod.containers if container.status != "uninit"}
    Path(os.environ[EXIT_CODES_VARIABLE]).write_text(json.dumps(codes), encoding="utf-8")


if __name__ == "__main__":
    main()
