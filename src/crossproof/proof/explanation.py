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
from jaxtyping import Float64, Integer
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, concatenate
from crossproof.proof.arithmetic.tally import count, part
from crossproof.proof.network import Network, centre, normalised, one_over_root, softmax
from crossproof.proof.statement import Items, Witness
from crossproof.subject.zoo.window_recipes import EPS

Contexts = slice | Tensor
"""Some of the windows: a run of them, or by their numbers."""


@dataclass(frozen=True)
class Explanation:
    atoms: Ball
    """[atom, width]: what single tokens at single positions add to the stream, before strengths."""
    members: Integer[Tensor, "feature member"] | None
    """The atoms that a feature is the sum of, -1 for none; None where features are atoms."""
    codes: Integer[Tensor, "context family"]
    families: tuple[slice, ...]
    """Which features are of which family."""
    strengths: Callable[[Contexts], Ball] | None
    """[context, family] of some of the contexts; None where all are one."""

    def through(self, W: Ball) -> Ball:
        """[feature, …]: each feature after a linear map, from that of its atoms."""
        return self.of_atoms(self.atoms @ W)

    def of_atoms(self, table: Ball) -> Ball:
        """[feature, …]: the sums of its atoms' rows."""
        if self.members is None:
            return table
        rows = table[self.members.clamp(min=0)].only((self.members >= 0)[:, :, None])
        return rows if rows.shape[1] == 0 else rows.sum(1)


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
        context, vocabulary, width = network["W_E"].shape
        atoms = network["W_E"].reshape(context * vocabulary, width)
        joined = max((witness[name].shape[1] for name in witness if name.startswith("tuples_")), default=1)
        members, codes, families, start, position = [], [], [], 0, 0
        for family, several in enumerate(widths_of(context, joined, has_attention=False)):
            place = torch.arange(position, position + several, device=network.device) * vocabulary
            if several == 1:
                its = torch.arange(vocabulary, device=network.device)[:, None]
                code = items.contexts[:, position].long()
            else:
                its, code = witness[f"tuples_{family}"].long(), witness[f"code_{family}"].long()
                _check_same(f"code_{family}", its, code, items.contexts[:, position : position + several])
            members.append(torch.nn.functional.pad(its + place, (0, joined - several), value=-1))
            codes.append(code + start)
            families.append(slice(start, start + len(its)))
            start, position = start + len(its), position + several
        return Explanation(
            atoms, None if joined == 1 else torch.cat(members), torch.stack(codes, 1), tuple(families), None
        )


def conjunctions(network: Network, items: Items, joined: int) -> dict[str, Tensor]:
    """The witness for features of `joined` neighbouring positions: those that occur, and which each window has."""
    if joined < 1 or joined > network.context:
        raise CrossproofError(f"joined: {joined} of {network.context} positions cannot be one feature")
    if network.has_attention and joined > 1:
        raise CrossproofError("joined: with attention each position is a feature of its own; leave it at 1")
    witness: dict[str, Tensor] = {}
    position = 0
    for family, width in enumerate(widths_of(network.context, joined, network.has_attention)):
        if width > 1:
            tokens = items.contexts[:, position : position + width]
            tuples, code = torch.unique(tokens, dim=0, return_inverse=True)
            witness |= {f"tuples_{family}": tuples, f"code_{family}": code.to(torch.int32)}
        position += width
    return witness


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
    scores = (n[query:] @ (network["attn.W_Q"] @ network["attn.W_K"].mT)) @ n.mT * one_over_root(width)
    place = torch.arange(context, device=network.device) * vocabulary
    codes = torch.cat([items.contexts.long() + place, items.contexts[:, -1:].long() + context * vocabulary], 1)
    families = tuple(slice(f * vocabulary, (f + 1) * vocabulary) for f in range(context + 1))
    strengths = partial(_looks, scores, codes, context * vocabulary)
    return Explanation(concatenate([carried, x[query:]]), None, codes, families, strengths)


def _looks(scores: Ball, codes: Tensor, queries: int, contexts: Contexts) -> Ball:
    """How much the head looks at each position, and one for the query itself."""
    its = codes[contexts]
    looks = softmax(scores[its[:, -1:] - queries, its[:, :-1]])
    one = Ball(torch.ones(len(its), 1, dtype=torch.float64, device=its.device))
    return concatenate([looks, one], 1)


def vectors(network: Network, items: Items, witness: Witness) -> Float64[Tensor, "feature width"]:
    """What each feature writes where the first MLP listens, centred under a norm; its bias there writes nothing."""
    explanation = explain(network, items, witness)
    atoms = centre(explanation.atoms) if network.norm else explanation.atoms
    found = explanation.of_atoms(atoms).mid
    return torch.cat([found, torch.zeros_like(found[:1])]) if network.norm else found


@dataclass(frozen=True)
class Heard:
    """What features say: to each neuron of each MLP, [feature, neuron], through the stream alone, and to each logit,
    [feature, token]. Biases are said by the features of the last family, or under a norm by one of their own."""

    tables: tuple[Ball, ...]
    direct: Ball
    codes: Integer[Tensor, "context family"]
    _strengths: Callable[[Contexts], Ball] | None
    _over_scale: Callable[[Contexts, Ball], Ball] | None

    def strengths(self, contexts: Contexts) -> tuple[Ball | None, Ball | None]:
        """[context, family], to the logits and to the neurons: under a norm these are over ρ. None where all are 1."""
        if self._strengths is None:
            return None, None
        strengths = self._strengths(contexts)
        return strengths, strengths if self._over_scale is None else self._over_scale(contexts, strengths)


def heard(network: Network, explanation: Explanation) -> Heard:
    with part("features"):
        steady = explanation.families[-1]
        to_logits = explanation.through(network["W_U"])
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
            tables.append(_plus(explanation.through(W_in), steady, said))
        return Heard(tuple(tables), to_logits, explanation.codes, explanation.strengths, None)


def _under_norm(network: Network, explanation: Explanation, to_logits: Ball) -> Heard:
    """L6: relu(W x/ρ + b) = ρ⁻¹ relu(W x + ρb). All that is heard is over ρ but the bias, a feature of its own."""
    if network.n_mlps != 1:
        raise UnsupportedModel("only one MLP can be explained under a norm: with more, train the model without norms")
    W_in, b_in, *_ = network.mlp(0)
    centred = explanation.of_atoms(centre(explanation.atoms))
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


def _with_bias(explanation: Explanation, contexts: Contexts) -> Ball:
    """Strengths with a column for the bias, which writes nothing itself."""
    codes = explanation.codes[contexts]
    one = Ball(torch.ones(len(codes), 1, dtype=torch.float64, device=codes.device))
    if explanation.strengths is None:
        return Ball(torch.ones(len(codes), codes.shape[1] + 1, dtype=torch.float64, device=codes.device))
    return concatenate([explanation.strengths(contexts), one], 1)


def _over_scale(codes: Integer[Tensor, "context family"], gram: Ball, contexts: Contexts, strengths: Ball) -> Ball:
    """Strengths over ρ, ρ² = Σ_ij α_i α_j gram_ij + ε by look-ups, and one for the bias."""
    its, alpha = codes[contexts], strengths[:, :-1]
    pairs = gram[its[:, :, None], its[:, None, :]]
    square = ((pairs * alpha[:, :, None]).sum(1) * alpha).sum(1) + EPS
    return concatenate([alpha / square.sqrt()[:, None], strengths[:, -1:]], 1)
