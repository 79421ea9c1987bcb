"""The ladder of proofs on models that read windows.

run.json  results.json  findings.json  certificates/SUBJECT/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from crossproof.errors import CrossproofError
from crossproof.proof import baselines
from crossproof.proof.certificate import of_windows, write
from crossproof.proof.check import check
from crossproof.proof.explanation import explain
from crossproof.proof.names import Names
from crossproof.proof.network import Network
from crossproof.proof.provable import Provable
from crossproof.proof.prove import How, Proof, Rivals, Truth, check_every_item, prove
from crossproof.proof.waterfall import waterfall
from crossproof.runs import Clock
from crossproof.study.base import once
from crossproof.study.ladder import dictionaries
from crossproof.study.ladder.config import LadderConfig
from crossproof.study.ladder.dictionaries import Learned
from crossproof.study.ladder.results import Checked, LadderStudy, Lines, Proved, SubjectRecord, WaterfallRecord

KIND = "ladder"
PAIRS_SHOWN = 20


def run(config: LadderConfig) -> LadderStudy:
    """Study, and write the run folder; a run that is finished is read."""

    def prepare() -> Callable[[], LadderStudy]:
        subjects = [Provable.open(name, None, config.characters) for name in config.subjects]
        twice = {of.name for of in subjects if [other.name for other in subjects].count(of.name) > 1}
        if twice:
            raise CrossproofError(f"subjects: {', '.join(twice)} is there twice; give each once")
        learned = dictionaries.opened(config, subjects)
        return lambda: study(config, subjects, learned)

    return once(config.out, KIND, config, LadderStudy, prepare)


def study(config: LadderConfig, subjects: list[Provable], learned: Mapping[str, list[Learned]]) -> LadderStudy:
    return LadderStudy(subjects=[_climbed(config, of, learned[of.name]) for of in subjects])


def _climbed(config: LadderConfig, of: Provable, learned: list[Learned]) -> SubjectRecord:
    network, items = of.network, of.items
    rivals, clock = Rivals.of(network, items), Clock()
    brutal = prove(network, items, How("brute"))
    truth = Truth.from_brute_force(brutal)
    proofs: list[Proof] = []
    rows: list[Proved] = []
    for how in (brutal.how, *rungs_for(config, network), *dictionaries.rungs_for(config, network, learned)):
        proof = brutal if how == brutal.how else prove(network, items, how)
        check_every_item(proof, truth)
        proofs.append(proof)
        rows.append(
            Proved(
                name=str(how),
                rung=how.rung,
                loss=_finite(proof.proved.loss),
                right=proof.proved.right,
                operations=proof.operations,
                seconds=clock.seconds(),
                dictionary=None if how.dictionary is None else how.dictionary.name,
            )
        )
        clock = Clock()
    best = _best(proofs, config.most * rivals.cached, math.log(network.vocabulary))
    folder = config.out / "certificates" / Path(of.name).name
    write(folder, of_windows(of, best, truth, rivals))
    clock = Clock()
    accepted, said = check(folder)
    checked = Checked(rung=str(best.how), accepted=accepted, said=said, seconds=clock.seconds())
    by_pairs = [proof for proof in proofs if proof.how.rung == "pairs"]
    return SubjectRecord(
        subject=of.name,
        windows=items.windows,
        contexts=len(items.contexts),
        truth=truth.loss,
        right=truth.right,
        cached=rivals.cached,
        naive=rivals.naive,
        lines=_lines(config, of, rivals, truth, rows),
        proved=rows,
        checked=checked,
        waterfall=_waterfall(of, min(by_pairs, key=lambda proof: proof.proved.loss), truth) if by_pairs else None,
        dictionaries=[dictionaries.recorded(config, of, its, proofs) for its in learned],
    )


def _best(proofs: list[Proof], most: float, vacuous: float) -> Proof:
    """The lowest bound of those that take no more operations, or the one that takes least. Only of those that say
    something and know the model through features, if there are any: the end of the ladder is cheap and vacuous."""
    telling = [proof for proof in proofs if proof.how.rung != "brute" and proof.proved.loss < vacuous] or proofs
    cheap = [proof for proof in telling if sum(proof.operations.values()) <= most]
    if not cheap:
        return min(telling, key=lambda proof: sum(proof.operations.values()))
    return min(cheap, key=lambda proof: proof.proved.loss)


def rungs_for(config: LadderConfig, network: Network) -> Iterator[How]:
    """What there is for a model beside brute force."""
    joined = 1 if network.has_attention else 2
    for read in config.read:
        yield How("masses", joined, read)
        if config.offsets:
            yield How("masses", joined, read, config.offsets)
    if network.n_mlps == 1:
        yield from (How("pairs", each) for each in range(1, joined + 1))
    if config.vectors and not network.has_attention and not network.norm:
        yield How("vectors", 1)
    yield How("uniform")


def _lines(config: LadderConfig, of: Provable, rivals: Rivals, truth: Truth, rows: list[Proved]) -> Lines:
    codes = explain(of.network, of.items, {}).codes
    largest = baselines.largest_loss(of.network, of.items, {})
    sampled = {}
    for row in rows:
        sample = baselines.sample_at(row.total, rivals.cached / len(of.items.contexts), truth, of.items, largest)
        sampled[row.name] = None if sample is None else sample.loss
    return Lines(
        uniform=math.log(of.network.vocabulary),
        unigram=baselines.unigram_entropy(of.items),
        additive=baselines.best_additive(codes, of.items, config.additive_steps) if config.additive_steps else None,
        largest=_finite(largest),
        sampled=sampled,
    )


def _waterfall(of: Provable, proof: Proof, truth: Truth) -> WaterfallRecord:
    found = waterfall(of.network, of.items, proof, truth, PAIRS_SHOWN)
    names = Names(of, proof.witness)
    return WaterfallRecord(
        rung=str(proof.how),
        truth=found.truth,
        centre=found.centre,
        bound=found.bound,
        families=[(names.family(a), names.family(b), paid) for a, b, paid in found.families],
        pairs=[(names.feature(a), names.feature(b), paid) for a, b, paid in found.pairs],
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
