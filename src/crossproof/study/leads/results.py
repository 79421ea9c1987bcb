"""`results.json` of the study of leads, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.findings import Cell, Claim, Figure, Findings, Passage, Series, Table, Verdict
from crossproof.study.base import StudyResults
from crossproof.study.dictionaries import PLAIN, CoderRecord
from crossproof.study.estimates import ENOUGH, Estimate, drawn, estimate, text_weights
from crossproof.study.ranking.agreement import bootstrap, spearman

PASSAGES = 2
RANK_DRAWS = 200


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Searched(_Record):
    """A pair, and what became of the inputs made for it."""

    guest: int
    potential: float
    by_themselves: int
    """Tokens of the second half on which the two meet without any help."""
    tried: int
    met: int
    strength: float | None
    """Mean over the inputs where they meet, of the weaker of the two, in multiples of its typical one."""
    interaction: float | None
    """Mean of what they do together where they meet."""


class Losses(_Record):
    """In nats, over the original text: means over the inputs where the lead meets, and over their controls."""

    lead: float | None
    together: float | None
    over_together: float | None
    """The lead's less this control's, where both are in a cell."""
    apart: float | None
    over_apart: float | None


class LeadRecord(_Record):
    host: int
    lead: Searched
    matches: list[Searched]
    after: Losses
    """On the tokens after the window."""
    next: Losses
    """At the meeting itself."""
    passage: Passage | None


class DictionaryRecord(_Record):
    coder: CoderRecord
    n_pairs: int
    """Pairs of features that fire often enough and never meet on the first half."""
    leads: list[LeadRecord]


class Share(_Record):
    """Of pairs that met at least once, with the exact binomial interval; of those for which inputs could be made."""

    met: int
    of: int
    low: float | None
    high: float | None


class GroupRecord(_Record):
    """Dictionaries trained alike, but for their seeds."""

    group: str
    dictionaries: int
    leads_met: Share
    matches_met: Share
    losses: dict[str, Estimate | None]
    """Of `after` and `next`, each field of Losses: mean over the leads that have it."""
    counts: dict[str, int]
    agreement: Estimate | None
    """Rank correlation of potential and measured interaction, leads and matches that met."""
    among_leads: Estimate | None
    """The same among leads alone."""


class LeadsStudy(StudyResults):
    subject: str
    texts: tuple[int, int]
    """Of both halves."""
    dictionaries: list[DictionaryRecord]
    groups: list[GroupRecord]

    def findings(self) -> Findings:
        leads = [its for one in self.dictionaries for its in one.leads]
        return Findings(
            title="Adversarial leads",
            question="Can pairs of features that never fire together, but would interact strongly, be brought "
            "together, and does the model then fail more than on matched inputs?",
            answer=_answer(self),
            claims=tuple(_claims(self.groups[0])),
            figures=(_bars(self), _points(self)),
            tables=(_table(self), _pairs_table(self)),
            passages=tuple(its.passage for its in leads if its.passage)[:PASSAGES],
            notes=(
                f"Pairs were found on {self.texts[0]} held-out texts, and inputs made of {self.texts[1]} others, "
                "without those in which the two meet by themselves. No feature is in two leads of a dictionary.",
                "Compared inputs put windows of the same length at the same place of the same text. `together`: pairs "
                "of the same host with guests that fire about as often and as strongly, but have little potential. "
                "`apart`: the same pairs where both are active but do not meet, so that there is only the edit.",
                "What is measured is the loss on the 8 original tokens after the window, less that in the original "
                "text; a foreign window makes them less likely in any case, which is what the controls are for.",
                f"Intervals resample leads{', and dictionaries where there are 5 or more' if _many(self) else ''}; "
                "those of shares are exact binomial ones. Claims are made of the first dictionaries of the table.",
            ),
        )


def study_of(subject: str, seen: int, searched: int, found: list[DictionaryRecord], seed: int) -> LeadsStudy:
    """Dictionaries without a penalty first."""
    found = sorted(found, key=lambda its: its.coder.penalty != PLAIN)
    groups = [
        _group(name, [its for its in found if its.coder.group == name], seed)
        for name in dict.fromkeys(its.coder.group for its in found)
    ]
    return LeadsStudy(subject=subject, texts=(seen, searched), dictionaries=found, groups=groups)


def _group(name: str, members: Sequence[DictionaryRecord], seed: int) -> GroupRecord:
    leads = [its for one in members for its in one.leads]
    estimates: dict[str, Estimate | None] = {}
    counts: dict[str, int] = {}
    for at in ("after", "next"):
        for field in Losses.model_fields:
            values = [[getattr(getattr(its, at), field) for its in one.leads] for one in members]
            known = [[value for value in its if value is not None] for its in values]
            estimates[f"{at}.{field}"] = _estimate(known, seed)
            # an estimate is of the dictionaries that have enough of them
            counts[f"{at}.{field}"] = sum(map(len, _enough(known) or known))
    return GroupRecord(
        group=name,
        dictionaries=len(members),
        leads_met=_share([its.lead for its in leads]),
        matches_met=_share([one for its in leads for one in its.matches]),
        losses=estimates,
        counts=counts,
        agreement=_agreement([[its.lead, *its.matches] for its in leads], seed),
        among_leads=_agreement([[its.lead] for its in leads], seed),
    )


def _estimate(values: Sequence[list[float]], seed: int) -> Estimate | None:
    """Of the dictionaries that have enough leads."""
    draws = [
        drawn(torch.tensor(its), torch.ones(len(its)), text_weights(len(its), seed + number))
        for number, its in enumerate(_enough(values))
    ]
    return estimate(draws, seed if len(draws) >= ENOUGH else None) if draws else None


def _enough(values: Sequence[list[float]]) -> list[list[float]]:
    return [its for its in values if len(its) >= ENOUGH]


def _share(pairs: Sequence[Searched]) -> Share:
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    met, tried = sum(its.met > 0 for its in pairs), sum(its.tried > 0 for its in pairs)
    low, high = binomtest(met, tried).proportion_ci() if tried else (None, None)
    return Share(met=met, of=tried, low=low, high=high)


def _agreement(pairs: Sequence[Sequence[Searched]], seed: int) -> Estimate | None:
    """A lead and its matches are drawn together."""
    known = [[its for its in some if its.interaction is not None] for some in pairs]
    known = [some for some in known if some]
    if len(known) < ENOUGH:
        return None

    def correlation(weights: Tensor) -> Tensor:
        chosen = [its for some, weight in zip(known, weights.long().tolist(), strict=True) for its in some * weight]
        potential = torch.tensor([its.potential for its in chosen], dtype=torch.float64)
        measured = torch.tensor([its.interaction for its in chosen], dtype=torch.float64)
        return torch.tensor(spearman(potential, measured), dtype=torch.float64)

    value, reach = (float(its) for its in bootstrap(correlation, len(known), RANK_DRAWS, seed))
    return Estimate(value=value, low=max(-1.0, value - reach), high=min(1.0, value + reach), each=[value])


def _many(found: LeadsStudy) -> bool:
    return any(its is not None and len(its.each) >= ENOUGH for group in found.groups for its in group.losses.values())


def _verdict(low: float | None, high: float | None, least: float) -> Verdict:
    if low is None or high is None:
        return "cannot tell"
    return "holds" if low > least else "does not hold" if high <= least else "cannot tell"


def _claims(group: GroupRecord) -> list[Claim]:
    met, fail = group.leads_met, group.losses["after.over_together"]
    alone = group.losses["after.over_apart"]
    return [
        Claim(
            id="leads.meet",
            claim="Most pairs that were never seen together, but would interact most, can be brought together.",
            paper="–",
            measure=f"share of {met.of} leads that met on some input ({group.group})",
            ours=met.met / met.of if met.of else None,
            low=met.low,
            high=met.high,
            verdict=_verdict(met.low, met.high, 0.5),
            why="Holds if the whole interval is above one half, does not if none of it is. Pairs of little potential: "
            f"{group.matches_met.met} of {group.matches_met.of}.",
        ),
        Claim(
            id="leads.fail",
            claim="And then the model fails more than on matched inputs.",
            paper="–",
            measure="loss after the window, leads less pairs of little potential that met in the same way; nats a "
            f"token ({group.group})",
            ours=None if fail is None else fail.value,
            low=None if fail is None else fail.low,
            high=None if fail is None else fail.high,
            verdict=_verdict(None if fail is None else fail.low, None if fail is None else fail.high, 0.0),
            why="Holds if the whole interval is above 0, does not if none of it is. Less the edit alone: "
            f"{_said(alone)}.",
        ),
    ]


def _said(its: Estimate | None, unit: str = "") -> str:
    return "too few to say" if its is None else f"{its.value:+.3f}{unit} ({its.low:+.3f} to {its.high:+.3f})"


def _answer(found: LeadsStudy) -> str:
    parts = []
    for group in found.groups:
        met, low = group.leads_met, group.matches_met
        claim = _claims(group)[1].verdict
        more = {
            "holds": "the model then fails more than where pairs of little potential meet in the same way",
            "does not hold": "the model then does not fail more than where pairs of little potential meet",
            "cannot tell": "whether the model then fails more cannot be told",
        }[claim]
        parts.append(
            f"{group.group}: {met.met} of {met.of} leads were brought together, and {low.met} of {low.of} pairs of "
            f"little potential; {more}: {_said(group.losses['after.over_together'], ' nats a token')}; over "
            f"the edit alone: {_said(group.losses['after.over_apart'], ' nats a token')}. Rank correlation of potential"
            f" and measured interaction: {_said(group.agreement)}; among leads: {_said(group.among_leads)}"
        )
    return "; ".join(parts) + "."


def _bars(found: LeadsStudy) -> Figure:
    shown = {"leads together": "lead", "little potential, together": "together", "the edit alone": "apart"}

    def series(group: GroupRecord) -> Series:
        its = [group.losses[f"after.{field}"] for field in shown.values()]
        return Series(
            name=group.group,
            x=tuple(shown),
            y=tuple(one and one.value for one in its),
            low=tuple(one and one.low for one in its),
            high=tuple(one and one.high for one in its),
            words=tuple(f"{group.counts[f'after.{field}']} leads" for field in shown.values()),
        )

    return Figure(
        id="losses",
        title="How much the loss grows after a window that brings two features together",
        kind="bars",
        x="inputs",
        y="loss after the window over the original text's, nats a token",
        series=tuple(series(group) for group in found.groups),
        note="Bars are means over the leads that have such inputs; the differences of the table are within cells.",
    )


def _points(found: LeadsStudy) -> Figure:
    def series(name: str, of: Callable[[LeadRecord], list[Searched]]) -> Series:
        pairs = [
            (its.host, one, one.interaction)
            for its_all in found.dictionaries
            for its in its_all.leads
            for one in of(its)
            if one.interaction is not None
        ]
        return Series(
            name=name,
            x=tuple(one.potential for _, one, _ in pairs),
            y=tuple(interaction for *_, interaction in pairs),
            words=tuple(f"{host} × {one.guest}, met {one.met} of {one.tried}" for host, one, _ in pairs),
        )

    return Figure(
        id="potential",
        title="What pairs do where they meet, against what was predicted",
        kind="points",
        x="potential: second difference of the neurons, both alone at typical strengths",
        y="the same where they meet",
        log_x=True,
        log_y=True,
        series=(series("leads", lambda its: [its.lead]), series("little potential", lambda its: its.matches)),
    )


def _table(found: LeadsStudy) -> Table:
    rows: list[dict[str, Cell]] = []
    for group in found.groups:
        for at, where in (("after", "after the window"), ("next", "at the meeting")):
            for field, against in (("over_together", "little potential, together"), ("over_apart", "the edit alone")):
                its = group.losses[f"{at}.{field}"]
                if (at, field) != ("next", "over_apart"):
                    rows.append(
                        {
                            "dictionaries": group.group,
                            "loss": where,
                            "leads less": against,
                            "leads": group.counts[f"{at}.{field}"],
                            "nats": None if its is None else its.value,
                            "low": None if its is None else its.low,
                            "high": None if its is None else its.high,
                        }
                    )
    return Table.of("How much more the loss grows on leads than on inputs matched to them", rows)


def _pairs_table(found: LeadsStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "dictionary": one.coder.group,
            "host": its.host,
            "guest": pair.guest,
            "which": "lead" if pair is its.lead else "match",
            "potential": pair.potential,
            "met": pair.met,
            "of": pair.tried,
            "strength": pair.strength,
            "interaction": pair.interaction,
            "by themselves": pair.by_themselves,
        }
        for one in found.dictionaries
        for its in one.leads[:10]
        for pair in (its.lead, *its.matches)
    ]
    columns = ("dictionary", "host", "guest", "which", "potential", "met", "of", "strength", "interaction")
    return Table(
        title="The first ten leads of each dictionary, and their matches",
        columns=(*columns, "by themselves"),
        rows=tuple(tuple(row.values()) for row in rows),
        note="by themselves: tokens of the second half on which the two meet without help. "
        + "; ".join(f"{one.coder.coder}: {one.n_pairs:,} pairs never meet" for one in found.dictionaries),
    )
