"""``skywright dashboard``: the live page."""

import os
from functools import partial
from typing import Annotated

import typer

from skywright.cli.doctor import examine, quick_checks
from skywright.cli.output import ConfigOption, share_configuration
from skywright.config import load_settings
from skywright.processes.lifecycle import (
    SUPERVISED,
    announce_ready,
    end_process,
    end_with_parent,
)
from skywright.processes.ports import http_url


def dashboard(
    host: Annotated[
        str | None,
        typer.Option(
            help="Interface (127.0.0.1). Another one lets its whole network read the page."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port (8060); 0 takes a free one.")
    ] = None,
    config: ConfigOption = None,
    operate: Annotated[
        bool,
        typer.Option("--operate", help="Let the page change settings, such as regions."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address as a JSON line on stdout.")
    ] = False,
) -> None:
    """Serve the live page: runs, instruments, the state of the beamline.

    The page only reads, unless --operate is given.
    Ctrl-C or SIGTERM ends it.
    """
    from dashboard.app import SERVER_OPTIONS, hosts_of, make_app
    from dashboard.board import Checks
    from skywright.processes.http_server import serve

    settings = load_settings(config)
    share_configuration(config)
    host = host or settings.dashboard.host
    port = settings.dashboard.port if port is None else port
    end_with_parent()

    def ready(served_port: int) -> None:
        uri = http_url(host, served_port)
        if as_json or os.environ.get(SUPERVISED):
            announce_ready(uri=uri)
        else:
            typer.echo(f"{uri}  (Ctrl-C ends it)")

    app = make_app(
        settings,
        Checks(quick=partial(quick_checks, settings), examine=examine),
        hosts=hosts_of(host),
        operate=operate,
    )
    serve(app, host, port, ready, **SERVER_OPTIONS)
    end_process()
