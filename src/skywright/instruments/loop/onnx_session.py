"""The session of a network: onnxruntime on one thread of the processor, without its telemetry."""

import os
from typing import Any

from skywright.errors import ConfigError


def open_session(network: str | bytes, what: str) -> Any:
    """Load a network; returns onnxruntime's ``InferenceSession``.

    Parameters
    ----------
    network
        Path of an ONNX file, or its bytes.
    what
        How messages name it.

    Raises
    ------
    ConfigError
        If onnxruntime is absent, or it cannot load the network.

    Notes
    -----
    Since version 1.29 onnxruntime for Linux, when it is imported, writes a device id below
    ``~/.cache/Microsoft`` and sends to Microsoft what models are loaded. A beamline wants neither,
    so ``ORT_DISABLE_TELEMETRY`` is set first; ``disable_telemetry_events()`` comes too late.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"{what}: onnxruntime is not installed; install skywright[loop]"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    # onnxruntime's exceptions have no common base but Exception.
    except Exception as error:
        raise ConfigError(f"{what}: {error}") from error
