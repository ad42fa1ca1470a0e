"""A reward model at one α is a LoRA adapter that peft reads as we read the reward model."""

from __future__ import annotations

import pytest
import torch

from preftilt.arm.attach import AttachedArm
from preftilt.cli.app import main
from tests.arm.arms import base, saved, shaken, spec_for

pytestmark = pytest.mark.model


# peft says that it cannot merge such a bias, which it is not asked to.
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize(
    ("method", "options", "biased"),
    [
        ("genarm", {}, False),
        ("parm", {}, False),
        ("uniarm", {"modulation": "scale"}, False),
        ("uniarm", {}, True),
        ("uniarm", {"modulation": "full"}, True),
    ],
)
def test_peft_reads_it_as_the_reward_model_is_read(method, options, biased, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    model = base()
    spec = spec_for(model, method, **options)
    weights = shaken(model, spec)
    alpha = "help=1" if method == "genarm" else "safe=0.7,help=0.3"
    arguments = [str(saved(tmp_path / "arm", spec, weights)), "--alpha", alpha]
    with pytest.raises(SystemExit) as ended:
        main(["fix-alpha", *arguments, "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    assert ("biases" in capsys.readouterr().out) == biased
    ids = torch.arange(12).view(2, 6)
    row = [1.0] if method == "genarm" else [0.3, 0.7]
    with torch.no_grad(), AttachedArm(model, spec, weights).rows(torch.tensor([row, row])):
        expected = model(ids).logits
    with torch.no_grad():
        told = peft.PeftModel.from_pretrained(base(), str(tmp_path / "out")).eval()(ids).logits
    torch.testing.assert_close(told, expected, atol=1e-4, rtol=1e-4)


def test_a_vector_that_does_not_fit_is_refused(tmp_path, capsys):
    model = base()
    spec = spec_for(model, "parm")
    folder = saved(tmp_path / "arm", spec, shaken(model, spec))
    with pytest.raises(SystemExit) as ended:
        main(["fix-alpha", str(folder), "--alpha", "help=1", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "leaves out safe" in capsys.readouterr().err
