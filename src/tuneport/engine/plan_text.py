"""Show a plan as text and as JSON, for --dry-run.

It shows what will happen to tensors (as counts, and by name if a tensor is not simply transferred), tokens and small
files, what a sample of the weights says about the roles, bytes, memory, and problems that would stop the run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuneport.engine.budget import MIB, Budget, budget
from tuneport.engine.checks.before_writing import RolesVerdict
from tuneport.engine.checks.expected_verdict import verdict_in_words, verdict_of_sample, verdict_record
from tuneport.engine.choices import Running
from tuneport.engine.manifest import token_record
from tuneport.engine.plan import Plan
from tuneport.engine.summands.lineage import lineage_in_words
from tuneport.errors import OutputError, named, shortened, spoken
from tuneport.files.printable import printable_line
from tuneport.output.write import place_refusals
from tuneport.shown import Found
from tuneport.sidecars.chat_behaviour import behaviour_in_words

CHECKED_WHILE_RUNNING = (
    "NaN and infinity in the inputs and in the sums",
    "that integer and boolean tensors are equal in base and tuned",
    "that a tied head equals the embedding stored beside it",
    "that the diff vector is not zero",
    "that no input changes during the run",
)


STRICT = f"{named('strict')} stops this run: there are warnings (below or in `warnings`)."
_COSINES = {
    "base_target": "base and target",
    "base_tuned": "base and tuned",
    "at_base": "tuned − base and target − base",
}


class PlannedRun(Found):
    """What a run would do, by key as its JSON is."""

    def __init__(self, plan: Plan, told: dict[str, Any]) -> None:
        super().__init__(told)
        self._plan = plan

    def heading(self) -> str:
        """One line: the sum, the number of tensors, and whether anything is refused."""
        how = f"{len(self['refused'])} refused" if self["refused"] else "no problems found"
        return f"plan of {self['operation']}: {self['formula']}, {sum(self['counts'].values())} tensors, {how}"

    def table(self) -> list[list[str]]:
        """The fates of tensors, and what is refused."""
        counts = [[f"tensors {fate}", f"{count:,}"] for fate, count in self["counts"].items()]
        said = [[kind, text] for kind, key in (("warning", "warnings"), ("refused", "refused")) for text in self[key]]
        return [["", ""], *counts, *said]

    def in_words(self) -> str:
        """All of it, for a person."""
        return plan_in_words(self._plan, self.to_dict())


def plan_as_json(plan: Plan, running: Running, seen: RolesVerdict, out: Path | None = None) -> dict[str, Any]:
    """The plan as one JSON object; with ``out`` also what would be refused because of the place to write to.

    ``seen`` is what `look` saw of the weights.
    """
    warnings = [*plan.token_warnings, *plan.warnings, *seen.warnings]
    counts = Counter(line.fate for line in plan.account)
    pool, memory_refusal = _memory(plan, running)
    return {
        "operation": plan.operation,
        "formula": plan.formula,
        "inputs": [
            {**c.identity(), "parameters": c.parameters, "tensors": len(c.tensors), "bytes_to_fetch": c.to_fetch}
            for c in plan.inputs
        ],
        "counts": dict(sorted(counts.items())),
        "tensors": [
            {"name": line.name, "fate": line.fate, "reason": spoken([line.reason])[0], "by_token": line.by_token}
            for line in plan.account
            if line.fate != "transferred" or line.by_token or line.reason
        ],
        "tokens": [token_record(match) for match in plan.vocabulary],
        "decisions": [asdict(decision) for decision in plan.decisions],
        "config_differences": [asdict(difference) for difference in plan.differences],
        **{name: plan.extra[name] for name in ("behaviour", "lineage") if name in plan.extra},
        "files": sorted([*plan.layout.sizes, *plan.files, "README.md", "tuneport.json"]),
        "bytes": {"fetch": plan.bytes_to_fetch, "read": plan.bytes_to_read, "write": plan.bytes_to_write},
        "memory": None if pool is None else {"bytes": pool.estimate, "limit": pool.limit, "workers": pool.workers},
        "checked_while_running": list(CHECKED_WHILE_RUNNING),
        "roles": seen.record(),
        "rounding": None if seen.rounding is None else seen.rounding.record(),
        "verdict": verdict_record(verdict_of_sample(plan, seen)),
        "warnings": list(spoken(warnings)),
        "refused": list(
            spoken(
                (
                    *plan.refusals,
                    *seen.refusals,
                    *memory_refusal,
                    *_place_refusals(plan, running, out),
                    *_cache_refusals(plan),
                    *([STRICT] if running.strict and warnings else []),
                )
            )
        ),
    }


def plan_in_words(plan: Plan, told: dict[str, Any]) -> str:
    """The plan for a person, from what `plan_as_json` told."""
    lines = [f"{plan.operation}: {plan.formula}", ""]
    for entry, checkpoint in zip(told["inputs"], plan.inputs, strict=True):
        revision = f" @ {entry['revision']}" if entry["revision"] else ""
        lines.append(
            f"  {entry['role']:<7} {printable_line(entry['name'])}{revision}: {entry['tensors']} tensors, "
            f"{entry['parameters']:,} parameters in {len(checkpoint.files)} file(s)"
        )
    lines += ["", "tensors: " + ", ".join(f"{count} {fate}" for fate, count in told["counts"].items())]
    adapted = {line.name for line in plan.account if line.pair is not None and line.pair.change is not None}
    alike = Counter((tensor["fate"], tensor["reason"]) for tensor in told["tensors"] if tensor["name"] in adapted)
    for (action, reason), count in alike.items():  # an adapter does the same to many
        example = next(t["name"] for t in told["tensors"] if (t["fate"], t["reason"]) == (action, reason))
        more = f" and {count - 1} more" if count > 1 else ""
        lines.append(f"  {action:<11} {printable_line(example)}{more}: {reason}")
    for tensor in told["tensors"]:
        if tensor["name"] in adapted:
            continue
        how = " (rows matched by token)" if tensor["by_token"] and tensor["fate"] == "transferred" else ""
        reason = f": {tensor['reason']}" if tensor["reason"] else ""
        lines.append(f"  {tensor['fate']:<11} {printable_line(tensor['name'])}{how}{reason}")
    lines += ["", "decisions:"]
    lines += [
        f"  {printable_line(entry['subject'])}: {printable_line(entry['choice'])} ({printable_line(entry['reason'])})"
        for entry in told["decisions"]
    ]
    if told["config_differences"]:
        lines += ["", "fields that differ between the models (base | tuned | target → output):"]
        for entry in told["config_differences"]:
            values = " | ".join(_short(entry[key]) for key in ("base", "tuned", "target"))
            lines.append(f"  {printable_line(entry['field'])}: {values} → {_short(entry['output'])}")
    if "behaviour" in plan.extra:
        lines += ["", f"the output: {behaviour_in_words(plan.extra['behaviour'])}"]
    if "lineage" in plan.extra:
        lines += ["", lineage_in_words(plan.extra["lineage"])]
    size = told["bytes"]
    lines += ["", f"bytes: {size['fetch']:,} to download, {size['read']:,} to read, {size['write']:,} to write"]
    if told["memory"]:
        memory = told["memory"]
        lines.append(
            f"memory: at most {memory['bytes'] / MIB:.0f} MiB (the limit is {memory['limit'] / MIB:.0f} MiB), "
            f"{memory['workers']} worker(s)"
        )
    lines += _roles_in_words(told["roles"])
    lines += _rounding_in_words(told["rounding"])
    if told["verdict"] is not None:
        verdict = verdict_in_words(told["verdict"])
        for warning in told["warnings"]:
            verdict = verdict.replace(warning, "see the warning below.")
        lines.append(f"{verdict} (From a sample.)")
    lines += ["checked only while running: " + "; ".join(told["checked_while_running"])]
    if told["warnings"]:
        lines += ["", "warnings:", *map(_entry, told["warnings"])]
    lines += ["", _refusals_in_words(told)]
    lines += map(_entry, told["refused"])
    return "\n".join(lines)


def _refusals_in_words(told: dict[str, Any]) -> str:
    """What the dry run ends with."""
    if told["refused"]:
        return "refused:"
    return "nothing stops this run, but read the warnings first" if told["warnings"] else "no problems found"


def _roles_in_words(roles: dict[str, Any]) -> list[str]:
    """What the sample says, and what is worth knowing."""
    lines = []
    for role, sample in roles["samples"].items():
        if not sample["matrices"]:
            continue
        whose = "roles" if len(roles["samples"]) == 1 else f"roles ({role})"
        figures = [f"{words} {sample[name]:.3f}" for name, words in _COSINES.items() if sample[name] is not None]
        part = "all" if sample["complete"] else "a sample"
        lines.append(
            f"{whose}: cosines (median of {sample['matrices']} matrices, {part} of their elements): {', '.join(figures)}"
        )
    return lines + [f"note: {note['message']}" for note in roles["notes"]]


def _rounding_in_words(rounding: dict[str, Any] | None) -> list[str]:
    """What rounding takes from the sample's difference."""
    if rounding is None or rounding["error"] is None:
        return []
    part = "all" if rounding["complete"] else "a sample"
    return [
        f"rounding: loses {rounding['error']:.2g} of ‖Δ‖ ({rounding['matrices']} matrices, {part} of their elements)"
    ]


def _place_refusals(plan: Plan, running: Running, out: Path | None) -> list[str]:
    if out is None or plan.refusals:
        return []
    local = [checkpoint.path for checkpoint in plan.inputs if checkpoint.hub_id is None]
    return place_refusals(out, local, plan.record(), plan.layout, running.overwrite)


def _cache_refusals(plan: Plan) -> list[str]:
    """The disk of the Hub cache must hold what is to be fetched."""
    if not plan.bytes_to_fetch:
        return []
    from tuneport.checkpoint.hub import free_in_cache

    free = free_in_cache()
    if plan.bytes_to_fetch <= free:
        return []
    return [f"{plan.bytes_to_fetch:,} bytes must be downloaded, but the disk of the Hub cache has {free:,} free."]


def _memory(plan: Plan, running: Running) -> tuple[Budget | None, list[str]]:
    try:
        return budget(running.memory_limit, running.workers, plan.default_limit, plan.more_memory, plan.leaves), []
    except OutputError as error:
        return None, [str(error)]


def _entry(text: str) -> str:
    """A message in a list; its own lines stay below it."""
    return "  " + text.replace("\n", "\n    ")


def _short(value: Any) -> str:
    return shortened(printable_line(str(value)), 60)
