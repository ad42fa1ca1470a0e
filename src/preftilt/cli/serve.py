"""``preftilt serve``: the OpenAI-compatible server on one model."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from preftilt.cli.configure import (
    arms_from,
    check_model,
    check_served,
    engine_from,
    open_judges,
    settings_from,
)
from preftilt.cli.options import Flags, ModelFlags, SettingFlags, flags_from
from preftilt.errors import BadInput, MissingPackage
from preftilt.records.patch import search_of
from preftilt.server.logs import log, set_up
from preftilt.server.names import read_presets
from preftilt.server.resolve import ServerConfig

LEVELS = ("debug", "info", "warning", "error")

_network = partial(Option, rich_help_panel="Network")
_knob = partial(Option, rich_help_panel="Knob")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFlags:
    """Where the server listens, and to whom."""

    host: Annotated[str, _network(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, _network(min=0, max=65535, help="0 takes a free one.")] = 8100
    client_key_env: Annotated[
        str | None,
        _network(metavar="VAR", help="Environment variable with the key that clients must send."),
    ] = None
    without_key: Annotated[
        bool, _network("--without-key", help="Listen on a public address without a key.")
    ] = False
    log_level: Annotated[str, _network(metavar="|".join(LEVELS), help="Of the log.")] = "info"
    grace: Annotated[
        int,
        Option(rich_help_panel="Limits", min=0, help="Seconds to finish requests when stopped."),
    ] = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class NameFlags:
    """The names that clients may use."""

    served_model_name: Annotated[
        str | None, _knob(metavar="NAME", help="The model's name for clients. (default: --model)")
    ] = None
    preset: Annotated[
        list[str] | None,
        _knob(
            metavar="NAME=JSON",
            help="A preftilt object that clients name as MODEL:NAME; may be repeated.",
        ),
    ] = None
    presets: Annotated[
        Path | None, _knob(metavar="FILE.toml", help="Presets, a table for each.")
    ] = None


def serve(
    *,
    network: NetworkFlags,
    limits: Annotated[
        Flags, flags_from(ServerConfig, "Limits", without=("model", "seeded", "adapters"))
    ],
    names: NameFlags,
    flags: SettingFlags,
    model: ModelFlags,
) -> None:
    """Serve a model by OpenAI's API, with the preference as a knob; flags of a search are defaults.

    Example: preftilt serve --model demo --port 8100
    """
    _need_packages()
    config = _server_config(flags, names, limits, model)
    access = _access(network)
    _check_level(network.log_level)
    _run(config, access, network, model)


def _need_packages() -> None:
    for package in ("starlette", "uvicorn", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingPackage(f'serving needs {package}: pip install "preftilt[server]"')


def _server_config(flags: Flags, names: NameFlags, limits: Flags, model: ModelFlags) -> Any:
    return ServerConfig(
        model=names.served_model_name or model.model,
        settings=settings_from(flags, list(arms_from(model)) if _reads(flags) else ()),
        seeded="seed" in flags,
        presets=read_presets(names.preset or (), names.presets),
        **limits,
    )


def _reads(flags: Flags) -> bool:
    """Whether the defaults use reward models; then all of them score unless a request says otherwise."""
    by_arm = search_of(flags.get("search", "auto")) == "arm"
    return by_arm or "=" in flags.get("alpha", "") or "arm_weight" in flags


def _access(network: NetworkFlags) -> Any:
    """The access policy; a public address needs a key, or ``--without-key``."""
    from preftilt.server.middleware import AccessPolicy, is_loopback

    key = None
    if network.client_key_env is not None:
        key = os.environ.get(network.client_key_env, "").strip()
        if not key:
            raise BadInput(
                f"--client-key-env: the variable {network.client_key_env} is empty or not set"
            )
    local = is_loopback(network.host)
    if key is None and not local and not network.without_key:
        raise BadInput(
            f"{network.host} can be reached from other machines: give a key (--client-key-env VAR), or say"
            " --without-key if anybody may use the model"
        )
    return AccessPolicy(key=key, local_only=key is None and local)


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise BadInput(f"--log-level must be one of {', '.join(LEVELS)}, not {level!r}")


def _run(config: Any, access: Any, network: NetworkFlags, model: ModelFlags) -> None:
    """Take the address, open the model, serve until told to stop."""
    from preftilt.server.admission_queue import AdmissionQueue, stoppable
    from preftilt.server.app import create_app

    check_model(model)
    set_up(network.log_level)
    check_served(model, config.settings)
    with _bound(network.host, network.port) as listener:
        engine = engine_from(model)
        judges = open_judges(model)
        host, port, *_ = listener.getsockname()
        shown = f"[{host}]" if ":" in host else host
        log("opened", engine=engine.name, url=f"http://{shown}:{port}")
        queue = AdmissionQueue(config.max_concurrency, config.max_queue)
        app = create_app(engine, config, access, queue=queue, judges=judges)
        stoppable(app, queue, network.grace).run([listener])


def _bound(host: str, port: int) -> socket.socket:
    """The listening socket, bound before the model is opened; connections are accepted after that."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as failure:
        listener.close()
        raise OSError(failure.errno, failure.strerror, f"{host}:{port}") from None
    return listener
