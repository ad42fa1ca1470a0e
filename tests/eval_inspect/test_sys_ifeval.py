"""S-IFEval as an Inspect task, on the toy engine behind the real provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.sys_ifeval import METRICS
from preftilt.testing.toy import ToyEngine
from tests.eval.ifeval_files import write_ifeval
from tests.eval_inspect.conftest import Evaluate, means


def test_answers_are_checked_by_ifevals_programs(
    toy: ToyEngine, evaluate: Evaluate, tmp_path: Path
):
    data = write_ifeval(tmp_path)
    log = evaluate("preftilt/sys_ifeval", task_args={"data": data, "n": 2}, max_tokens=8)
    assert log.status == "success"
    assert set(METRICS) <= set(means(log))
    samples = log.samples or []
    assert samples[0].metadata["preference"] == "No commas."
    # An answer of white space alone meets nothing; the toy knows no comma.
    blank = [not sample.output.completion.strip() for sample in samples]
    assert means(log)["following"] == pytest.approx(1 - sum(blank) / len(blank))


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, evaluate: Evaluate, toy: ToyEngine):
    data = write_ifeval(tmp_path)
    with pytest.raises((BadInput, Exception), match="split is 'dev'; it must be one of test"):
        evaluate("preftilt/sys_ifeval", task_args={"data": data, "split": "dev"})
