"""``skywright sacla facility``: the double of SACLA's online data, as a server."""

import json
from pathlib import Path
from typing import Annotated

import typer


def facility(
    beamline: Annotated[
        int, typer.Option("--beamline", min=1, max=3, help="Number of the beamline.")
    ] = 3,
    rate: Annotated[float, typer.Option("--rate", help="Shots per second.")] = 30.0,
    tag_step: Annotated[
        int, typer.Option("--tag-step", min=1, help="Tags from one shot to the next.")
    ] = 2,
    octal: Annotated[bool, typer.Option("--octal", help="Eight tiles in place of one.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random numbers.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of any other setting; the value is JSON."),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option("--socket", help="Local socket to listen on.")
    ] = None,
    path: Annotated[
        bool, typer.Option("--path", help="Print the directory of dbpy, olpy and stpy, and end.")
    ] = False,
) -> None:
    """Serve a double of the facility: dbpy, olpy and stpy read its simulated shots."""
    from pydantic import ValidationError

    from skywright.arguments import check_keys, first_problem
    from skywright.errors import ConfigError
    from skywright.instruments.sacla import facility as double
    from skywright.processes.lifecycle import announce_ready, call_on_end_signal, end_with_parent

    if path:
        typer.echo(double.path())
        return
    from skywright.instruments.sacla.facility.link import default_socket
    from skywright.instruments.sacla.facility.server import FacilityServer
    from skywright.instruments.sacla.facility.settings import FacilitySettings
    from skywright.instruments.sacla.twin import OCTAL

    chosen: dict[str, object] = {
        "beamline": beamline,
        "rate_hz": rate,
        "tag_step": tag_step,
        "seed": seed,
    }
    if octal:
        chosen["detectors"] = OCTAL
    chosen |= _settings(setting or [])
    check_keys(chosen, FacilitySettings)
    try:
        settings = FacilitySettings.model_validate(chosen)
    except ValidationError as error:
        raise ConfigError(f"--set {first_problem(error)}") from None
    server = FacilityServer(settings, socket or default_socket(settings.beamline))
    call_on_end_signal(server.stop)
    end_with_parent()
    announce_ready(socket=str(server.socket), path=str(double.path()))
    server.run()


def _settings(texts: list[str]) -> dict[str, object]:
    from skywright.errors import ConfigError

    found: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
