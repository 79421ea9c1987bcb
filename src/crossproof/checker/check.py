"""Checks a certificate: `python check.py FOLDER` derives its bound again, with numpy and python-flint alone.

    files      certificate.json and the tensors, read strictly; hashes compared
    Real       arrays of real numbers within a radius of what float64 made of them; each operation counts itself
    features   what the model's tokens say to its neurons and logits
    RUNGS      one function for each way to prove: from features to upper ends of logit_v - logit_target
    groups     the same for all sequences there are, many windows at a time
    main       prints the statement and exits with 0, or says `REFUSED: what is wrong` and exits with 1

What a certificate is, and what counts as an operation, is said in docs/certificates.md. Whatever the files hold, what
is accepted is true: of the witness nothing is believed, and only what was derived here is compared with the statement.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations, pairwise
from operator import add
from typing import Any, NamedTuple

import flint
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Refused(Exception):
    """What is wrong with a certificate, and where."""


def need(fine: bool | np.bool_, otherwise: str) -> None:
    if not fine:
        raise Refused(otherwise)


# Files

CERTIFICATE, WEIGHTS, DATA, WITNESS = (
    "certificate.json", "weights.safetensors", "data.safetensors", "witness.safetensors",
)  # fmt: skip
LARGEST = 2**31
"""Bytes of a file."""
SEQUENCES = "all sequences, target the maximum"
FIELDS = {
    "format": str, "version": int, "rung": str, "model": {"kind": str, "norm": bool},
    "statement": {"subject": str, "loss": float, "right": int, "windows": int, "context": int, "data": str},
    "hashes": dict, "operations": dict, "brute_force": {"cached": int, "naive": int},
    "assumptions": list, "measured": dict, "made": dict,
}  # fmt: skip
DTYPES = {"F32": "<f4", "F64": "<f8", "U8": "u1", "U16": "<u2", "I32": "<i4", "I64": "<i8"}


def read(folder: str, name: str) -> bytes:
    path = os.path.join(folder, name)
    try:
        its = os.stat(path)
        need(stat.S_ISREG(its.st_mode), f"{name}: not a file")
        need(its.st_size <= LARGEST, f"{name}: larger than {LARGEST} bytes")
        with open(path, "rb") as file:
            return file.read(LARGEST)
    except (OSError, ValueError) as error:
        raise Refused(f"{name}: cannot be read ({type(error).__name__})") from error


def parsed(text: bytes, where: str) -> Any:
    """JSON without NaN, infinities and names that are there twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), f"{where}: a name is there twice")
        return dict(pairs)

    def finite(number: str) -> float:
        need(math.isfinite(float(number)), f"{where}: {number} is not a finite number")
        return float(number)

    try:
        return json.loads(text.decode(), object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where}: not JSON ({type(error).__name__})") from error


def fit(value: Any, kind: Any, where: str) -> None:
    """That a value of the certificate is of its type, with all its fields and no others."""
    need(type(value) is (dict if isinstance(kind, dict) else kind), f"{where}: of the wrong type")
    if isinstance(kind, dict):
        for name in kind:
            need(name in value, f"{where}: {name} is missing")
            fit(value[name], kind[name], f"{where}: {name}")
        for name in value:
            need(name in kind, f"{where}: {name!a} is unknown")


def tensors(content: bytes, where: str) -> dict[str, Array]:
    """safetensors: eight bytes for the length of a JSON header, the header, and numbers that fill the file exactly."""
    need(len(content) >= 8, f"{where}: truncated")
    start = 8 + int.from_bytes(content[:8], "little")
    need(start <= len(content), f"{where}: truncated, or its header is not as long as it says")
    header = parsed(content[8:start], where)
    need(isinstance(header, dict), f"{where}: its header is not an object")
    header.pop("__metadata__", None)
    found, ends = {}, []
    for name, entry in header.items():
        at = f"{where}: {name!a}"
        fit(entry, {"dtype": str, "shape": list, "data_offsets": list}, at)
        shape, offsets = entry["shape"], entry["data_offsets"]
        need(all(type(n) is int and 0 <= n <= LARGEST for n in shape + offsets), f"{at}: bad shape or offsets")
        need(len(offsets) == 2 and len(shape) <= 8, f"{at}: bad shape or offsets")
        need(entry["dtype"] in DTYPES, f"{at}: of a type that no certificate holds")
        dtype, (begin, end) = np.dtype(DTYPES[entry["dtype"]]), offsets
        need(end - begin == math.prod(shape) * dtype.itemsize, f"{at}: its offsets do not fit its shape")
        need(start + end <= len(content), f"{at}: truncated")
        found[name] = np.frombuffer(content[start + begin : start + end], dtype).reshape(shape)
        need(dtype.kind != "f" or np.isfinite(found[name]).all(), f"{at}: a number is not finite")
        ends.append((begin, end))
    edges = [(0, 0), *sorted(ends), (len(content) - start,)]
    need(all(before[1] == after[0] for before, after in pairwise(edges)), f"{where}: bytes of no tensor or of two")
    return found


# Real numbers that count what is done with them

U, UP, TINY = 2.0**-53, 1 + 2.0**-44, 1e-300
"""Half a unit in the last place of 1; what covers the roundings of a radius; what covers underflow."""
operations: Counter[str] = Counter()
_parts = ["other"]


@contextmanager
def part(name: str) -> Iterator[None]:
    """What is done inside belongs to this part of the proof."""
    _parts.append(name)
    yield
    _parts.pop()


def count(*shape: int) -> None:
    operations[_parts[-1]] += math.prod(shape)


def gamma(n: int) -> float:
    """The relative error of n roundings in any order, and more."""
    return n * U / (1 - n * U) * UP


