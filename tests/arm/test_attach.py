"""An adapter on a real (tiny, random) model: what it adds, to which rows, and that it can be taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from preftilt.arm.adapter import ArmWeights, extended, mixing
from preftilt.arm.attach import AttachedArm, attach
from preftilt.errors import BadInput
from tests.arm.arms import HELP, SAFE, WIDTH, base, fresh, saved, shaken, spec_for

pytestmark = pytest.mark.model

IDS = torch.tensor([[5, 9, 30, 2, 77, 1], [8, 8, 41, 100, 3, 12], [250, 4, 4, 60, 9, 9]])
NAN = float("nan")
CASES = {
    "genarm": {},
    "parm": {},
    "uniarm": {},
    "uniarm scale": {"modulation": "scale"},
    "uniarm full": {"modulation": "full"},
    "uniarm loss": {"alpha_in": "loss"},
}


def made(case: str, model, make=shaken) -> AttachedArm:
    spec = spec_for(model, case.split()[0], **CASES[case])
    return AttachedArm(model, spec, make(model, spec))


def alphas(arm: AttachedArm, *rows: float) -> torch.Tensor:
    """One row for every number: (a, 1 − a), or (1,) where there is one objective; NaN stays NaN."""
    full = torch.tensor([[one, 1 - one] for one in rows])
    return full if len(arm.spec.objectives) == 2 else full.sum(1, keepdim=True)


@torch.no_grad()
def logits(
    model, arm: AttachedArm | None = None, *rows: float, ids: torch.Tensor = IDS
) -> torch.Tensor:
    if arm is None:
        return model(ids).logits
    with arm.rows(alphas(arm, *rows)):
        return model(ids).logits


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_adds_nothing_before_training(case):
    model = base()
    arm = made(case, model, fresh)
    assert torch.equal(logits(model, arm, 0.2, 0.5, 1.0), logits(model))


@pytest.mark.parametrize("case", CASES)
def test_each_row_of_a_batch_is_read_as_if_it_were_alone(case):
    model = base()
    arm = made(case, model)
    together = logits(model, arm, 0.0, 0.3, 1.0)
    for row, a in enumerate((0.0, 0.3, 1.0)):
        alone = logits(model, arm, a, ids=IDS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together, logits(model), atol=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_rows_of_nan_are_the_base_s_bit_for_bit_and_the_others_unmoved(case):
    model = base()
    arm = made(case, model)
    plain, mixed = logits(model), logits(model, arm, NAN, 0.3, NAN)
    assert torch.equal(mixed[0], plain[0])
    assert torch.equal(mixed[2], plain[2])
    torch.testing.assert_close(mixed[1], logits(model, arm, 0.3, 0.3, 0.3)[1], atol=1e-5, rtol=1e-5)


def test_an_adapter_that_is_off_leaves_no_hook_behind():
    model = base()
    arm = made("parm", model)
    hooked = model.get_submodule(arm.spec.modules[0])
    with arm.rows(None):
        assert not hooked._forward_hooks
    with arm.rows(torch.full((3, 2), NAN)):
        assert not hooked._forward_hooks
    with arm.rows(alphas(arm, 0.3)):
        assert hooked._forward_hooks
    assert not hooked._forward_hooks


@pytest.mark.parametrize("case", ["uniarm", "uniarm scale", "uniarm full", "parm"])
def test_the_preference_vector_matters(case):
    model = base()
    arm = made(case, model)
    first, second = logits(model, arm, 0.0, 0.0, 0.0), logits(model, arm, 1.0, 1.0, 1.0)
    assert (first - second).abs().max() > 0.05


def test_where_alpha_enters_the_loss_alone_the_layers_see_equal_weights():
    model = base()
    arm = made("uniarm loss", model)
    assert torch.equal(logits(model, arm, 0.0, 0.3, 1.0), logits(model, arm, 0.5, 0.5, 0.5))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("case", CASES)
def test_merged_is_unmerged_and_can_be_undone_exactly(case, architecture):
    model = base(architecture)
    arm = made(case, model)
    plain, worn = logits(model), logits(model, arm, 0.3, 0.3, 0.3)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    arm.merge(alphas(arm, 0.3)[0].tolist())
    torch.testing.assert_close(logits(model), worn, atol=1e-4, rtol=1e-4)
    arm.unmerge()
    assert torch.equal(logits(model), plain)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], one) for name, one in before.items())


def test_what_is_merged_twice_or_used_after_it_was_detached_is_refused():
    model = base()
    arm = made("genarm", model)
    arm.merge([1.0])
    with pytest.raises(BadInput, match="merged already"):
        arm.merge([1.0])
    arm.detach()
    with pytest.raises(BadInput, match="detached"), arm.rows(torch.ones(3, 1)):
        pass


def test_pblora_is_affine_in_alpha_and_a_one_hot_alpha_picks_its_matrix():
    model = base()
    spec = spec_for(model, "parm")
    weights = shaken(model, spec).mixing
    points = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.3, 0.7]])
    matrix = mixing(spec, weights, points).matrix
    assert matrix is not None
    torch.testing.assert_close(matrix[:, 2], 0.7 * matrix[:, 0] + 0.3 * matrix[:, 1])
    assert torch.equal(matrix[:, 1, 2:, 2:], weights["objectives"][:, 0])
    assert torch.equal(matrix[:, 0, 2:, 2:], weights["objectives"][:, 1])
    assert torch.equal(matrix[:, 0, :2, :2], weights["shared"])
    assert not matrix[:, :, :2, 2:].any()


@pytest.mark.parametrize("modulation", ["scale", "affine", "full"])
def test_uniarm_without_modulation_is_lora(modulation):
    model = base()
    spec = spec_for(model, "uniarm", modulation=modulation)
    weights = shaken(model, spec)
    still = {
        name: one if name == "embeddings" else torch.zeros_like(one)
        for name, one in weights.mixing.items()
    }
    uniarm = AttachedArm(model, spec, replace(weights, mixing=still))
    lora = AttachedArm(model, spec_for(model, "genarm"), ArmWeights(weights.down, weights.up, {}))
    torch.testing.assert_close(logits(model, uniarm, 0.1, 0.9, 0.4), logits(model, lora, 1, 1, 1))


def test_two_adapters_on_one_model_add_up():
    model = base()
    first, second = made("parm", model), made("genarm", model)
    with first.rows(alphas(first, 0.3, 0.3, 0.3)), second.rows(torch.ones(3, 1)):
        both = model(IDS).logits
    first.merge([0.3, 0.7])
    torch.testing.assert_close(both, logits(model, second, 1, 1, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["parm", "uniarm"])
def test_a_new_objective_changes_nothing_for_the_old_ones(case):
    model = base()
    arm = made(case, model)
    spec = replace(arm.spec, objectives=(HELP, SAFE, replace(HELP, name="brief")))
    embeddings = torch.eye(3, WIDTH) if case == "uniarm" else None
    wider = extended(arm.weights, spec, torch.Generator().manual_seed(0), embeddings)
    three = AttachedArm(model, spec, wider)
    with three.rows(torch.tensor([[0.3, 0.7, 0.0]] * 3)):
        told = model(IDS).logits
    torch.testing.assert_close(told, logits(model, arm, 0.3, 0.3, 0.3))
    with three.rows(torch.tensor([[0.0, 0.0, 1.0]] * 3)):
        assert not torch.allclose(model(IDS).logits, told, atol=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_what_was_saved_is_what_is_attached(case, tmp_path):
    model = base()
    arm = made(case, model)
    folder = saved(tmp_path, arm.spec, arm.weights)
    again = attach(model, folder)
    assert again.spec == arm.spec
    assert torch.equal(logits(model, again, 0.3, 0.5, NAN), logits(model, arm, 0.3, 0.5, NAN))


def test_another_base_is_refused(tmp_path):
    model = base()
    arm = made("genarm", model)
    folder = saved(tmp_path, arm.spec, arm.weights)
    with pytest.raises(BadInput, match="this model is another"):
        attach(base("qwen2"), folder)
    other = base()
    other.get_input_embeddings().weight.data.mul_(-1)
    with pytest.raises(BadInput, match="same shape and other weights"):
        attach(other, folder)


def test_a_base_in_sixteen_bits_is_the_same_base_and_stays_in_sixteen_bits(tmp_path):
    model = base()
    arm = made("uniarm", model)
    worn = logits(model, arm, 0.3, 0.3, 0.3)
    half = base().to(torch.bfloat16)
    told = logits(half, attach(half, saved(tmp_path, arm.spec, arm.weights)), 0.3, 0.3, 0.3)
    assert told.dtype == torch.bfloat16
    torch.testing.assert_close(told.float(), worn, atol=0.3, rtol=0.1)


@pytest.mark.parametrize(
    ("given", "told"), [((3, 3), "do not fit 2 objectives"), ((2, 2), "was announced as one of 2")]
)
def test_alphas_that_do_not_fit_are_refused(given, told):
    model = base()
    arm = made("parm", model)
    with pytest.raises(BadInput, match=told), arm.rows(torch.full(given, 0.5)):
        model(IDS)


def test_a_damaged_weight_file_is_refused(tmp_path):
    model = base()
    arm = made("genarm", model)
    folder = saved(tmp_path, arm.spec, arm.weights)
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(BadInput, match="cannot be read"):
        attach(model, folder)
