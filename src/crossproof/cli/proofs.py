"""The commands that prove: `certify` writes a certificate, `check` derives it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from crossproof.cli.outcomes import Outcome

if TYPE_CHECKING:
    from crossproof.proof.certificate import Certificate
    from crossproof.proof.config import CertifyConfig


def certify(config: CertifyConfig) -> Outcome:
    from crossproof.proof.certify import certify as prove

    certificate = prove(config)
    return Outcome(certificate.model_dump(), _said(certificate, config.out))


def _said(certificate: Certificate, out: Path) -> tuple[Any, ...]:
    its, total, true = certificate.statement, certificate.total, certificate.measured["loss"]
    said = [
        f"{its.subject}: mean loss at most {its.loss:.6g} on {its.windows:,} windows (truly "
        f"{true:.6g}), at least {its.right:,} of them predicted rightly",
        f"{total:.3g} operations: {total / certificate.brute_force['cached']:.3f} of brute force from tables, "
        f"{total / certificate.brute_force['naive']:.4f} of naive brute force",
    ]
    if "unexplained" in certificate.measured:
        said.append(
            f"in the directions of {certificate.made['dictionary']}; error atoms have "
            f"{certificate.measured['unexplained']:.1%} of what tokens write where the MLP reads, and its biases"
        )
    if certificate.vacuous:
        said.append(
            f"WARNING: vacuous: a model that says all tokens are as likely has a loss of {certificate.uniform:.6f}"
        )
    return (*said, f"{out}; `crossproof check {out}` derives it again")


def check(folder: Annotated[Path, tyro.conf.Positional]) -> Outcome:
    """Derive a certificate's bound again, by an independent program.

    Args:
        folder: The folder of the certificate.
    """
    from crossproof.proof.check import check as checked

    accepted, said = checked(folder)
    return Outcome({"accepted": accepted, "said": said}, (said,), status=0 if accepted else 1)


PROVING: dict[str, Callable[..., Outcome]] = {"check": check}
