"""Pages and tables of what commands found: made from run folders, never from a model.

A page is one file that needs no network. Start with `page.py`, which every page is put together by; `attention_page.py`
is one, of a folder that `crossproof attention` wrote.
"""
