"""crossproof: how the features of a crosscoder interact, and what can be proved from them.

    import crossproof as xp

    subject = xp.Subject.load("tinytales")
    coder = xp.Crosscoder.load("runs/demo")
    found = xp.interactions(subject, coder, subject.texts(100))

The rooms, in the order data flows through them: `subject` (the model under study), `crosscoder` (the dictionary),
`interaction` (what its features do to each other), `binding` (which joins the three), `proof` (what is certain of the
model). Names are imported when first used, so that `import crossproof` is quick and loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossproof.binding.attention_view import attention_view as attention_view
    from crossproof.binding.interactions import interactions as interactions
    from crossproof.binding.interactions import token_interactions as token_interactions
    from crossproof.binding.spans import span_interactions as span_interactions
    from crossproof.binding.train import train as train
    from crossproof.crosscoder.evaluate import evaluate as evaluate
    from crossproof.crosscoder.model import Crosscoder as Crosscoder
    from crossproof.interaction.result import Interactions as Interactions
    from crossproof.proof.certify import certify as certify
    from crossproof.proof.check import check as check
    from crossproof.subject.subject import Subject as Subject

__version__ = "0.1.0"

_WHERE = {
    "Crosscoder": "crossproof.crosscoder.model",
    "Interactions": "crossproof.interaction.result",
    "Subject": "crossproof.subject.subject",
    "attention_view": "crossproof.binding.attention_view",
    "certify": "crossproof.proof.certify",
    "check": "crossproof.proof.check",
    "evaluate": "crossproof.crosscoder.evaluate",
    "interactions": "crossproof.binding.interactions",
    "span_interactions": "crossproof.binding.spans",
    "token_interactions": "crossproof.binding.interactions",
    "train": "crossproof.binding.train",
}
__all__ = [
    "Crosscoder",
    "Interactions",
    "Subject",
    "__version__",
    "attention_view",
    "certify",
    "check",
    "evaluate",
    "interactions",
    "span_interactions",
    "token_interactions",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'crossproof' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
