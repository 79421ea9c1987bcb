"""From a name to a certificate: `crossproof certify`."""

from __future__ import annotations

from crossproof.proof.certificate import Certificate, write
from crossproof.proof.config import CertifyConfig
from crossproof.proof.provable import Provable
from crossproof.proof.prove import How, Rivals, Truth, prove


def certify(config: CertifyConfig) -> Certificate:
    """Prove, hold every item's bound against the truth, and write the certificate."""
    of = Provable.open(config.subject, config.data, config.characters)
    proof = prove(of.network, of.items, How(config.rung, config.joined, config.read, config.offsets))
    return write(config.out, of, proof, Truth.of(of.network, of.items), Rivals.of(of.network, of.items))
