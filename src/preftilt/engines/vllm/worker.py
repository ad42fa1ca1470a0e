"""vLLM's worker thread: starts vLLM, runs the sequences of all requests in it, survives failures."""

# pyright: reportMissingImports=false
# vLLM is not part of the environment that types are checked in.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

from vllm.inputs import tokens_input
from vllm.v1.engine.llm_engine import LLMEngine

from preftilt.engines.vllm.sequences import VllmSequence
from preftilt.errors import EngineError


class Submits(Protocol):
    """Runs sequences in vLLM."""

    def submit(self, sequences: Iterable[VllmSequence]) -> None:
        """Hand over sequences; together, so that they share their first step if possible."""
        ...

    def close(self) -> None:
        """Stop; unfinished sequences fail."""
        ...


class VllmWorker:
    """Runs vLLM's steps while there is work.

    ``start`` is called in the worker's thread, since vLLM binds its compute threads to the one that starts it.
    ``started`` gets its result or exception.
    """

    def __init__(self, start: Callable[[], LLMEngine]) -> None:
        self.started: Future[LLMEngine] = Future()
        self._start = start
        self._request_ids = count()
        self._inbox: list[VllmSequence] = []
        self._running: dict[str, VllmSequence] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="preftilt-vllm", daemon=True)
        self._thread.start()

    def submit(self, sequences: Iterable[VllmSequence]) -> None:
        """Queue sequences; those submitted together share their first step."""
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed; open it again")
            self._inbox.extend(sequences)
            self._changed.notify()

    def close(self) -> None:
        """Stop after the current step; unfinished sequences fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            engine = self._start()
        except BaseException as error:  # The opener waits for it and explains it.
            self.started.set_exception(error)
            return
        self.started.set_result(engine)
        while True:
            with self._changed:
                while not (self._inbox or self._running or self._closed):
                    self._changed.wait()
                submitted, self._inbox = self._inbox, []
                closed = self._closed
            if closed:
                self._give_up(engine, submitted)
                return
            self._step(engine, submitted)

    def _step(self, engine: LLMEngine, submitted: Iterable[VllmSequence]) -> None:
        for sequence in submitted:
            self._add(engine, sequence)
        self._abort(
            engine,
            [
                request_id
                for request_id, sequence in self._running.items()
                if sequence.future.done()
            ],
        )
        if not self._running:
            return
        try:
            outputs = engine.step()
        except Exception as error:  # vLLM may raise anything; fail the waiting callers.
            self._fail(engine, f"vLLM failed: {error!r}", error)
            return
        for output in outputs:
            self._take_output(engine, output)

    def _add(self, engine: LLMEngine, sequence: VllmSequence) -> None:
        if sequence.future.cancelled():
            return
        request_id = str(next(self._request_ids))
        try:
            prompt = tokens_input(list(sequence.tokens))
            engine.add_request(request_id, prompt, sequence.params)
        except Exception as error:  # vLLM refuses what our checks accepted.
            settle(sequence, EngineError(f"vLLM refused a request: {error}"), error)
            return
        self._running[request_id] = sequence

    def _take_output(self, engine: LLMEngine, output: Any) -> None:
        sequence = self._running.get(output.request_id)
        if sequence is None:
            return
        try:
            result = sequence.take_output(output)
        except Exception as error:
            result = error
        if result is None:
            return
        if output.finished:
            del self._running[output.request_id]
        else:
            self._abort(engine, [output.request_id])
        settle(sequence, result)

    def _abort(self, engine: LLMEngine, request_ids: list[str]) -> None:
        """Abort sequences that ended early or were cancelled."""
        if request_ids:
            for request_id in request_ids:
                del self._running[request_id]
            engine.abort_request(request_ids)

    def _fail(self, engine: LLMEngine, why: str, cause: Exception | None = None) -> None:
        running, self._running = self._running, {}
        for sequence in running.values():
            settle(sequence, EngineError(why), cause)
        with suppress(Exception):  # After a failure this may fail, too; the first one was reported.
            engine.abort_request(list(running))

    def _give_up(self, engine: LLMEngine, submitted: Iterable[VllmSequence]) -> None:
        why = "the engine was closed while the request was under way"
        for sequence in submitted:
            settle(sequence, EngineError(why))
        self._fail(engine, why)
        engine.engine_core.shutdown()


def settle(sequence: VllmSequence, result: object, cause: Exception | None = None) -> None:
    """Set the result or exception of a sequence, unless it is done or cancelled."""
    if sequence.future.done() or not sequence.future.set_running_or_notify_cancel():
        return
    if isinstance(result, BaseException):
        result.__cause__ = cause
        sequence.future.set_exception(result)
    else:
        sequence.future.set_result(result)
