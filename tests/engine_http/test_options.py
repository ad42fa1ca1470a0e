"""Names, options and plugins: what opens, and what is refused."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from preftilt import plugins
from preftilt.engines import open as opening
from preftilt.engines.base import Engine
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions, changed_options, refuse_others
from preftilt.errors import BadInput, EngineError, MissingPackage
from preftilt.testing.toy import ToyEngine


def open_toy(name: str, options: EngineOptions) -> Engine:
    """A plugin's opener."""
    refuse_others(options, "toy", {"max_context"})
    return ToyEngine(model=name, max_context=options.max_context or 64)


def plug_in(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, opening.PLUGINS)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])


def test_a_package_can_bring_an_engine(monkeypatch: pytest.MonkeyPatch):
    plug_in(monkeypatch, "toy", f"{__name__}:open_toy")
    engine = open_engine("toy:some:name", EngineOptions(max_context=32))
    assert (engine.model, engine.capabilities.max_context) == ("some:name", 32)
    with pytest.raises(BadInput, match="--dtype does not apply to toy; leave it out"):
        open_engine("toy:x", EngineOptions(dtype="float16"))
    with pytest.raises(BadInput, match=r"known: transformers, vllm, .*openai\+http, toy"):
        open_engine("abacus:x")


def test_a_package_whose_engine_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch):
    plug_in(monkeypatch, "broken", "no_such_package.engine:open")
    with pytest.raises(EngineError, match=r"no_such_package\.engine:open cannot be loaded"):
        open_engine("broken:x")


def test_a_package_cannot_replace_an_engine_of_ours(monkeypatch: pytest.MonkeyPatch):
    plug_in(monkeypatch, "llamacpp", f"{__name__}:open_toy")
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"preftilt\[llamacpp\]"):
        open_engine("llamacpp:x.gguf")


@pytest.mark.parametrize("package", ["httpx2", "transformers"])
def test_a_server_without_its_packages_names_the_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
):
    find = opening.find_spec
    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingPackage, match=r'pip install "preftilt\[http\]"'):
        open_engine("vllm+http://127.0.0.1:1")


def test_a_bare_url_asks_which_kind_of_server_it_is():
    with pytest.raises(BadInput, match=r"vllm\+https://host:1, sglang\+https://host:1, openai\+"):
        open_engine("https://host:1")


def test_only_options_off_their_defaults_count_as_given():
    assert changed_options(EngineOptions(dtype="auto", max_rows=None)) == frozenset()
    assert changed_options(EngineOptions(dtype="float32", template_kwargs={})) == {
        "dtype",
        "template_kwargs",
    }


def test_all_idle_options_are_named_at_once_as_flags():
    options = EngineOptions(template_kwargs={"a": 1}, max_rows=2, dtype="float16")
    with pytest.raises(
        BadInput, match=r"^--dtype, --template-arg do not apply to x \(because\); leave them out$"
    ):
        refuse_others(options, "x", {"max_rows"}, reason="because")


@pytest.mark.parametrize(
    "bad",
    [
        {"max_rows": 0},
        {"threads": -1},
        {"max_connections": 0},
        {"timeout": 0.0},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"sampler_logprobs": "maybe"},
    ],
)
def test_values_that_mean_nothing_are_refused(bad: dict):
    with pytest.raises(BadInput, match=next(iter(bad))):
        EngineOptions(**bad)
