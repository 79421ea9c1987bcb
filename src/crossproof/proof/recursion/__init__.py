"""The paper's own recursion, as a bound that is computed: from the decoded residual stream, unit by unit, to the loss.

At the first site that a crosscoder describes, the model's point is within the crosscoder's error of the decoded one. At
each unit three things are added to that distance: what the unit makes of the distance so far (*growth*), what features
do to each other inside it (*interaction*), and how far what comes out is from the crosscoder's decoded point at the
next site (*reconstruction*), where the next unit begins. At the end the distance gives the loss. The bound is sound
and, for ordinary crosscoders, astronomically vacuous; it is here to see where it loses how much.

    chain.py      a subject's units, one after the other, and a text as it goes through them
    ways.py       what can be chosen at the units: the paper's way, and better ones
    walk.py       one text through the chain, with terms that can be switched off
    waterfall.py  how much each term adds to the radius at the end
    pairs.py      which pairs of features an MLP's interaction term is made of
    recursion.py  all of it for some texts: open this first
"""
