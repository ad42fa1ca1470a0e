"""Training on a tiny random model: it learns, touches nothing but the adapter, and can be killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from preftilt.arm.attach import attach
from preftilt.arm.spec import Objective, read_spec
from preftilt.errors import BadInput, MissingPackage
from preftilt.train import TrainSettings, train
from preftilt.train.assembly import prepare
from preftilt.train.loop import batch_loss, draw_alphas, share_of_rate
from preftilt.train.losses import margins
from preftilt.train.pairs import read_pairs
from preftilt.train.start import choose_objectives
from preftilt.train.tokens import make_batch
from tests.train.conftest import rows, write

pytestmark = pytest.mark.model

METHODS = ("genarm", "parm", "uniarm", "dpo")
KIND, BRIEF = Objective("kind", "Kind.", 0.5), Objective("brief", "Brief and to the point!", 0.5)


def settings(method: str, model: str, **changed) -> TrainSettings:
    several = method in ("parm", "uniarm")
    values = {
        "method": method,
        "model": model,
        "objectives": (KIND, BRIEF) if several else (BRIEF,),
        "targets": ("q_proj", "v_proj", "o_proj", "down_proj"),
        "epochs": 40,
        "batch_size": 4,
        "lr": 0.02,
        "warmup": 3,
        "dropout": 0.0,
        "patience": 0,
        "evaluate_every": 20,
        "validation": 0.0,
    }
    return TrainSettings(**values | changed)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "adapter_model.safetensors"))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS)
def test_eight_pairs_are_learned_in_seconds(method, model, pairs, tmp_path):
    told = []
    done = train(
        pairs, tmp_path / "out", settings(method, model), validation=pairs, on_step=told.append
    )
    assert done.record["accuracy"] == 1
    assert told[-1].step == told[-1].steps == 80
    assert told[-1].loss < 0.5 * told[0].loss


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_the_adapter_alone(method, model, pairs, tmp_path):
    chosen = settings(method, model)
    read = read_pairs(pairs).pairs
    training = prepare(read, [], choose_objectives(chosen, read), chosen, tmp_path, "")
    base = training.lm.model
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    trained = training.arm.weights.trained()
    for weight in trained.values():
        weight.requires_grad_(True)
        # B is zero at the start, so that nothing before it would get a gradient yet.
        if not weight.detach().any():
            weight.data.normal_(0, 0.1)
    k = len(chosen.objectives)
    with training.arm.rows(torch.full((16, k), 1 / k)):
        gaps = margins(training.lm, make_batch(training.train, "cpu"))
    signs = torch.tensor([pair.signs for pair in training.train]).float()
    counts = signs.abs().sum(dim=0)
    batch_loss(chosen, training.arm, gaps, signs, torch.full((8, k), 1 / k), counts, 8).backward()
    assert all(parameter.grad is None for parameter in base.parameters())
    assert all(weight.grad is not None and weight.grad.any() for weight in trained.values())
    assert same(base.state_dict(), before)
    fixed = training.arm.weights.named().keys() - trained.keys()
    assert fixed == ({"preftilt.embeddings"} if method == "uniarm" else set())


def test_numbers_too_small_to_be_normal_are_zero_while_it_trains_and_only_then(
    model, pairs, tmp_path
):
    def halved() -> float:
        return float(torch.tensor([1e-38]) * 0.5)

    seen = []
    chosen = settings("dpo", model, epochs=1)
    train(pairs, tmp_path / "out", chosen, on_step=lambda told: seen.append(halved()))
    assert set(seen) == {0.0}
    assert halved() > 0


def test_a_run_is_reproduced_bit_for_bit_and_another_seed_is_another_run(model, pairs, tmp_path):
    chosen = settings("parm", model, epochs=3, dropout=0.1)
    runs = [
        weights(train(pairs, tmp_path / name, replace(chosen, seed=seed)).folder)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


RUN = """
import sys
from pathlib import Path
import torch
from preftilt.train import TrainSettings, train
from tests.train.test_training import settings
torch.set_num_threads(1)
train(sys.argv[1], Path(sys.argv[2]), settings("uniarm", sys.argv[3], epochs=12, dropout=0.1,
      checkpoint_every=3, evaluate_every=4), validation=sys.argv[1])
