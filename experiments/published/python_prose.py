"""Real prose that lies on every machine: the language reference that Python carries for its `help()`.

Whole topics are held out, so that what version 2 learns from the others is measured on text it has not read.
"""

from __future__ import annotations


def python_reference() -> tuple[list[str], list[str]]:
    """The topics to read and the topics held out (every fifth), each a text of some pages.

    Some texts stand under several topics; what is read anywhere is not held out.
    """
    from pydoc_data.topics import topics

    ordered = [topics[name] for name in sorted(topics)]
    read = [text for index, text in enumerate(ordered) if index % 5]
    return read, [text for text in ordered[::5] if text not in read]
