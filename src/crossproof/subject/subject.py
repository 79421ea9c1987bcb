"""The model under study: its sites and units, and reading, patching and scoring it.

    subject = Subject.load("tinytales")
    sites = subject.find_sites(subject.default_sites())
    tokens = subject.texts(100)
    rows = subject.harvest(tokens, sites)                                  # one row per kept position
    subject.loss(tokens, {sites[1]: splice(tokens, rows[:, 1] * 0.9)})

A subject is studied and not trained: its model is in evaluation mode and its weights want no gradient. What a patch
returns may want one, and then the logits carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from crossproof.errors import CrossproofError, MismatchError, NonFinite, UnsupportedModel
from crossproof.subject import sites as site_rules
from crossproof.subject.patch import Patch, run
from crossproof.subject.tokens import NO_TARGET, Tokens, TokenSource

if TYPE_CHECKING:
    from crossproof.units import Unit

Sources = TokenSource | Mapping[str, TokenSource] | Callable[[str], TokenSource]
"""Texts: one source for every split, a source by split, or a function that opens the source of a split."""


_TEXTS_PER_BATCH = 64
_PROBED_TEXTS = 100


class Subject:
    """One model. `load` opens it by name; `wrap` takes any module with `run_with_cache` and `run_with_hooks`."""

    def __init__(
        self,
        model: Any,
        name: str,
        tokenizer: Any = None,
        source: Sources | None = None,
        prepend_bos: bool | None = None,
    ) -> None:
        """`prepend_bos`: whether texts begin with the beginning-of-text token; None: if the tokenizer has one."""
        if not isinstance(model, torch.nn.Module):
            raise UnsupportedModel(f"{type(model).__name__} is no torch.nn.Module: a subject's model must be one")
        missing = [needed for needed in ("run_with_cache", "run_with_hooks") if not hasattr(model, needed)]
        if missing:
            raise UnsupportedModel(
                f"{type(model).__name__} has no {' and no '.join(missing)}: wrap it in a model that has"
            )
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.prepend_bos = _has_bos(tokenizer) if prepend_bos is None else prepend_bos
        self._source = source
        config = getattr(model, "cfg", None)
        context = getattr(config, "n_ctx", None)
        self.context: int | None = context if isinstance(context, int) and context > 0 else None
        self._sites = site_rules.discover(model, self.context)
        self.sites: tuple[str, ...] = tuple(self._sites)
        self.n_layers: int = int(getattr(config, "n_layers", 0)) or _count_blocks(self.sites)
        self.d_model: int = int(getattr(config, "d_model", 0)) or self._widest_residual()

    @classmethod
    def load(
        cls, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, prepend_bos: bool | None = None
    ) -> Subject:
        """A member of the zoo, a Hugging Face folder or a model of the hub.

        Texts begin with the beginning-of-text token if the tokenizer has one, or as `prepend_bos` says.
        """
        from crossproof.subject.loading import load_model, load_texts

        _check_device(device)
        model = load_model(name, device, dtype)
        return cls(model, name, getattr(model, "tokenizer", None), load_texts(name), prepend_bos)

    @classmethod
    def wrap(
        cls,
        model: Any,
        name: str,
        tokenizer: Any = None,
        source: Sources | None = None,
        prepend_bos: bool | None = None,
    ) -> Subject:
        """A model that is already in memory: it is put in evaluation mode and its weights are frozen.

        Texts begin with the beginning-of-text token if the tokenizer has one, or as `prepend_bos` says.
        """
        tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        return cls(model, name, tokenizer, source, prepend_bos)

    def __repr__(self) -> str:
        return f"Subject({self.name!r}, {self.n_layers} blocks, d_model {self.d_model}, {len(self.sites)} sites)"

    @property
    def device(self) -> torch.device:
        return site_rules.device_of(self.model)

    @property
    def dtype(self) -> torch.dtype:
        parameter = next(iter(self.model.parameters()), None)
        return torch.float32 if parameter is None else parameter.dtype

    # Sites and units

    def find_sites(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """The sites that match any of the unix globs, in order of computation; a glob without a match is an error."""
        return site_rules.find([patterns] if isinstance(patterns, str) else patterns, self.sites)

    def default_sites(self) -> tuple[str, ...]:
        """The patterns of the paper's recipe: residual streams and norm outputs of every block."""
        return site_rules.recipe(self.sites)

    def width(self, site: str) -> int:
        return self._site(site).vector_width()

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The blocks between the sites, with their weights, in order of computation."""
        from crossproof.subject.extraction import extract_units

        return extract_units(self)

    # Texts

    def tokens(self, texts: Sequence[str], context: int | None = None) -> Tokens:
        """Texts as the model reads them: beginning-of-text first, cut to the context, padded on the right."""
        if self.tokenizer is None:
            raise CrossproofError(
                f"{self.name} has no tokenizer: give one to Subject.wrap, or take texts from source()"
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise CrossproofError("there are no texts to tokenize")
        read_windows: Any = getattr(self.model, "read_windows", None)
        if read_windows is not None:  # a model of windows knows which position counts
            windows: Tokens = read_windows(texts, context)
            return windows
        start = [_special_id(self.tokenizer, "bos", "eos")] if self.prepend_bos else []
        if context is not None and context < 1:
            raise CrossproofError(f"a context of {context} positions holds no tokens: give at least 1")
        length = min(context or self.context or 2**62, self.context or 2**62)
        rows = [(start + self.tokenizer.encode(text, add_special_tokens=False))[:length] for text in texts]
        longest = max(1, *map(len, rows))
        ids = torch.full((len(rows), longest), _special_id(self.tokenizer, "pad", "eos", "bos"))
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=ids.dtype)
        position = torch.arange(longest)
        lengths = torch.tensor([[len(row)] for row in rows])
        keep = (position >= len(start)) & (position < lengths)
        following = torch.cat([ids[:, 1:], torch.full((len(rows), 1), NO_TARGET)], dim=1)
        targets = torch.where(position < lengths - 1, following, NO_TARGET)
        return Tokens(ids, keep, targets)

    def source(self, split: str = "train", texts: Sequence[str] | str | Path | None = None) -> TokenSource:
        """The texts of a split: the subject's own, or those of a list or a file, of which every 20th is validation.

        A string is the path of a file.
        """
        from crossproof.subject.sources import TextSource, read_texts

        if texts is not None:
            texts = read_texts(Path(texts)) if isinstance(texts, str | Path) else texts
            self._check_known_words(texts[:_PROBED_TEXTS])
            return TextSource(texts, self.tokens, split)
        if self._source is None:
            raise CrossproofError(f"{self.name} brings no texts: give source() a list of texts or the path of a file")
        if isinstance(self._source, TokenSource):
            return self._source
        if not isinstance(self._source, Mapping):
            return self._source(split)
        if split not in self._source:
            raise CrossproofError(f"no split {split!r}: {self.name} has the splits {', '.join(self._source)}")
        return self._source[split]

    @property
    def has_texts(self) -> bool:
        """Whether the subject brings its own."""
        return self._source is not None

    def texts(self, count: int, split: str = "validation") -> Tokens:
        """The first texts of a split."""
        if count < 1:
            raise CrossproofError(f"no tokens: {count} texts were asked for; ask for at least 1")
        return self.source(split).tokens(0, count)

    def held_out(self, count: int, data: Path | None = None) -> Tokens:
        """The first validation texts, its own or those of a file, and fewer where there are fewer."""
        source = self.source("validation", data)
        # a short file begins again after its last text
        return source.tokens(0, min(count, source.texts_in_all or count))

    # Reading, patching and scoring

    def run(
        self, tokens: Tokens, sites: Sequence[str] = (), patch: Patch | None = None
    ) -> tuple[Float[Tensor, "text pos vocab"], dict[str, Tensor]]:
        """One forward pass under a patch: the logits, and the values at the sites as patched."""
        for site in (*sites, *(patch or ())):
            self._site(site)
        if tokens.ids.numel() == 0:
            raise CrossproofError(f"no tokens: {len(tokens)} texts of {tokens.ids.shape[1]} positions")
        if self.context is not None and tokens.ids.shape[1] > self.context:
            raise MismatchError(
                f"the texts are {tokens.ids.shape[1]} positions long and the context of {self.name} is {self.context}"
            )
        return run(self.model, tokens.ids.to(self.device), self._sites, sites, patch or {})

    def cache(
        self, tokens: Tokens, sites: Sequence[str], patch: Patch | None = None
    ) -> dict[str, Float[Tensor, "text pos width"]]:
        """The values at the sites, at every position, in the model's own units and dtype."""
        for site in sites:
            self.width(site)
        return self.run(tokens, sites, patch)[1]

    def harvest(self, tokens: Tokens, sites: Sequence[str]) -> Float[Tensor, "row site width"]:
        """The values at the kept positions, a row for each: text by text, position by position.

        One forward pass, to the logits: TransformerLens has no way to stop at a site that all models know.
        """
        widths = {site: self.width(site) for site in sites}
        if len(set(widths.values())) != 1:
            raise MismatchError(f"sites of one harvest must share a width, not {widths or 'be none at all'}")
        if tokens.n_kept == 0:
            raise CrossproofError(f"no tokens: none of the positions of these {len(tokens)} texts is kept")
        return self.kept(tokens, sites, self.cache(tokens, sites))

    def kept(
        self, tokens: Tokens, sites: Sequence[str], values: Mapping[str, Tensor]
    ) -> Float[Tensor, "row site width"]:
        """Of values at all positions, as `cache` gives them, those at the kept ones; refused if not finite."""
        keep = tokens.keep.to(self.device)
        rows = torch.stack([values[site][keep] for site in sites], dim=1).float()
        # One sum says of almost every batch that all is well, eight times as fast as a look at every number.
        if not rows.sum().isfinite() and not rows.isfinite().all():
            broken = ~rows.isfinite().all(-1)
            first = int(broken.any(0).nonzero()[0])
            text, position = keep.nonzero()[broken[:, first]][0].tolist()
            raise NonFinite(f"site {sites[first]} is not finite in text {text}, position {position}")
        return rows

    def logits(self, tokens: Tokens, patch: Patch | None = None) -> Float[Tensor, "text pos vocab"]:
        return self.run(tokens, (), patch)[0]

    def token_losses(self, tokens: Tokens, patch: Patch | None = None) -> Float[Tensor, "text pos"]:
        """The cross-entropy at every position, 0 where nothing is to be predicted."""
        logits = self.logits(tokens, patch)
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        targets = tokens.targets.to(logits.device)
        return F.cross_entropy(logits.mT, targets, ignore_index=NO_TARGET, reduction="none")

    def losses(self, tokens: Tokens, patch: Patch | None = None) -> Float[Tensor, " text"]:
        """The mean cross-entropy of each text over its targets; a text without any is not a number."""
        totals = self.token_losses(tokens, patch).sum(1)
        return totals / (tokens.targets != NO_TARGET).sum(1).to(totals.device)

    def loss(self, tokens: Tokens, patch: Patch | None = None) -> float:
        """The mean cross-entropy over all targets."""
        scored = int((tokens.targets != NO_TARGET).sum())
        if scored == 0:
            raise CrossproofError("no position of these tokens has a target: there is no loss to take the mean of")
        # A patch may hold the values of all the texts; without one, the texts need not be in memory together.
        batches = [tokens] if patch else tokens.batches(_TEXTS_PER_BATCH)
        return (
            sum(float(self.token_losses(batch, patch).detach().sum(dtype=torch.float64)) for batch in batches) / scored
        )

    def _check_known_words(self, texts: Sequence[str]) -> None:
        """Texts in words that the tokenizer does not have would train and score on one token."""
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        if unknown is None:
            return
        ids = [each for text in texts for each in self.tokenizer.encode(text, add_special_tokens=False)]
        share = ids.count(unknown) / max(1, len(ids))
        if share > 0.5:
            raise CrossproofError(
                f"{share:.0%} of the tokens of these texts are {self.tokenizer.unk_token!r}: "
                f"the tokenizer of {self.name} "
                f"({type(self.tokenizer).__name__}, {len(self.tokenizer)} tokens) lacks their words"
            )

    def _site(self, name: str) -> site_rules.Site:
        if name not in self._sites:
            site_rules.find([name], self.sites)
        return self._sites[name]

    def _widest_residual(self) -> int:
        widths = [site.width or 0 for name, site in self._sites.items() if ".hook_resid" in name]
        return max(widths, default=0)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise CrossproofError(f"there is no device {device!r} here ({why}); try cpu") from error


def _has_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer has a beginning-of-text token of its own.

    TransformerBridge lends a tokenizer without one its end-of-text token, and guesses from the architecture whether
    texts begin with it; what the tokenizer was made with tells.
    """
    made_with = getattr(tokenizer, "init_kwargs", {})
    if "eos_token" in made_with or "bos_token" in made_with:
        return made_with.get("bos_token") is not None
    return getattr(tokenizer, "bos_token_id", None) is not None


def _count_blocks(sites: Sequence[str]) -> int:
    return len({site.split(".")[1] for site in sites if site.startswith("blocks.")})


def _special_id(tokenizer: Any, *roles: str) -> int:
    """The id of the first of these roles that the tokenizer fills."""
    for role in roles:
        special = getattr(tokenizer, f"{role}_token_id", None)
        if special is not None:
            return int(special)
    raise CrossproofError(f"the tokenizer has no token for {' or '.join(roles)}: set one, texts must begin with it")
