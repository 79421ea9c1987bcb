"""Pages and tables of what commands found: made from run folders, never from a model.

A page is one file that needs no network. Start with `page.py`, which every page is put together by.

    study_page.py       the report of many studies: claims, figures, tables, texts, and where all of it comes from
    markdown.py         the same for a repository's own pages
    studies.py          the run folders it reads; the claims of all as `results.json`
    server.py           a local page that lists the studies of a folder
    attention_page.py   an attention head on one text, of a folder that `crossproof attention` wrote
"""