class Real:
    """|true - mid| <= rad for each number of an array."""

    __array_ufunc__ = None

    def __init__(self, mid: Any, rad: Any = None) -> None:
        self.mid: Array = np.asarray(mid, np.float64)
        self.rad: Array = np.zeros(self.mid.shape) if rad is None else rad

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mid.shape

    def __len__(self) -> int:
        return len(self.mid)

    def filled(self, value: float, *shape: int) -> Real:
        return Real(np.full(shape, value))

    # Free: moving numbers about

    def __getitem__(self, index: Any) -> Real:
        return Real(self.mid[index], self.rad[index])

    def reshape(self, *shape: int) -> Real:
        return Real(self.mid.reshape(shape), self.rad.reshape(shape))

    @property
    def T(self) -> Real:
        return Real(self.mid.T, self.rad.T)

    def __neg__(self) -> Real:
        return Real(-self.mid, self.rad)

    def __abs__(self) -> Real:
        return Real(abs(self.mid), self.rad)

    def upper(self) -> Real:
        """Numbers that no true one exceeds, taken as they are; infinity for what is not a number."""
        up = np.where(self.rad == 0, self.mid, np.nextafter(self.mid + self.rad, np.inf))
        return Real(np.where(np.isnan(up), np.inf, up))

    def but(self, where: Array, value: float) -> Real:
        return Real(np.where(where, value, self.mid), np.where(where, 0.0, self.rad))

    # Counted

    def __add__(self, other: Real | float) -> Real:
        other = real(other)
        mid = self.mid + other.mid
        count(*mid.shape)
        return Real(mid, (self.rad + other.rad + U * abs(mid)) * UP)

    def __sub__(self, other: Real | float) -> Real:
        return self + -real(other)

    def __mul__(self, other: Real | float) -> Real:
        other = real(other)
        mid = self.mid * other.mid
        count(*mid.shape)
        rad = abs(self.mid) * other.rad + self.rad * (abs(other.mid) + other.rad)
        return Real(mid, (rad + U * abs(mid) + TINY) * UP)

    def __truediv__(self, other: Real | float) -> Real:
        """Anything may come of a division by what may be zero."""
        other = real(other)
        least = np.nextafter(abs(other.mid) - other.rad, -np.inf)
        mid = np.where(least > 0, self.mid / other.mid, 0.0)
        count(*mid.shape)
        rad = ((self.rad + (abs(mid) + TINY) * other.rad) / least + U * abs(mid) + TINY) * UP
        return Real(mid, np.where(least > 0, rad, np.inf))

    def __matmul__(self, other: Real) -> Real:
        n = other.shape[-2]
        mid, size = self.mid @ other.mid, abs(other.mid)
        count(2 * n, *mid.shape)
        rad = abs(self.mid) @ (other.rad + gamma(n + 2) * size) + self.rad @ (size + other.rad)
        return Real(mid, (rad + n * TINY) * (1 + 2 * gamma(n + 4)) * UP)

    def sum(self, axis: int) -> Real:
        n = self.shape[axis]
        count(*self.shape)
        rad = self.rad.sum(axis) + gamma(n) * abs(self.mid).sum(axis)
        return Real(self.mid.sum(axis), rad * (1 + 2 * gamma(n + 2)) * UP)

    def max(self, axis: int) -> Real:
        count(*self.shape)
        return Real(self.mid.max(axis), self.rad.max(axis))

    def relu(self) -> Real:
        count(*self.shape)
        return Real(np.maximum(self.mid, 0), self.rad)

    def maximum(self, other: Real) -> Real:
        mid = np.maximum(self.mid, other.mid)
        count(*mid.shape)
        return Real(mid, np.broadcast_to(np.maximum(self.rad, other.rad), mid.shape))

    def minimum(self, other: Real) -> Real:
        return -(-self).maximum(-other)

    def exp(self) -> Real:
        mid = np.exp(self.mid)
        count(*mid.shape)
        rad = (mid + TINY) * np.expm1(self.rad) * (1 + 16 * U) + 8 * U * mid + TINY
        return Real(mid, rad * (1 + 16 * U) * UP)

    def log(self) -> Real:
        """Of what is certainly positive; anything may come of the rest."""
        off = self.rad / self.mid * UP
        sure = (self.mid > 0) & (off < 1)
        mid = np.log(np.where(sure, self.mid, 1.0))
        count(*mid.shape)
        rad = (8 * U * abs(mid) - np.log1p(-np.where(sure, off, 0.0)) * (1 + 8 * U) + TINY) * UP
        return Real(mid, np.where(sure, rad, np.inf))

    def sqrt(self) -> Real:
        """Of what is not negative, though its midpoint may be."""
        mid = np.sqrt(np.maximum(self.mid, 0))
        count(*mid.shape)
        rad = np.minimum(self.rad / np.maximum(mid, TINY), np.sqrt(self.rad))
        return Real(mid, (rad + U * mid + TINY) * UP)

    def combined(self, codes: Array, strengths: Real | None = None) -> Real:
        """The sum over families of strength x row, [row, family] and a table of rows."""
        (rows, n), width = codes.shape, self.shape[1]
        count(rows, n, width, 1 if strengths is None else 2)
        mid, rad, size = np.zeros((rows, width)), np.zeros((rows, width)), np.zeros((rows, width))
        for family in range(n):
            m, r = self.mid[codes[:, family]], self.rad[codes[:, family]]
            if strengths is not None:
                s, t = strengths.mid[:, family, None], strengths.rad[:, family, None]
                m, r = m * s, r * (abs(s) + t) + abs(m) * t
            mid, rad, size = mid + m, rad + r, size + abs(m)
        return Real(mid, (rad + gamma(n + 2) * size + n * TINY) * (1 + 2 * gamma(n + 4)) * UP)


class Shape(Real):
    """A shape without numbers, with which the same programs do nothing but count."""

    def __init__(self, *shape: int) -> None:
        super().__init__(np.broadcast_to(np.float64(0), shape), np.broadcast_to(np.float64(0), shape))

    def filled(self, value: float, *shape: int) -> Real:
        return Shape(*shape)

    def __getitem__(self, index: Any) -> Real:
        return Shape(*np.broadcast_to(np.int8(0), self.shape)[index].shape)

    def reshape(self, *shape: int) -> Real:
        return Shape(*shape)

    @property
    def T(self) -> Real:
        return Shape(*self.shape[::-1])

    def _itself(self, *_: Any) -> Real:
        return self

    def _each(self) -> Real:
        count(*self.shape)
        return self

    def _with(self, other: Real | float) -> Real:
        shape = np.broadcast_shapes(self.shape, real(other).shape)
        count(*shape)
        return Shape(*shape)

    def _along(self, axis: int) -> Real:
        count(*self.shape)
        kept = list(self.shape)
        del kept[axis]
        return Shape(*kept)

    __neg__ = __abs__ = upper = _itself
    but = _itself  # type: ignore[assignment]
    relu = exp = log = sqrt = _each
    __add__ = __sub__ = __mul__ = __truediv__ = maximum = _with
    sum = max = _along

    def __matmul__(self, other: Real) -> Real:
        shape = (*self.shape[:-1], *other.shape[1:])
        count(2 * other.shape[0], *shape)
        return Shape(*shape)

    def combined(self, codes: Array, strengths: Real | None = None) -> Real:
        count(*codes.shape, self.shape[1], 1 if strengths is None else 2)
        return Shape(len(codes), self.shape[1])


def real(number: Real | float) -> Real:
    return number if isinstance(number, Real) else Real(number)


def stacked(*parts: Real, axis: int = 0) -> Real:
    if isinstance(parts[0], Shape):
        shape = list(parts[0].shape)
        shape[axis] = sum(each.shape[axis] for each in parts)
        return Shape(*shape)
    return Real(np.concatenate([p.mid for p in parts], axis), np.concatenate([p.rad for p in parts], axis))


def centred(x: Real) -> Real:
    return x - (x.sum(-1) / float(x.shape[-1]))[..., None]


def shifted(x: Real) -> Real:
    """Less the largest midpoint of each row, which changes no softmax and keeps exp in range."""
    count(*x.shape)
    return x - Real(x.mid.max(-1, keepdims=True))


def softmax(scores: Real) -> Real:
    weights = shifted(scores).exp()
    return weights / weights.sum(-1)[..., None]


def normalised(x: Real) -> Real:
    c = centred(x)
    return c / ((c * c).sum(-1) / float(x.shape[-1]) + EPSILON).sqrt()[..., None]


# The model, the data, the witness

EPSILON = 1e-5


@dataclass(frozen=True)
class Model:
    """x_t = W_E[t, token]; stream = x_last + attention, or the sum of x; for each MLP stream += relu(n W_in + b_in)
    W_out + b_out; logits = stream W_U. What attention and MLPs read is n, the vector or its normalisation."""

    weights: dict[str, Real]
    norm: bool

    @staticmethod
    def of(found: dict[str, Array], norm: bool) -> Model:
        def shape(name: str, axes: int) -> tuple[int, ...]:
            need(name in found, f"{WEIGHTS}: {name} is missing")
            need(found[name].ndim == axes and found[name].size > 0, f"{WEIGHTS}: {name}: wrong shape")
            return found[name].shape

        context, vocabulary, d = shape("W_E", 3)
        shapes: dict[str, tuple[int, ...]] = {"W_E": (context, vocabulary, d), "W_U": (d, vocabulary)}
        if any(name.startswith("attn.") for name in found):
            shapes |= {f"attn.W_{name}": (d, d) for name in "QKVO"}
        mlps = {name.split(".")[1] for name in found if name.startswith("mlps.")}
        for at in (f"mlps.{mlp}" for mlp in range(len(mlps))):
            _, m = shape(f"{at}.W_in", 2)
            shapes |= {f"{at}.W_in": (d, m), f"{at}.b_in": (m,), f"{at}.W_out": (m, d), f"{at}.b_out": (d,)}
        for name, value in found.items():
            need(name in shapes, f"{WEIGHTS}: {name!a} is unknown")
            need(value.shape == shapes[name], f"{WEIGHTS}: {name}: its shape is {value.shape}, not {shapes[name]}")
            need(value.dtype == "<f4", f"{WEIGHTS}: {name}: not float32")
        for name in shapes:
            need(name in found, f"{WEIGHTS}: {name} is missing")
        return Model({name: Real(value) for name, value in found.items()}, norm)

    def shapes(self) -> Model:
        return Model({name: Shape(*value.shape) for name, value in self.weights.items()}, self.norm)

    def __getitem__(self, name: str) -> Real:
        return self.weights[name]

    @property
    def attention(self) -> bool:
        return "attn.W_Q" in self.weights

    @property
    def scale(self) -> Real:
        """1 / √width."""
        scale = 1 / math.sqrt(self["W_E"].shape[2])
        return Real(scale, np.asarray(4 * U * scale))

    @property
    def mlps(self) -> list[tuple[Real, ...]]:
        """W_in, b_in, W_out, b_out."""
        number = sum(name.endswith(".W_in") for name in self.weights)
        return [tuple(self[f"mlps.{mlp}.{n}"] for n in ("W_in", "b_in", "W_out", "b_out")) for mlp in range(number)]

    def between(self) -> list[list[Real]]:
        """For each MLP, from each before it: what its neurons say to the neurons."""
        mlps = self.mlps
        return [[before[2] @ mlp[0] for before in mlps[:number]] for number, mlp in enumerate(mlps)]


