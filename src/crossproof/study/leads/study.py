"""Do features that would interact, and were never seen together, make a model fail once they are brought together?

On one half of held-out texts the pairs are found (`pairs.py`), in the other inputs are made that may bring them
together (`search.py`). What such an edit does to the model is set beside two controls in the same texts, with windows
of the same lengths at the same places: pairs of little potential that were brought together by the same search, and
the inputs in which these are both active but do not meet, so that there is only the edit.

run.json  parts/ (a lead each)  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import codes_of
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import parts as parts_of
from crossproof.errors import CrossproofError
from crossproof.files import read_json, write_json
from crossproof.progress import progress
from crossproof.study.base import once
from crossproof.study.dictionaries import described
from crossproof.study.leads.config import LeadsConfig
from crossproof.study.leads.pairs import Half, Lead, find
from crossproof.study.leads.results import DictionaryRecord, LeadRecord, LeadsStudy, Losses, Searched, study_of
from crossproof.study.leads.search import Close, Trials, read, search, shown
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "leads"


def run(config: LeadsConfig) -> LeadsStudy:
    """Study, and write the run folder; a run that is finished is read, one that was killed goes on."""

    def prepare() -> Callable[[], LeadsStudy]:
        subject = Subject.load(config.subject)
        coders = [Crosscoder.from_pretrained(name) for name in config.coders]
        for coder in coders:
            parts_of(subject, coder)
            bound_mlps(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        if len(tokens) < 4:
            raise CrossproofError(f"texts: {len(tokens)} held-out ones are too few to be cut in two; give at least 4")
        return lambda: study(config, subject, coders, tokens, config.out / "parts")

    return once(config.out, KIND, config, LeadsStudy, prepare)


def study(
    config: LeadsConfig, subject: Subject, coders: Sequence[Crosscoder], tokens: Tokens, parts: Path | None = None
) -> LeadsStudy:
    """`parts`: where what is finished is kept, and read again."""
    halves = list(tokens.halves(config.seed))
    records = [
        DictionaryRecord(coder=about, **_measured(config, subject, coder, halves, parts and parts / str(number)))
        for number, (about, coder) in enumerate(zip(described(config.coders), coders, strict=True))
    ]
    return study_of(subject.name, len(halves[0]), len(halves[1]), records, config.seed)


def _measured(
    config: LeadsConfig, subject: Subject, coder: Crosscoder, halves: Sequence[Tokens], parts: Path | None
) -> dict[str, int | list[LeadRecord]]:
    seen = Half(halves[0], codes_of(subject, coder, halves[0]).active())
    found = find(neurons_of(subject, coder), seen, config.pairs)
    features = sorted({feature for lead in found.leads for feature in (lead.host, *lead.guests)})
    half, close = read(subject, coder, halves[1], features, found.typical)
    records = []
    with progress("searching inputs", len(found.leads), "leads") as bar:
        for number, lead in enumerate(found.leads):
            file = parts and parts / f"{number}.json"
            if file and file.exists():
                record = LeadRecord.model_validate(read_json(file))
            else:
                record = _searched(config, subject, coder, half, close, lead, found.typical, number)
                if file:
                    write_json(file, record.model_dump(mode="json"))
            records.append(record)
            bar(1)
    return {"n_pairs": found.n_pairs, "leads": records}


def _searched(
    config: LeadsConfig, subject: Subject, coder: Crosscoder, half: Half, close: Close, lead: Lead, typical: Tensor,
    number: int,
) -> LeadRecord:  # fmt: skip
    seed = config.seed * 1_000_003 + number
    trials, best = search(subject, coder, half, close, lead.host, lead.guests, typical, config.tries, seed)
    found = [
        Searched(
            guest=guest,
            potential=score,
            by_themselves=len(half.meetings(lead.host, guest)),
            tried=len(its.cell),
            met=int(its.met.sum()),
            strength=_mean(its.strength[its.met]),
            interaction=_mean(its.interaction[its.met]),
        )
        for guest, score, its in zip(lead.guests, lead.potentials, trials, strict=True)
    ]
    return LeadRecord(
        host=lead.host,
        lead=found[0],
        matches=found[1:],
        after=losses(trials[0], trials[1:], "after"),
        next=losses(trials[0], trials[1:], "next"),
        passage=None if best is None else shown(subject, coder, best, (lead.host, lead.guests[0]), typical),
    )


def losses(lead: Trials, matches: Sequence[Trials], at: Literal["after", "next"]) -> Losses:
    """Means over the cells in which the lead meets, and how much more that is than in the same cells of a control.

    The loss at the meeting itself does not exist where the two do not meet, so there the edit alone is no control.
    """

    def by_cell(trials: Trials, which: Tensor) -> dict[int, list[float]]:
        values = getattr(trials, at)
        found: dict[int, list[float]] = {}
        for cell, value, fine in zip(trials.cell.tolist(), values.tolist(), which & values.isfinite(), strict=True):
            if fine:
                found.setdefault(cell, []).append(value)
        return found

    own = {cell: sum(its) / len(its) for cell, its in by_cell(lead, lead.met).items()}

    def against(which: Literal["met", "apart"]) -> tuple[float | None, float | None]:
        cells: dict[int, list[float]] = {}
        for its in matches:
            for cell, values in by_cell(its, getattr(its, which)).items():
                cells.setdefault(cell, []).extend(values)
        means = {cell: sum(its) / len(its) for cell, its in cells.items() if cell in own}
        return _average(list(means.values())), _average([own[cell] - mean for cell, mean in means.items()])

    together, apart = against("met"), against("apart")
    return Losses(
        lead=_average(list(own.values())),
        together=together[0],
        over_together=together[1],
        apart=apart[0],
        over_apart=apart[1],
    )


def _average(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean(values: Tensor) -> float | None:
    return _average(values.tolist())
