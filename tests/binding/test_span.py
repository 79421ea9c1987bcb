"""Games of a span of a real model: what they must equal, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossproof.binding.span import POSITIONS_AT_ONCE, Span, check_span, span_game
from crossproof.binding.spans import span_interactions
from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.evaluate import check_fits
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import MismatchError, UnknownSite
from crossproof.interaction.contributions import contributions
from crossproof.interaction.games import mlp_game
from crossproof.interaction.shapley import exact
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.subject.zoo.planted import build_planted, planted_source
from crossproof.subject.zoo.planted_oracle import end_to_end_game, output_game, shapley_taylor
from crossproof.units import LOGITS, MLP
from tests.subject import tiny

SITES = ("blocks.0.ln1.hook_normalized", "blocks.1.hook_resid_mid", "blocks.1.ln2.hook_normalized")
IN, OUT, LAST = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out", "blocks.3.hook_resid_post"
K, TEXT, POSITION = 5, 2, 6


def dictionary() -> Crosscoder:
    generator = torch.Generator().manual_seed(1)
    sites = tuple(Site(subject="tiny", hook=site) for site in SITES)
    coder = Crosscoder(CrosscoderConfig(sites=sites, width=tiny.WIDTH, features=40, activation="topk", k=K))
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return coder


def coalitions(players: int) -> Tensor:
    return (torch.arange(2**players)[:, None] >> torch.arange(players)) & 1 == 1


def here(subject: Subject, tokens: Tokens, coder: Crosscoder) -> tuple[Tensor, Tensor]:
    """The dense code, and the model's own activations, at TEXT and POSITION."""
    cache = subject.cache(tokens, SITES)
    activations = torch.stack([cache[site][TEXT, POSITION] for site in SITES])
    return coder.encode(activations[None].float()).dense().detach()[0], activations


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_span_that_is_one_mlp_is_the_mlp_game(dtype: torch.dtype, near: float) -> None:
    subject, tokens, coder = tiny.subject("gpt2", dtype), tiny.some_tokens("gpt2", dtype), dictionary()
    game, features = span_game(subject, tokens, coder, TEXT, POSITION, IN, OUT)
    unit = next(unit for unit in subject.units if isinstance(unit, MLP) and unit.input_site == IN)
    v = SITES.index(IN)
    neurons = contributions(unit, coder.decoder.detach()[:, v].to(dtype), coder.decoder_bias.detach()[v].to(dtype))
    code = here(subject, tokens, coder)[0].to(dtype)
    assert features.tolist() == code.nonzero().flatten().tolist()
    assert len(features) == K
    expected = mlp_game(neurons, code[features], features, unit.W_out, unit.b_out)
    assert relative(game(coalitions(K)), expected(coalitions(K))) < near
    assert relative(exact(game, K).pairs, exact(expected, K).pairs) < 100 * near


@pytest.mark.parametrize("block", [0, 1])
def test_on_the_planted_model_it_is_the_oracle_s_index(block: int) -> None:
    model = build_planted(dtype=torch.float64)
    subject = Subject.wrap(model, "planted", source=planted_source("validation"))
    tokens = planted_source("validation").tokens(0, 1)
    spans = {
        (f"blocks.{block}.hook_mlp_in", f"blocks.{block}.hook_mlp_out"): output_game(model, block),
        ("hook_embed", "blocks.1.hook_resid_post"): end_to_end_game(model),
    }
    for (start, end), oracle in spans.items():
        directions = model.directions(start)
        strengths = model.codes[tokens.ids[0, 3]] * (directions != 0).any(1)
        players = strengths.nonzero().flatten()
        parts = strengths[players, None] * directions[players]
        pairs = exact(
            Span(subject, _cut(tokens, 4), 3, start, end, model.decoder_bias(start), parts), len(players)
        ).pairs
        for (i, j), value in shapley_taylor(oracle, strengths).items():
            a, b = players.tolist().index(i), players.tolist().index(j)
            assert (pairs[a, b] - value).abs().max() < 1e-10


@pytest.mark.parametrize("end", [LAST, LOGITS])
@pytest.mark.parametrize("read_at", [POSITION, POSITION + 3])
def test_a_long_span_is_the_whole_text_run_with_the_sum_spliced_in(end: str, read_at: int) -> None:
    subject, tokens, coder = tiny.subject("gpt2"), tiny.some_tokens("gpt2"), dictionary()
    start = SITES[1]
    game, features = span_game(subject, tokens, coder, TEXT, POSITION, start, end, read_at)
    code, _ = here(subject, tokens, coder)
    found, v = game(coalitions(K)), SITES.index(start)
    for which in (0, 5, 2**K - 1):
        on = features[coalitions(K)[which]]
        inputs = coder.decoder_bias[v].double() + (code[on, None].double() * coder.decoder[on, v].double()).sum(0)

        def write(value: Tensor, inputs: Tensor = inputs) -> Tensor:
            value[TEXT, POSITION] = inputs
            return value

        logits, values = subject.run(tokens, () if end == LOGITS else (end,), {start: write})
        expected = (logits if end == LOGITS else values[end])[TEXT, read_at]
        assert relative(found[which], expected) < 1e-10
    assert relative(found[0], found[-1]) > 1e-3


