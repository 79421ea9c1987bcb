"""The penalty as a term of the objective: units, gradients, and what survives a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossproof.binding.config import PenaltyConfig
from crossproof.binding.penalty_term import PenaltyTerm
from crossproof.crosscoder.config import FitConfig
from crossproof.crosscoder.fit import fit
from crossproof.crosscoder.losses import Batch, Reconstruction, Term
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, MismatchError
from crossproof.files import read_jsonl
from crossproof.interaction.attention.penalty import AttentionPenalty
from crossproof.interaction.norm_penalty import NormPenalty
from crossproof.interaction.output_penalty import ALL, OutputPenalty
from crossproof.interaction.penalty import InteractionPenalty
from crossproof.units import MLP, Attention, Norm
from tests.crosscoder import toys
from tests.crosscoder.test_fit import Stream, same_bits
from tests.interaction.attention.toys import make_attention

WIDTH, NEURONS = 8, 12
ORDER = (7, 2, 4, 0, 5, 3)
"""The sites that feed six MLPs, of eight, in an order of their own."""


def mlps(count: int, dtype: torch.dtype = torch.float64) -> list[MLP]:
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return [
        MLP(
            W_in=random(WIDTH, NEURONS),
            b_in=random(NEURONS),
            activation="relu",
            W_out=random(NEURONS, WIDTH),
            b_out=random(WIDTH),
        )
        for _ in range(count)
    ]


def eight_sites() -> Crosscoder:
    """In float64 and with scales still outside the weights."""
    coder = toys.crosscoder("relu", sites=8, width=WIDTH).double()
    with torch.no_grad():
        coder.scale.copy_(torch.linspace(0.3, 4.0, 8))
    return coder


def activations() -> Tensor:
    return torch.randn(16, 8, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def batch_of(coder: Crosscoder, raw: Tensor, progress: float = 1.0) -> Batch:
    x = coder.scaled(raw)
    encoding = coder.encode_batch(x)
    nobody = torch.zeros(coder.config.features, dtype=torch.bool)
    reconstruction, written = coder.decode_and_read(encoding.codes, range(len(coder.sites)))
    return Batch(coder, x, encoding, reconstruction, nobody, progress, written)


def term(**settings: object) -> PenaltyTerm:
    return PenaltyTerm(PenaltyConfig.model_validate({"weight": 3.0} | settings), mlps(6), ORDER)


def mean_contributions(coder: Crosscoder, raw: Tensor) -> list[float]:
    """Σ_i |p_ni| of each of the six MLPs, mean over tokens and neurons."""
    with torch.no_grad():
        f = coder.encode(raw).dense()
        tables = [(coder.decoder[:, site] @ mlp.W_in).abs() for mlp, site in zip(mlps(6), ORDER, strict=True)]
        return [float((f @ table).mean()) for table in tables]


def test_it_is_a_term_and_its_value_is_the_penalty_in_raw_units_times_its_weight() -> None:
    coder, raw = eight_sites(), activations()
    assert isinstance(term(), Term)
    codes = coder.encode(raw)
    for form in ("dominant", "mass", "additive"):
        for scaling in ("paper", "relative"):
            directions = [coder.decoder[:, site] for site in ORDER]
            biases = [coder.decoder_bias[site] for site in ORDER]
            expected = InteractionPenalty(mlps(6), form=form, scaling=scaling)(codes, directions, biases).detach()
            found = term(form=form, scaling=scaling)(batch_of(coder, raw)).detach()
            assert float(found) == pytest.approx(3 * float(expected), rel=1e-10)
            assert float(found) > 0


@pytest.mark.parametrize("control", ["none", "l1_features", "l1_table", "l1_contributions", "l2_contributions"])
@pytest.mark.parametrize("form", ["dominant", "mass", "additive"])
def test_a_coder_and_its_folded_one_are_penalised_alike(form: str, control: str) -> None:
    coder, raw = eight_sites(), activations()
    folded = coder.folded().double()
    for scaling in ("paper", "relative"):
        settings = {"form": form, "scaling": scaling, "control": control}
        values = [float(term(**settings)(batch_of(one, raw))) for one in (coder, folded)]
        # folding goes through float32
        assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("form", ["dominant", "mass", "additive"])
@pytest.mark.parametrize("scaling", ["paper", "relative"])
def test_with_six_mlps_gradients_reach_encoder_and_decoder_and_are_finite_differences(form: str, scaling: str) -> None:
    """`relative` is `paper` of each MLP over its mean contribution, which its gradient takes for a constant."""
    coder, raw = eight_sites(), activations()
    value = term(form=form, scaling=scaling)(batch_of(coder, raw))
    value.backward()
    at_sites = coder.W_dec.grad.unflatten(1, (8, WIDTH)).abs().sum((0, 2))
    assert [v for v in range(8) if at_sites[v] > 0] == sorted(ORDER)
    assert bool(coder.W_enc.grad.any())

    paper = PenaltyConfig.model_validate({"weight": 3.0, "form": form, "scaling": "paper"})
    alone = [PenaltyTerm(paper, [mlp], [site]) for mlp, site in zip(mlps(6), ORDER, strict=True)]
    held = mean_contributions(coder, raw) if scaling == "relative" else [1.0] * 6

    def by_hand() -> float:
        with torch.no_grad():
            batch = batch_of(coder, raw)
            return sum(float(one(batch)) / size for one, size in zip(alone, held, strict=True)) / 6

    assert float(value.detach()) == pytest.approx(by_hand(), rel=1e-10)
    for name in ("W_enc", "b_enc", "W_dec", *(() if form == "dominant" else ("b_dec",))):
        parameter = getattr(coder, name)
        generator = torch.Generator().manual_seed(3)
        step = 1e-6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step)
                values.append(by_hand())
                parameter.sub_(sign * step)
        expected = (values[0] - values[1]) / 2
        assert float((parameter.grad * step).sum()) == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize("settings", [{}, {"q": 2}, {"control": "output"}])
def test_the_form_output_looks_at_true_inputs_and_its_gradients_are_finite_differences(
    settings: dict[str, object],
) -> None:
    coder, raw = eight_sites(), activations()
    its = term(form="output", **settings)
    value = its(batch_of(coder, raw))
    q = ALL if "control" in settings else int(str(settings.get("q", 1)))
    directions, biases = [coder.decoder[:, site] for site in ORDER], [coder.decoder_bias[site] for site in ORDER]
    inputs = [raw[:, site] for site in ORDER]
    expected = OutputPenalty(mlps(6), q)(coder.encode(raw), directions, inputs, biases)
    assert float(value) == pytest.approx(3 * float(expected), rel=1e-9)
    assert float(its(batch_of(coder.folded().double(), raw))) == pytest.approx(float(value), rel=1e-5)
    value.backward()
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        parameter = getattr(coder, name)
        step = 1e-6 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step)
                values.append(float(its(batch_of(coder, raw))))
                parameter.sub_(sign * step)
        assert float((parameter.grad * step).sum()) == pytest.approx((values[0] - values[1]) / 2, rel=1e-4), name


def test_the_weight_rises_over_the_warm_up() -> None:
    coder, raw = eight_sites(), activations()
    values = [float(term(warmup=0.2)(batch_of(coder, raw, progress))) for progress in (0.0, 0.1, 0.2, 1.0)]
    assert values == pytest.approx([0, values[3] / 2, values[3], values[3]])
    assert float(term(warmup=0.0)(batch_of(coder, raw, 0.0))) == pytest.approx(values[3])


def test_the_neurons_that_are_drawn_depend_on_the_seed_alone() -> None:
    coder, raw = eight_sites(), activations()
    config = PenaltyConfig(weight=1.0, neurons=0.25, scaling="paper")
    values = [float(PenaltyTerm(config, mlps(6), ORDER, seed)(batch_of(coder, raw))) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    "control", ["reconstruction", "l1_features", "l1_table", "l1_contributions", "l2_contributions"]
)
def test_a_control_has_the_value_of_the_penalty_and_another_gradient(control: str) -> None:
    coder, raw = eight_sites(), activations()
    gradients, values = [], []
    for settings in ({}, {"control": control}):
        coder.zero_grad(set_to_none=True)
        value = term(**settings)(batch_of(coder, raw))
        value.backward()
        gradients.append(coder.W_dec.grad.flatten())
        values.append(float(value))
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert float(torch.cosine_similarity(*gradients, dim=0)) < 0.99
    if control == "reconstruction":
        coder.zero_grad(set_to_none=True)
        Reconstruction()(batch_of(coder, raw)).backward()
        cosine = torch.cosine_similarity(gradients[1], coder.W_dec.grad.flatten(), dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-9)


def attention(dtype: torch.dtype = torch.float64) -> Attention:
    return make_attention(0, d_model=WIDTH, rotary="halves", dtype=dtype)


def norm(dtype: torch.dtype = torch.float64) -> Norm:
    gain = torch.linspace(0.5, 2, WIDTH, dtype=dtype)
    return Norm(kind="layer", gain=gain, bias=torch.zeros_like(gain), eps=1e-5)


def test_of_several_kinds_of_units_it_is_the_mean_of_their_penalties_at_their_own_sites() -> None:
    coder, raw = eight_sites(), activations()
    codes = coder.encode(raw)
    directions, biases = coder.decoder.unbind(1), coder.decoder_bias
    mlp = mlps(1)[0]
    for scaling in ("paper", "relative"):
        expected = {
            "mlp": InteractionPenalty([mlp], q=2, scaling=scaling)(codes, [directions[5]]),
            "attention": AttentionPenalty([attention()], 2, scaling, seed=4, context=9)(codes, [directions[2]]),
            "norm": NormPenalty([norm()], scaling)(codes, [directions[6]], [biases[6]]),
        }
        bound: dict[str, tuple[MLP | Attention | Norm, int]]
        bound = {"mlp": (mlp, 5), "attention": (attention(), 2), "norm": (norm(), 6)}
        for on in (("attention",), ("norm",), ("mlp", "attention"), ("mlp", "attention", "norm")):
            config = PenaltyConfig(weight=3.0, on=on, scaling=scaling, q=1 if on == ("norm",) else 2)
            units, sites = zip(*(bound[kind] for kind in on), strict=True)
            found = PenaltyTerm(config, units, sites, seed=4, context=9)(batch_of(coder, raw))
            mean = sum(float(expected[kind].detach()) for kind in on) / len(on)
            assert float(found.detach()) == pytest.approx(3 * mean, rel=1e-8)
        coder.zero_grad(set_to_none=True)
        found.backward()
        at_sites = coder.W_dec.grad.unflatten(1, (8, WIDTH)).abs().sum((0, 2))
        assert [v for v in range(8) if at_sites[v] > 0] == [2, 5, 6]
        assert bool(coder.W_enc.grad.any())


def test_what_only_mlps_have_is_refused_by_name_where_there_are_none_and_the_order_of_kinds_is_nothing() -> None:
    for wrong in ({"form": "mass"}, {"weighted": True}, {"neurons": 0.5}):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))}: only MLPs have it.*attention"):
            PenaltyConfig.model_validate({"on": ["attention"]} | wrong)
        PenaltyConfig.model_validate({"on": ["attention", "mlp"]} | wrong)
    with pytest.raises(ValueError, match=r"q: .*none in norms"):
        PenaltyConfig(on=("norm",), q=2)
    with pytest.raises(ValueError, match="control: there are controls for MLPs alone"):
        PenaltyConfig(on=("mlp", "norm"), control="l1_features")
    with pytest.raises(ValueError, match="on"):
        PenaltyConfig(on=())
    assert PenaltyConfig(on=("norm", "mlp")) == PenaltyConfig(on=("mlp", "norm"))


CONFIG = FitConfig(steps=24, batch_tokens=32, log_every=4, checkpoint_every=8, dead_after=200)


EVERY = ("mlp", "attention", "norm")


def trained(out: Path, until: int | None = None, **settings: object) -> Crosscoder:
    config = PenaltyConfig.model_validate({"weight": 5.0, "neurons": 0.25, "warmup": 0.5} | settings)
    units: list[MLP | Attention | Norm] = list(mlps(2, torch.float32))
    sites = [2, 0]
    if len(config.on) > 1:
        units, sites = [*units, attention(torch.float32), norm(torch.float32)], [2, 0, 1, 2]
    penalty = PenaltyTerm(config, units, sites, seed=4)
    return fit(toys.crosscoder(), Stream(until=until), CONFIG, out, extra_terms=[penalty])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"form": "mass"},
        {"scaling": "paper"},
        {"control": "l1_contributions"},
        {"control": "reconstruction"},
        {"on": EVERY},
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits_and_metrics(tmp_path: Path, settings: dict[str, object]) -> None:
    whole = trained(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", until=19, **settings)
    assert same_bits(whole, trained(tmp_path / "broken", **settings))
    for file in ("metrics.jsonl", "checkpoint/state.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes(), file
    line = read_jsonl(tmp_path / "whole" / "metrics.jsonl")[-1]
    assert line["penalty"] > 0
    assert line["loss"] == pytest.approx(line["reconstruction"] + line["aux"] + line["penalty"], rel=1e-5)


def test_a_run_is_not_resumed_under_another_penalty(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, until=10)
    with pytest.raises(MismatchError, match=r"penalty\.weight was 5\.0, now 6\.0; penalty\.form was 'dominant'"):
        trained(tmp_path, weight=6.0, form="mass")
    with pytest.raises(MismatchError, match=r"penalty\.on was None, now \['mlp', 'attention', 'norm'\]"):
        trained(tmp_path, on=EVERY)
    path = tmp_path / "checkpoint" / "state.safetensors"
    tensors = load_file(path)
    assert int(tensors.pop("term.penalty.penalty.draws")) == 8
    save_file(tensors, path)
    with pytest.raises(BadFile, match=r"term\.penalty\.penalty\.draws missing"):
        trained(tmp_path)
