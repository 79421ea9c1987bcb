"""A certificate of a model that says the largest token, for all sequences there are."""

from __future__ import annotations

from pathlib import Path

from crossproof.errors import CrossproofError, UnsupportedModel
from crossproof.proof.arithmetic.tally import tallied
from crossproof.proof.certificate import Made, Statement, rounded_up
from crossproof.proof.groups import brute
from crossproof.proof.groups.find import find, learn_dictionary
from crossproof.proof.groups.verify import verify, window_bounds
from crossproof.proof.network import Network
from crossproof.subject.zoo.window_model import WEIGHTS, load

ALL = "all sequences, target the maximum"


def certify_all_sequences(subject: str, folder: Path, features: int, k: int) -> Made:
    """Through a dictionary that is learned here."""
    model = load(folder)
    if model.tokenizer is not None or model.config.mlps or model.config.norm or model.config.mixing != "attention":
        raise UnsupportedModel(
            f"{subject}: the rung groups is for models of attention alone that say the largest token, such as maxof4"
        )
    if k > features:
        raise CrossproofError(f"--k {k} features cannot be active of {features}; give a smaller k")
    state = {name: value.detach() for name, value in model.state_dict().items()}
    weights = Network.of(state).weights
    witness = find(state, learn_dictionary(state["W_E"], features, k))
    with tallied() as tally:
        certified = verify(weights, witness)
    with tallied() as cached:
        truth, losses = brute.cached(weights)
    context, vocabulary = model.config.context, model.config.vocabulary
    bounds = window_bounds(certified, witness["bands"], context)
    # an axis for each position, the last token's first; of a loss that is known up to rounding, what it is at least
    excess = losses.lower().mid.reshape((vocabulary,) * context).movedim(0, -1) - bounds
    if not bool((excess <= 0).all()):
        raise CrossproofError(f"a window's loss is {float(excess.max()):.3g} above its bound: this is a bug")
    return Made(
        statement=Statement(
            subject=subject,
            loss=rounded_up(certified.proved.loss),
            right=certified.proved.right,
            windows=vocabulary**context,
            context=context,
            data=ALL,
        ),
        weights=folder / WEIGHTS,
        stream=None,
        norm=False,
        vocabulary=vocabulary,
        rung="groups",
        witness=witness,
        operations=tally.parts,
        brute_force={"cached": cached.total, "naive": brute.naive_tally(weights).total},
        loss=truth.loss,
        right=truth.right,
    )
