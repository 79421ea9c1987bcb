"""Inputs that may bring two features together, and what the model does on them.

A window of tokens that ends where the guest fires, or where both come closest to firing together, is put into a text
where the host fires, in place of as many tokens, so that it ends right before the host's position, there, or up to four
tokens after it. Then, for some rounds, single tokens of the window that came closest are replaced by tokens at which
both were close. Where both are then active at
one position, in the window or up to four tokens after it, they meet. All guests of a host are tried in the same texts
of the host, with windows of the same lengths at the same places: these are the *cells* in which inputs are compared.
Texts in which the two meet by themselves are not used. Nothing is chosen by its loss.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import product

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from crossproof.binding.bound import BoundMLP, bound_mlps, neurons_of
from crossproof.binding.encoding import codes_of
from crossproof.crosscoder.model import Crosscoder
from crossproof.findings import Layer, Passage
from crossproof.interaction.contributions import Neurons, tables
from crossproof.study.leads.pairs import LENGTHS, PLACES, REST, Half
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import ACTIVATIONS, MLP

HOSTS = 8
"""Texts of the host that windows are put into, those where it fires most."""
DONORS = 4
"""Windows: one half end where the guest fires most, the other where the two come closest to firing together."""
ROUNDS = 4
"""The first has these windows, each other one as many variations of the best input so far of each cell."""
CLOSE = 100
"""Tokens that are put into windows stand where the two come so close, at so many positions."""
NEAR = 4
"""How many tokens after a window the two may still meet."""
PER_PASS = 64


@dataclass(frozen=True, eq=False)
class Trials:
    """What became of each input that was made for one pair."""

    cell: Int[Tensor, " input"]
    strength: Float64[Tensor, " input"]
    """Of the weaker of the two where they meet, in multiples of its typical one; 0 where they do not meet."""
    apart: Bool[Tensor, " input"]
    """Both are active, but not at one position."""
    interaction: Float64[Tensor, " input"]
    """What they do together where they meet: the second difference of what the neurons put out, as `potential`."""
    after: Float64[Tensor, " input"]
    """Loss on the original tokens after the window, over that in the original text."""
    next: Float64[Tensor, " input"]
    """The same at the meeting alone; not a number where they do not meet, or meet before the window's end."""
    near: Float64[Tensor, " input"]
    """How far the one that is further below its threshold comes above it, in multiples of its typical strength."""

    @property
    def met(self) -> Bool[Tensor, " input"]:
        return self.strength > 0


@dataclass(frozen=True, eq=False)
class _Input:
    cell: int
    ids: Int[Tensor, " pos"]
    text: int
    start: int
    end: int
    """The window's last token."""


@dataclass(frozen=True, eq=False)
class Close:
    """How far features are above their thresholds on some texts, in multiples of their typical strengths."""

    margins: dict[int, Float64[Tensor, " row"]]

    def rows(self, half: Half, i: int, j: int, count: int) -> Int[Tensor, " row"]:
        """Where two come closest to firing together but do not, the closest first; where every window fits."""
        both = torch.minimum(self.margins[i], self.margins[j]).masked_fill(~half.inner, -torch.inf)
        both[torch.isin(half.where[:, 0], half.where[half.meetings(i, j), 0])] = -torch.inf
        closest = both.topk(min(count, len(both)))
        return closest.indices[closest.values.isfinite()]


@torch.no_grad()
def read(
    subject: Subject, coder: Crosscoder, tokens: Tokens, features: list[int], typical: Tensor
) -> tuple[Half, Close]:
    """Texts in features, and how close these features came where they are not active."""
    half = Half(tokens, codes_of(subject, coder, tokens).active())
    parts = [torch.zeros(0, len(features), dtype=torch.float64)]
    parts += [
        _margins(coder, subject.harvest(batch, coder.sites).to(coder.W_dec), features, typical)
        for batch in tokens.batches(PER_PASS)
        if features and batch.n_kept
    ]
    return half, Close(dict(zip(features, torch.cat(parts).T, strict=True)))


def _margins(coder: Crosscoder, x: Tensor, features: list[int], typical: Tensor) -> Float64[Tensor, "row some"]:
    pre = torch.addmm(coder.b_enc[features], coder.scaled(x), coder.W_enc[features].T)
    return ((pre - coder.thresholds[features]).double() / typical[features]).cpu()


