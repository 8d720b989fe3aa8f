"""`report`: make one page from a study's folder, a file of scores, a comparison or an adaptation. Only a study at a URL is downloaded.

`findings` reads and estimates, `page` or `markdown` writes the page; the file is created when complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from tuneport.errors import ABSENT, Fault, OutputError, ReportError, TakenError, UsageError, named
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes, resolved
from tuneport.files.writing import told, write_whole
from tuneport.libraries import how_to_install, missing
from tuneport.public_functions import takes
from tuneport.reporting.demo_study import as_study, is_demo
from tuneport.reporting.fetching import at_hand, url_of
from tuneport.reporting.report_options import ReportOptions
from tuneport.reporting.sections.contents import Contents, of_adaptation, of_comparison, of_evaluation, of_study
from tuneport.reporting.tables.report_tables import findings
from tuneport.results.adaptation_reading import adaptation_of, is_adaptation, is_unfinished
from tuneport.results.comparison_reading import comparison_of, is_comparison
from tuneport.results.evaluation_reading import evaluation_of, read_results
from tuneport.results.schema import ADAPTATION, RESULTS, STEPS, STUDY
from tuneport.shown import Found

# A comment of each form, which is not shown.
_SEALS = {"page": (b"<!-- tuneport report ", b" -->\n"), "markdown": (b"\n[//]: # (tuneport report ", b")\n")}
PAGE, MARKDOWN = "report.html", "report.md"
_OF_STUDY = (RESULTS, STUDY, "inputs.json")  # what `tuneport study` wrote, and steps/
_MANIFESTS = (
    "tuneport.json",
    "tune.json",
)  # of an output, which `verify` finds as it was written: nothing is added to it


class Report(Found):
    """Where a page lies, and what it says in short."""

    def heading(self) -> str:
        """One line."""
        return str(self["words"])


@takes(ReportOptions)
def report(given: ReportOptions) -> Report:
    """Write the page of a study, a demo, a file of scores, a comparison or an adaptation to ``out``.

    Default: report.html or report.md in the study's folder, FILE.html beside a file, DIR.html beside what `adapt` wrote. The
    study may be unfinished: the page lists failed and skipped steps. Returns `out`, `counts` of results by status,
    `summary` and `warnings`; raises `ReportError` if there is nothing to report.

        tuneport.report("my-study")
    """
    study, out, format = os.fspath(given.study), given.out, given.format
    lacking = missing("plotly", "jinja2") if format == "page" else []
    if lacking:
        remedy = f"{how_to_install('report')} Or choose markdown"
        raise UsageError(Fault("format", format, f"the page needs {' and '.join(lacking)}", remedy))
    url = url_of(study)
    if out is None and url is not None:
        absent = f"is missing; {url} is a URL, and the page is written on this machine"
        raise UsageError(Fault("out", ABSENT, absent, "Give a file"))
    if format == "page":
        from tuneport.reporting.render.page import page as render
    else:
        from tuneport.reporting.render.markdown import markdown as render
    if url is None and (file := _file_of_scores(study)) is not None:
        return _of_scores(file, out, format, render)
    with at_hand(study) as root:
        place = Path(out).expanduser() if out is not None else root / (PAGE if format == "page" else MARKDOWN)
        _refuse_the_studys_own(place, root)
        _refuse_what_is_taken(place)
        if url is None and not (root / RESULTS).exists() and is_demo(root):
            with as_study(root) as copy:
                found = findings(copy, root.name)  # links into the copy would lead nowhere
                _write(place, _sealed(render(of_study(found, place)), format))
        else:
            found = findings(root, url)
            _write(place, _sealed(render(of_study(found, place)), format))
    statuses = [run.status for run in found.reading.at_end]
    found_out = {
        "out": str(place),
        "counts": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        "summary": " ".join([*found.asked, *found.told]),
        "warnings": list(found.reading.doubts),
        "words": f"{place}: done, {len(statuses)} results of {len(found.reading.steps)} steps",
    }
    return Report(found_out)


def _file_of_scores(study: str) -> Path | None:
    """The file, where a file was given, or the record in the folder of an adaptation. Raises `ReportError` if that is unfinished."""
    place = Path(study.removeprefix("file://")).expanduser()
    if place.is_dir():
        record = place / ADAPTATION
        if is_unfinished(place):
            raise ReportError(
                f"{place}: `tuneport adapt` has not finished it. Run the same command again, then report on the finished folder."
            )
        return record if record.is_file() and not (place / RESULTS).exists() else None
    return place if place.exists() else None


def _of_scores(
    file: Path, out: str | os.PathLike[str] | None, format: str, render: Callable[[Contents], str]
) -> Report:
    """The page of what `tuneport evaluate`, `tuneport compare` or `tuneport adapt` wrote."""
    suffix = Path(PAGE if format == "page" else MARKDOWN).suffix
    remedy = "Give the file that `tuneport evaluate` or `tuneport compare` wrote with `--out FILE.json`, or the folder of `tuneport adapt`."
    output = resolved(file).parent if _is_of_an_output(file) else None
    beside = file.with_suffix(suffix) if output is None else output.with_name(output.name + suffix)
    place = Path(out).expanduser() if out is not None else beside
    _refuse_what_is_taken(place)
    found = read_results(file, remedy)
    if is_adaptation(found):
        shown = of_adaptation(adaptation_of(found, file.stem if output is None else output.name))
    elif is_comparison(found):
        shown = of_comparison(comparison_of(found, file.stem))
    else:
        shown = of_evaluation(evaluation_of(found, file, remedy))
    _write(place, _sealed(render(shown), format))
    words = f"{place}: done, {shown.summary}"
    return Report({"out": str(place), "counts": {}, "summary": shown.summary, "warnings": [], "words": words})


def _is_of_an_output(file: Path) -> bool:
    """Whether it is the record of an adaptation in the folder that it is about."""
    return file.name == ADAPTATION and any((file.parent / name).is_file() for name in _MANIFESTS)


def _refuse_the_studys_own(place: Path, root: Path) -> None:
    """Raise `UsageError` if the page would replace a file that the study needs."""
    whole, steps = resolved(place.parent) / place.name, resolved(root) / STEPS
    if whole in [resolved(root) / name for name in _OF_STUDY] or whole.is_relative_to(steps):
        remedy = f"Give another file, or omit {named('out')}: {PAGE} or {MARKDOWN} is then written in {root}"
        raise UsageError(Fault("out", str(place), "is a file of the study, which the page would replace", remedy))


def _sealed(text: str, format: str) -> bytes:
    """The file: the text, and a comment by which a later report recognises it if nobody edited it."""
    content, (begin, end) = text.encode("utf-8"), _SEALS[format]
    return content + begin + blake3(content).hexdigest().encode() + end


def _is_page(place: Path) -> bool:
    """Whether a file is one that this command wrote, in either form, and as it wrote it."""
    try:
        content = b"" if place.is_symlink() else read_bytes(place, most=MOST_RECORD_BYTES)
    except OSError:
        return False
    for begin, end in _SEALS.values():
        text, found, digest = content.rpartition(begin)
        if found and digest == blake3(text).hexdigest().encode() + end:
            return True
    return False


def _refuse_what_is_taken(place: Path) -> None:
    """Raise `OutputError` if there is something that no page may replace: said before the work, and looked at again after it."""
    if place.is_dir():
        raise OutputError(f"{place} is a folder; {named('out')} names a file.")
    if os.path.lexists(place) and not _is_page(place):
        raise TakenError(
            f"{place} exists, and tuneport report did not write it, or it was edited since. Move it away, or give "
            f"another {named('out')}."
        )


def _write(place: Path, content: bytes) -> None:
    """Written beside its place, then renamed: a page is complete or does not exist."""
    _refuse_what_is_taken(place)
    with told(place, f"Choose another {named('out')}."):
        write_whole(place, content)