"""


def test_a_run_that_was_killed_and_resumed_ends_as_one_that_was_not(model, pairs, tmp_path):
    out = tmp_path / "killed"
    chosen = settings("uniarm", model, epochs=12, dropout=0.1, checkpoint_every=3, evaluate_every=4)
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", RUN, pairs, str(out), model], cwd=root)
    waiting_ends = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*")) and time.monotonic() < waiting_ends:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "arm.json").exists()
    steps = []
    resumed = train(
        pairs,
        out,
        chosen,
        validation=pairs,
        resume=True,
        on_step=lambda told: steps.append(told.step),
    )
    whole = train(pairs, tmp_path / "whole", chosen, validation=pairs)
    assert steps[0] > 1
    assert same(weights(resumed.folder), weights(whole.folder))
    assert resumed.record["curve"] == whole.record["curve"]
    assert not (out / "checkpoints").exists()


def test_a_resumed_run_must_have_the_same_settings_and_data(model, pairs, tmp_path):
    chosen = settings("genarm", model, epochs=4, checkpoint_every=2)

    def stop(told):
        if told.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pairs, tmp_path / "out", chosen, on_step=stop)
    with pytest.raises(BadInput, match="not empty; go on with --resume"):
        train(pairs, tmp_path / "out", chosen)
    with pytest.raises(BadInput, match="other settings or data"):
        train(pairs, tmp_path / "out", replace(chosen, lr=0.1), resume=True)
    fewer = write(tmp_path / "fewer.jsonl", rows()[:7])
    with pytest.raises(BadInput, match="other settings or data"):
        train(fewer, tmp_path / "out", chosen, resume=True)
    done = train(pairs, tmp_path / "out", chosen, resume=True)
    with pytest.raises(BadInput, match="holds a trained adapter already"):
        train(pairs, done.folder, chosen, resume=True)


def test_parts_of_a_batch_and_recomputed_activations_change_nothing_but_rounding(
    model, pairs, tmp_path
):
    chosen = settings("parm", model, epochs=2)
    plain, parts, recomputed = (
        weights(train(pairs, tmp_path / name, one).folder)
        for name, one in (
            ("plain", chosen),
            ("parts", replace(chosen, accumulate=3)),
            ("recomputed", replace(chosen, gradient_checkpointing=True)),
        )
    )
    for name, one in plain.items():
        torch.testing.assert_close(parts[name], one, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(recomputed[name], one, atol=2e-3, rtol=1e-3)


def test_training_stops_when_validation_stands_still_and_keeps_the_best_weights(
    model, pairs, tmp_path
):
    held = write(
        tmp_path / "held.jsonl",
        [
            row | {"preferred": {"kind": 1, "brief": 1 - row["preferred"]["brief"]}}
            for row in rows()
        ],
    )
    chosen = settings("genarm", model, evaluate_every=2, patience=2)
    done = train(pairs, tmp_path / "out", chosen, validation=held)
    record = done.record
    assert record["stopped"] == "early"
    assert record["steps"] < 80
    best = max(record["curve"]["evaluations"], key=lambda one: (one["accuracy"], -one["loss"]))
    assert record["best_step"] == best["step"] < record["steps"]
    assert record["accuracy"] == best["accuracy"]
    sooner = settings("genarm", model, evaluate_every=2, patience=0, epochs=40)
    told = train(pairs, tmp_path / "never", sooner, validation=held).record
    assert (told["stopped"], told["steps"]) == ("at the end", 80)
    assert told["best_step"] == record["best_step"]


@pytest.mark.parametrize("method", ["genarm", "parm", "uniarm"])
def test_a_fresh_base_merges_what_was_trained(method, model, pairs, tmp_path):
    folder = train(pairs, tmp_path / "out", settings(method, model, epochs=4)).folder
    alpha = torch.tensor([[0.3, 0.7]] * 2) if method != "genarm" else torch.ones(2, 1)
    ids = torch.arange(40).view(2, 20)
    attached, merged = (
        transformers.AutoModelForCausalLM.from_pretrained(model).eval() for _ in range(2)
    )
    with torch.no_grad():
        with attach(attached, folder).rows(alpha):
            expected = attached(ids).logits
        attach(merged, folder).merge(alpha[0].tolist())
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(attached(ids).logits, expected, atol=1e-2)


def test_peft_opens_a_genarm_and_reads_as_we_do(model, pairs, tmp_path):
    peft = pytest.importorskip("peft")
    folder = train(pairs, tmp_path / "out", settings("genarm", model, epochs=4)).folder
    ids = torch.arange(20).view(1, 20)
    ours = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad(), attach(ours, folder).rows(torch.ones(1, 1)):
        expected = ours(ids).logits
    with torch.no_grad():
        told = peft.PeftModel.from_pretrained(theirs, str(folder)).eval()(ids).logits
    torch.testing.assert_close(told, expected, atol=1e-4, rtol=1e-4)


def test_the_folder_tells_how_it_came_about(model, pairs, tmp_path):
    folder = train(pairs, tmp_path / "out", settings("parm", model), validation=pairs).folder
    assert {path.name for path in folder.iterdir()} == {
        "adapter_model.safetensors",
        "arm.json",
        "README.md",
        "training.json",
        "training.png",
    }
    record = json.loads((folder / "training.json").read_text("utf-8"))
    spec = read_spec(folder)
    tensors = weights(folder)
    assert record["parameters"]["trained"] == sum(tensor.numel() for tensor in tensors.values())
    assert record["pairs"] == {"train": 8, "validation": 8, "left_out": 0}
    assert record["seconds"] > 0
    assert len(record["curve"]["steps"]) == record["steps"] == 80
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    told = (folder / "README.md").read_text("utf-8")
    assert "kind=0.5,brief=0.5" in told
    assert "| brief | 100.0 % |" in told
    assert [objective.name for objective in spec.objectives] == ["kind", "brief"]


@pytest.mark.parametrize("method", ["parm", "uniarm"])
def test_a_trained_model_learns_an_objective_more(method, model, pairs, tmp_path):
    first = settings(method, model, objectives=(KIND,), epochs=4)
    old = train(pairs, tmp_path / "old", first).folder
    more = replace(first, objectives=(KIND, BRIEF), start=str(old), epochs=40)
    new = train(pairs, tmp_path / "new", more, validation=pairs)
    assert [objective.name for objective in read_spec(new.folder).objectives] == ["kind", "brief"]
    assert new.record["accuracy"] == 1
    with pytest.raises(BadInput, match="name these objectives first"):
        train(pairs, tmp_path / "odd", replace(more, objectives=(BRIEF, KIND)))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"objectives": ()}, "genarm learns one objective, and the data have kind, brief"),
        ({"objectives": (Objective("rhyme", "", 1.0),)}, "no pair has a verdict on rhyme"),
        ({"targets": ("nose",)}, "no linear layer called nose"),
        ({"max_length": 3}, r"pairs\.jsonl, row 1: .* 3 fit"),
        ({"four_bit": True, "device": "cpu"}, "needs an NVIDIA GPU"),
        ({"start": "nowhere"}, "holds no reward model"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(
    changed, told, model, pairs, tmp_path
):
    with pytest.raises(BadInput, match=told):
        train(pairs, tmp_path / "out", settings("genarm", model, **changed))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "magic"},
        {"epochs": 0},
        {"lr": 0.0},
        {"beta": float("nan")},
        {"dropout": 1.0},
        {"rank": 0},
        {"conditioned_rank": 2},
        {"method": "parm", "rank": 4, "conditioned_rank": 5},
        {"global_loss": "none"},
        {"max_length": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(changed):
    with pytest.raises(BadInput):
        TrainSettings(**{"method": "genarm", "model": "demo"} | changed)


def test_missing_packages_name_the_extra(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(
        "preftilt.train.start.find_spec", lambda name: None if name == "peft" else 1
    )
    with pytest.raises(MissingPackage, match=r'peft: pip install "preftilt\[train\]"'):
        train(pairs, tmp_path / "out", settings("genarm", model))


def test_vectors_are_drawn_once_a_batch_or_for_every_pair_by_seed_and_step():
    chosen = settings("parm", "demo")
    batch = draw_alphas(chosen, 2, step=3, pairs=5)
    assert (batch == batch[0]).all()
    assert torch.equal(batch, draw_alphas(chosen, 2, step=3, pairs=5))
    assert not torch.equal(batch, draw_alphas(chosen, 2, step=4, pairs=5))
    each = draw_alphas(replace(chosen, alpha_per="pair"), 2, step=3, pairs=5)
    assert len({tuple(one) for one in each.tolist()}) == 5
    torch.testing.assert_close(each.sum(dim=1), torch.ones(5))
    assert (draw_alphas(chosen, 1, step=0, pairs=2) == 1).all()


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    shares = [share_of_rate(step, 4, 20) for step in range(20)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4] == 1.0
    assert shares[12] == pytest.approx(0.5)
    assert shares == [*shares[:4], *sorted(shares[4:], reverse=True)]
    assert 0 < shares[-1] < 0.05
