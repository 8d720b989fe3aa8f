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
        help="folder or URL that `tuneport study` wrote, finished or not; or a demo's folder, or the scores of `tuneport evaluate`",
    )
    out: Place | None = option(
        None,
        metavar="FILE",
        positional=True,
        help="default: DIR/report.html, or DIR/report.md; of scores FILE.html or FILE.md; of a URL there is none",
    )
    format: Literal["page", "markdown"] = option(
        "page",
        help="page: one HTML file with figures, which opens without network; markdown: tables, for a model card or an issue",
    )
