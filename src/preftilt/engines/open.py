"""Opens an engine by name: a short name, hub id or path, or ``SCHEME:NAME`` for other kinds of engine and servers.

========================  =============================================
``transformers:``         the embedded engine; also without a scheme
``vllm:``                 vLLM in this process
``llamacpp:``             a GGUF file, by llama.cpp in this process
``vllm+http(s)://``       a vLLM server
``sglang+http(s)://``     an SGLang server
``openai+http(s)://``     any other server with OpenAI's completions API
========================  =============================================

Several servers of the same model are named with commas between them, ``vllm+http://a:8000,b:8000``, and are one engine
(``replicas/``).

Packages add schemes of their own by an entry point of the group ``preftilt.engines`` that names an
:data:`~preftilt.engines.options.Opener`; they cannot replace the ones above.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from preftilt.engines.base import Engine
from preftilt.engines.models import DEMO, SMOLLM2, default_model
from preftilt.engines.options import EngineOptions, Opener
from preftilt.errors import BadInput, MissingPackage
from preftilt.plugins import installed, load

PLUGINS = "preftilt.engines"
"""The entry point group of engines from other packages."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A kind of engine: its module and opener in ``preftilt.engines``, the packages it needs, and their extra."""

    module: str
    opener: str
    packages: tuple[str, ...]
    extra: str

    def load(self, scheme: str) -> Callable[..., Engine]:
        for package in self.packages:
            if find_spec(package) is None:
                raise MissingPackage(
                    f'{scheme} engines need {package}: pip install "preftilt[{self.extra}]"'
                )
        return getattr(import_module(f"preftilt.engines.{self.module}"), self.opener)


ENGINE_KINDS = {
    "transformers": EngineKind(
        "transformers", "open_transformers", ("torch", "transformers"), "transformers"
    ),
    "vllm": EngineKind("vllm", "open_vllm", ("vllm",), "vllm"),
    "llamacpp": EngineKind("llamacpp", "open_llamacpp", ("llama_cpp", "transformers"), "llamacpp"),
}
"""Engines in this process, by scheme."""

SERVER_KINDS = {
    "vllm": EngineKind("http.vllm", "open_vllm_server", ("httpx2", "transformers"), "http"),
    "sglang": EngineKind("http.sglang", "open_sglang_server", ("httpx2", "transformers"), "http"),
    "openai": EngineKind("http.openai", "open_openai_server", ("httpx2", "transformers"), "http"),
}
"""Servers, by the part of the scheme before ``+http`` or ``+https``."""

TRANSPORTS = ("http", "https")


def open_engine(spec: str | None = None, options: EngineOptions | None = None) -> Engine:
    """Open the engine that ``spec`` names::

        open_engine("smollm2")
        open_engine("model.gguf")
        open_engine("Qwen/Qwen3-0.6B", EngineOptions(dtype="bfloat16"))
        open_engine("vllm+http://127.0.0.1:8000", EngineOptions(tokenizer="Qwen/Qwen3-0.6B"))
        open_engine("vllm+http://10.0.0.1:8000,10.0.0.2:8000")

    Args:
        spec: a short name, hub id or path, ``SCHEME:NAME``, or a server's URL. None is the default model
            (:func:`~preftilt.engines.models.default_model`).
        options: how it is opened.

    Returns:
        The engine; close it when it is no longer needed.

    Raises:
        BadInput: for an unknown scheme, or an option that the engine cannot honour.
        UnknownModel: no such model here, or its hub cannot be reached.
        MissingPackage: the engine's packages are not installed; the message names the extra that brings them.
        EngineError: a server does not answer.
    """
    options = options or EngineOptions()
    spec = default_model() if spec is None else spec
    servers = _server_specs(spec)
    if len(servers) > 1:
        return _open_replicas(servers, options)
    scheme, name = _scheme_and_name(spec)
    return _find_opener(scheme, spec)(name, options)


def _server_specs(spec: str) -> list[str]:
    """The specs of servers that are named together; a missing scheme is taken from the first."""
    scheme = spec.partition(":")[0]
    if "," not in spec or not _is_server(scheme):
        return [spec]
    kind = scheme.partition("+")[0]
    specs: list[str] = []
    for part in (part.strip().rstrip("/") for part in spec.split(",")):
        if not part:
            raise BadInput("there is nothing between two commas of --model; name a server there")
        part_scheme, slashes, _ = part.partition("://")
        if not slashes:
            part = f"{scheme}://{part}"
        elif part_scheme in TRANSPORTS:
            part = f"{kind}+{part}"
        specs.append(part)
    if max(Counter(specs).values()) > 1:
        raise BadInput("--model names the same server twice; every replica is named once")
    return specs


def _open_replicas(servers: list[str], options: EngineOptions) -> Engine:
    from preftilt.engines.replicas import open_replicas

    if options.scorer is not None:
        return _open_scored(servers, options, options.scorer)
    openers = {}
    for server in servers:
        scheme, name = _scheme_and_name(server)
        openers[server] = partial(_find_opener(scheme, server), name, options)
    return open_replicas(openers)


def _open_scored(servers: list[str], options: EngineOptions, scorer_name: str) -> Engine:
    """Several servers that sample, and one engine that scores for all: opened once, closed once."""
    from preftilt.engines.replicas import open_replicas
    from preftilt.engines.scored_by import ScoredBy, SharedScorer, open_scorer

    with ExitStack() as opened:
        scorer = open_scorer(scorer_name, options)
        opened.callback(scorer.close)
        openers = {}
        for server in servers:
            scheme, name = _scheme_and_name(server)
            opener = SERVER_KINDS[scheme.partition("+")[0]].load(scheme)
            openers[server] = partial(opener, name, options, SharedScorer(scorer))
        replicas = open_replicas(openers)
        engine = ScoredBy(replicas, scorer)
        opened.pop_all()
        return engine


def _is_server(scheme: str) -> bool:
    kind, _, transport = scheme.partition("+")
    return kind in SERVER_KINDS and transport in TRANSPORTS


def _scheme_and_name(spec: str) -> tuple[str, str]:
    """Scheme and name; a path may contain a colon, as in drive letters."""
    scheme, colon, rest = spec.partition(":")
    if not spec.strip() or (colon and not rest.strip("/ ")):
        raise BadInput(f"no model is named in {spec!r}; give a hub id, a path, {SMOLLM2} or {DEMO}")
    if scheme in TRANSPORTS:
        known = ", ".join(f"{kind}+{spec}" for kind in SERVER_KINDS)
        raise BadInput(f"say which kind of server {spec} is: {known}")
    if not colon or len(scheme) == 1 or Path(spec).exists():
        return "transformers", spec
    return scheme, f"{scheme.partition('+')[2]}:{rest}" if _is_server(scheme) else rest


def _find_opener(scheme: str, spec: str) -> Opener:
    if scheme in ENGINE_KINDS:
        return ENGINE_KINDS[scheme].load(scheme)
    if _is_server(scheme):
        return SERVER_KINDS[scheme.partition("+")[0]].load(scheme)
    plugins = installed(PLUGINS)
    if scheme not in plugins:
        servers = [f"{kind}+http" for kind in SERVER_KINDS]
        known = ", ".join([*ENGINE_KINDS, *servers, *sorted(plugins)])
        raise BadInput(f"there is no engine {scheme!r} (in {spec!r}); known: {known}")
    return load(plugins[scheme])
