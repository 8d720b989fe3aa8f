"""The options of `report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuneport.options import Options, Place, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """The options of `report`."""

    study: Place = option(
        metavar="DIR|FILE.json",
        positional=True,
        argument=True,
        help="folder or URL written by `tuneport study` (finished or not), a demo's folder, a folder written by `tuneport adapt`, or a "
        "file written by `tuneport evaluate` or `tuneport compare`",
    )
    out: Place | None = option(
        None,
        metavar="FILE",
        positional=True,
        help="file to write (default: DIR/report.html or DIR/report.md; for a file FILE.html or FILE.md; for a folder of `tuneport adapt` "
        "DIR.html or DIR.md beside it; required for a URL)",
    )
    format: Literal["page", "markdown"] = option(
        "page",
        help="page: one HTML file with figures, readable offline; markdown: tables for a model card or an issue",
    )
