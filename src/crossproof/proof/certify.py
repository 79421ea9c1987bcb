"""From a name to a certificate: `crossproof certify`."""

from __future__ import annotations

from crossproof.errors import CrossproofError
from crossproof.proof.certificate import Certificate, Made, of_windows, write
from crossproof.proof.config import CertifyConfig
from crossproof.proof.groups.certify import certify_all_sequences
from crossproof.proof.provable import Provable, folder_of
from crossproof.proof.prove import How, Rivals, Truth, prove


def certify(config: CertifyConfig) -> Certificate:
    """Prove, hold every item's bound against the truth, and write the certificate."""
    return write(config.out, _made(config))


def _made(config: CertifyConfig) -> Made:
    if config.rung == "groups":
        for option, given in (("data", config.data), ("characters", config.characters)):
            if given is not None:
                raise CrossproofError(f"--{option}: the rung groups is about all sequences there are; leave it out")
        return certify_all_sequences(config.subject, folder_of(config.subject), config.features, config.k)
    of = Provable.open(config.subject, config.data, config.characters)
    proof = prove(of.network, of.items, How(config.rung, config.joined, config.read, config.offsets))
    return of_windows(of, proof, Truth.of(of.network, of.items), Rivals.of(of.network, of.items))
