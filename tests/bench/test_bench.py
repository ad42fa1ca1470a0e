"""The speed bench itself: what it counts as memory, how often it measures, what its report says of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from bench.figures import Effort, Figure
from bench.memory import measuring
from bench.report import AIMS, MeasuredModel, circumstances, load, markdown, save

from bench import __main__ as script
from bench import figures

pytestmark = pytest.mark.model


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's high-water mark")
def test_memory_that_is_used_again_is_counted_again():
    """An allocator that keeps what was freed would show nothing the second time."""
    peaks: list[float | None] = []
    for _ in range(2):
        with measuring(torch.device("cpu")) as peak:
            several = [torch.ones(1 << 18) for _ in range(64)]
            del several
        peaks.append(peak.mib)
    assert peaks == [pytest.approx(64, abs=16)] * 2


def test_the_report_names_its_command_and_how_many_values_stand_behind_a_figure():
    rows = {name: Figure(name, aim) for name, aim in AIMS["cpu"].items()}
    for name, row in rows.items():
        row.add(1.0, 4.0)
        row.held(10.0, 30.0)
        if name == "growth":
            row.add(3.0, 4.0)
            row.held(20.0, None)
    facts = circumstances("cpu", 0, "python -m bench --repeats 2")
    text = markdown(
        "cpu", facts, [MeasuredModel("tiny", 1000, "2 packed, 1 plain", list(rows.values()))]
    )
    assert "Made by `python -m bench --repeats 2`." in text
    assert "Linear layers as measured at opening: 2 packed, 1 plain." in text
    [generate] = [line for line in text.splitlines() if "alone, 1,000-token prompt" in line]
    assert generate.endswith("| ≤ 0.5 | **0.25** (n 1) | 1 s | 4 s | 10 / 30 |")
    [growth] = [line for line in text.splitlines() if "prefills subtracted" in line]
    assert "**0.50** (0.25–0.75, n 2)" in growth
    assert growth.endswith("| 20 / 30 |")


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1), (1e9, 3)])
def test_a_figure_is_measured_at_least_once_and_not_for_too_long(
    seconds: float, expected: int
) -> None:
    assert list(Effort(3, seconds).rounds()) == list(range(1, expected + 1))


def measured_models(device: str, seconds: float) -> list[MeasuredModel]:
    rows = [Figure(name, aim) for name, aim in AIMS[device].items()]
    for row in rows[:-1]:
        row.add(seconds, 4.0)
    return [MeasuredModel("tiny", 1000, "", rows, "flash" if device == "cuda" else "")]


def test_each_device_has_its_table_and_the_other_one_says_whether_it_was_measured(tmp_path: Path):
    facts = circumstances("cpu", 0, "python -m bench")
    save(tmp_path, "cpu", facts, measured_models("cpu", 1.0))
    on_cpu = (tmp_path / "cpu.md").read_text("utf-8")
    assert "- GPU column: not measured" in on_cpu
    assert not (tmp_path / "cuda.md").exists()
    save(tmp_path, "cuda", facts, measured_models("cuda", 2.0))
    on_gpu = (tmp_path / "cuda.md").read_text("utf-8")
    assert "- CPU column: see its own table" in on_gpu
    assert "Attention: flash." in on_gpu
    again = (tmp_path / "cpu.md").read_text("utf-8")
    assert again == on_cpu.replace("GPU column: not measured", "GPU column: see its own table")
    assert load(tmp_path, "cpu") == (facts, measured_models("cpu", 1.0))


def test_a_figure_for_which_there_was_no_time_says_so():
    text = markdown("cuda", circumstances("cpu", 0, "x"), measured_models("cuda", 1.0))
    [growth] = [line for line in text.splitlines() if "prefills subtracted" in line]
    assert growth.endswith("| ≤ 1.3 | not measured | – | – | – |")


@pytest.mark.parametrize("folder", ["docs/bench", "docs/bench/smollm2"])
def test_the_tables_in_the_documentation_are_those_of_their_records(folder: str):
    root = Path(__file__).parents[2] / folder
    facts, models = load(root, "cpu")
    others = [name for name in ("cpu", "cuda") if (root / f"{name}.json").is_file()]
    assert markdown("cpu", facts, models, others) == (root / "cpu.md").read_text("utf-8")


def test_without_a_gpu_nothing_is_built_and_the_exit_code_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(script, "subject", lambda *arguments, **options: pytest.fail("it is built"))
    with pytest.raises(SystemExit) as stopped:
        script.main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_the_script_for_a_gpu_runs_dry_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(figures, "WAKE_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    script.main(["--device", "cuda", "--dry-run", "--models", "qwen2-7b", "--out", "out"])
    told = capsys.readouterr()
    table = [line for line in told.out.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(AIMS["cuda"])
    assert "not measured |" not in told.out
    assert "python -m bench --device cuda --dry-run" in told.out
    assert list(tmp_path.iterdir()) == []


def test_no_figure_is_begun_when_time_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(figures, "WAKE_SECONDS", 0.0)
    monkeypatch.setattr(script, "GPU_SECONDS", 0.0)
    script.main(["--device", "cuda", "--dry-run", "--models", "qwen2-0.5b"])
    assert capsys.readouterr().out.count("not measured |") == len(AIMS["cuda"])
