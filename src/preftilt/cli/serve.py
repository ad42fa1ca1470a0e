"""``preftilt serve``: the OpenAI-compatible server on one model."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from preftilt.cli.grouping import grouped
from preftilt.cli.method_options import MethodFlags
from preftilt.cli.model_options import ModelFlags
from preftilt.cli.options import DrawFlags, Lambda, PromptFlags, ScoreFlags
from preftilt.errors import BadInput, MissingPackage

SOURCES = ("none", "system")
LEVELS = ("debug", "info", "warning", "error")

_network = partial(Option, rich_help_panel="Network")
_limit = partial(Option, rich_help_panel="Limits")
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
    log_words: Annotated[
        bool, _network("--log-words", help="Log messages and preferences, too.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFlags:
    """What one request, and all of them, may cost."""

    max_concurrency: Annotated[
        int, _limit(min=1, help="Requests at work at a time; clients, told by address, take turns.")
    ] = 64
    max_queue: Annotated[int, _limit(min=0, help="Requests that wait; more get a 429.")] = 256
    max_candidates: Annotated[int, _limit(min=1, help="Candidates a request at most.")] = 64
    max_body: Annotated[
        int | None,
        _limit(
            min=1,
            help="Bytes of a request at most. (default: 1 MiB; 32 MiB where the model sees images)",
            show_default=False,
        ),
    ] = None
    max_images: Annotated[int, _limit(min=0, help="Images of a request at most.")] = 16
    deadline: Annotated[
        float | None,
        _limit(min=0.001, help="Seconds after which the best finished answer so far is taken."),
    ] = None
    request_timeout: Annotated[
        float, _limit(min=0.001, help="Seconds after which a request fails with a 504.")
    ] = 600.0
    grace: Annotated[int, _limit(min=0, help="Seconds to finish requests when stopped.")] = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobFlags:
    """How preferences reach the server."""

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
    preference_from: Annotated[
        str,
        _knob(metavar="none|system", help="system: the system message is the preference."),
    ] = "none"
    ignore_tools: Annotated[
        bool,
        _knob(
            "--ignore-tools", help="Answer requests that offer tools without them, not by a 400."
        ),
    ] = False


@grouped
def serve(
    *,
    lam: Lambda = None,
    network: NetworkFlags,
    limits: LimitFlags,
    knob: KnobFlags,
    draw: DrawFlags,
    method: MethodFlags,
    score: ScoreFlags,
    prompt: PromptFlags,
    model: ModelFlags,
) -> None:
    """Serve a model by OpenAI's API, with the preference as a knob; flags of a search are defaults.

    Example: preftilt serve --model demo --port 8100
    """
    _need_packages()
    flags = (draw, method, score, prompt)
    config = _server_config(lam, flags, knob, limits, model, log_words=network.log_words)
    access = _access(network)
    _check_level(network.log_level)
    _run(config, access, network, limits, model)


def _need_packages() -> None:
    for package in ("starlette", "uvicorn", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingPackage(f'serving needs {package}: pip install "preftilt[server]"')


def _server_config(
    lam: float | None,
    flags: Sequence[DrawFlags | MethodFlags | ScoreFlags | PromptFlags],
    knob: KnobFlags,
    limits: LimitFlags,
    model: ModelFlags,
    *,
    log_words: bool,
) -> Any:
    from preftilt.cli.configure import arms_from, settings_from
    from preftilt.server.names import read_presets
    from preftilt.server.resolve import ServerConfig

    if knob.preference_from not in SOURCES:
        raise BadInput(f"--preference-from must be none or system, not {knob.preference_from!r}")
    return ServerConfig(
        model=knob.served_model_name or model.model,
        settings=settings_from(lam, flags, list(arms_from(model)) if _reads(flags) else ()),
        seeded=any(isinstance(group, DrawFlags) and group.seed is not None for group in flags),
        presets=read_presets(knob.preset or (), knob.presets),
        preference_from="system" if knob.preference_from == "system" else "none",
        max_candidates=limits.max_candidates,
        deadline_s=limits.deadline,
        timeout_s=limits.request_timeout,
        max_body=limits.max_body,
        max_images=limits.max_images,
        max_concurrency=limits.max_concurrency,
        max_queue=limits.max_queue,
        log_words=log_words,
        ignore_tools=knob.ignore_tools,
    )


def _reads(flags: Sequence[DrawFlags | MethodFlags | ScoreFlags | PromptFlags]) -> bool:
    """Whether the defaults use reward models; then all of them score unless a request says otherwise."""
    from preftilt.records import search_of

    drawn = [group.search for group in flags if isinstance(group, DrawFlags) and group.search]
    mixed = [group for group in flags if isinstance(group, ScoreFlags)]
    by_arm = any(search_of(name) == "arm" for name in drawn)
    return by_arm or any("=" in (group.alpha or "") or group.arm_weight for group in mixed)


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


def _run(
    config: Any, access: Any, network: NetworkFlags, limits: LimitFlags, model: ModelFlags
) -> None:
    """Take the address, open the model, serve until told to stop."""
    from preftilt.cli.configure import check_model, engine_from
    from preftilt.cli.judges import check_served, open_judges
    from preftilt.server.admission_queue import AdmissionQueue
    from preftilt.server.app import create_app
    from preftilt.server.logs import log, set_up
    from preftilt.server.stopping import stoppable

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
        stoppable(app, queue, limits.grace).run([listener])


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
