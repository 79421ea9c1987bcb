"""The anchored explanation of a window model: which features there are, and which are active in which window.

A feature is a token at a position, or the tokens at several neighbouring positions (a conjunction), and what it writes
into the stream that the first MLP reads is known exactly. With attention (L9) that is what the head carries over from
the position, times how much the head looks there: the coefficient of the feature in this window. A window has one
feature of each *family*, and the stream is the sum of them:

    stream = Σ_families strength × vectors[code]

The last family holds the last position; it is always there, with strength one, and carries the bias of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, concatenate
from crossproof.proof.arithmetic.tally import count, part
from crossproof.proof.network import EPSILON, Network, centre, normalised, softmax
from crossproof.proof.statement import Items, Witness


@dataclass(frozen=True)
class Explanation:
    vectors: Ball
    """[feature, width]: what each adds to the stream, before strengths."""
    codes: Int[Tensor, "context family"]
    families: tuple[slice, ...]
    """Which features are of which family."""
    strengths: Callable[[slice], Ball] | None
    """[context, family] of some of the contexts; None where all are one."""

    @property
    def has_strengths(self) -> bool:
        return self.strengths is not None


def widths_of(context: int, joined: int, has_attention: bool) -> tuple[int, ...]:
    """How many neighbouring positions each family reads, the last position in the last family.

    Without attention positions are joined from the end on, `joined` to a family; with it, a family for each position
    that the head reads, and one for the query.
    """
    if has_attention:
        return (1,) * (context + 1)
    first = context % joined
    return ((first,) if first else ()) + (joined,) * (context // joined)


def explain(network: Network, items: Items, witness: Witness) -> Explanation:
    """From the weights, the windows, and the witness: `tuples_F` [feature, position] for each family F of several
    positions, which tokens each feature stands for, and `code_F` [context], which feature each window has."""
    with part("features"):
        if network.has_attention:
            return _through_attention(network, items)
        vectors, codes, families, start, position = [], [], [], 0, 0
        joined = max((witness[name].shape[1] for name in witness if name.startswith("tuples_")), default=1)
        for family, width in enumerate(widths_of(network.context, joined, has_attention=False)):
            positions = range(position, position + width)
            position += width
            if width == 1:
                its, code = network["W_E"][positions[0]], items.contexts[:, positions[0]].long()
            else:
                tuples, code = witness[f"tuples_{family}"].long(), witness[f"code_{family}"].long()
                _check_same(f"code_{family}", tuples, code, items.contexts[:, positions.start : positions.stop])
                its = network["W_E"][positions[0]][tuples[:, 0]]
                for column, at in enumerate(positions[1:], 1):
                    its = its + network["W_E"][at][tuples[:, column]]
            vectors.append(its)
            codes.append(code + start)
            families.append(slice(start, start + len(its)))
            start += len(its)
        return Explanation(concatenate(vectors), torch.stack(codes, 1), tuple(families), None)


def _check_same(name: str, tuples: Tensor, code: Tensor, tokens: Tensor) -> None:
    """That each window has the feature that the witness says: as many comparisons as windows."""
    count(len(code))
    if not code.is_meta and not torch.equal(tuples[code], tokens.long()):
        raise MismatchError(f"{name}: a window does not hold the tokens of the feature that the witness gives it")


def _through_attention(network: Network, items: Items) -> Explanation:
    context, vocabulary, width = network["W_E"].shape
    x = network["W_E"].reshape(context * vocabulary, width)
    n = normalised(x) if network.norm else x
    carried = n @ (network["attn.W_V"] @ network["attn.W_O"])
    query = (context - 1) * vocabulary
    scores = (n[query:] @ (network["attn.W_Q"] @ network["attn.W_K"].mT)) @ n.mT * width**-0.5
    place = torch.arange(context, device=network.device) * vocabulary
    codes = torch.cat([items.contexts.long() + place, items.contexts[:, -1:].long() + context * vocabulary], 1)
    families = tuple(slice(f * vocabulary, (f + 1) * vocabulary) for f in range(context + 1))
    strengths = partial(_looks, scores, codes, context * vocabulary)
    return Explanation(concatenate([carried, x[query:]]), codes, families, strengths)


def _looks(scores: Ball, codes: Tensor, queries: int, contexts: slice) -> Ball:
    """How much the head looks at each position, and one for the query itself."""
    its = codes[contexts]
    looks = softmax(scores[its[:, -1:] - queries, its[:, :-1]])
    one = Ball(torch.ones(len(its), 1, dtype=torch.float64, device=its.device))
    return concatenate([looks, one], 1)


@dataclass(frozen=True)
class Heard:
    """What features say: to each neuron of each MLP, [feature, neuron], through the stream alone, and to each logit,
    [feature, token]. Biases are said by the features of the last family, or under a norm by one of their own."""

    tables: tuple[Ball, ...]
    direct: Ball
    codes: Int[Tensor, "context family"]
    _strengths: Callable[[slice], Ball] | None
    _over_scale: Callable[[slice, Ball], Ball] | None

    def strengths(self, contexts: slice) -> tuple[Ball | None, Ball | None]:
        """[context, family], to the logits and to the neurons: under a norm these are over ρ. None where all are 1."""
        if self._strengths is None:
            return None, None
        strengths = self._strengths(contexts)
        return strengths, strengths if self._over_scale is None else self._over_scale(contexts, strengths)


def heard(network: Network, explanation: Explanation) -> Heard:
    with part("features"):
        vectors, steady = explanation.vectors, explanation.families[-1]
        to_logits = vectors @ network["W_U"]
        for mlp in range(network.n_mlps):
            to_logits = _plus(to_logits, steady, network.mlp(mlp)[3] @ network["W_U"])
        if network.norm:
            return _under_norm(network, explanation, to_logits)
        tables = []
        for mlp in range(network.n_mlps):
            W_in, b_in, *_ = network.mlp(mlp)
            said = b_in
            for before in range(mlp):
                said = said + network.mlp(before)[3] @ W_in
            tables.append(_plus(vectors @ W_in, steady, said))
        return Heard(tuple(tables), to_logits, explanation.codes, explanation.strengths, None)


def _under_norm(network: Network, explanation: Explanation, to_logits: Ball) -> Heard:
    """L6: relu(W x/ρ + b) = ρ⁻¹ relu(W x + ρb). All that is heard is over ρ but the bias, a feature of its own."""
    if network.n_mlps != 1:
        raise UnsupportedModel("only one MLP can be explained under a norm: with more, train the model without norms")
    W_in, b_in, *_ = network.mlp(0)
    centred = centre(explanation.vectors)
    gram = centred @ centred.mT / float(network.width)
    silent = Ball(torch.zeros(1, network.vocabulary, dtype=torch.float64, device=network.device))
    bias = torch.full_like(explanation.codes[:, :1], len(centred))
    return Heard(
        (concatenate([centred @ W_in, b_in[None]]),),
        concatenate([to_logits, silent]),
        torch.cat([explanation.codes, bias], 1),
        partial(_with_bias, explanation),
        partial(_over_scale, explanation.codes, gram),
    )


def _plus(table: Ball, rows: slice, vector: Ball) -> Ball:
    """The vector added to some of the rows, which are the last."""
    return concatenate([table[: rows.start], table[rows] + vector])


def _with_bias(explanation: Explanation, contexts: slice) -> Ball:
    """Strengths with a column for the bias, which writes nothing itself."""
    codes = explanation.codes[contexts]
    one = Ball(torch.ones(len(codes), 1, dtype=torch.float64, device=codes.device))
    if explanation.strengths is None:
        return Ball(torch.ones(len(codes), codes.shape[1] + 1, dtype=torch.float64, device=codes.device))
    return concatenate([explanation.strengths(contexts), one], 1)


def _over_scale(codes: Int[Tensor, "context family"], gram: Ball, contexts: slice, strengths: Ball) -> Ball:
    """Strengths over ρ, ρ² = Σ_ij α_i α_j gram_ij + ε by look-ups, and one for the bias."""
    its, alpha = codes[contexts], strengths[:, :-1]
    pairs = gram[its[:, :, None], its[:, None, :]]
    square = ((pairs * alpha[:, :, None]).sum(1) * alpha).sum(1) + EPSILON
    return concatenate([alpha / square.sqrt()[:, None], strengths[:, -1:]], 1)
