"""``skywright loop automl-server``: a detector behind AutoML's REST path."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def automl_server(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="HTTP port; 0 takes a free one.")
    ] = 8501,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    backend: Annotated[str, typer.Option(help="network or onnx.")] = "network",
    model: Annotated[Path | None, typer.Option(help="onnx: the file.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Pictures analyzed at the same time.")] = (
        os.cpu_count() or 1
    ),
) -> None:
    """Serve our detector with the REST path of an AutoML Vision Edge container.

    GET /v1/models/default tells whether it is up, POST /v1/models/default:predict finds boxes:
    classes nylon, mitegen and pin. Prints one JSON line when it listens; ends on SIGTERM.
    """
    from skywright.errors import ConfigError
    from skywright.instruments.loop.backends import make_detector
    from skywright.instruments.loop.endpoints.automl_server import automl_app
    from skywright.processes.http_server import serve
    from skywright.processes.lifecycle import announce_ready, end_process, end_with_parent
    from skywright.processes.ports import http_url

    if backend == "automl":
        raise ConfigError("--backend automl: this is the server; take network or onnx")
    settings: dict[str, Any] = {"model": str(model)} if model is not None else {}
    app = automl_app(make_detector(backend, **settings), workers)
    end_with_parent()

    def ready(at: int) -> None:
        announce_ready(url=http_url(host, at), port=at, backend=backend)

    serve(app, host, port, ready, timeout_graceful_shutdown=1)
    end_process()
