"""The sections of the page. Each is its anchor, its title and its content; None where a study has nothing of the kind."""

from __future__ import annotations

from typing import Any

Section = tuple[str, str, Any]