class Some(NamedTuple):
    """A run of contexts, and for each of their items which of them it has, and its target."""

    contexts: slice
    context: Array
    target: Array


class Data(NamedTuple):
    """Contexts in lexical order, and items in theirs: a context, a target, and how often they are there."""

    contexts: Array
    context: Array
    target: Array
    times: Array
    windows: int

    @staticmethod
    def of_stream(found: dict[str, Array], context: int, vocabulary: int) -> Data:
        need(set(found) == {"stream"}, f"{DATA}: it must hold stream and nothing else")
        stream = found["stream"]
        need(stream.dtype == "u1" and stream.ndim == 1, f"{DATA}: stream: not a row of uint8")
        need(len(stream) > context, f"{DATA}: stream: too short for a window and its target")
        need(stream.max() < vocabulary, f"{DATA}: stream: a token is not of the vocabulary")
        rows = np.lib.stride_tricks.sliding_window_view(stream, context + 1)
        rows = rows[np.lexsort(rows.T[::-1])]
        new = np.vstack([np.ones(context + 1, bool), rows[1:] != rows[:-1]])
        item, fresh = new.any(1), new[:, :-1].any(1)
        times = np.diff(np.append(np.flatnonzero(item), len(rows)))
        codes = np.cumsum(fresh)[item] - 1
        return Data(rows[fresh, :-1].astype(np.int64), codes, rows[item, -1].astype(np.int64), times, len(rows))

    def some(self, size: int) -> Iterator[Some]:
        for start in range(0, len(self.contexts), size):
            its = slice(start, min(start + size, len(self.contexts)))
            low, high = np.searchsorted(self.context, (its.start, its.stop))
            yield Some(its, self.context[low:high] - start, self.target[low:high])


@dataclass
class Witness:
    """Tensors that somebody claims to help. Each is looked at before it is used."""

    tensors: dict[str, Array]
    used: set[str] = field(default_factory=set)

    def _take(self, name: str, shape: tuple[int | None, ...], kinds: str) -> Array:
        """None is any length."""
        need(name in self.tensors, f"{WITNESS}: {name} is missing")
        self.used.add(name)
        found = self.tensors[name]
        fits = found.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
        need(fits, f"{WITNESS}: {name}: its shape is {found.shape}, not {shape}")
        need(found.dtype.kind in kinds, f"{WITNESS}: {name}: of the wrong type")
        return found

    def finish(self) -> None:
        """That everything was of use."""
        for name in self.tensors:
            need(name in self.used, f"{WITNESS}: {name!a} is unknown to this rung")

    def indices(self, name: str, shape: tuple[int | None, ...], below: int | None = None) -> Array:
        found = self._take(name, shape, "iu")
        need(
            below is None or ((found >= 0) & (found < below)).all(), f"{WITNESS}: {name}: an index is not below {below}"
        )
        return found

    def numbers(self, name: str, shape: tuple[int | None, ...], positive: bool = False) -> Array:
        found = self._take(name, shape, "f")
        need(not positive or (found > 0).all(), f"{WITNESS}: {name}: a number is not positive")
        return found


# Features


class Features(NamedTuple):
    """A window has one feature of each family; what a neuron or a logit hears is the sum of strength x table[code].

    Features are tokens at positions; or tokens at several neighbouring positions at once, as far as the witness lists
    them; or with attention, what the head carries over from a position, and last the query itself. Biases belong to the
    last family, which is always there with strength 1. Under a norm the neurons hear everything over its scale rho
    (relu(x W/rho + b) = relu(x W + rho b)/rho), but the bias: it is a feature of its own there.
    """

    codes: Array
    tables: list[Real]
    """For each MLP [feature, neuron], through the stream alone."""
    direct: Real
    """[feature, token]"""
    strengths: Callable[[slice], tuple[Real | None, Real | None]]
    """[context, family] to the logits and to the neurons; None is all ones."""

    @staticmethod
    def of(model: Model, data: Data, witness: Witness) -> Features:
        with part("features"):
            atoms, members, codes, last, looks = (attended if model.attention else summed)(model, data, witness)

            def features(of_atoms: Real) -> Real:
                if members is None:
                    return of_atoms
                return stacked(of_atoms, of_atoms.filled(0.0, 1, of_atoms.shape[1])).combined(members)

            W_U, mlps = model["W_U"], model.mlps
            direct, tables = features(atoms @ W_U), []
            for *_, b_out in mlps:
                direct = stacked(direct[:last], direct[last:] + b_out @ W_U)
            if model.norm:
                need(len(mlps) == 1, "model: norm: no rung but for exactly one MLP")
                return under_norm(mlps[0], features(centred(atoms)), codes, direct, looks)
            for number, (W_in, bias, *_) in enumerate(mlps):
                for *_, b_out in mlps[:number]:
                    bias = bias + b_out @ W_in
                table = features(atoms @ W_in)
                tables.append(stacked(table[:last], table[last:] + bias))

        def strengths(its: slice) -> tuple[Real | None, Real | None]:
            return (looks(its),) * 2 if looks else (None, None)

        return Features(codes, tables, direct, strengths)


Looks = Callable[[slice], Real]
Explained = tuple[Real, Array | None, Array, int, Looks | None]
"""What atoms add to the stream; the atoms of each feature, one beyond the last for none, if features are not atoms; the
feature of each family in each window; the first feature of the last family; the strengths."""


def families(context: int, joined: int) -> list[tuple[int, int]]:
    """The positions of each family, joined from the end on."""
    return list(pairwise([0, *range(context % joined or joined, context + 1, joined)]))


def summed(model: Model, data: Data, witness: Witness) -> Explained:
    """Without attention: `tuples_F` lists the tokens of each feature of family F, `code_F` which each window has."""
    context, vocabulary, width = model["W_E"].shape
    several = [x.shape[1] for name, x in witness.tensors.items() if name.startswith("tuples_") and x.ndim == 2]
    joined = min(max(several, default=1), context)
    need(joined > 0, f"{WITNESS}: tuples of no position")
    members, codes, number, last = [], [], 0, 0
    for family, (start, end) in enumerate(families(context, joined)):
        tokens = data.contexts[:, start:end]
        if end - start == 1:
            tuples, code = np.arange(vocabulary)[:, None], tokens[:, 0]
        else:
            tuples = witness.indices(f"tuples_{family}", (None, end - start), vocabulary)
            code = witness.indices(f"code_{family}", (len(tokens),), len(tuples))
            count(len(code))
            same = (tuples[code] == tokens).all(1)
            need(same.all(), f"{WITNESS}: code_{family}: not what window {np.argmin(same)} holds")
        member = np.full((len(tuples), joined), context * vocabulary)
        member[:, : end - start] = tuples + np.arange(start, end) * vocabulary
        members.append(member)
        codes.append(code.astype(np.int64) + number)
        number, last = number + len(tuples), number
    atoms = model["W_E"].reshape(context * vocabulary, width)
    return atoms, None if joined == 1 else np.vstack(members), np.stack(codes, 1), last, None


