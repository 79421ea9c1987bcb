"""The command line: one command a verb. It parses, calls the library and prints.

Nothing heavy is imported before the verb is known, and the help of a verb needs no torch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossproof.crosscoder.evaluate import Evaluation

from crossproof.errors import CrossproofError, nearest

Handler = Callable[[list[str], bool], int]


@dataclass(frozen=True)
class Verb:
    """A command: what it is for, and the function that is given its arguments and whether to print JSON."""

    summary: str
    run: Handler


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        from crossproof import __version__

        print(__version__)
        return 0
    name, *rest = arguments
    if name not in VERBS:
        close = nearest(name, VERBS)
        print(f"crossproof: no command {name!r}" + (f"; did you mean {close}?" if close else ""), file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return 2
    try:
        return VERBS[name].run(rest, as_json)
    except CrossproofError as error:
        print(f"crossproof {name}: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"crossproof {name}: {_OUT_OF_MEMORY}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        # torch reports memory that ran out as a RuntimeError, on CPUs and GPUs alike
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            print(f"crossproof {name}: {_OUT_OF_MEMORY} ({error})", file=sys.stderr)
            return 1
        raise
    except KeyboardInterrupt:
        print(f"\ncrossproof {name}: stopped; repeat the command to go on from the last checkpoint", file=sys.stderr)
        return 130


_OUT_OF_MEMORY = "out of memory; lower --buffer-tokens first, then --harvest-texts, then --batch-tokens"


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: crossproof COMMAND [OPTIONS]\n\n"
        "How the features of a crosscoder interact, and what can be proved from them.\n\n"
        f"commands:\n{lines}\n\n"
        "`crossproof COMMAND --help` lists a command's options. --json prints results as JSON, for programs."
    )


def _parse(kind: Any, name: str, arguments: list[str]) -> Any:
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # an option's error is no place for a link
    import tyro

    return tyro.cli(kind, prog=f"crossproof {name}", description=VERBS[name].summary, args=arguments)


def _train(arguments: list[str], as_json: bool) -> int:
    from crossproof.crosscoder.config import TrainConfig

    config = _parse(TrainConfig, "train", arguments)
    from crossproof.crosscoder.train import train

    results = train(config)
    _print_evaluation(str(config.out), results, as_json)
    return 0


def _show(arguments: list[str], as_json: bool) -> int:
    from pathlib import Path
    from typing import Annotated

    import tyro

    def show(folder: Annotated[Path, tyro.conf.Positional]) -> Path:
        """Print what a run found.

        Args:
            folder: The run folder.
        """
        return folder

    folder = _parse(show, "show", arguments)
    from crossproof import runs
    from crossproof.crosscoder.evaluate import Evaluation

    _print_evaluation(str(folder), runs.read_results(folder, Evaluation), as_json)
    return 0


def _doctor(arguments: list[str], as_json: bool) -> int:
    from typing import Annotated

    import tyro

    def doctor(model: Annotated[str, tyro.conf.Positional], data: str | None = None, device: str = "cpu") -> Any:
        """Test on a model everything that the library relies on.

        Args:
            model: A zoo name, a local folder or a hub id.
            data: Texts to test on, if the model brings none: a .txt or .jsonl file.
            device: cpu, cuda or cuda:N.
        """
        return model, data, device

    model, data, device = _parse(doctor, "doctor", arguments)
    from pathlib import Path

    from crossproof.subject.doctor import examine, table
    from crossproof.subject.subject import Subject

    subject = Subject.load(model, device=device)
    tokens = subject.source("validation", Path(data) if data else None).tokens(0, 4)
    checks = examine(subject, tokens)
    if as_json:
        print(json.dumps([check.model_dump() for check in checks], indent=2))
    else:
        _console().print(table(checks))
    return 0 if all(check.passed for check in checks) else 1


def _zoo(arguments: list[str], as_json: bool) -> int:
    from pathlib import Path
    from typing import Annotated

    import tyro

    def zoo(rebuild: Annotated[tuple[str, ...], tyro.conf.Positional] = (), out: Path | None = None) -> Any:
        """List the shipped models, or train some of them again.

        Args:
            rebuild: Names to train again, or `all`; none lists what is shipped.
            out: Where to write rebuilt models. Default: over the shipped ones.
        """
        return rebuild, out

    rebuild, out = _parse(zoo, "zoo", arguments)
    from crossproof.subject.zoo import members

    if rebuild:
        from crossproof.subject.zoo.build import rebuild as build

        build(rebuild, out)
    rows = members()
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _console().print(_table("zoo", rows))
    return 0


def _console() -> Any:
    from rich.console import Console

    # a pipe or a file has no width of its own: there, a table is as wide as it needs to be
    return Console() if sys.stdout.isatty() else Console(width=160)


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else _number(value) for value in row.values()))
    return table


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _print_evaluation(name: str, results: Evaluation, as_json: bool) -> None:
    if as_json:
        print(results.model_dump_json(indent=2))
        return
    console = _console()
    console.print(_table(name, [site.model_dump() for site in results.sites]))
    console.print(
        f"mean unexplained {results.mean_unexplained:.2%} · {results.l0:.1f} active features per token · "
        f"{results.dead:.2%} dead · model's loss {results.loss:.4f} on {results.tokens:,} tokens of {results.texts} texts"
    )


VERBS = {
    "train": Verb("Train a crosscoder on a model, evaluate it and save it in a run folder.", _train),
    "show": Verb("Print what a run found.", _show),
    "doctor": Verb("Test on a model everything that the library relies on.", _doctor),
    "zoo": Verb("List the shipped models with their losses beside n-gram baselines, or train them again.", _zoo),
}


if __name__ == "__main__":
    sys.exit(main())
