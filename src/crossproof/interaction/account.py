"""One account of a model: what simple interpretations of its units leave out, pair by pair, in one currency.

Sizes are lengths in the residual stream, so that those of a pair or of a token add up over units and layers. i → j is

    plain MLP    Σ_n w_n |p_nj| over the neurons that i dominates: what keeping i alone there leaves out of j
    gated MLP    the same of gates and of values, with the weights of T5, and what the two multiply, Σ_n w_n |s p^g p^h|
    attention    Std_A(c_ij) Std_A(y), heads summed: what the term of query feature i and key feature j does to the
                 layer's output, to first order
    norm         what removing i does to j's share of its output, as loudly as the unit after it hears it

A pair is ordered: "i dominates j", "the query has i, the key has j", "i rescales j".

These are sums of sizes, in which nothing cancels. In a plain MLP a token's, times Lip(φ) (1 for ReLU, at most 1.13),
is no less than the length of what keeping dominant features alone leaves out (T1); in a gated MLP the first part has
Lip(φ) in it and is no less by itself (T5), and the second counts some of the same once more. In an attention layer they
are such a bound to first order, of leaving these terms out of its scores. In a norm the change of a share is exact, and
its size as the unit behind it hears it: a plain MLP up to Lip(φ), a gated one as at a typical token, an attention layer
with its values alone.

None is a bound on second differences, what removing two features does beyond removing each: a ReLU neuron with
β = −9.5 and ten features of p = 1 has 9 here, and second differences of 1/2 between all of its 45 pairs, 22.5 together.
The study of units measures how the two compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.coactive import CoActive
from crossproof.records import KINDS, Kind

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Account:
    """Of the units that were measured, in order of computation."""

    kinds: Mapping[str, Kind]
    """Of each unit, by its name."""
    by_text: Float64[Tensor, "text unit"]
    """Each text's interactions in each unit, its tokens summed."""
    tokens: Int[Tensor, " text"]
    """How many tokens each text has."""
    written: Float64[Tensor, " unit"]
    """The mean length of what a unit writes to the residual stream; of a norm, what the unit after it writes."""
    coactive: CoActive
    on_same_token: Mapping[str, Float64[Tensor, " pair"]]
    """Of MLPs and norms: the mean per token for each pair of `coactive`."""
    across_tokens: Mapping[str, Float[Tensor, "head feature feature"]]
    """Of attentions: the mean per token for each query feature and key feature."""

    def __post_init__(self) -> None:
        named = {*self.on_same_token, *self.across_tokens}
        shape = (len(self.tokens), len(self.kinds))
        if named != set(self.kinds) or tuple(self.by_text.shape) != shape or len(self.written) != len(self.kinds):
            raise MismatchError(f"account: the tables are of {sorted(named)}, the units {sorted(self.kinds)}")

    def __repr__(self) -> str:
        about = f"Account of {len(self.kinds)} units on {int(self.tokens.sum()):,} tokens of {len(self.tokens):,} texts"
        return f"{about}\n{self.units.to_string(index=False)}\n.units .pairs(top) .pair(i, j) .heads(top)"

    def _repr_html_(self) -> str:
        found: str = self.units.to_html(index=False)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @cached_property
    def units(self) -> pd.DataFrame:
        """A row for each unit, and what they come to together is the sum of the column `per_token`.

        Its standard error is over texts, which are independent where tokens are not.
        """
        import pandas as pd

        per_token, error = mean_per_token(self.by_text, self.tokens)
        return pd.DataFrame(
            {
                "unit": self.names,
                "kind": list(self.kinds.values()),
                "per_token": per_token.numpy(),
                "per_token_se": error.numpy(),
                "written": self.written.numpy(),
                "relative": (per_token / self.written).numpy(),
            }
        )

    def heads(self, top: int = 100) -> pd.DataFrame:
        """The strongest pairs of a query feature and a key feature in the heads of all attentions: mean per query."""
        import pandas as pd

        _check_top(top)
        n = self.coactive.n_features
        found = [_largest(head.flatten(), top) for table in self.across_tokens.values() for head in table]
        place = [(name, head) for name, table in self.across_tokens.items() for head in range(len(table))]
        which = torch.cat([torch.full_like(where, number) for number, (where, _) in enumerate(found)] or [_NONE])
        where, values = (torch.cat([its[part] for its in found] or [_NONE]) for part in (0, 1))
        order = values.argsort(descending=True, stable=True)[:top]
        chosen = [place[number] for number in which[order].tolist()]
        return pd.DataFrame(
            {
                "unit": pd.Categorical([name for name, _ in chosen], categories=list(self.across_tokens)),
                "head": [head for _, head in chosen],
                "query": (where[order] // n).int().numpy(),
                "key": (where[order] % n).int().numpy(),
                "per_token": values[order].double().numpy(),
            }
        )

    def pair(self, i: int, j: int) -> pd.DataFrame:
        """What two features do to each other in each unit, both ways: mean per token. With itself both ways are one."""
        import pandas as pd

        self._check_features(i, j)
        both = torch.tensor([[i, j], [j, i]])
        forth, back = self._of_pairs(both[:, 0], both[:, 1])
        return pd.DataFrame(
            {
                "unit": self.names,
                "kind": list(self.kinds.values()),
                "forth": forth.numpy(),
                "back": back.numpy(),
                "sum": (forth if i == j else forth + back).numpy(),
            }
        )

    def pairs(self, top: int = 100) -> pd.DataFrame:
        """The ordered pairs that interact most in all units together: mean per token, by kind, and where most of it is.

        A feature may meet itself in an attention, at another position.
        """
        import pandas as pd

        _check_top(top)
        i, j = self._strongest(top)
        each = self._of_pairs(i, j)
        total, most = each.sum(1), each.max(1)
        of_kind = torch.tensor([KINDS.index(kind) for kind in self.kinds.values()])
        table = {"i": i.int().numpy(), "j": j.int().numpy(), "total": total.numpy()}
        for number, kind in enumerate(KINDS):
            if kind not in self.kinds.values():
                continue
            table[kind] = each[:, of_kind == number].sum(1).numpy()
        return pd.DataFrame(
            table
            | {
                "unit": pd.Categorical.from_codes(most.indices.numpy(), list(self.names)),
                "unit_share": (most.values / total).numpy(),
            }
        )

    # -- pairs -----------------------------------------------------------------------------------------------------

    def _strongest(self, top: int) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """Of equal ones the lowest i and then j."""
        together = torch.zeros(len(self.coactive), dtype=torch.float64)
        for table in self.on_same_token.values():
            together += table
        i, j = self.coactive.i, self.coactive.j
        if self.across_tokens:
            n = self.coactive.n_features
            everywhere = torch.zeros(n, n, dtype=torch.float64)
            everywhere[i, j] = together
            for heads in self.across_tokens.values():
                for head in heads:
                    everywhere += head
            together, where = everywhere.flatten(), torch.arange(n * n)
            i, j = where // n, where % n
        order, _ = _largest(together, top)
        return i[order], j[order]

    def _of_pairs(self, i: Int[Tensor, " pair"], j: Int[Tensor, " pair"]) -> Float64[Tensor, "pair unit"]:
        where = self.coactive.positions(i, j)
        columns = []
        for name in self.names:
            if name in self.across_tokens:
                columns.append(self.across_tokens[name][:, i, j].double().sum(0))
            else:
                table = self.on_same_token[name]
                columns.append(torch.cat([table, table.new_zeros(1)])[where.long()])
        return torch.stack(columns, dim=1)

    def _check_features(self, *features: int) -> None:
        for feature in features:
            if not 0 <= feature < self.coactive.n_features:
                raise CrossproofError(f"feature {feature}: there are the features 0 to {self.coactive.n_features - 1}")


_NONE = torch.zeros(0, dtype=torch.long)


def _largest(values: Float[Tensor, " any"], top: int) -> tuple[Int[Tensor, " found"], Float[Tensor, " found"]]:
    """Where the largest are, none of them 0, and what they are; of equal ones the first."""
    if len(values) == 0:
        return _NONE, values
    least = values.topk(min(top, len(values))).values.amin()
    found = ((values >= least) & (values > 0)).nonzero().squeeze(1)
    order = found[values[found].argsort(descending=True, stable=True)][:top]
    return order, values[order]


def _check_top(top: int) -> None:
    if top < 1:
        raise CrossproofError(f"top: asks for {top} pairs; take at least 1")


def mean_per_token(
    by_text: Float64[Tensor, "text *unit"], tokens: Int[Tensor, " text"]
) -> tuple[Float64[Tensor, "*unit"], Float64[Tensor, "*unit"]]:
    """A ratio of two sums over texts, and its standard error with texts taken to be independent."""
    texts, n = len(tokens), tokens.double()
    mean = by_text.sum(0) / n.sum()
    if texts < 2:
        return mean, torch.full_like(mean, torch.nan)
    spread = by_text - torch.einsum("t,...->t...", n, mean)
    return mean, (spread.square().sum(0) * texts / (texts - 1)).sqrt() / n.sum()


def summed_by_text(
    per_token: Float64[Tensor, "token *unit"], text: Int[Tensor, " token"], texts: int
) -> Float64[Tensor, "text *unit"]:
    return per_token.new_zeros(texts, *per_token.shape[1:]).index_add_(0, text, per_token)