def attended(model: Model, data: Data, witness: Witness) -> Explained:
    """Scores are bilinear in tokens, so where the head looks is known exactly."""
    context, vocabulary, width = model["W_E"].shape
    x, last = model["W_E"].reshape(context * vocabulary, width), context * vocabulary
    n = normalised(x) if model.norm else x
    carried = n @ (model["attn.W_V"] @ model["attn.W_O"])
    scores = (n[last - vocabulary :] @ (model["attn.W_Q"] @ model["attn.W_K"].T)) @ n.T * model.scale
    tokens = data.contexts
    codes = np.hstack([tokens + np.arange(context) * vocabulary, tokens[:, -1:] + last])

    def looks(its: slice) -> Real:
        seen = softmax(scores[tokens[its, -1:], codes[its, :-1]])
        return stacked(seen, seen.filled(1.0, seen.shape[0], 1), axis=1)

    return stacked(carried, x[last - vocabulary :]), None, codes, last, looks


def under_norm(mlp: tuple[Real, ...], c: Real, codes: Array, direct: Real, looks: Looks | None) -> Features:
    gram = c @ c.T / float(c.shape[1])

    def strengths(its: slice) -> tuple[Real | None, Real | None]:
        code = codes[its]
        one, alpha = c.filled(1.0, len(code), 1), looks(its) if looks else c.filled(1.0, *code.shape)
        together = gram[code[:, :, None], code[:, None, :]] * alpha[:, :, None]
        rho = ((together.sum(1) * alpha).sum(1) + EPSILON).sqrt()
        return stacked(alpha, one, axis=1), stacked(alpha / rho[:, None], one, axis=1)

    with_bias = np.hstack([codes, np.full_like(codes[:, :1], len(c))])
    silent = direct.filled(0.0, 1, direct.shape[1])
    return Features(with_bias, [stacked(c @ mlp[0], mlp[1][None])], stacked(direct, silent), strengths)


# Rungs: from features to margins, [item, token], which no logit_v - logit_target exceeds

Margins = Callable[[Some], Real]
PAIRS = 4096
"""Pairs that are tabled at a time."""


def less_target(logits: Real, its: Some) -> Real:
    logits = logits[its.context]
    return logits - logits[np.arange(len(its.target)), its.target][:, None]


def brute(model: Model, data: Data, witness: Witness) -> Margins:
    """The model on every window, from tables of what features say and of what neurons say to what comes after."""
    said = Features.of(model, data, witness)
    with part("features"):
        speaks, reads = [W_out @ model["W_U"] for _, _, W_out, _ in model.mlps], model.between()

    def margins(its: Some) -> Real:
        with part("windows"):
            codes, (in_stream, at_neurons) = said.codes[its.contexts], said.strengths(its.contexts)
            logits, hidden = said.direct.combined(codes, in_stream), list[Real]()
            for table, before, loud in zip(said.tables, reads, speaks, strict=True):
                heard = table.combined(codes, at_neurons)
                for h, W in zip(hidden, before, strict=True):
                    heard = heard + h @ W
                hidden.append(heard.relu())
                logits = logits + hidden[-1] @ loud
        with part("items"):
            return less_target(logits, its)

    return margins


def naive(model: Model, data: Data, witness: Witness) -> Margins:
    """Only its operations are of interest."""

    def margins(its: Some) -> Real:
        with part("windows"):
            logits = forward(model, data.contexts[its.contexts])
        with part("items"):
            return less_target(logits, its)

    return margins


def forward(model: Model, tokens: Array) -> Real:
    """The logits of the model as it is written down, window by window."""
    x = [model["W_E"][at][its] for at, its in enumerate(tokens.T)]
    if model.attention:
        n = [normalised(each) for each in x] if model.norm else x
        query = n[-1] @ model["attn.W_Q"] @ model["attn.W_K"].T * model.scale
        looks = softmax(stacked(*((query * each).sum(1)[:, None] for each in n), axis=1))
        mean = reduce(add, (each * looks[:, at : at + 1] for at, each in enumerate(n)))
        stream = x[-1] + mean @ model["attn.W_V"] @ model["attn.W_O"]
    else:
        stream = reduce(add, x)
    for W_in, b_in, W_out, b_out in model.mlps:
        heard = (normalised(stream) if model.norm else stream) @ W_in + b_in
        stream = stream + heard.relu() @ W_out + b_out
    return stream @ model["W_U"]


Sides = tuple[Real, Real]
DIRECTED = ("directions", "active", "strength")
"""Tensors of the witness that are there together or not at all."""
FEATURES = 256
"""Features that are taken apart at a time."""


def taken_apart(table: Real, W_in: Real, witness: Witness) -> Sides:
    """The positive and the negative parts of what features say to the first MLP, where a feature is the sum of some
    directions of the stream and of a rest, and each of these is its own part. The rest is whatever makes the sum what
    the feature says, so that the parts' difference is that whatever the directions are."""
    directions = Real(witness.numbers("directions", (None, W_in.shape[0])))
    need(len(directions) > 0, f"{WITNESS}: directions: there is none")
    active = witness.indices("active", (len(table), None), len(directions))
    strength = Real(witness.numbers("strength", active.shape))
    heard, positive, negative = directions @ W_in, list[Real](), list[Real]()
    for start in range(0, len(table), FEATURES):
        its = slice(start, start + FEATURES)
        parts = heard[active[its]] * strength[its, :, None]
        rest = table[its] - parts.sum(1)
        positive.append(parts.relu().sum(1) + rest.relu())
        negative.append((-parts).relu().sum(1) + (-rest).relu())
    return stacked(*positive), stacked(*negative)