@torch.no_grad()
def search(
    subject: Subject, coder: Crosscoder, half: Half, close: Close, host: int, guests: tuple[int, ...],
    typical: Tensor, tries: int, seed: int,
) -> tuple[list[Trials], Int[Tensor, " pos"] | None]:  # fmt: skip
    """Of each guest; and the input in which the first meets the host most strongly, up to what was scored of it."""
    meetings = torch.cat([half.meetings(host, guest) for guest in guests])
    hosts = half.strongest(host, meetings)[:HOSTS]
    cells = list(product(hosts, LENGTHS, PLACES))
    draw = torch.Generator().manual_seed(seed)
    cells = [cells[cell] for cell in torch.randperm(len(cells), generator=draw)[: max(1, tries // DONORS // ROUNDS)]]
    texts = sorted({text for text, _ in hosts})
    original = {}
    if texts:
        its = half.tokens[torch.tensor(texts)]
        original = dict(zip(texts, subject.token_losses(its).double().cpu(), strict=True))
    found, best = list[Trials](), None
    for guest in guests:
        closest = close.rows(half, host, guest, CLOSE)
        donors = half.strongest(guest, half.meetings(host, guest))[: DONORS // 2] if len(closest) else []
        donors += [(text, position) for text, position in half.where[closest[: DONORS - len(donors)]].tolist()]
        inputs = [_made(half.tokens, number, *cell, donor) for number, cell in enumerate(cells) for donor in donors]
        pool = half.tokens.ids[half.tokens.keep][closest]
        trials = _tried(subject, coder, inputs, (host, guest), typical, original)
        for _ in range(ROUNDS - 1 if inputs else 0):
            inputs += _varied(inputs, trials, pool, draw)
            trials = _joined(
                trials, _tried(subject, coder, inputs[len(trials.cell) :], (host, guest), typical, original)
            )
        if guest == guests[0] and bool(trials.met.any()):
            strongest = inputs[int(trials.strength.argmax())]
            best = strongest.ids[: strongest.end + REST + 1]
        found.append(trials)
    return found, best


def _varied(inputs: list[_Input], trials: Trials, pool: Tensor, draw: torch.Generator) -> list[_Input]:
    """Of the input of each cell that came closest, with one token of the window replaced."""
    made = []
    for cell in trials.cell.unique().tolist():
        its = (trials.cell == cell).nonzero().squeeze(1)
        best = inputs[int(its[trials.near[its].argmax()])]
        for _ in range(DONORS):
            at = best.start + int(torch.randint(best.end - best.start + 1, (), generator=draw))
            ids = best.ids.clone()
            ids[at] = pool[int(torch.randint(len(pool), (), generator=draw))]
            made.append(replace(best, ids=ids))
    return made


def _joined(one: Trials, other: Trials) -> Trials:
    return Trials(**{its.name: torch.cat([getattr(one, its.name), getattr(other, its.name)]) for its in fields(Trials)})


def _made(tokens: Tokens, cell: int, host: tuple[int, int], length: int, place: int, donor: tuple[int, int]) -> _Input:
    (text, position), (other, fires) = host, donor
    end = position + place
    ids = tokens.ids[text].clone()
    ids[end - length + 1 : end + 1] = tokens.ids[other, fires - length + 1 : fires + 1]
    return _Input(cell, ids, text, end - length + 1, end)


def _tried(
    subject: Subject, coder: Crosscoder, inputs: list[_Input], pair: tuple[int, int], typical: Tensor,
    original: dict[int, Tensor],
) -> Trials:  # fmt: skip
    none = torch.zeros(0, dtype=torch.float64)
    found = Trials(none.long(), none, none.bool(), none, none, none, none)
    units = list(zip(bound_mlps(subject, coder), neurons_of(subject, coder, torch.float64), strict=True))
    for first in range(0, len(inputs), PER_PASS):
        some = inputs[first : first + PER_PASS]
        found = _joined(found, _pass(subject, coder, some, pair, typical, original, units))
    return found


def _pass(
    subject: Subject, coder: Crosscoder, inputs: list[_Input], pair: tuple[int, int], typical: Tensor,
    original: dict[int, Tensor], units: list[tuple[BoundMLP, Neurons]],
) -> Trials:  # fmt: skip
    start, end = (torch.tensor([getattr(its, name) for its in inputs]) for name in ("start", "end"))
    ids = torch.stack([its.ids for its in inputs])[:, : int(end.max()) + REST + 1]
    logits, values = subject.run(Tokens(ids, torch.ones_like(ids, dtype=torch.bool), ids), coder.sites)

    at = start[:, None] + torch.arange(max(LENGTHS) + NEAR)
    looked = at <= end[:, None] + NEAR
    number, slot = looked.nonzero().unbind(1)
    here = number, at[looked]
    x = torch.stack([values[site][here] for site in coder.sites], dim=1).to(coder.W_dec)
    codes = coder.encode(x).active()
    strengths = codes.dense()[:, list(pair)].double().cpu()
    both = torch.zeros(*at.shape, 2, dtype=torch.float64)
    both[number, slot] = strengths / typical[list(pair)].cpu()
    strength, where = both.amin(2).max(1)
    met = strength > 0
    apart = (both > 0).any(1).all(1) & ~met
    margins = torch.full_like(both, -torch.inf)
    margins[number, slot] = _margins(coder, x, list(pair), typical)

    interaction = torch.full_like(strength, torch.nan)
    rows = torch.zeros(at.shape, dtype=torch.long)
    rows[number, slot] = torch.arange(len(number))
    rows = rows[torch.arange(len(inputs)), where][met]
    interaction[met] = sum(
        (second_difference_at(mlp, its, x[rows, mlp.site].double(), strengths[rows], pair) for mlp, its in units),
        torch.zeros(len(rows), dtype=torch.float64),
    )

    rest = end[:, None] + torch.arange(REST)
    every = torch.arange(len(inputs))[:, None]
    scored = logits[every, rest].double().cpu()
    loss = F.cross_entropy(scored.mT, ids[every, rest + 1], reduction="none")
    loss = loss - torch.stack([original[its.text][place] for its, place in zip(inputs, rest, strict=True)])
    meeting = at.gather(1, where[:, None]).squeeze(1) - end
    following = torch.where(met & (meeting >= 0), loss.gather(1, meeting.clamp(min=0)[:, None]).squeeze(1), torch.nan)
    cell = torch.tensor([its.cell for its in inputs])
    return Trials(cell, strength, apart, interaction, loss.mean(1), following, margins.amin(2).amax(1))


def second_difference_at(
    mlp: BoundMLP,
    neurons: Neurons,
    x: Float64[Tensor, "row d_model"],
    strengths: Float64[Tensor, "row 2"],
    pair: tuple[int, int],
) -> Float64[Tensor, " row"]:
    """Σ_n (w_n / N) |v − v without i − v without j + v without both|, v what neuron n puts out on these inputs."""
    unit = mlp.unit.to(torch.float64).to(x.device)
    pre = [unit.pre(x)] if isinstance(unit, MLP) else [unit.gate(x), unit.value(x)]
    one, other = (
        [strengths[:, k, None].to(x.device) * table.A[feature] for table in tables(neurons)]
        for k, feature in enumerate(pair)
    )

    def output(*less: list[Tensor]) -> Float[Tensor, "row neuron"]:
        z = [part - sum((its[k] for its in less), torch.zeros_like(part)) for k, part in enumerate(pre)]
        activated = ACTIVATIONS[unit.activation].function(z[0])
        return activated if len(z) == 1 else activated * z[1]

    change = output() - output(one) - output(other) + output(one, other)
    return (change.abs() @ neurons.loudness / len(neurons.loudness)).cpu()


@torch.no_grad()
def shown(
    subject: Subject, coder: Crosscoder, ids: Int[Tensor, " pos"], pair: tuple[int, int], typical: Tensor
) -> Passage:
    """An input word by word."""
    tokens = Tokens(ids[None], torch.ones(1, len(ids), dtype=torch.bool), ids[None])
    skipped = 1 if subject.prepend_bos else 0
    codes = coder.encode(subject.harvest(tokens, coder.sites).to(coder.W_dec)).active()
    strengths = (codes.dense()[:, list(pair)].cpu() / typical[list(pair)].cpu())[skipped:]
    read = str if subject.tokenizer is None else lambda each: str(subject.tokenizer.decode([each]))
    return Passage(
        title=f"Features {pair[0]} and {pair[1]}, brought together",
        words=tuple(read(each) for each in ids.tolist()[skipped:]),
        layers=tuple(
            Layer(name=f"feature {feature}", values=tuple(strengths[:, k].tolist())) for k, feature in enumerate(pair)
        ),
        note="Strengths in multiples of each feature's mean where it is active. Of the inputs tried, the one in which "
        "the weaker of the two is strongest.",
    )
