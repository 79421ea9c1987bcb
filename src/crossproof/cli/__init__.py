"""The command line: one command a verb. It parses, calls the library and prints.

`commands.py` and `studies.py` have the commands, `outcomes.py` what they show.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import tyro

from crossproof.cli.commands import COMMANDS
from crossproof.cli.outcomes import Outcome
from crossproof.cli.proofs import PROVING
from crossproof.cli.studies import CONFIGURED, REPORTING
from crossproof.errors import CrossproofError, nearest

FUNCTIONS = COMMANDS | PROVING | REPORTING
ABOUT = {name: command.about for name, command in CONFIGURED.items()} | {
    name: (command.__doc__ or "").splitlines()[0] for name, command in FUNCTIONS.items()
}
"""Every command, and what it does."""
GROUPS = {
    "to begin with": ("zoo", "doctor", "train"),
    "how features interact": ("interactions", "attention", "span", "units"),
    "what can be proved": ("certify", "check", "ladder", "recursion"),
    "the paper's claims": tuple(name for name in CONFIGURED if name not in ("train", "certify", "ladder", "recursion")),
    "what the metrics are worth": ("ground-truth", "planted-units", "ranking", "unit-ranking"),
    "what was found": ("show", "report", "page"),
}
OUT_OF_MEMORY = "out of memory; lower --buffer-tokens first, then --harvest-texts, then --batch-tokens"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    name, *rest = [argument for argument in arguments if argument != "--json"] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        from crossproof import __version__

        print(__version__)
        return 0
    if name not in ABOUT:
        close = nearest(name, ABOUT)
        print(f"crossproof: no command {name!r}" + (f"; did you mean {close}?" if close else ""), file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return 2
    try:
        outcome = _run(name, rest)
    except CrossproofError as error:
        return _complain(name, str(error))
    except OSError as error:
        # a file is written beside its place, then moved there: the place is what was asked for
        place = error.filename2 or error.filename
        return _complain(name, f"{place}: {error.strerror}" if place else error.strerror or str(error))
    except (MemoryError, RuntimeError) as error:
        # torch reports memory that ran out as a RuntimeError, on CPUs and GPUs alike
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            return _complain(name, f"{OUT_OF_MEMORY} ({error})")
        raise
    except KeyboardInterrupt:
        hint = "; repeat the command to go on" if name in CONFIGURED else ""
        return _complain(name, f"stopped{hint}", status=130)
    _print(outcome, as_json)
    return outcome.status


def _run(name: str, arguments: list[str]) -> Outcome:
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # an option's error is no place for a link
    options: dict[str, Any] = {"prog": f"crossproof {name}", "args": arguments}
    if name not in CONFIGURED:
        return tyro.cli(FUNCTIONS[name], **options)
    command = CONFIGURED[name]
    return command.run(tyro.cli(command.config_class(), description=command.about, **options))


def _print(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.data, indent=2, allow_nan=False))
        return
    from rich.console import Console

    # a pipe or a file has no width of its own: there, a table is as wide as it needs to be
    console = Console() if sys.stdout.isatty() else Console(width=160)
    for part in outcome.shown:
        console.print(part, highlight=False)


def _complain(name: str, problem: str, status: int = 1) -> int:
    print(f"crossproof {name}: {problem}", file=sys.stderr)
    return status


def _usage() -> str:
    width = max(map(len, ABOUT))
    lines = "\n\n".join(
        f"{group}:\n" + "\n".join(f"  {name:<{width}}  {ABOUT[name]}" for name in names)
        for group, names in GROUPS.items()
    )
    return (
        "usage: crossproof COMMAND [OPTIONS]\n\n"
        "How the features of a crosscoder interact, and what can be proved from them.\n\n"
        f"{lines}\n\n"
        "`crossproof COMMAND --help` lists a command's options. --json prints results as JSON, for programs."
    )