def test_with_the_error_kept_all_players_together_are_the_model_itself() -> None:
    subject, tokens, coder = tiny.subject("gpt2"), tiny.some_tokens("gpt2"), dictionary()
    own = subject.cache(tokens, (LAST,))[LAST][TEXT, POSITION]
    everyone = torch.ones(1, K, dtype=torch.bool)
    kept, _ = span_game(subject, tokens, coder, TEXT, POSITION, IN, LAST, keep_error=True)
    assert relative(kept(everyone)[0], own) < 1e-10
    bare, _ = span_game(subject, tokens, coder, TEXT, POSITION, IN, LAST)
    assert relative(bare(everyone)[0], own) > 1e-2


def test_values_do_not_depend_on_how_the_copies_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, tokens, coder = tiny.subject("gpt2"), tiny.some_tokens("gpt2"), dictionary()
    game, _ = span_game(subject, tokens, coder, TEXT, POSITION, IN, LAST)
    at_once = game(coalitions(K))
    assert POSITIONS_AT_ONCE // (POSITION + 1) > 2**K
    monkeypatch.setattr("crossproof.binding.span.POSITIONS_AT_ONCE", 3 * (POSITION + 1))
    assert relative(game(coalitions(K)), at_once) < 1e-12


@pytest.mark.parametrize("end", [IN, "blocks.1.hook_resid_mid", "blocks.0.hook_mlp_out"])
def test_an_output_that_does_not_come_after_the_input_is_refused(end: str) -> None:
    with pytest.raises(MismatchError, match="comes after"):
        span_game(tiny.subject("gpt2"), tiny.some_tokens("gpt2"), dictionary(), TEXT, POSITION, IN, end)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"input_site": "blocks.0.hook_mlp_out"}, "site of the crosscoder"),
        ({"text": 3}, "texts 0 to 2"),
        ({"position": 0}, "kept"),
        ({"read_at": POSITION - 1}, "not before"),
        ({"position": 99}, "kept"),
        ({"output_site": "blocks.1.attn.hook_z"}, "one vector per position"),
    ],
)
def test_what_names_no_span_is_refused(changed: dict[str, object], says: str) -> None:
    arguments = {"text": TEXT, "position": POSITION, "input_site": SITES[0], "output_site": LAST, **changed}
    with pytest.raises(MismatchError, match=says):
        span_game(tiny.subject("gpt2"), tiny.some_tokens("gpt2"), dictionary(), **arguments)


def test_an_unknown_output_names_the_nearest_sites() -> None:
    with pytest.raises(UnknownSite, match="hook_resid_post"):
        span_game(
            tiny.subject("gpt2"), tiny.some_tokens("gpt2"), dictionary(), TEXT, POSITION, IN, "blocks.3.hook_resid_pst"
        )


def test_an_unknown_output_that_is_near_nothing_names_what_comes_after_the_input() -> None:
    for start in SITES:
        with pytest.raises(UnknownSite) as raised:
            check_span(tiny.subject("gpt2"), dictionary(), start, "nosuch")
        said = str(raised.value)
        assert "has no site 'nosuch'" in said
        assert said.endswith(LOGITS)
        offered = said.split(" are ")[1].split(", ")
        in_order = (*tiny.subject("gpt2").sites, LOGITS)
        assert LAST in offered
        assert all(in_order.index(site) > in_order.index(start) for site in offered)


def test_a_crosscoder_of_another_model_is_refused_as_everywhere() -> None:
    small = tiny.subject("gpt2")
    other = dictionary()
    other.config = other.config.model_copy(
        update={"sites": (*other.config.sites[:2], Site(subject="tiny", hook="gone"))}
    )
    with pytest.raises(MismatchError) as everywhere:
        check_fits(small, other)
    for ends in ((SITES[0], LAST), ("nosuch", LAST), (SITES[0], "nosuch")):
        with pytest.raises(MismatchError) as raised:
            span_game(small, tiny.some_tokens("gpt2"), other, TEXT, POSITION, *ends)
        assert str(raised.value) == str(everywhere.value)
        with pytest.raises(MismatchError) as raised:
            span_interactions(small, other, tiny.some_tokens("gpt2"), *ends)
        assert str(raised.value) == str(everywhere.value)


def _cut(tokens: Tokens, length: int) -> Tokens:
    return Tokens(tokens.ids[:, :length], tokens.keep[:, :length], tokens.targets[:, :length])