class Layers:
    """The MLPs as features have them. With P and N the positive and the negative part of what a neuron hears, feature
    by feature, relu of the sum is P - min(P, N). The witness may take an offset t of each feature from both, which
    leaves relu = sum (positive part - t) - d, d = min(sum (positive part - t), sum (negative part - t)), and neurons a
    scale s: all is in d / s. What a feature makes of a neuron by itself, its answer, is said to all that comes after.
    Of d the norm is known; `apart` is what a unit of it does to logit_v - logit_y, itself and through later MLPs, whose
    neurons move no further than what they hear. Whether the witness may bend them, with offsets and scales, and whether
    it may take apart what the first MLP hears, is up to the rung."""

    def __init__(self, model: Model, data: Data, witness: Witness, bent: bool, directed: bool) -> None:
        self.said = said = Features.of(model, data, witness)
        self.sides, self.to_logits, self.onward = list[Sides](), list[Real](), list[list[Real]]()
        self.scales, self.one_sided = list[Real | None](), list[bool]()
        with part("features"):
            tables, answers = list(said.tables), list[Real]()
            for mlp, (_, _, W_out, _) in enumerate(model.mlps):
                table, scale = tables[mlp], None
                if directed and mlp == 0 and any(name in witness.tensors for name in DIRECTED):
                    positive, negative = taken_apart(table, model.mlps[0][0], witness)
                else:
                    positive, negative = table.relu(), (-table).relu()
                self.one_sided.append(not (bent and f"offset_{mlp}" in witness.tensors))
                if not self.one_sided[mlp]:
                    offset = Real(witness.numbers(f"offset_{mlp}", table.shape))
                    positive, negative = positive - offset, negative - offset
                if bent and f"scale_{mlp}" in witness.tensors:
                    scale = Real(witness.numbers(f"scale_{mlp}", (table.shape[1],), positive=True))
                    count(*scale.shape)
                    positive, negative, W_out = positive / scale, negative / scale, W_out * scale[:, None]
                self.scales.append(scale)
                self.sides.append((positive, negative))
                self.onward.append([W_out @ W_in for W_in, *_ in model.mlps[mlp + 1 :]])
                for later, W in enumerate(self.onward[mlp], mlp + 1):
                    tables[later] = tables[later] + positive @ W
                self.to_logits.append(W_out @ model["W_U"])
                answers.append(positive @ self.to_logits[mlp])
            self.direct, self.alone = said.direct, reduce(add, answers)
            if not model.norm:
                self.direct = self.direct + self.alone
        self.norm = model.norm

    def additive(self, codes: Array, in_stream: Real | None, at_neurons: Real | None) -> Real:
        """The logits that features say by themselves."""
        logits = self.direct.combined(codes, in_stream)
        return logits + self.alone.combined(codes, at_neurons) if self.norm else logits

    def left(self, mlp: int, codes: Array, at_neurons: Real | None) -> Real:
        """d / s, if earlier MLPs have none."""
        positive, negative = (side.combined(codes, at_neurons) for side in self.sides[mlp])
        return positive.minimum(negative)

    def apart(self, mlp: int) -> Real:
        """[target, token]"""
        with part("features"):
            louder = differences(self.to_logits[mlp])
            louder = louder.relu() if self.one_sided[mlp] else louder
            size, moved = (louder * louder).sum(2).sqrt(), list[Real]()
            for later, W in enumerate(self.onward[mlp], mlp + 1):
                its = (W * W).sum(0).sqrt()
                for between, before in enumerate(moved, mlp + 1):
                    its = its + before @ abs(self.onward[between][later - between - 1])
                scale = self.scales[later]
                moved.append(its if scale is None else its / scale)
                size = size + (abs(differences(self.to_logits[later])) * moved[-1]).sum(2)
            return size.upper()


def differences(to_logits: Real) -> Real:
    """[target, token, neuron]"""
    return to_logits.T[:, None] - to_logits.T[None]


def masses(model: Model, data: Data, witness: Witness) -> Margins:
    """What is left in the last MLP of the neurons that `read` names, each once, is read out."""
    need(len(model.mlps) > 0, "rung: it is for models with MLPs")
    layers = Layers(model, data, witness, bent=True, directed=True)
    apart, last = [layers.apart(mlp) for mlp in range(len(model.mlps))], len(model.mlps) - 1
    read = witness.indices("read", (len(data.contexts), None), layers.to_logits[last].shape[0])
    with part("windows"):
        count(*read.shape)
    rising = (read[:, 1:] > read[:, :-1]).all(1)
    need(rising.all(), f"{WITNESS}: read: not in rising order in window {np.argmin(rising)}")

    def margins(its: Some) -> Real:
        with part("windows"):
            codes, (in_stream, at_neurons) = layers.said.codes[its.contexts], layers.said.strengths(its.contexts)
            logits = layers.additive(codes, in_stream, at_neurons)
            left = [layers.left(mlp, codes, at_neurons) for mlp in range(len(apart))]
            rows, named = np.arange(len(codes))[:, None], read[its.contexts]
            if read.shape[1]:
                logits = logits - layers.to_logits[last].combined(named, left[last][rows, named])
                done = np.zeros(left[last].shape, bool)
                done[rows, named] = True
                left[last] = left[last].but(done, 0.0)
            sizes = [(d * d).sum(1).sqrt().upper() for d in left]
        return lifted(logits, sizes, apart, its)

    return margins


def lifted(logits: Real, sizes: list[Real], apart: list[Real], its: Some) -> Real:
    """No less than the margins if in each window no more is left of the d of each MLP than its size."""
    with part("items"):
        found = less_target(logits, its)
        for size, each in zip(sizes, apart, strict=True):
            found = found + size[its.context][:, None] * each[its.target]
        return found


def uniform(model: Model, data: Data, witness: Witness) -> Margins:
    """A number for each feature and side: d = min(P, N) is between 0 and either, and the norm of either is at most the
    sum of strength x norm over features, as no strength is negative: they are shares of attention, over a scale."""
    need(len(model.mlps) > 0, "rung: it is for models with MLPs")
    layers = Layers(model, data, witness, bent=False, directed=True)
    apart = [layers.apart(mlp) for mlp in range(len(model.mlps))]
    with part("features"):
        loud = [[(side * side).sum(1).sqrt()[:, None] for side in both] for both in layers.sides]

    def margins(its: Some) -> Real:
        with part("windows"):
            codes, (in_stream, at_neurons) = layers.said.codes[its.contexts], layers.said.strengths(its.contexts)
            logits = layers.additive(codes, in_stream, at_neurons)
            totals = [[each.combined(codes, at_neurons)[:, 0] for each in both] for both in loud]
            sizes = [positive.minimum(negative).upper() for positive, negative in totals]
        return lifted(logits, sizes, apart, its)

    return margins


class Meeting:
    """Pairs of features, and which of them each two families are in each window, as the windows have it."""

    def __init__(self, said: Features, data: Data, witness: Witness) -> None:
        families = list(combinations(range(said.codes.shape[1]), 2))
        self.first, self.second = [i for i, _ in families], [j for _, j in families]
        self.pairs = witness.indices("pairs", (None, 2), len(said.direct))
        self.which = witness.indices("pair", (len(data.contexts), len(families)), len(self.pairs))
        with part("windows"):
            count(*self.which.shape)
        for column, pair in enumerate(families):
            same = (self.pairs[self.which[:, column]] == said.codes[:, pair]).all(1)
            need(same.all(), f"{WITNESS}: pair: in window {np.argmin(same)} families {pair} are not the pair it names")

    def tabled(self, row: Callable[[Array, Array], tuple[Real, ...]]) -> list[Real]:
        """The row of each pair, made for some pairs at a time."""
        some = [self.pairs[start : start + PAIRS] for start in range(0, max(1, len(self.pairs)), PAIRS)]
        with part("pairs"):
            return [stacked(*rows) for rows in zip(*(row(*its.T) for its in some), strict=True)]


def sides(table: Real) -> Sides:
    """Upper ends of what is said for and against neurons."""
    return table.upper().relu(), (-table).upper().relu()


def conflict(table: Sides, i: Array, j: Array) -> Real:
    """No less than the correction where two features are alone: the smaller of two opposites."""
    positive, negative = table
    return positive[i].minimum(negative[j]) + negative[i].minimum(positive[j])


