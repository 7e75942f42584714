"""Settings of the server, read from the observatory's own files as they are."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from skywright.arguments import first_problem
from skywright.errors import ConfigError
from skywright.instruments.panoseti.products import HIGHEST_MODULE, PRODUCTS
from skywright.wire.daqdata import DEFAULT_SOCKET

SimulationMode = Annotated[
    Literal["filesystem_poll", "filesystem_pipe", "uds", "rpc"],
    # The only way by files had this name in the first versions.
    BeforeValidator(lambda given: "filesystem_poll" if given == "filesystem" else given),
]


def _template(**values: object) -> AfterValidator:
    """Return a check that a text has no other names in braces than these."""

    def check(text: str) -> str:
        try:
            text.format(**values)
        except (LookupError, ValueError, AttributeError, TypeError) as error:
            names = ", ".join(f"{{{name}}}" for name in values)
            raise ValueError(f"{text!r} may have {names} only") from error
        return text

    return AfterValidator(check)


class _Settings(BaseModel):
    # Files of other versions have further keys; unknown ones do no harm.
    model_config = ConfigDict(extra="ignore", frozen=True)


class HpIoConfig(_Settings):
    """What the server reads: ``hp_io_config.json``, or the arguments of InitHpIo."""

    data_dir: str = ""
    update_interval_seconds: float = Field(default=0.001, gt=0, allow_inf_nan=False)
    force: bool = False
    simulate_daq: bool = False
    module_ids: tuple[Annotated[int, Field(ge=0, le=HIGHEST_MODULE)], ...] = ()


class Enabled(_Settings):
    """Whether an acquisition method is used."""

    enabled: bool = False


class Sockets(Enabled):
    """Frames pushed over Unix sockets."""

    data_products: tuple[str, ...] = tuple(PRODUCTS)
    socket_path_template: Annotated[str, _template(dp_name="img16")] = (
        "/tmp/hashpipe_grpc.dp_{dp_name}.sock"
    )
    read_timeout: float = Field(default=600.0, gt=0)


class AcquisitionMethods(_Settings):
    """How frames come from the data acquisition."""

    filesystem_poll: Enabled | None = None
    filesystem_pipe: Enabled = Enabled()
    uds: Sockets = Sockets()

    @property
    def polls_files(self) -> bool:
        """Whether files are followed. By default they are, unless another way is enabled."""
        if self.filesystem_poll is not None:
            return self.filesystem_poll.enabled
        return not (self.filesystem_pipe.enabled or self.uds.enabled)


class SourceData(_Settings):
    """Archived files that a simulation replays; empty for made ones."""

    movie_pff_path: str = ""
    ph_pff_path: str = ""


class FilesystemConfig(_Settings):
    """Where a simulation writes its files."""

    sim_data_dir: str = ""
    sim_run_dir_template: Annotated[str, _template(module_id=1)] = "module_{module_id}/obs_SIMULATE"
    daq_active_file: Annotated[str, _template(module_id=1)] = "module_{module_id}.daq-active"


class Strategy(_Settings):
    """Limits of one way of simulating."""

    frames_per_pff: int = Field(default=100, gt=0)
    frame_limit: int = -1
    """Negative: no limit."""


class Simulation(_Settings):
    """The simulated data acquisition."""

    simulation_mode: SimulationMode = "filesystem_poll"
    sim_module_ids: tuple[int, ...] = (224,)
    movie_type: Literal["img8", "img16"] = "img16"
    ph_type: Literal["ph256", "ph1024"] = "ph256"
    source_data: SourceData = SourceData()
    filesystem_cfg: FilesystemConfig = FilesystemConfig()
    strategies: dict[str, Strategy] = {}


class ServerConfig(_Settings):
    """``daq_data_server_config.json``."""

    init_from_default: bool = False
    default_hp_io_config_file: str = ""
    unix_domain_socket: str | None = DEFAULT_SOCKET
    max_concurrent_rpcs: int = Field(default=100, gt=0)
    """StreamImages calls at a time."""
    min_hp_io_update_interval_seconds: float = Field(default=0.001, gt=0)
    max_client_update_interval_seconds: float = Field(default=60.0, gt=0)
    shutdown_grace_period: float = Field(default=5, ge=0)
    hp_io_stop_timeout: float = Field(default=5.0, gt=0)
    valid_data_products: tuple[str, ...] = tuple(PRODUCTS)
    read_status_pipe_name: str = "read_status_2"
    acquisition_methods: AcquisitionMethods = AcquisitionMethods()
    simulate_daq_cfg: Simulation = Simulation()


Loaded = TypeVar("Loaded", bound=_Settings)


def _load(model: type[Loaded], path: Path) -> Loaded:
    try:
        values = json.loads(path.read_bytes())
        if isinstance(values, dict) and values and not values.keys() & model.model_fields.keys():
            expected = ", ".join(model.model_fields)
            raise ConfigError(f"{path}: none of its keys is known; expected some of {expected}")
        return model.model_validate(values)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error


def load_server_config(path: Path) -> ServerConfig:
    """Read a ``daq_data_server_config.json``.

    A relative path of an archived file is looked for from the working directory, then from the
    directory of the configuration and those above it.
    The observatory's paths are relative to its package.

    Raises
    ------
    ConfigError
        If the file cannot be read or a value is wrong; the message names file and key.
    """
    config = _load(ServerConfig, path)
    simulation = config.simulate_daq_cfg
    source = simulation.source_data
    found = SourceData(
        movie_pff_path=_archived(path, source.movie_pff_path),
        ph_pff_path=_archived(path, source.ph_pff_path),
    )
    simulation = simulation.model_copy(update={"source_data": found})
    return config.model_copy(update={"simulate_daq_cfg": simulation})


def _archived(config: Path, name: str) -> str:
    """Return the path of an archived file that a configuration names; `name` if it is nowhere."""
    # Not Path.is_file: it fails for a path that is too long.
    if not name or os.path.isfile(name):  # noqa: PTH113
        return name
    candidates = (directory / name for directory in config.resolve().parents)
    return str(next(filter(os.path.isfile, candidates), name))


def load_hp_io_config(path: Path) -> HpIoConfig:
    """Read a ``hp_io_config.json``.

    Raises
    ------
    ConfigError
        If the file cannot be read or a value is wrong; the message names file and key.
    """
    return _load(HpIoConfig, path)
