"""The doctor passes sound models of every family and finds what is wrong with broken ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from crossproof.errors import CrossproofError
from crossproof.subject.doctor import Check, examine, table
from crossproof.subject.subject import Subject
from crossproof.units import LOGITS, MLP, Norm, Unembedding, Unit
from tests.subject.tiny import FAMILIES, folder, some_tokens, subject


def fresh(family: str) -> Subject:
    return Subject.load(str(folder(family)))


def failures(model: Subject) -> list[Check]:
    return [check for check in examine(model) if not check.passed]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_family_is_sound(family: str, dtype: torch.dtype) -> None:
    checks = examine(subject(family, dtype), some_tokens(family, dtype))
    assert not [check for check in checks if not check.passed]
    assert len({check.name for check in checks}) == 6


@pytest.mark.parametrize("which", [0, 1, 3, 8, 9])
def test_a_tampered_weight_is_found_at_its_unit(which: int) -> None:
    model = fresh("neo")
    units = list(model.units)
    unit = units[which]
    name = {Norm: "gain", MLP: "W_out", Unembedding: "W_U"}.get(type(unit), "W_V")
    weight = getattr(unit, name).clone()
    weight[(0,) * weight.ndim] += 0.1
    units[which] = replace(unit, **{name: weight})
    model.__dict__["units"] = tuple(units)
    found = failures(model)
    assert {check.name for check in found} == {"unit recomputed from its weights", "unit follows a written input"}
    assert all(unit.output_site in check.compared for check in found)


def test_a_wrong_eps_is_found() -> None:
    model = fresh("gpt2")
    norm, *others = model.units
    assert isinstance(norm, Norm)
    model.__dict__["units"] = (replace(norm, eps=1e-2), *others)
    assert failures(model)


def test_a_residual_stream_written_for_the_mlp_alone_is_found() -> None:
    model = fresh("llama")
    mid = "blocks.1.hook_resid_mid"
    model._sites[mid] = replace(model._sites[mid], addends=None)
    assert [(check.name, check.note) for check in failures(model)] == [
        ("residual stream carries a written value", f"{mid} was written")
    ]


def test_a_norm_output_before_its_gain_is_found() -> None:
    model = fresh("gpt2")
    site = "blocks.0.ln2.hook_normalized"
    model._sites[site] = replace(model._sites[site], hook=site)
    assert any(check.name == "unit recomputed from its weights" and site in check.compared for check in failures(model))


def test_given_tokens_are_cropped_to_a_few_and_none_is_an_error() -> None:
    model = subject("gpt2")
    few = model.tokens(["w1 w2 w3", "w4 w5"] * 2)
    many = model.tokens(["w1 w2 w3", "w4 w5"] * 10)
    assert examine(model, many) == examine(model, few)
    with pytest.raises(CrossproofError, match="no tokens"):
        examine(model, model.tokens([""]))


class Deaf(HookedRootModule):
    """Its residual stream is shown to a hook, but what the hook returns is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList([nn.Module()])
        self.blocks[0].hook_resid_pre = HookPoint()
        self.blocks[0].hook_resid_post = HookPoint()
        self.setup()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        self.blocks[0].hook_resid_pre(x.clone())
        return self.blocks[0].hook_resid_post(x) @ self.embed.weight.T

    def units(self) -> list[Unit]:
        W_U = self.embed.weight.detach().T
        site = "blocks.0.hook_resid_post"
        return [Unembedding(input_site=site, output_site=LOGITS, W_U=W_U, b_U=torch.zeros(5))]


def test_a_splice_that_reaches_nothing_is_a_failure() -> None:
    found = failures(Subject.wrap(Deaf(), "deaf"))
    assert {check.note for check in found} == {
        "writing this site reaches nothing",
        "blocks.0.hook_resid_pre was written",
    }


def test_a_block_that_cannot_be_described_is_reported_beside_the_other_checks() -> None:
    checks = examine(fresh("mixtral"))
    assert [check.name for check in checks if not check.passed] == ["units known"]
    assert "Mixtral" in checks[0].note
    assert len(checks) > 10


def test_the_table_shows_a_row_for_every_kind_and_every_failure() -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    checks = [Check("adds up", "a = b", 1e-8, True), Check("adds up", "c = d", 0.5, False, "c was written")]
    console.print(table(checks))
    text = console.export_text()
    assert "a = b" in text
    assert "c was written" in text
    assert text.count("FAILED") == 1
