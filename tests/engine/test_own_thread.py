"""What is computed in a thread of its own ends with it, and is the caller's in every other way."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest
import torch

from preftilt.engines.transformers import open_model
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.worker import in_own_thread

NAME: ContextVar[str] = ContextVar("name")


def test_the_thread_is_gone_and_the_result_and_context_are_the_callers():
    NAME.set("outer")
    threads: list[threading.Thread] = []

    @in_own_thread
    def name(punctuation: str) -> str:
        threads.append(threading.current_thread())
        return NAME.get() + punctuation

    assert name("!") == "outer!"
    [thread] = threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_an_error_is_the_callers(error: BaseException) -> None:
    @in_own_thread
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error


@pytest.mark.model
def test_a_model_is_opened_in_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that torch computes with while a model is opened do not outlive it."""
    threads: set[threading.Thread] = set()
    reference = open_model.probe.reference

    def watched(runner: ModelRunner) -> open_model.probe.Probe:
        threads.add(threading.current_thread())
        return reference(runner)

    monkeypatch.setattr(open_model.probe, "reference", watched)
    engine = open_model.open_transformers("demo")
    try:
        [thread] = threads
        assert thread is not threading.current_thread()
        assert not thread.is_alive()
        assert not torch.is_inference_mode_enabled()
    finally:
        engine.close()
