"""vLLM's one thread: it starts vLLM, puts sequences of all requests through it together, and outlives failures."""

# pyright: reportMissingImports=false
# vLLM is not part of the environment that types are checked in.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any

from vllm.inputs import tokens_input
from vllm.v1.engine.llm_engine import LLMEngine

from preftilt.engines.vllm.sequences import VllmSequence
from preftilt.errors import EngineError


class VllmWorker:
    """Runs vLLM's steps while there is work.

    ``start`` is called in the worker's thread, since vLLM binds its threads of computation to the one that starts it.
    Its result is in ``started``, its error too.
    """

    def __init__(self, start: Callable[[], LLMEngine]) -> None:
        self.started: Future[LLMEngine] = Future()
        self._start = start
        self._names = count()
        self._inbox: list[VllmSequence] = []
        self._running: dict[str, VllmSequence] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="preftilt-vllm", daemon=True)
        self._thread.start()

    def submit(self, sequences: Iterable[VllmSequence]) -> None:
        """Hand over sequences; together, so that they share their first step."""
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed; open it again")
            self._inbox.extend(sequences)
            self._changed.notify()

    def close(self) -> None:
        """Stop after the step under way; what is unfinished fails."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            engine = self._start()
        except BaseException as error:  # Whoever opens the engine waits for it and explains it.
            self.started.set_exception(error)
            return
        self.started.set_result(engine)
        while True:
            with self._changed:
                while not (self._inbox or self._running or self._closed):
                    self._changed.wait()
                new, self._inbox = self._inbox, []
                closed = self._closed
            if closed:
                self._give_up(engine, new)
                return
            self._turn(engine, new)

    def _turn(self, engine: LLMEngine, new: Iterable[VllmSequence]) -> None:
        for sequence in new:
            self._add(engine, sequence)
        self._drop(
            engine, [name for name, sequence in self._running.items() if sequence.future.done()]
        )
        if not self._running:
            return
        try:
            outputs = engine.step()
        except Exception as error:  # vLLM may raise anything; nobody may be left waiting.
            self._fail(engine, f"vLLM failed: {error!r}", error)
            return
        for output in outputs:
            self._answer(engine, output)

    def _add(self, engine: LLMEngine, sequence: VllmSequence) -> None:
        if sequence.future.cancelled():
            return
        name = str(next(self._names))
        try:
            prompt = tokens_input(list(sequence.tokens))
            engine.add_request(name, prompt, sequence.params)
        except Exception as error:  # What vLLM refuses and our own checks let through.
            _settle(sequence, EngineError(f"vLLM refused a request: {error}"), error)
            return
        self._running[name] = sequence

    def _answer(self, engine: LLMEngine, output: Any) -> None:
        sequence = self._running.get(output.request_id)
        if sequence is None:
            return
        try:
            result = sequence.read(output)
        except Exception as error:
            result = error
        if result is None:
            return
        if output.finished:
            del self._running[output.request_id]
        else:
            self._drop(engine, [output.request_id])
        _settle(sequence, result)

    def _drop(self, engine: LLMEngine, names: list[str]) -> None:
        """Stop sequences that ended early, or that nobody waits for any more."""
        if names:
            for name in names:
                del self._running[name]
            engine.abort_request(names)

    def _fail(self, engine: LLMEngine, why: str, cause: Exception | None = None) -> None:
        running, self._running = self._running, {}
        for sequence in running.values():
            _settle(sequence, EngineError(why), cause)
        with suppress(
            Exception
        ):  # A vLLM that has failed may fail at this too, and has been told of.
            engine.abort_request(list(running))

    def _give_up(self, engine: LLMEngine, new: Iterable[VllmSequence]) -> None:
        why = "the engine was closed while the request was under way"
        for sequence in new:
            _settle(sequence, EngineError(why))
        self._fail(engine, why)
        engine.engine_core.shutdown()


def _settle(sequence: VllmSequence, result: object, cause: Exception | None = None) -> None:
    """Give a sequence its result, or its exception; a cancelled one is left alone."""
    if sequence.future.done() or not sequence.future.set_running_or_notify_cancel():
        return
    if isinstance(result, BaseException):
        result.__cause__ = cause
        sequence.future.set_exception(result)
    else:
        sequence.future.set_result(result)
