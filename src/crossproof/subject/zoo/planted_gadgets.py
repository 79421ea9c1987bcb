"""What is planted: the gadgets and the clusters of features, written down as two tables.

Strengths lie in [WEAKEST, STRONGEST], and every threshold below follows from that: a conjunction is silent for any one
strong feature and speaks for any two weak ones. So whether a pair interacts depends on which features are active, and
never on how strongly; the exclusive or, |a - b|, is the only output that comes near 0 while active.
"""

from __future__ import annotations

from crossproof.subject.zoo.planted_truth import Cluster, Gadget, Kind, Neuron

WEAKEST, STRONGEST = 1.0, 1.4
CHILD_COSINE = 0.9
"""Between the directions of a split feature's two children."""
CHILDREN = ("split.child1", "split.child2")


# -- the kinds -----------------------------------------------------------------------------------------------------


def _one(name: str, kind: Kind, reads: dict[str, float], bias: float = 0.0, block: int = 0) -> Gadget:
    return Gadget(name=name, kind=kind, block=block, writes=name, neurons=(Neuron(reads=reads, bias=bias, writes=1.0),))


def conjunction(name: str, a: str, b: str, block: int = 0) -> Gadget:
    """relu(a + b - θ): no single feature reaches θ, any two exceed it."""
    return _one(name, "conjunction", {a: 1.0, b: 1.0}, -STRONGEST, block)


def triple(name: str, a: str, b: str, c: str) -> Gadget:
    """relu(a + b + c - 2θ): speaks only when all three are active, so a pair interacts only beside the third."""
    return _one(name, "triple", {a: 1.0, b: 1.0, c: 1.0}, -2 * STRONGEST)


def splitting(name: str, child1: str, child2: str, partner: str) -> Gadget:
    """The conjunction of a partner and a parent whose place two exclusive children have taken.

    Their directions are nearly one, which is how feature splitting looks in a trained dictionary: each child
    interacts with the partner, through one neuron, and the two would with each other if they ever met.
    """
    return _one(name, "splitting", {child1: 1.0, child2: 1.0, partner: 1.0}, -STRONGEST)


def minimum(name: str, a: str, b: str) -> Gadget:
    """a - relu(a - b) = min(a, b): a conjunction without a threshold, through a negative output weight."""
    whole = Neuron(reads={a: 1.0}, bias=0.0, writes=1.0)
    excess = Neuron(reads={a: 1.0, b: -1.0}, bias=0.0, writes=-1.0)
    return Gadget(name=name, kind="minimum", block=0, writes=name, neurons=(whole, excess))


def exclusive_or(name: str, a: str, b: str) -> Gadget:
    """relu(a - b) + relu(b - a) = |a - b|: either alone is loud, both together nearly silent."""
    ahead = Neuron(reads={a: 1.0, b: -1.0}, bias=0.0, writes=1.0)
    behind = Neuron(reads={a: -1.0, b: 1.0}, bias=0.0, writes=1.0)
    return Gadget(name=name, kind="exclusive or", block=0, writes=name, neurons=(ahead, behind))


def inhibition(name: str, a: str, b: str, block: int = 0) -> Gadget:
    """relu(a - 2b): b silences a altogether."""
    return _one(name, "inhibition", {a: 1.0, b: -2.0}, block=block)


def damping(name: str, a: str, b: str) -> Gadget:
    """relu(a - 0.4b): b takes something off a and nothing off silence."""
    return _one(name, "damping", {a: 1.0, b: -0.4})


def total(name: str, a: str, b: str, block: int = 0) -> Gadget:
    """relu(a + b), which is a + b: a shared neuron and no interaction."""
    return _one(name, "sum", {a: 1.0, b: 1.0}, block=block)


def offset(name: str, a: str, b: str) -> Gadget:
    """relu(3 + a - b), which is 3 + a - b: opposite signs in a shared neuron and still no interaction."""
    return _one(name, "offset", {a: 1.0, b: -1.0}, 3.0)


def private(feature: str, block: int = 0) -> Gadget:
    """relu(a) back onto a's own direction: a neuron that nothing else touches."""
    neuron = Neuron(reads={feature: 1.0}, bias=0.0, writes=0.5)
    return Gadget(name=f"{feature}.louder", kind="private", block=block, writes=feature, neurons=(neuron,))