def pairs(model: Model, data: Data, witness: Witness) -> Margins:
    """delta is at most the sum of the conflicts of all pairs. Where strengths are not all one, for any neurons Q
    |min(a_i|p|, a_j|q|)|^2 <= a_i^2 sum_Q p^2 + a_j^2 sum_(not Q) q^2: tabled for Q = {r|p| < |q|}, some r."""
    need(len(model.mlps) == 1, "rung: it is for models with exactly one MLP")
    layer = Layers(model, data, witness, bent=False, directed=False)
    said, meeting, apart = layer.said, Meeting(layer.said, data, witness), layer.apart(0)
    weighed = model.attention or model.norm
    with part("pairs"):
        positive, negative = sides(said.tables[0])
        if weighed:
            ratios = witness.numbers("ratios", (None,), positive=True)
            ratio = witness.indices("ratio", meeting.which.shape, len(ratios))
            size = positive.maximum(negative)
            square = size * size

    def alike(i: Array, j: Array) -> tuple[Real, ...]:
        c = conflict((positive, negative), i, j)
        return ((c * c).sum(1).sqrt().upper(),)

    def split(i: Array, j: Array) -> tuple[Real, ...]:
        opposed = (positive.mid[i] > 0) & (negative.mid[j] > 0) | (negative.mid[i] > 0) & (positive.mid[j] > 0)
        count(*opposed.shape)
        below, above = [], []
        for r in ratios.astype(np.float64):
            inside = r * size.mid[i] < size.mid[j]
            count(2, *inside.shape)
            below.append(square[i].but(~(opposed & inside), 0.0).sum(1)[:, None])
            above.append(square[j].but(~(opposed & ~inside), 0.0).sum(1)[:, None])
        return stacked(*below, axis=1), stacked(*above, axis=1)

    tables = meeting.tabled(split if weighed else alike)

    def margins(its: Some) -> Real:
        with part("windows"):
            codes, (in_stream, at_neurons) = said.codes[its.contexts], said.strengths(its.contexts)
            logits, which = layer.additive(codes, in_stream, at_neurons), meeting.which[its.contexts]
            if at_neurons is None:
                sizes = tables[0][which]
            else:
                squares, (below, above) = at_neurons * at_neurons, (each[which, ratio[its.contexts]] for each in tables)
                sizes = (squares[:, meeting.first] * below + squares[:, meeting.second] * above).sqrt()
            total = sizes.sum(1).upper()
        return lifted(logits, [total], [apart], its)

    return margins


def vectors(model: Model, data: Data, witness: Witness) -> Margins:
    """What each pair does to the logits. The first MLP's correction is in [0, sum of conflicts]; so its neurons are
    that far below what features make of them alone, and what is linear in them moves within two sums over pairs: the
    next MLP's neurons no further than what they hear, and by their own conflicts; and the logits."""
    need(len(model.mlps) > 0 and not model.attention and not model.norm, "rung: it is for MLPs without attention, norm")
    said, tables, answers = Features.of(model, data, witness), list[Real](), list[Real]()
    with part("features"):
        # all logits may be shifted alike
        speaks, reads = [centred(W_out @ model["W_U"]) for _, _, W_out, _ in model.mlps], model.between()
        alone = said.direct
        for table, before, loud in zip(said.tables, reads, speaks, strict=True):
            for answer, W in zip(answers, before, strict=True):
                table = table + answer @ W
            tables.append(table)
            answers.append(table.relu())
            alone = alone + answers[-1] @ loud
    meeting = Meeting(said, data, witness)
    with part("pairs"):
        halves = [sides(table) for table in tables]
        to_logits, between = [split(W) for W in speaks], [[split(W) for W in before] for before in reads]

    def ends(i: Array, j: Array) -> tuple[Real, ...]:
        boxes: list[Box] = []
        for half, before in zip(halves, between, strict=True):
            boxes.append(added([[conflict(half, i, j)], *map(through, boxes, before)]))
        return tuple(end.upper() for end in added([*map(through, boxes, to_logits)]))

    down, up = meeting.tabled(ends)

    def margins(its: Some) -> Real:
        with part("windows"):
            logits, which = alone.combined(said.codes[its.contexts]), meeting.which[its.contexts]
            highest, lowest = logits + up.combined(which), logits - down.combined(which)
        with part("items"):
            return highest[its.context] - lowest[its.context][np.arange(len(its.target)), its.target][:, None]

    return margins


Box = list[Real]
"""How far numbers may be below and, if at all, above what features make of them alone."""


def split(W: Real) -> Sides:
    return W.relu(), (-W).relu()


def through(box: Box, W: Sides) -> Box:
    if len(box) == 1:
        return [box[0] @ W[0], box[0] @ W[1]]
    return [box[0] @ W[0] + box[1] @ W[1], box[0] @ W[1] + box[1] @ W[0]]


def added(boxes: list[Box]) -> Box:
    ends = [[box[end] for box in boxes if len(box) > end] for end in (0, 1)]
    return [reduce(add, its) for its in ends if its]


RUNGS: dict[str, Callable[[Model, Data, Witness], Margins]] = {
    "brute": brute, "masses": masses, "uniform": uniform, "pairs": pairs, "vectors": vectors,
}  # fmt: skip


# Groups: bounds for all sequences there are, whose target is their largest token


class Seen(NamedTuple):
    """A model of attention alone, at some points instead of its embeddings."""

    M: Real
    """score = query M key"""
    values: Real
    """[width, logit]"""
    queries: Real
    scores: Real
    """[query, position, token], of the positions before the last, shifted for each query alike."""
    own: Real
    """[query], of the last position."""
    says: Real
    """[position, token, logit]"""
    skip: Real
    """[query, logit], past the attention."""

    @staticmethod
    def at(points: Real, model: Model) -> Seen:
        context, vocabulary, width = points.shape
        with part("tables"):
            M = model["attn.W_Q"] @ model["attn.W_K"].T / Real(width).sqrt()
            values = model["attn.W_V"] @ model["attn.W_O"] @ model["W_U"]
            rows, last = points.reshape(context * vocabulary, width), points[-1]
            queries = last @ M
            scores, own = queries @ rows[: (context - 1) * vocabulary].T, (queries * last).sum(1)
            count(*scores.shape)
            shift = Real(scores.mid.max(1))
            scores, own = (scores - shift[:, None]).reshape(vocabulary, context - 1, vocabulary), own - shift
            says = (rows @ values).reshape(context, vocabulary, model["W_U"].shape[1])
            return Seen(M, values, queries, scores, own, says, last @ model["W_U"])


class Windows:
    """The model run on windows from tables, sums being shared by windows that begin alike."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        with part("tables"):
            self.weights, self.own = seen.scores.exp(), seen.own.exp()

    def losses(self, last: int, tokens: list[Array]) -> tuple[Real, Array]:
        """Of all windows that end in `last` and have one of these tokens at each position before it."""
        seen, skip = self.seen, self.seen.skip[last]
        heard, largest = self.own[last][None], np.array([last])
        said = (self.own[last] * (seen.says[-1, last] + skip))[None]
        for position, its in enumerate(tokens):
            weight = self.weights[last, position, its]
            says = weight[:, None] * (seen.says[position, its] + skip)
            largest = np.maximum(largest[:, None], its).reshape(-1)
            count(len(largest))
            said = (said[:, None] + says).reshape(len(largest), says.shape[1])
            heard = (heard[:, None] + weight).reshape(len(largest))
        logits = said * (heard.filled(1.0) / heard)[:, None]
        loss = logits.exp().sum(1).log() - logits[np.arange(len(largest)), largest]
        count(len(largest))
        # the float is below the real logarithm of 2
        return loss, loss.upper().mid < math.log(2)


def norm(x: Real, axis: int) -> Real:
    return (x * x).sum(axis).sqrt()


def distances(columns: Real) -> Real:
    """Between every two columns, each pair once."""
    number = columns.shape[1]
    i, j = np.triu_indices(number, 1)
    place = np.zeros((number, number), np.int64)
    place[i, j] = place[j, i] = np.arange(1, len(i) + 1)
    return stacked(columns.filled(0.0, 1), norm(columns[:, i] - columns[:, j], 0))[place]


def stretch(M: Real, claimed: Real) -> Real:
    """At least the spectral norm of M: |M Q z|^2 / |Q z|^2 <= lambda_max((MQ)'MQ) / lambda_min(Q'Q), by Gershgorin's
    discs, which are narrow if the columns of Q are what they are claimed to be, eigenvectors of M'M."""
    images = M @ claimed
    most, gram = abs(images.T @ images).sum(1).max(0), claimed.T @ claimed
    index = np.arange(len(gram))
    least = -(abs(gram).sum(1) - gram[index, index] * 2.0).max(0)
    return (most / least.maximum(Real(0))).sqrt().upper()


class Errors(NamedTuple):
    """What it may matter that points are not the embeddings."""

    far: Real
    """[position, token]: the distance of a point."""
    keys: Real
    """[position, token, width]: a query's error moves a score by its distance times that of the keys, from any centre
    that all keys of a window share."""
    score: Real
    own: Real
    """The rest of what scores move by."""
    saying: Real
    skipping: Real
    """[logit, logit]: what a unit of error does to their difference."""


