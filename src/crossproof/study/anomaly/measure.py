"""One dictionary on all texts: detectors are fitted on some, thresholds come from others, and the rest is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from crossproof.binding.account import measured_units
from crossproof.binding.interactions import choose_kinds
from crossproof.codes import Codes, Pattern
from crossproof.crosscoder.model import Crosscoder
from crossproof.files import read_json, read_safetensors, replace_folder, write_json, write_safetensors
from crossproof.progress import Advance, progress
from crossproof.study.anomaly.cases import CASES, Places, places, pooled
from crossproof.study.anomaly.detectors import DETECTORS, TOKEN_BY_TOKEN, Detectors, Looked, look
from crossproof.study.anomaly.probes import Probes
from crossproof.study.anomaly.roles import RARE, RoleSums, roles
from crossproof.study.anomaly.sampled import of_other_units, pair_strength
from crossproof.study.anomaly.texts import CLEAN, POISONED, Marked
from crossproof.subject.subject import Subject

Batch = Mapping[str, Marked]
"""Some texts in all their versions."""
COVARIANCE_TOKENS = 20_000
TENSORS, PASSAGES = "measured.safetensors", "passages.json"


@dataclass(frozen=True, eq=False)
class Split:
    """Three sets of texts that share none."""

    fit: Sequence[Batch]
    threshold: Sequence[Batch]
    """Their clean versions give thresholds; by how well detectors find their poison, those to compare are chosen."""
    scored: Sequence[Batch]

    @property
    def versions(self) -> list[str]:
        """All but the clean one."""
        return [name for name in self.scored[0] if name != CLEAN]

    @property
    def passes(self) -> int:
        """Texts that a model has to read."""
        texts = [sum(len(batch[CLEAN].part) for batch in its) for its in (self.fit, self.threshold, self.scored)]
        return 2 * (texts[0] + texts[1]) + len(self.scored[0]) * texts[2]


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores are not a number where there is none."""

    found: Float64[Tensor, "version case side detector text"]
    """In each version but the clean one, and beside it in the clean one."""
    reference: Float64[Tensor, "version case detector othertext"]
    """In the clean versions of the texts that thresholds come from, at the places of each version."""
    poisoned: Float64[Tensor, "case detector othertext"]
    """In the poisoned versions of the same."""
    roles: Float64[Tensor, "role text column"]
    quantiles: Float64[Tensor, "role measure quantile"]
    begins: Float64[Tensor, "anyversion text"]
    """1 where the model thinks that the bad answer follows the prompt; the clean version first."""
    passages: list[dict[str, Any]]
    """Token scores and shares of the first text, clean and poisoned."""

    def save(self, folder: Path) -> None:
        with replace_folder(folder) as new:
            tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
            write_safetensors(new / TENSORS, tensors)
            write_json(new / PASSAGES, self.passages)

    @classmethod
    def load(cls, folder: Path) -> Measured:
        return cls(**read_safetensors(folder / TENSORS), passages=read_json(folder / PASSAGES))


def measured(subject: Subject, coder: Crosscoder, split: Split, sample: int, seed: int) -> Measured:
    """`sample`: how many of the scored texts the costly detectors look at."""
    with progress(f"{subject.name}: texts", split.passes, "texts") as bar:
        return _Measuring(subject, coder, split, sample, seed, bar).result()


