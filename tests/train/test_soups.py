"""Rewarded soups: averages of adapters, exact where ΔW is averaged, and something else where factors are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from preftilt.arm.adapter import ArmWeights, Mixing, load_weights, merged_delta
from preftilt.arm.spec import Objective, read_spec
from preftilt.cli.app import main
from preftilt.errors import BadInput
from preftilt.train.soups import soup
from tests.arm.arms import HELP, base, saved, shaken, spec_for

pytestmark = pytest.mark.model


@pytest.fixture
def two(tmp_path):
    """Two random adapters, of different scales."""
    model = base()
    first = spec_for(model, "dpo")
    second = replace(first, scale=1.5, objectives=(Objective("brief", "Brief.", 0.1),))
    weights = shaken(model, first)
    other = replace(
        weights,
        down={name: tensor.flip(0) + 0.1 for name, tensor in weights.down.items()},
        up={name: -2 * tensor for name, tensor in weights.up.items()},
    )
    return saved(tmp_path / "a", first, weights), saved(tmp_path / "b", second, other)


def factors(folder) -> ArmWeights:
    return load_weights(read_spec(folder), folder)


def read(folder) -> dict[str, torch.Tensor]:
    spec, weights = read_spec(folder), factors(folder)
    return {
        name: merged_delta(weights.down[name], weights.up[name], Mixing(), spec.scale)[0]
        for name in spec.modules
    }


def test_the_average_of_deltas_is_linear(two, tmp_path):
    spec = soup(two, (0.3, 0.7), tmp_path / "out")
    a, b, mixed = read(two[0]), read(two[1]), read(tmp_path / "out")
    for name, delta in mixed.items():
        torch.testing.assert_close(delta, 0.3 * a[name] + 0.7 * b[name])
    assert spec.rank == 8
    assert spec.objectives[0].description == "0.3 help, 0.7 brief"


@pytest.mark.parametrize("index", [0, 1])
def test_all_the_weight_on_one_adapter_is_that_adapter(two, tmp_path, index):
    soup(two, (1 - index, index), tmp_path / "out")
    for name, delta in read(tmp_path / "out").items():
        torch.testing.assert_close(delta, read(two[index])[name])


def test_the_average_of_factors_is_not_the_average_of_deltas(two, tmp_path):
    with pytest.raises(BadInput, match="one rank and scale"):
        soup(two, (0.5, 0.5), tmp_path / "odd", "factors")
    model = base()
    alike = saved(tmp_path / "c", spec_for(model, "dpo"), factors(two[1]))
    spec = soup((two[0], alike), (0.5, 0.5), tmp_path / "out", "factors")
    assert spec.rank == 4
    a, c, mixed = read(two[0]), read(alike), read(tmp_path / "out")
    assert any(
        not torch.allclose(mixed[name], (a[name] + c[name]) / 2, atol=1e-3) for name in mixed
    )
    halves = [factors(one) for one in (two[0], alike)]
    name = next(iter(mixed))
    down = (halves[0].down[name] + halves[1].down[name]) / 2
    up = (halves[0].up[name] + halves[1].up[name]) / 2
    torch.testing.assert_close(mixed[name], 2.0 * up @ down)


def test_peft_opens_a_soup(two, tmp_path):
    peft = pytest.importorskip("peft")
    soup(two, (0.3, 0.7), tmp_path / "out")
    plain, model = base(), base()
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        told = peft.PeftModel.from_pretrained(model, str(tmp_path / "out")).eval()(ids).logits
    for name, delta in read(tmp_path / "out").items():
        plain.get_submodule(name).weight.data += delta
    with torch.no_grad():
        torch.testing.assert_close(told, plain(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("weights", "told"), [((0.5, 0.6), "sums to 1.1"), ((1.0,), "alpha has 1 numbers")]
)
def test_weights_that_do_not_fit_are_refused(two, tmp_path, weights, told):
    with pytest.raises(BadInput, match=told):
        soup(two, weights, tmp_path / "out")


def test_adapters_that_do_not_go_together_are_refused(two, tmp_path):
    model, other = base(), base("qwen2")
    parm = saved(tmp_path / "p", spec_for(model, "parm"), shaken(model, spec_for(model, "parm")))
    spec = spec_for(other, "dpo", objectives=(HELP,))
    foreign = saved(tmp_path / "f", spec, shaken(other, spec))
    for folders, told in (
        ((two[0],), "two adapters or more"),
        ((two[0], parm), "method parm, which takes a preference vector itself"),
        ((two[0], foreign), "different bases"),
    ):
        with pytest.raises(BadInput, match=told):
            soup(folders, (1.0,) * len(folders), tmp_path / "out")


def test_the_command_averages(two, tmp_path, capsys):
    arguments = [f"{two[0]}=0.25", f"{two[1]}=0.75", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["soup", *arguments])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "0.25 help, 0.75 brief: rank 8\n"
    with pytest.raises(SystemExit) as ended:
        main(["soup", str(two[0]), "--out", str(tmp_path / "other")])
    assert ended.value.code == 2
    assert "is not DIR=WEIGHT" in capsys.readouterr().err