def decoded(model: Model, witness: Witness) -> tuple[Seen, Errors]:
    """The embeddings as a dictionary has them, and how wrong it is."""
    x = model["W_E"]
    context, vocabulary, width = x.shape
    features = witness.numbers("dictionary", (None, width))
    support = witness.indices("support", (context, vocabulary, None), len(features))
    codes, bias = witness.numbers("codes", support.shape), witness.numbers("bias", (width,))
    claimed = Real(witness.numbers("eigenvectors", (width, width)))
    with part("dictionary"):
        sums = (Real(codes)[..., None, :] @ Real(features[support])).reshape(*x.shape)
        points = sums + Real(bias)
    seen = Seen.at(points, model)
    with part("errors"):
        far = norm(x - points, 2).upper()
        keys = (points.reshape(context * vocabulary, width) @ seen.M.T).reshape(*x.shape)
        reach = norm(seen.queries, 1) + far[-1] * stretch(seen.M, claimed)
        score, own = reach[:, None, None] * far[:-1], reach * far[-1]
        return seen, Errors(far, keys, score, own, distances(seen.values), distances(model["W_U"]))


def either(low: Real, high: Real, x: Real) -> Real:
    """The largest product of x with anything between the two."""
    return (low * x).maximum(high * x)


def groups(model: Model, witness: Witness) -> tuple[Array, Array, int]:
    """Windows are grouped by their last token q, their largest y, and the band that each other token is in. With the
    weights w of the attention, logit_v - logit_y = apart + sum w gain / sum w; so for any claim, with rate = claim -
    apart, it is at most claim + h / sum w where h >= sum w (gain - rate) for all windows of the group."""
    need(
        model.attention and not model.mlps and not model.norm, "rung: it is for attention alone, without MLPs and norm"
    )
    context, vocabulary, _ = model["W_E"].shape
    need(context > 1 and vocabulary**context < 2**53, "rung: it is for windows of two tokens or more, not this many")
    claims = Real(witness.numbers("claims", (vocabulary,) * 3))
    labels, errors = witness.indices("bands", (vocabulary, vocabulary)), None
    escalated = set(witness.indices("escalated", (None,), 2**31).tolist())
    if "dictionary" in witness.tensors:
        seen, errors = decoded(model, witness)
    else:
        seen = Seen.at(model["W_E"], model)
    runs = Windows(Seen.at(model["W_E"], model) if errors else seen) if escalated else None
    witness.finish()
    losses, sizes, right, number = list[float](), list[int](), 0, 0
    for y in range(vocabulary):
        others, upto = np.arange(vocabulary) != y, slice(0, y + 1)
        bands = [np.flatnonzero(labels[y, :y] == label) for label in np.unique(labels[y, :y])] + [np.array([y])]

        def of_bands(x: Real, axis: int, bands: list[Array] = bands) -> Real:
            """The largest of each band in the place of its tokens."""
            before = (slice(None),) * axis
            return stacked(*(x[(*before, band)].max(axis)[(*before, None)] for band in bands), axis=axis)

        with part("gains"):
            gain = seen.says[:, upto, others] - seen.says[:, upto, y, None]
            apart = seen.skip[upto, others] - seen.skip[upto, y, None]
            if errors:
                gain = gain + errors.far[:, upto, None] * errors.saying[y, others]
                apart = apart + errors.far[-1, upto, None] * errors.skipping[y, others]
            best = of_bands(gain[:-1], 1)
        with part("attention"):
            low = high = seen.scores[upto, :, upto]
            own_low = own_high = seen.own[upto]
            if errors:
                keys, far = errors.keys[:, upto], errors.far[-1, upto]
                distance = norm(keys - keys[:, y].sum(0) * (1 / context), 2)
                error = far[:, None, None] * distance[:-1] + errors.score[upto, :, upto]
                own_error = far * distance[-1] + errors.own[upto]
                low, high, own_low, own_high = low - error, high + error, own_low - own_error, own_high + own_error
            low, high = (-of_bands(-low, 2)).exp(), of_bands(high, 2).exp()
            own_low, own_high = own_low.exp(), own_high.exp()
        with part("positions"):
            claim = claims[y][upto, others]
            rate = claim - apart
            own_h = either(own_low[:, None], own_high[:, None], gain[-1] - rate)
            h = either(low[..., None], high[..., None], best - rate[:, None, None])
        need(len(bands) ** (context - 1) * (y + 1) * vocabulary <= 2**25, f"{WITNESS}: bands: too many groups")
        choices = np.indices((len(bands),) * (context - 1)).reshape(context - 1, -1).T
        with_largest = np.flatnonzero((choices == len(bands) - 1).any(1))
        for queries, kept in [(np.arange(y), with_largest), (np.array([y]), np.arange(len(choices)))][y == 0 :]:

            def sums(own: Real, each: Real, queries: Array = queries, kept: Array = kept) -> Real:
                """Over positions, for each choice of bands; shared by choices that begin alike."""
                (its, at, width), rest = (len(queries), *each.shape[1:3]), each.shape[3:]
                total, each = own[queries][:, None], each[queries]
                for position in range(at - 1):
                    total = total[:, :, None] + each[:, position, None]
                    total = total.reshape(its, total.shape[1] * width, *rest)
                return total[:, kept // width] + each[:, at - 1][:, kept % width]

            with part("groups"):
                excess, most, least = sums(own_h, h), sums(own_high, high), sums(own_low, low)
                above = either((Real(1) / most)[..., None], (Real(1) / least)[..., None], excess)
                margin = claim[queries][:, None] + above
            with part("losses"):
                size = np.tile(np.array([len(band) for band in bands])[choices[kept]].prod(1), len(queries))
                count(len(size), context - 2)
                odds = margin.exp().sum(2).reshape(len(size))
                loss, sure = (odds + 1.0).log().upper().mid, (odds.upper().mid < 1) * size
                count(len(size))
            for group in sorted(escalated & set(range(number, number + len(size)))):
                query, choice = divmod(group - number, len(kept))
                assert runs is not None
                with part("escalation"):
                    its, certain = runs.losses(int(queries[query]), [bands[band] for band in choices[kept[choice]]])
                    mean = its.upper().sum(0) / float(len(certain))
                loss[group - number], sure[group - number] = mean.upper().mid, certain.sum()
            losses, sizes, right = losses + loss.tolist(), sizes + size.tolist(), right + int(sure.sum())
            number += len(size)
    with part("mean"):
        count(2 * len(sizes) + 1)
    need(not escalated or max(escalated) < number, f"{WITNESS}: escalated: there is no such group")
    return np.array(losses), np.array(sizes), right


def naive_windows(model: Model, tokens: Array) -> None:
    """Only its operations are of interest."""
    logits = forward(model, tokens)
    loss = shifted(logits).exp().sum(1).log() + logits[:, 0] - logits[:, 0]
    # the largest token, whether a window is right, the mean
    count(tokens.size - len(tokens) + len(tokens) + len(loss) + 1)


def brute_force_of_groups(model: Model) -> dict[str, int]:
    """Operations of running the model on every window there is: from tables, and as it is written down."""
    context, vocabulary, _ = model["W_E"].shape
    operations.clear()
    naive_windows(model.shapes(), np.zeros((vocabulary, context), np.int64))
    naive = operations.total() * vocabulary ** (context - 1)
    operations.clear()
    runs = Windows(Seen.at(model.shapes()["W_E"], model.shapes()))
    tables = operations.total()
    runs.losses(0, [np.arange(vocabulary)] * (context - 1))
    windows = (operations.total() - tables) * vocabulary
    return {"cached": tables + windows + vocabulary**context + 1, "naive": naive}


# The statement

CONTEXTS = 2048
"""Windows at a time."""


def losses(data: Data, witness: Witness, margins: Margins, size: int = CONTEXTS) -> tuple[Array, int]:
    """Upper ends of each item's loss, and the number of windows whose prediction is certainly right."""
    with part("de-duplication"):
        count(data.windows, math.ceil(math.log2(max(2, data.windows))))
    witness.finish()
    found, right = [], []
    for its in data.some(size):
        upper = margins(its).upper()
        with part("items"):
            own = np.zeros(upper.shape, bool)
            own[np.arange(len(own)), its.target] = True
            right.append(upper.but(own, -np.inf).max(1).mid < 0)
            upper = upper.but(own, 0.0)
            loss = shifted(upper).exp().sum(1).log() + Real(upper.mid.max(1))
            found.append(loss.upper().mid)
    with part("mean"):
        count(2 * len(data.times) + 1)
    return np.concatenate(found), int(data.times[np.concatenate(right)].sum())


def brute_force(model: Model, data: Data) -> dict[str, int]:
    """Operations of proving the same by running the model: as cleverly as features of up to three positions that occur
    in the data allow, and as it is written down. Both are counted on shapes alone."""
    shapes, totals, context = model.shapes(), [], data.contexts.shape[1]
    joined = range(1, 2 if model.attention else 1 + min(3, context))
    for program, witness in [*((brute, conjunctions(data, each)) for each in joined), (naive, Witness({}))]:
        operations.clear()
        losses(data, witness, program(shapes, data, witness), len(data.contexts))
        totals.append(operations.total())
    return {"cached": min(totals[:-1]), "naive": totals[-1]}


def conjunctions(data: Data, joined: int) -> Witness:
    """The tokens that stand at neighbouring positions somewhere in the data, as `summed` takes them."""
    found: dict[str, Array] = {}
    for family, (start, end) in enumerate(families(data.contexts.shape[1], joined)):
        if end - start > 1:
            tuples, code = np.unique(data.contexts[:, start:end], axis=0, return_inverse=True)
            found |= {f"tuples_{family}": tuples, f"code_{family}": code.reshape(-1)}
    return Witness(found)


def derived(
    rung: str, model: Model, files: dict[str, dict[str, Array]], windows: int
) -> tuple[Array, Array, int, dict[str, int], dict[str, int]]:
    """Upper bounds of losses and of how many windows each is the bound; how many windows are certainly right; what it
    took, and what brute force takes."""
    witness, (context, vocabulary, _) = Witness(files[WITNESS]), model["W_E"].shape
    data = None if rung == "groups" else Data.of_stream(files[DATA], context, vocabulary)
    there = data.windows if data else vocabulary**context
    need(windows == there, f"{CERTIFICATE}: statement: windows: there are {there}")
    operations.clear()
    if data is None:
        bounds, times, right = groups(model, witness)
        own = dict(operations)
        return bounds, times, right, own, brute_force_of_groups(model)
    bounds, right = losses(data, witness, RUNGS[rung](model, data, witness))
    own = dict(operations)
    return bounds, data.times, right, own, brute_force(model, data)


def check(folder: str) -> Iterator[str]:
    """What is proved, in sentences; Refused if it is not."""
    claim = parsed(read(folder, CERTIFICATE), CERTIFICATE)
    fit(claim, FIELDS, CERTIFICATE)
    need(claim["format"] == "crossproof-certificate", f"{CERTIFICATE}: format: {claim['format']!a} is unknown")
    need(claim["version"] == 1, f"{CERTIFICATE}: version: {claim['version']} is unknown")
    need(claim["model"]["kind"] == "window", f"{CERTIFICATE}: model: kind: {claim['model']['kind']!a} is unknown")
    need(claim["rung"] in (*RUNGS, "groups"), f"{CERTIFICATE}: rung: {claim['rung']!a} is unknown")
    said, data = claim["statement"], SEQUENCES if claim["rung"] == "groups" else "stream"
    need(said["data"] == data, f"{CERTIFICATE}: statement: data: of this rung it is {data}")
    need(all(type(each) is str for each in claim["assumptions"]), f"{CERTIFICATE}: assumptions: not texts")
    names = [name for name in (WEIGHTS, DATA, WITNESS) if name != DATA or data == "stream"]
    fit(claim["hashes"], dict.fromkeys(names, str), f"{CERTIFICATE}: hashes")
    files = {}
    for name in names:
        content = read(folder, name)
        hashed = hashlib.sha256(content).hexdigest()
        need(claim["hashes"][name] == hashed, f"{CERTIFICATE}: hashes: {name}: the file's is {hashed}")
        files[name] = tensors(content, name)

    model = Model.of(files[WEIGHTS], claim["model"]["norm"])
    context, vocabulary, _ = model["W_E"].shape
    need(said["context"] == context, f"{CERTIFICATE}: statement: context: the model's is {context}")
    bounds, times, right, own, rivals = derived(claim["rung"], model, files, said["windows"])
    with flint.ctx.workprec(128):
        total = sum((flint.arb(b) * n for b, n in zip(bounds.tolist(), times.tolist(), strict=True)), flint.arb(0))
        # the decimal number that is stated may be half a unit below the float
        mean = total / int(times.sum())
        fits, follows = mean <= flint.arb(math.nextafter(said["loss"], -math.inf)), float(mean)
    need(fits, f"{CERTIFICATE}: statement: loss: {said['loss']} is stated, what follows is {follows}")
    need(said["right"] <= right, f"{CERTIFICATE}: statement: right: {said['right']} are stated, certain are {right}")
    need(said["right"] >= 0, f"{CERTIFICATE}: statement: right: below zero")
    equal(claim["operations"], own, "operations")
    equal(claim["brute_force"], rivals, "brute_force")

    yield (
        f"The model {said['subject']!a}, the function of real numbers that the float32 weights with sha256 "
        f"{claim['hashes'][WEIGHTS]} define, has a mean loss of at most {said['loss']} on {said['windows']} windows of "
        f"{said['context']} tokens, and its largest logit is the target's on at least {said['right']} of them."
    )
    if data == "stream":
        hashed = claim["hashes"][DATA]
        yield f"The windows are all of the stream with sha256 {hashed}, the target of each is the token after it."
    else:
        yield "The windows are all sequences of tokens that there are, the target is the largest token of each."
    all_ = sum(own.values())
    yield f"Operations: {all_} ({', '.join(f'{name} {number}' for name, number in own.items())})."
    for name, number in claim["brute_force"].items():
        yield f"Brute force, {name}: {number}, of which this is {all_ / number:.3g}."
    yield "Assumed: float64 as IEEE 754 has it; numpy's exp, expm1, log and log1p right to 4 units in the last place."
    yield from (f"Assumed by the certificate: {text!a}" for text in claim["assumptions"])
    if said["loss"] >= math.log(vocabulary):
        yield f"WARNING: vacuous: to say that all tokens are as likely has the loss {math.log(vocabulary):.6f}."


def equal(stated: dict[str, Any], own: dict[str, int], what: str) -> None:
    for name in [*stated, *own]:
        fine = name in stated and type(stated[name]) is int and stated[name] == own.get(name)
        need(fine, f"{CERTIFICATE}: {what}: {name!a}: {stated.get(name)!a} is stated, {own.get(name)} were counted")


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        need(len(arguments) == 1, "give one folder: check.py FOLDER")
        with np.errstate(all="ignore"):
            sentences = list(check(arguments[0]))
    except Refused as error:
        sentences = [f"REFUSED: {error}"]
    except Exception as error:  # whatever a file may do, it is not proved
        sentences = [f"REFUSED: nothing can be derived from it ({type(error).__name__}: {str(error)[:200]!a})"]
    print("\n".join(sentences))
    return int(sentences[0].startswith("REFUSED"))


if __name__ == "__main__":
    sys.exit(main())