class _Measuring:
    def __init__(self, subject: Subject, coder: Crosscoder, split: Split, sample: int, seed: int, bar: Advance) -> None:
        self.subject, self.coder, self.split, self.sample, self.seed = subject, coder, split, sample, seed
        self.bar, self.sums = bar, RoleSums()
        self._fit()

    def result(self) -> Measured:
        reference = [self._reference(batch) for batch in self.split.threshold]
        found, begins, before = [], [], 0
        passages: list[dict[str, Any]] = []
        for batch in self.split.scored:
            looked = {name: self._look(marked) for name, marked in batch.items()}
            dense = {name: _dense(self.detectors(its), batch[name]) for name, its in looked.items()}
            passages = passages or self._passages(batch, dense)
            found.append(self._scores(batch, looked, dense, before))
            begins.append(_begins(batch, looked))
            rare = self.detectors.of_tokens(batch[CLEAN].tokens.ids) >= self.rare
            score, total = (TOKEN_BY_TOKEN.index(name) for name in ("token score", "contributions"))
            columns = ({name: values[at] for name, values in dense.items()} for at in (score, total))
            self.sums.add(roles(batch, rare), *columns)
            before += len(batch[CLEAN].part)
        by_text, quantiles = self.sums.by_text(), self.sums.quantiles()
        clean, poisoned = (torch.cat(side, -1) for side in zip(*reference, strict=True))
        return Measured(torch.cat(found, -1), clean, poisoned, by_text, quantiles, torch.cat(begins, -1), passages)

    def _look(self, marked: Marked) -> Looked:
        found = look(self.subject, self.coder, marked)
        self.bar(len(marked.part))
        return found

    def _fit(self) -> None:
        self.probes = Probes()
        clean, header_ids = [], []
        for batch in self.split.fit:
            looked = {name: self._look(batch[name]) for name in (CLEAN, POISONED)}
            at = {name: _dense(its.activation.T, batch[name]) for name, its in looked.items()}
            self.probes.add(places(batch[POISONED], batch[CLEAN]), at[POISONED], at[CLEAN])
            header_ids.append(batch[CLEAN].tokens.ids[batch[CLEAN].of("header")])
            clean.append(looked[CLEAN])
        self.probes.fit()
        ids, codes = torch.cat([its.ids for its in clean]), _joined([its.codes for its in clean])
        rows = torch.cat([its.activation for its in clean])
        some = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))[:COVARIANCE_TOKENS]
        self.detectors = Detectors.fitted(self.subject, self.coder, ids, codes, rows[some.to(rows.device)])
        rarity = self.detectors.of_tokens(torch.cat(header_ids)).sort().values
        self.rare = float(rarity[int(RARE * (len(rarity) - 1))]) if len(rarity) else float("inf")
        self.kinds = choose_kinds(self.subject, self.coder) if self.sample else ()
        if self.kinds:
            self.units = measured_units(self.subject, self.coder, codes, self.kinds, neurons=self.detectors.neurons)

    def _reference(
        self, batch: Batch
    ) -> tuple[Float64[Tensor, "version case detector text"], Float64[Tensor, "case detector text"]]:
        looked = {name: self._look(batch[name]) for name in (CLEAN, POISONED)}
        dense = {name: _dense(self.detectors(its), batch[name]) for name, its in looked.items()}
        activation = {name: _dense(its.activation.T, batch[name]) for name, its in looked.items()}

        def rows(name: str, of: str) -> Tensor:
            at = places(batch[name], batch[CLEAN])
            side = Places._fields.index("clean" if of == CLEAN else "here")
            return torch.stack([self._row(case, dense[of], activation[of], at[case][side]) for case in CASES])

        return torch.stack([rows(name, CLEAN) for name in self.split.versions]), rows(POISONED, POISONED)

    def _scores(
        self, batch: Batch, looked: Mapping[str, Looked], dense: Mapping[str, Tensor], before: int
    ) -> Float64[Tensor, "version case side detector text"]:
        activation = {name: _dense(its.activation.T, batch[name]) for name, its in looked.items()}
        at = {name: places(batch[name], batch[CLEAN]) for name in self.split.versions}
        extra = self._costly(batch, looked, dense, at, min(len(batch[CLEAN].part), self.sample - before))
        found = []
        for name in self.split.versions:
            for case in CASES:
                here, clean = at[name][case]
                sides = (name, here), (CLEAN, clean)
                rows = [self._row(case, dense[of], activation[of], mask, extra.get(of)) for of, mask in sides]
                found.append(torch.stack(rows))
        return torch.stack(found).unflatten(0, (len(self.split.versions), len(CASES)))

    def _row(
        self,
        case: str,
        dense: Float64[Tensor, "detector text pos"],
        activation: Float[Tensor, "width text pos"],
        mask: Bool[Tensor, "text pos"],
        extra: Float64[Tensor, "costly text pos"] | None = None,
    ) -> Float64[Tensor, "all text"]:
        """In the order of DETECTORS."""
        missing = torch.full((len(mask),), torch.nan, dtype=torch.float64)
        found = dict(zip(TOKEN_BY_TOKEN, pooled(dense, mask, case), strict=True))
        found["fitted on poisoned texts"] = self.probes.score(case, activation, mask)
        if extra is not None:
            found["Shapley-Taylor pairs"], found["all units"] = pooled(extra, mask, case)
        return torch.stack([found.get(name, missing) for name in DETECTORS])

    def _costly(
        self,
        batch: Batch,
        looked: Mapping[str, Looked],
        dense: Mapping[str, Float64[Tensor, "detector text pos"]],
        at: Mapping[str, Mapping[str, Places]],
        texts: int,
    ) -> dict[str, Float64[Tensor, "costly text pos"]]:
        """Shapley-Taylor at triggers and last tokens, all units in prompts, of the first so many texts."""
        if texts <= 0:
            return {}
        found = {}
        for name, marked in batch.items():
            single = [
                at[other][case][side]
                for other in at
                for case in ("trigger", "last")
                for side, of in enumerate((other, CLEAN))
                if of == name
            ]
            wanted = torch.stack(single).any(0) & marked.tokens.keep
            wanted[texts:] = False
            values = torch.full((2, *wanted.shape), torch.nan, dtype=torch.float64)
            rows = wanted[marked.tokens.keep].nonzero().squeeze(1).tolist()
            its = self.detectors
            values[0, wanted] = pair_strength(looked[name].codes, rows, its.neurons, its.W_out, self.seed)
            if self.kinds:
                others = of_other_units(self.subject, self.coder, marked[:texts], self.kinds, self.units)
                values[1, :texts] = dense[name][TOKEN_BY_TOKEN.index("token score"), :texts] + others
            found[name] = values
        return found

    def _passages(self, batch: Batch, dense: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        found = []
        for name in (CLEAN, POISONED):
            tokens = batch[name].tokens
            keep = tokens.keep[0]
            words = [self.subject.tokenizer.decode([each]) for each in tokens.ids[0, keep].tolist()]
            layers = {
                layer: dense[name][TOKEN_BY_TOKEN.index(layer), 0, keep].tolist() for layer in ("token score", "share")
            }
            found.append({"version": name, "words": words, "layers": layers})
        return found


def _begins(batch: Batch, looked: Mapping[str, Looked]) -> Float64[Tensor, "version text"]:
    answer = batch[POISONED].of("answer")
    first = torch.where(answer & (answer.cumsum(1) == 1), batch[POISONED].tokens.ids, 0).sum(1)
    found = []
    for name, marked in batch.items():
        last = places(marked, batch[CLEAN])["last"].here
        following = pooled(_dense(looked[name].next.double(), marked), last, "last")
        found.append(torch.where(following.isnan() | ~answer.any(1), torch.nan, (following == first).double()))
    return torch.stack(found)


def _dense(values: Float[Tensor, "*any token"], texts: Marked) -> Float[Tensor, "*any text pos"]:
    """Not a number where nothing is kept."""
    keep = texts.tokens.keep
    found = torch.full((*values.shape[:-1], *keep.shape), torch.nan, dtype=values.dtype)
    found[..., keep] = values.cpu()
    return found


def _joined(parts: Sequence[Codes]) -> Codes:
    """The codes of all texts, one after the other."""
    features = torch.cat([its.pattern.features for its in parts])
    counts = torch.cat([its.pattern.row_starts.diff() for its in parts])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Codes(Pattern(features, starts, parts[0].pattern.n_features), torch.cat([its.values for its in parts]))
