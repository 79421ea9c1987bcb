"""Every way that we could think of to make a certificate say more than is proved, or nothing that can be read.

A `Change` alters a copy of a certificate. Its `culprit` is what the refusal has to name.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from crossproof.proof.certificate import CERTIFICATE, DATA, WEIGHTS, WITNESS
from tests.checker.made import read_claim, rehash, write_claim

FILES = (WEIGHTS, DATA, WITNESS)
OPTIONAL = ("tuples_", "offset_", "scale_", "dictionary")
"""Without these something else is what does not fit."""
SEQUENCES = "all sequences, target the maximum"
FREE = ("subject", "assumptions", "measured", "made")
"""Words that go with a statement. Nothing is derived from them, so that only their types can be wrong."""


@dataclass(frozen=True)
class Change:
    what: str
    culprit: str
    alter: Callable[[Path], object]


def all_changes(folder: Path) -> Iterator[Change]:
    """Those that must be refused, whatever the rung."""
    yield from fields(folder)
    yield from sizes_of_claims(folder)
    yield from operations(folder)
    yield from files(folder)
    yield from headers(folder)
    for file in FILES:
        yield from tensors(folder, file)
    for name in load_file(folder / WEIGHTS):
        for value in (np.nan, np.inf, -np.inf):
            yield tensor(f"{name} has {value}", WEIGHTS, name, name, lambda x, value=value: with_entry(x, value))


# The claim


def claim(what: str, culprit: str, alter: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path) -> None:
        its = read_claim(folder)
        alter(its)
        write_claim(folder, its)

    return Change(what, culprit, change)


def at(whole: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        whole = whole[step]
    return whole


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name in value:
            yield (*path, name)
            yield from paths(value[name], (*path, name)) if name not in ("made", "measured") else ()


def fields(folder: Path) -> Iterator[Change]:
    """Each field gone, of another type, or with another value; and one that should not be there."""
    whole = read_claim(folder)
    for path in paths(whole):
        old, where, culprit = at(whole, path), ".".join(path), path[-1]
        yield claim(f"{where} is gone", culprit, lambda its, p=path: at(its, p[:-1]).pop(p[-1]))
        wrong: list[Any] = [None, [1] if isinstance(old, dict) else {}, True if not isinstance(old, bool) else 1, [[]]]
        wrong += [float(old), str(old), -1, old + 10**30] if type(old) is int else []
        wrong += [int(old), str(old)] if isinstance(old, float) else []
        wrong += [old + "x", "", "\ud800", 0] if isinstance(old, str) and path[-1] not in FREE else []
        if isinstance(old, bool):
            yield claim(
                f"{where} is {not old}", "", lambda its, p=path, new=not old: at(its, p[:-1]).update({p[-1]: new})
            )
        for new in wrong:
            if new == [[]] and isinstance(old, list):
                continue
            yield claim(
                f"{where} is {new!a}", culprit, lambda its, p=path, new=new: at(its, p[:-1]).update({p[-1]: new})
            )
    for path in ((), ("statement",), ("model",), ("hashes",), ("operations",), ("brute_force",)):
        yield claim(f"{path} has a field more", "surprise", lambda its, p=path: at(its, p).update(surprise=1))
    yield claim("assumptions are no texts", "assumptions", lambda its: its.update(assumptions=[1]))


def sizes_of_claims(folder: Path) -> Iterator[Change]:
    whole = read_claim(folder)
    for less in (1e-6, 1e-3, 1.0, whole["statement"]["loss"], 1e6):
        yield claim(
            f"loss - {less}",
            "loss",
            lambda its, less=less: its["statement"].update(loss=at(its, ("statement", "loss")) - less),
        )
    for name, by in (("right", 1), ("right", 10**6), ("windows", 1), ("windows", -1), ("context", 1), ("context", -1)):
        new = whole["statement"][name] + by
        yield claim(f"{name} + {by}", name, lambda its, name=name, new=new: its["statement"].update({name: new}))
    for other in {"stream", SEQUENCES, "Stream", ""} - {whole["statement"]["data"]}:
        yield claim(f"data is {other}", "data", lambda its, o=other: its["statement"].update(data=o))
    for other in {"brute", "masses", "pairs", "vectors", "uniform", "groups", "Brute", "__doc__"} - {whole["rung"]}:
        yield claim(f"rung is {other}", "", lambda its, other=other: its.update(rung=other))
    for name, digest in whole["hashes"].items():
        for index in (0, 31, 63):
            new = digest[:index] + ("0" if digest[index] != "0" else "1") + digest[index + 1 :]
            yield claim(f"hash {name} {index}", name, lambda its, name=name, new=new: its["hashes"].update({name: new}))
        yield claim(f"hash {name} upper case", name, lambda its, n=name, d=digest: its["hashes"].update({n: d.upper()}))


def operations(folder: Path) -> Iterator[Change]:
    for group in ("operations", "brute_force"):
        for part, number in read_claim(folder)[group].items():
            for by in (-1, 1, -number):
                yield claim(
                    f"{group} {part} + {by}", part, lambda its, g=group, p=part, b=by: its[g].update({p: its[g][p] + b})
                )


# Files as bytes


def bytes_of(what: str, culprit: str, file: str, alter: Callable[[bytes], bytes], hashed: bool = True) -> Change:
    def change(folder: Path) -> None:
        (folder / file).write_bytes(alter((folder / file).read_bytes()))
        if hashed:
            rehash(folder)

    return Change(what, culprit, change)


def files(folder: Path) -> Iterator[Change]:
    for file in (CERTIFICATE, *FILES):
        size = (folder / file).stat().st_size
        hashed = file != CERTIFICATE
        for cut in sorted({0, 1, 7, 8, 9, size // 4, size // 2, size - 20, size - 2}):
            yield bytes_of(f"{file} ends at {cut}", file, file, lambda x, cut=cut: x[:cut], hashed)
            if hashed:
                yield bytes_of(f"{file} ends at {cut}, hash as it was", file, file, lambda x, c=cut: x[:c], False)
        yield Change(f"{file} is gone", file, lambda f, file=file: (f / file).unlink())
        yield Change(f"{file} is a folder", file, lambda f, file=file: ((f / file).unlink(), (f / file).mkdir()))
        yield Change(f"{file} is a link to itself", file, lambda f, n=file: ((f / n).unlink(), (f / n).symlink_to(n)))
        yield Change(f"{file} is a pipe", file, lambda f, n=file: ((f / n).unlink(), os.mkfifo(f / n)))
        yield bytes_of(f"{file} is random", file, file, lambda x: np.random.default_rng(0).bytes(len(x)), hashed)
    for what, text in (
        ("deep", b"[" * 100_000), ("deep object", b'{"a":' * 100_000), ("a number", b"1"), ("null", b"null"),
        ("empty", b""), ("long", b"9" * 100_000), ("nan", b"NaN"), ("a list", b"[]"),
        ("no UTF-8", b'"\xff"'), ("a string", b'"x"'),
    ):  # fmt: skip
        yield bytes_of(f"claim is {what}", CERTIFICATE, CERTIFICATE, lambda x, text=text: text, False)
    for old, new in (
        (b'"version": 1', b'"version": 1, "version": 1'), (b'"version": 1', b'"version": ' + b"1" * 5000),
        (b'"loss": ', b'"loss": 1e999, "x": '), (b'"loss": ', b'"loss": NaN, "x": '),
        (b'"loss": ', b'"loss": -Infinity, "x": '), (b'"right": ', b'"right": 1e3, "x": '),
        (b'"right": ', b'"right": ' + b"9" * 4000 + b', "x": '), (b"{", b"\xef\xbb\xbf{"),
    ):  # fmt: skip
        yield bytes_of(f"claim with {new[:30]!r}", "", CERTIFICATE, lambda x, o=old, n=new: x.replace(o, n, 1), False)


def headers(folder: Path) -> Iterator[Change]:
    """A header of safetensors that lies."""

    def header(what: str, file: str, alter: Callable[[dict[str, Any]], object], culprit: str = "") -> Change:
        def change(content: bytes) -> bytes:
            start = 8 + int.from_bytes(content[:8], "little")
            its = json.loads(content[8:start])
            its.pop("__metadata__", None)
            text = json.dumps(alter(its) or its).encode()
            return len(text).to_bytes(8, "little") + text + content[start:]

        return bytes_of(f"{file}: header: {what}", culprit or file, file, change)

    for file in FILES:
        for length in (0, 1, 2**31, 2**63, 2**64 - 1):
            yield bytes_of(
                f"{file}: header of {length}", file, file, lambda x, n=length: n.to_bytes(8, "little") + x[8:]
            )
        yield header("not an object", file, lambda its: list(its))
        names = list(load_file(folder / file))
        if not names:
            continue
        name = names[-1]
        for key, values in (
            ("dtype", ("F16", "BF16", "I8", "BOOL", "F8", "", 5, None)),
            ("shape", ([], [0], [-1], [2**62, 2**62], [True], [1.0], "x", [[1]], [10**30])),
            ("data_offsets", ([0], [], [0, 0], [4, 0], [-4, 0], [0, 2**40], [0, 10**30], ["0", 4], None)),
        ):  # fmt: skip
            for value in values:
                yield header(f"{key} is {value}", file, lambda its, k=key, v=value, n=name: its[n].update({k: v}), name)
            yield header(f"no {key}", file, lambda its, k=key, n=name: its[n].pop(k) and None, name)
        yield header("a field more", file, lambda its, n=name: its[n].update(x=1), name)
        yield header("a tensor twice", file, lambda its, n=name: its.update(again=dict(its[n])))
        yield header("a tensor is a number", file, lambda its, n=name: its.update({n: 1}), name)
        yield bytes_of(f"{file}: bytes of no tensor", file, file, lambda x: x + b"\0")


# Tensors


def tensor(what: str, file: str, name: str, culprit: str, alter: Callable[[Any], Any]) -> Change:
    """One tensor made another (None: gone), and hashes that fit."""

    def change(folder: Path) -> None:
        its = load_file(folder / file)
        new = alter(copy.deepcopy(its.pop(name)))
        save_file(its if new is None else its | {name: np.ascontiguousarray(new)}, folder / file)
        rehash(folder)

    return Change(f"{file}: {what}", culprit, change)


def with_entry(x: Any, value: Any, index: int = -1) -> Any:
    x.reshape(-1)[index] = value
    return x


def tensors(folder: Path, file: str) -> Iterator[Change]:
    for name, value in load_file(folder / file).items():
        named = "" if name.startswith(OPTIONAL) else name
        yield tensor(f"{name} is gone", file, name, named, lambda x: None)
        yield tensor(f"{name} with an axis more", file, name, name, lambda x: x[None])
        yield tensor(f"{name} flat with an axis more", file, name, name, lambda x: x.reshape(-1, 1, 1, 1))
        if name.startswith(("pairs", "tuples", "ratios", "dictionary")):
            continue  # one more or one less may be claimed of these; what is claimed of windows is below
        for dtype in (
            ("f2", "f8", "i8") if file == WEIGHTS else ("f2", "i1") if value.dtype.kind == "f" else ("f4", "i1")
        ):
            yield tensor(f"{name} as {dtype}", file, name, name, lambda x, dtype=dtype: x.astype(dtype))
        if file != DATA:
            yield tensor(f"{name} shorter", file, name, "", lambda x: x[:-1])
            yield tensor(f"{name} longer", file, name, "", lambda x: np.concatenate([x, x[:1]]))
    yield Change(f"{file} with a tensor more", "surprise" if file != DATA else DATA, lambda f: extra(f, file))


def extra(folder: Path, file: str) -> None:
    save_file(load_file(folder / file) | {"surprise": np.zeros(1, np.float32)}, folder / file)
    rehash(folder)
