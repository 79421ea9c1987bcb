"""The local page: which studies there are below a folder, and the report of one or several of them.

It listens on this machine alone, answers only to its own name (so that no web site can read it through a name that
leads here), and reads only the run folders that it lists.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from crossproof.errors import CrossproofError
from crossproof.report.page import POLICY, need_plotly, still_page
from crossproof.report.studies import read_studies, run_folders
from crossproof.report.study_page import report_page
from crossproof.report.study_parts import prose
from crossproof.report.words import tally

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HERE_ALONE = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve(root: Path, port: int = 8000, say: Callable[[str], None] = print) -> None:
    """Until it is stopped. Port 0 takes any that is free; `say` is told the address."""
    application = app(root)
    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HERE_ALONE, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "a port is a number from 0 to 65535"
            raise CrossproofError(
                f"port {port} of {HERE_ALONE} cannot be used ({reason}): choose another, or 0 for any that is free"
            ) from error
        say(f"http://{HERE_ALONE}:{listening.getsockname()[1]}")
        uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listening])


def app(root: Path) -> Starlette:
    _need_server()
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    if not root.is_dir():
        raise CrossproofError(f"{root} is no folder: name one that holds run folders")

    def answer(page: str, status: int = 200) -> Response:
        return HTMLResponse(page, status, HEADERS)

    def index(request: Request) -> Response:
        return answer(_index(root))

    def report(request: Request) -> Response:
        known, names = run_folders(root), request.query_params.getlist("study")
        missing = [name for name in names if name not in known]
        if missing or not names:
            return answer(_problem(f"No study {', '.join(missing)} here." if missing else "Choose a study."), 404)
        try:
            studies = read_studies([known[name] for name in names])
        except CrossproofError as error:
            return answer(_problem(str(error)), 422)
        return answer(report_page(studies, studies[0].findings.title if len(studies) == 1 else root.resolve().name))

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HERE_ALONE, "localhost"], www_redirect=False)
    return Starlette(routes=[Route("/", index), Route("/report", report)], middleware=[hosts])


def _index(root: Path) -> str:
    rows = []
    for name, folder in run_folders(root).items():
        try:
            [study] = read_studies([folder])
        except CrossproofError as error:
            rows.append(f"<li>{escape(name)}: cannot be read <small>{escape(str(error))}</small></li>")
            continue
        link = f"/report?{urlencode({'study': name})}"
        rows.append(
            f'<li><input type="checkbox" name="study" value="{escape(name)}" aria-label="{escape(name)}" checked> '
            f'<a href="{escape(link)}">{prose(study.findings.title)}</a> <small>{escape(name)} · '
            f"{escape(study.run.started)} · {tally(study.findings.claims)}</small></li>"
        )
    studies = (
        "<p>Choose a title to read what one study found, or some boxes for one report of several.</p>"
        f'<form action="/report"><ul class="runs">{"".join(rows)}</ul><button>Report of those chosen</button></form>'
        if rows
        else "<p>No studies below this folder yet: they appear when they are finished.</p>"
    )
    return still_page("crossproof", f"<h1>Studies in {escape(str(root))}</h1>{studies}")


def _problem(text: str) -> str:
    return still_page("crossproof", f'<h1>Not shown</h1><p>{escape(text)}</p><p><a href="/">All studies</a></p>')


def _need_server() -> None:
    need_plotly()
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise CrossproofError(f"the local page needs {' and '.join(missing)}: pip install 'crossproof[page]'")
