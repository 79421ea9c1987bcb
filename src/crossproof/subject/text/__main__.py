"""Prints the table of statistics in docs/text.md: `python -m crossproof.subject.text`."""

from __future__ import annotations

from itertools import islice

from crossproof.subject.text import Part, Stories, vocabulary
from crossproof.subject.text.plots import plots
from crossproof.subject.text.stories import longest

COUNT = 20_000


def table() -> str:
    stories = list(islice(Stories(0).stream(), COUNT))
    told = (p for s in stories for p, of in zip(s.pieces, s.labels, strict=True) if of.part is Part.STORY)
    words = {piece.strip().lower() for piece in told if piece.strip().isalpha()}
    lengths = [1 + len(story.pieces) for story in stories]
    bound = max(longest(plot) for plot in plots())
    return f"""| measured over {COUNT:,} stories | |
|---|---|
| plots | {len(plots())} |
| distinct words | {len(words)}, in a vocabulary of {len(vocabulary())} pieces |
| length with beginning-of-text | mean {sum(lengths) / COUNT:.1f} tokens, longest {max(lengths)} (at most {bound}) |
| distinct stories | {len({story.text for story in stories}):,} |"""


if __name__ == "__main__":
    print(table())