GADGETS: tuple[Gadget, ...] = (
    conjunction("and1", "and1.a", "and1.b"),
    conjunction("and2", "and2.a", "and2.b"),
    triple("and3", "and3.a", "and3.b", "and3.c"),
    minimum("min", "min.a", "min.b"),
    splitting("split", *CHILDREN, "split.partner"),
    exclusive_or("xor", "xor.a", "xor.b"),
    inhibition("veto", "veto.a", "veto.b"),
    damping("damp", "damp.a", "damp.b"),
    # A feature of two gadgets, and a pair that meets only by chance.
    conjunction("cross", "damp.a", "xor.a"),
    # Shared neurons without interaction.
    total("sum", "sum.a", "sum.b"),
    offset("offset", "offset.a", "offset.b"),
    total("halves", "halves.a", "halves.b"),
    # Interactions that no token shows.
    conjunction("unseen_and", "unseen_and.a", "unseen_and.b"),
    inhibition("unseen_veto", "unseen_veto.a", "unseen_veto.b"),
    # Together often, in no neuron together.
    *(private(name) for name in ("duo.a", "duo.b", "trio.a", "trio.b", "trio.c")),
    # Block 1: two gadgets that read what block 0 wrote and one that reads the embedding, then what does not interact.
    conjunction("chain", "and1", "chain.c", block=1),
    inhibition("gate", "xor", "gate.c", block=1),
    conjunction("late", "late.a", "late.b", block=1),
    total("late_sum", "and2", "min", block=1),
    *(private(name, block=1) for name in ("solo1", "solo2", "solo3")),
)


# -- what fires with what ------------------------------------------------------------------------------------------


def _cluster(patterns: dict[str, float], prefix: str = "", equal: bool = False) -> Cluster:
    """From patterns such as {"a b": 0.06, "a": 0.05}; names are completed to `prefix.a`."""
    named = tuple((tuple(f"{prefix}.{m}" if prefix else m for m in p.split()), q) for p, q in patterns.items())
    members = tuple(sorted({name for active, _ in named for name in active}))
    return Cluster(members=members, patterns=named, equal_strengths=equal)


def _enhanced(prefix: str) -> Cluster:
    """Each fires with probability 0.11, both with 0.06: five times as often as independent ones would."""
    return _cluster({"a b": 0.06, "a": 0.05, "b": 0.05}, prefix)


def _exclusive(prefix: str) -> Cluster:
    return _cluster({"a": 0.11, "b": 0.11}, prefix)


CLUSTERS: tuple[Cluster, ...] = (
    _cluster(
        {
            "and1.a and1.b chain.c": 0.04,
            "and1.a and1.b": 0.03,
            "and1.a chain.c": 0.01,
            "and1.b chain.c": 0.01,
            "and1.a": 0.03,
            "and1.b": 0.03,
            "chain.c": 0.05,
        }
    ),
    _enhanced("and2"),
    _cluster({"a b c": 0.05, "a b": 0.02, "a c": 0.02, "b c": 0.02, "a": 0.02, "b": 0.02, "c": 0.02}, "and3"),
    _enhanced("min"),
    _cluster(
        {"child1 partner": 0.04, "child2 partner": 0.04, "child1": 0.04, "child2": 0.04, "partner": 0.04}, "split"
    ),
    _cluster(
        {
            "xor.a xor.b gate.c": 0.02,
            "xor.a xor.b": 0.03,
            "xor.a gate.c": 0.03,
            "xor.b gate.c": 0.03,
            "xor.a": 0.04,
            "xor.b": 0.04,
            "gate.c": 0.03,
        }
    ),
    _enhanced("veto"),
    _enhanced("damp"),
    _enhanced("sum"),
    _enhanced("offset"),
    # One feature in two equal halves. No dictionary learned from activations can tell it from a single feature.
    _cluster({"a b": 0.1}, "halves", equal=True),
    _exclusive("unseen_and"),
    _exclusive("unseen_veto"),
    _cluster({"a b": 0.09, "a": 0.01, "b": 0.01}, "duo"),
    _cluster({"a b c": 0.07, "a b": 0.01, "a c": 0.01, "b c": 0.01, "a": 0.01, "b": 0.01, "c": 0.01}, "trio"),
    # Independent of everything.
    *(_cluster({name: 0.18}) for name in ("late.a", "late.b")),
    *(_cluster({name: 0.1}) for name in ("solo1", "solo2", "solo3")),
)
