"""A model that something can be proved of, with the data that it is proved on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from crossproof.errors import BadFile, CrossproofError, UnsupportedModel
from crossproof.proof.network import Network
from crossproof.proof.statement import Items
from crossproof.subject import zoo
from crossproof.subject.zoo.window_model import WEIGHTS, load
from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES, is_window_folder
from crossproof.subject.zoo.windows import Characters, cut_windows, text_windows


@dataclass(frozen=True)
class Provable:
    """A model of windows and the data that something is to be proved of."""

    name: str
    weights: Path
    network: Network
    characters: tuple[str, ...]
    stream: Tensor
    items: Items

    @classmethod
    def open(cls, subject: str, data: Path | None = None, characters: int | None = None) -> Provable:
        folder = folder_of(subject)
        model = load(folder)
        network = Network.of(model.state_dict(), model.config.norm)
        if model.tokenizer is None:
            raise UnsupportedModel(
                f"{subject} reads no text: its data are all windows there are, and its proof is `crossproof certify "
                f"{subject} --rung groups`"
            )
        stream = _stream(model.tokenizer, network.context, data)[:characters]
        if len(stream) <= network.context:
            raise CrossproofError(
                f"the data has {len(stream)} characters and the model reads {network.context}: there is no window with "
                "a character after it"
            )
        items = Items.of(cut_windows(stream, network.context))
        return cls(subject, folder / WEIGHTS, network, model.tokenizer.characters, stream, items)


def folder_of(subject: str) -> Path:
    """Where a model that reads windows is."""
    folder = zoo.folder(subject) if subject in zoo.names() else Path(subject)
    if not is_window_folder(folder):
        raise UnsupportedModel(
            f"{subject} is no model that reads windows: proofs are of {', '.join(WINDOW_RECIPES)}, or of a folder "
            "that such a training wrote"
        )
    return folder


def _stream(tokenizer: Characters, context: int, data: Path | None) -> Tensor:
    if data is None:
        stream = text_windows(context=context).stream
        assert stream is not None
        return stream
    try:
        return torch.tensor(tokenizer.encode(data.read_text(encoding="utf-8")), dtype=torch.uint8)
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{data} cannot be read as text: {error}") from error
    except CrossproofError as error:
        raise BadFile(f"{data}: {error}") from error
