"""Interactions on disk: a folder with a description, the sums and the tables. No model is in it.

    interactions.json     what was measured, and a hash of every other file
    account.safetensors   of all units: each text's interactions, and what each pair has in each of them; where it was
                          measured
    sums.safetensors      i, j, count, firing; for each metric its totals and squares, unit × pair; the
                          columns of pairs; the neurons of the first rows
    units, neurons, features, pairs .parquet

The table of pairs is there for other programs: it is made again from the sums when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from crossproof.errors import BadFile, MismatchError
from crossproof.files import complete_folder, read_json, read_safetensors, replace_folder, write_json, write_safetensors
from crossproof.interaction.account import Account
from crossproof.interaction.coactive import CoActive, PairSums
from crossproof.records import Kind

if TYPE_CHECKING:
    from crossproof.interaction.result import Interactions

DESCRIPTION, SUMS, ACCOUNT = "interactions.json", "sums.safetensors", "account.safetensors"
TABLES = ("pairs", "units", "neurons", "features")
FILES = (SUMS, *(f"{name}.parquet" for name in TABLES))
IN_RUN = "interactions"
"""The folder of a run that holds what it measured."""


class Description(BaseModel):
    """`interactions.json`."""

    model_config = ConfigDict(extra="forbid")
    library: Literal["crossproof"] = "crossproof"
    format_version: Literal[1] = 1
    about: str
    unit_names: tuple[str, ...]
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    account: dict[str, Kind] = {}
    """The units of the account and their kinds; none where there is no account."""
    n_features: int
    n_tokens: int
    files: dict[str, str]
    """The sha256 of each."""
    sha256: str = ""
    """Of all that stands above."""


def save(found: Interactions, folder: Path) -> None:
    if folder.exists() and not (folder / DESCRIPTION).exists() and (folder.is_file() or any(folder.iterdir())):
        raise MismatchError(f"{folder} holds something else, which saving there would replace; choose a new folder")
    coactive = found.coactive
    neuron, share = found.carriers
    tensors = {"i": coactive.i, "j": coactive.j, "count": coactive.count, "firing": coactive.firing}
    tensors |= {"carrier": neuron, "carrier_share": share}
    for metric, sums in found.sums.items():
        tensors[f"{metric}.total"] = torch.stack([its.total for its in sums])
        tensors[f"{metric}.squares"] = torch.stack([its.squares for its in sums])
    tensors |= {f"column.{name}": column for name, column in found.columns.items()}
    with replace_folder(folder) as new:
        write_safetensors(new / SUMS, tensors)
        if found.account is not None:
            write_safetensors(new / ACCOUNT, _tensors_of(found.account))
        for name in TABLES:
            getattr(found, name).to_parquet(new / f"{name}.parquet")
        description = Description(
            about=found.about,
            unit_names=found.unit_names,
            metrics=tuple(found.sums),
            columns=tuple(found.columns),
            account={} if found.account is None else dict(found.account.kinds),
            n_features=coactive.n_features,
            n_tokens=coactive.n_tokens,
            files={path.name: _hash_of_file(path) for path in sorted(new.iterdir())},
        )
        written = description.model_dump(mode="json") | {"sha256": _hash_of(description)}
        write_json(new / DESCRIPTION, written)


def load(given: Path) -> dict[str, Any]:
    """The fields of an `Interactions`."""
    import pandas as pd

    folder = complete_folder(given / IN_RUN) or complete_folder(given)
    if folder is None or not (folder / DESCRIPTION).is_file():
        raise BadFile(f"{given} holds no interactions: it has no {DESCRIPTION}")
    description = _described(folder)
    tensors = read_safetensors(folder / SUMS)
    coactive = CoActive(
        description.n_features,
        description.n_tokens,
        *(tensors[name] for name in ("i", "j", "count", "firing")),
    )

    def sums(metric: str) -> list[PairSums]:
        both = zip(tensors[f"{metric}.total"], tensors[f"{metric}.squares"], strict=True)
        return [PairSums(total, squares, coactive.count, coactive.n_tokens) for total, squares in both]

    def carriers(i: Tensor, j: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        return tensors["carrier"], tensors["carrier_share"]

    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES if name != "pairs"}
    return {
        "about": description.about,
        "unit_names": description.unit_names,
        "coactive": coactive,
        "sums": {metric: sums(metric) for metric in description.metrics},
        "columns": {name: tensors[f"column.{name}"] for name in description.columns},
        "find_carriers": carriers,
        "account": _account(folder, description, coactive),
        **tables,
    }


_ACROSS, _SAME = "across_tokens.", "on_same_token."


def _tensors_of(account: Account) -> dict[str, Tensor]:
    tensors = {"by_text": account.by_text, "tokens": account.tokens, "written": account.written}
    tensors |= {_SAME + name: table for name, table in account.on_same_token.items()}
    for name, table in account.across_tokens.items():
        where = table.flatten().nonzero().squeeze(1)
        if 2 * len(where) > table.numel():
            tensors[_ACROSS + name] = table
            continue
        # of few tokens most pairs never meet
        tensors |= {f"{_ACROSS}{name}.where": where.int(), f"{_ACROSS}{name}.values": table.flatten()[where]}
        tensors |= {f"{_ACROSS}{name}.shape": torch.tensor(table.shape)}
    return tensors


def _account(folder: Path, description: Description, coactive: CoActive) -> Account | None:
    if not description.account:
        return None
    tensors = read_safetensors(folder / ACCOUNT)

    def across(name: str) -> Tensor:
        if _ACROSS + name in tensors:
            return tensors[_ACROSS + name]
        where, values, shape = (tensors[f"{_ACROSS}{name}.{part}"] for part in ("where", "values", "shape"))
        return values.new_zeros(int(shape.prod())).index_put_((where.long(),), values).view(*shape.tolist())

    by_text, tokens, written = (tensors[name] for name in ("by_text", "tokens", "written"))
    same = {name: tensors[_SAME + name] for name in description.account if _SAME + name in tensors}
    others = {name: across(name) for name in description.account if name not in same}
    return Account(description.account, by_text, tokens, written, coactive, same, others)


def _described(folder: Path) -> Description:
    """The description, after comparing every file with what it says."""
    record = read_json(folder / DESCRIPTION)
    if not isinstance(record, dict) or record.get("library") != "crossproof":
        raise BadFile(f"{folder / DESCRIPTION} does not describe interactions (no field library: crossproof)")
    try:
        description = Description.model_validate(record)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadFile(f"{folder / DESCRIPTION}: {problems}") from error
    if description.sha256 != _hash_of(description):
        raise BadFile(f"{folder / DESCRIPTION} is not as it was written (sha256 differs)")
    for name in (*FILES, *([ACCOUNT] if description.account else [])):
        if not (folder / name).is_file():
            raise BadFile(f"{folder / name} is missing")
        if _hash_of_file(folder / name) != description.files.get(name):
            raise BadFile(f"{folder / name} is not as it was written (sha256 differs): it was truncated or edited")
    return description


def _hash_of(description: Description) -> str:
    # without an empty account: folders from before there were accounts do not name it
    unnamed = {"sha256"} if description.account else {"sha256", "account"}
    fields = description.model_dump(mode="json", exclude=unnamed)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
