"""Interactions of a span: the games' own values, token by token and pair by pair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossproof.binding import spans
from crossproof.binding.span import span_game
from crossproof.binding.spans import span_interactions, strengths_of
from crossproof.errors import CrossproofError, MismatchError, UnknownSite
from crossproof.interaction.shapley import exact, sampled
from crossproof.units import LOGITS
from tests.binding import coders
from tests.subject import tiny

FROM, TO = "blocks.0.ln2.hook_normalized", "blocks.0.hook_resid_post"


@pytest.mark.parametrize("output_site", [TO, "blocks.1.hook_resid_post", LOGITS])
def test_every_pair_has_the_mean_of_its_games_over_the_sampled_tokens(output_site: str) -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject, features=8)
    found = span_interactions(subject, coder, tokens, FROM, output_site, sample=4)
    total: dict[tuple[int, int], list[float]] = {}
    for place in found.tokens.itertuples():
        game, features = span_game(subject, tokens, coder, place.text, place.position, FROM, output_site)
        index = exact(game, len(features))
        for a in range(len(features)):
            for b in range(a):
                pair = tuple(sorted((int(features[a]), int(features[b]))))
                total.setdefault(pair, []).append(float(index.pairs[a, b].norm()))
        assert place.features == len(features)
        assert not place.estimated
        assert place.change == pytest.approx(float((index.full - index.empty).norm()))
        both = index.single.sum(0) + index.pairs.sum((0, 1)) / 2
        assert place.change == pytest.approx(float(both.norm()), rel=1e-6)
        assert place.together == pytest.approx(float((index.pairs.sum((0, 1)) / 2).norm()))
    assert len(found.pairs) == len(total)
    assert found.pairs.score.is_monotonic_decreasing
    for row in found.pairs.itertuples():
        values = total[row.i, row.j]
        assert row.count == len(values)
        assert row.strength == pytest.approx(sum(values) / len(values))
        assert row.score == pytest.approx(sum(values) / len(found.tokens))


def test_estimates_are_near_the_exact_values_and_not_too_long_by_their_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject, features=8)
    exactly = span_interactions(subject, coder, tokens, FROM, TO, sample=4)
    monkeypatch.setattr(spans, "EXACT", 2)
    roughly = span_interactions(subject, coder, tokens, FROM, TO, sample=4, orders=400)
    assert roughly.tokens.estimated.any()
    assert roughly.tokens.sizes.sum() == pytest.approx(exactly.tokens.sizes.sum(), rel=0.05)
    # T12 holds for estimates too
    assert roughly.tokens.together.tolist() == pytest.approx(exactly.tokens.together.tolist(), rel=1e-5)


def test_the_error_of_few_orders_makes_no_sizes_that_are_not_there() -> None:
    """Of values that are all noise, whose indices are far smaller than the differences that they are means of."""
    players = 7
    values = torch.randn(2**players, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def game(coalitions: Tensor) -> Tensor:
        return values[(coalitions.long() << torch.arange(players)).sum(1)]

    exactly = exact(game, players)
    assert torch.equal(strengths_of(exactly), exactly.strength())
    estimates = [sampled(game, players, 4, seed) for seed in range(10)]
    right = float(exactly.strength().mean())
    as_they_are = sum(float(found.strength().mean()) for found in estimates) / len(estimates)
    corrected = sum(float(strengths_of(found).mean()) for found in estimates) / len(estimates)
    assert as_they_are > 1.3 * right
    assert corrected == pytest.approx(right, rel=0.15)


def test_the_same_seed_draws_the_same_tokens() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject, features=8)
    draws = [
        span_interactions(subject, coder, tokens, FROM, TO, sample=2, seed=seed).tokens[["text", "position"]]
        for seed in (0, 0, 1)
    ]
    assert draws[0].equals(draws[1])
    assert not draws[0].equals(draws[2])


def test_what_cannot_be_measured_is_refused_by_name() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject, features=8)
    with pytest.raises(MismatchError, match="none"):
        span_interactions(subject, coder, tokens, TO, LOGITS)
    with pytest.raises(UnknownSite, match="nearest"):
        span_interactions(subject, coder, tokens, FROM, "blocks.1.hook_resid_pots")
    with pytest.raises(MismatchError, match="forwards"):
        span_interactions(subject, coder, tokens, FROM, "blocks.0.hook_resid_pre")
    for sample, orders in ((0, 16), (5, 1)):
        with pytest.raises(CrossproofError, match="at least"):
            span_interactions(subject, coder, tokens, FROM, TO, sample=sample, orders=orders)
    with torch.no_grad():
        coder.b_enc -= 1e6
    with pytest.raises(CrossproofError, match="two active"):
        span_interactions(subject, coder, tokens, FROM, TO)
