"""How far corrections move what is read from neurons: every bound of the ladder holds, in the order it promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.proof.arithmetic.ball import exact
from crossproof.proof.units.readout import Readout, in_logit_differences, in_logits
from tests.proof.units.numbers import rows, seeds

ROW, NEURON, WIDTH = 6, 7, 5


def corrections(c: torch.Tensor, seed: int, one_sided: bool) -> torch.Tensor:
    """Some in the box, [try, row, neuron], its corners and nothing at all among them."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.rand(40, *c.shape, generator=generator, dtype=torch.float64)
    part[:20] = part[:20].round()
    part[0], part[1] = 0, 1
    return part * c if one_sided else (2 * part - 1) * c


def drawn(seed: int, hard: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return rows(ROW, NEURON, seed=seed, hard=hard).abs(), rows(NEURON, WIDTH, seed=seed + 1, hard=hard)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, hard=st.booleans(), one_sided=st.booleans())
def test_no_correction_in_the_box_moves_the_output_further_than_any_bound_of_its_norm(
    seed: int, hard: bool, one_sided: bool
) -> None:
    c, W = drawn(seed, hard)
    readout = Readout(exact(W))
    moved = (corrections(c, seed, one_sided) @ W).norm(dim=-1).amax(0)
    tiny = 1e-13 * (c @ W.abs()).sum(1)
    gram, spectral, plain = (
        readout.gram(exact(c), one_sided),
        readout.spectral(exact(c)),
        readout.sum_of_norms(exact(c)),
    )
    for bound in (gram, spectral, plain, readout.best(exact(c), one_sided)):
        assert bool((moved <= bound.mid + tiny).all())
    assert bool((gram.mid <= plain.mid * (1 + 1e-6) + tiny).all())


@settings(deadline=None, max_examples=40)
@given(seed=seeds, hard=st.booleans(), one_sided=st.booleans())
def test_logits_stay_in_their_ranges_and_differences_in_theirs_which_are_narrower(
    seed: int, hard: bool, one_sided: bool
) -> None:
    c, to_logits = drawn(seed, hard)
    target = torch.arange(ROW) % WIDTH
    moved = -corrections(c, seed, one_sided) @ to_logits  # a correction is subtracted
    apart = moved - moved.gather(2, target[None, :, None].expand(len(moved), ROW, 1))
    size = float((c @ to_logits.abs()).max())
    up = in_logit_differences(exact(c), exact(to_logits), target, one_sided).mid
    assert bool((apart.amax(0) <= up + 1e-12 * size).all())
    lowered, raised = in_logits(exact(c), exact(to_logits), one_sided)
    centred = moved - moved.mean(2, keepdim=True)
    assert bool((centred.amax(0) <= raised.mid + 1e-12 * size).all())
    assert bool((-centred.amin(0) <= lowered.mid + 1e-12 * size).all())
    wide = raised.mid + lowered.mid.gather(1, target[:, None])
    wide[torch.arange(ROW), target] = 0
    assert bool((up <= wide + 1e-12 * size).all())


def test_the_range_of_logit_differences_is_attained() -> None:
    c, to_logits = drawn(4, hard=False)
    target = torch.zeros(ROW, dtype=torch.long)
    up = in_logit_differences(exact(c), exact(to_logits), target).mid
    for row in range(ROW):
        for v in range(WIDTH):
            worst = torch.where(to_logits[:, 0] > to_logits[:, v], c[row], 0.0)
            assert float(worst @ (to_logits[:, 0] - to_logits[:, v])) == pytest.approx(float(up[row, v]), abs=1e-12)


def test_corrections_that_cancel_in_sign_are_seen_by_the_gram_matrix_alone() -> None:
    W = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    readout, c = Readout(exact(W)), exact(torch.ones(1, 2))
    assert float(readout.gram(c, one_sided=True).mid) == pytest.approx(2**0.5)  # their product is negative
    assert float(readout.gram(c, one_sided=False).mid) == pytest.approx(2.0)
    assert float(readout.sum_of_norms(c).mid) == pytest.approx(2.0)
