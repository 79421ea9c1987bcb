"""From a name to a certificate: `crossproof certify`."""

from __future__ import annotations

from crossproof.errors import CrossproofError, MismatchError
from crossproof.proof.certificate import Certificate, Made, of_windows, write
from crossproof.proof.config import CertifyConfig
from crossproof.proof.dictionary import Dictionary, unexplained
from crossproof.proof.explanation import conjunctions
from crossproof.proof.groups.certify import certify_all_sequences
from crossproof.proof.names import Names
from crossproof.proof.provable import Provable, folder_of
from crossproof.proof.prove import How, Rivals, Truth, prove

EXACT = 1e-9
"""Of squared lengths: what rounding to float32 leaves."""


def certify(config: CertifyConfig) -> Certificate:
    """Prove, hold every item's bound against the truth, and write the certificate."""
    return write(config.out, _made(config))


def _made(config: CertifyConfig) -> Made:
    if config.rung == "groups":
        for option, given in (("data", config.data), ("characters", config.characters), ("coder", config.coder)):
            if given is not None:
                raise CrossproofError(
                    f"--{option}: the rung groups is about all sequences there are, and trains its own dictionary; "
                    "leave it out"
                )
        return certify_all_sequences(config.subject, folder_of(config.subject), config.features, config.k)
    if config.error_atoms and config.coder is None:
        raise CrossproofError("--error-atoms: they are of a coder; name one, or leave this out")
    of = Provable.open(config.subject, config.data, config.characters)
    dictionary = None if config.coder is None else Dictionary.open(str(config.coder), of.name, of.network)
    how = How(config.rung, config.joined, config.read, config.offsets, dictionary)
    how.check()
    if dictionary is not None and not config.error_atoms:
        _check_reproduced(of, dictionary, config.joined)
    proof = prove(of.network, of.items, how)
    return of_windows(of, proof, Truth.of(of.network, of.items), Rivals.of(of.network, of.items))


def _check_reproduced(of: Provable, dictionary: Dictionary, joined: int) -> None:
    witness = conjunctions(of.network, of.items, joined)
    left = unexplained(of.network, of.items, witness | dictionary.witness(of.network, of.items, witness))
    if max(left.part, left.worst_part) > EXACT:
        raise MismatchError(
            f"coder: {dictionary.name} does not reproduce what tokens say to the MLP: {left.part:.1%} of it is left "
            f"over, most of {Names(of, witness).feature(left.worst)} ({left.worst_part:.1%}). --error-atoms makes what "
            "is left of each a feature of its own"
        )
