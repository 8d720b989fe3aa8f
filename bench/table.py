"""What a benchmark found, as a table, and each promise beside its figure.

In comes the record that `bench.run` wrote, out comes Markdown. Nothing but the record is looked at, so the page with the
results is made from committed figures, anywhere.
"""

from __future__ import annotations

from typing import Any

LIMITS_MIB = {"same": 128, "differ": 256}  # --max-memory's defaults
DRY_RUN_SECONDS = {"same": 1.0, "differ": 3.0}
HELP_SECONDS = 0.3
# Of the time that a tensor takes, from one number of tensors to ten times as many: what is linear keeps near 1.
MOST_GROWTH = 1.5


def render(record: dict[str, Any]) -> str:
    """The table, and what was promised beside what was found."""
    lines = []
    medians = record.get("medians", {})
    labels = {name: entry["label"] for name, entry in record.get("contestants", {}).items()}
    if medians:
        loads = [f"{figures['load_before']:.1f}" for figures in record["rounds"]]
        lines += [
            f"{record['parameters'] / 1e9:.2f} B parameters, {len(record['rounds'])} round(s), medians; "
            f"{record['machine']['cpu']}, {record['machine']['cpus']} CPUs",
            f"load before each round: {', '.join(loads)} (what runs beside it is in these figures)",
            "",
            "| contestant | wall, s | × floor | CPU, s | × floor | peak PSS, MiB | against float32 |",
            "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        for name, entry in medians.items():
            words = record["outputs"].get(name, {}).get("words", "–")
            lines.append(
                f"| {labels[name]} | {entry['wall']:.2f} | {entry['wall_ratio']:.2f} | {entry['cpu']:.2f} "
                f"| {entry['cpu_ratio']:.2f} | {entry['most_pss']:.0f} | {words} |"
            )
    lines += _scale(record.get("scale", []))
    lines += ["", *(f"- {line}" for line in promises(record))]
    return "\n".join(lines)


def _scale(found: list[dict[str, Any]]) -> list[str]:
    """What many small tensors cost, a row for each command."""
    if not found:
        return []
    numbers = [f"{entry['tensors']:,}" for entry in found]
    lines = [
        "",
        "Tensors of 16 bytes, in shards of 250: user CPU time in seconds, and peak PSS in MiB, at so many of them",
        "",
        "| command | " + " | ".join(numbers) + " |",
        "| --- |" + " ---: |" * len(numbers),
    ]
    for command in found[0]["commands"]:
        cells = [entry["commands"][command] for entry in found]
        lines.append(f"| {command} | " + " | ".join(f"{c['user']:.1f} s, {c['pss']:.0f} MiB" for c in cells) + " |")
    return lines


def promises(record: dict[str, Any]) -> list[str]:
    """Each promise with its figure, and whether it held."""
    found: list[tuple[str, float, float, str]] = []
    for name, contestant in record.get("contestants", {}).items():
        if record["size"] == "1.2B" and contestant["most"] and name in record.get("medians", {}):
            ratio = record["medians"][name]["wall_ratio"]
            found.append((f"{contestant['label']}: wall to floor", ratio, contestant["most"], ""))
    for entry in record.get("memory", []):
        for variant, peak in entry["peaks"].items():
            found.append((f"memory at {entry['size']}, tokenizers {variant}", peak["pss"], LIMITS_MIB[variant], " MiB"))
    if "starts" in record:
        starts = record["starts"]
        found.append(("tuneport --help above bare Python", starts["help_above_bare"], HELP_SECONDS, " s"))
        for variant, seconds in starts["dry_run"].items():
            found.append((f"dry run, tokenizers {variant}", seconds, DRY_RUN_SECONDS[variant], " s"))
    if len(record.get("scale", [])) > 1:
        *_, fewer, most = record["scale"]
        times = most["tensors"] / fewer["tensors"]
        for command, took in most["commands"].items():
            growth = took["user"] / fewer["commands"][command]["user"] / times
            what = f"{command}: user CPU time a tensor at {most['tensors']:,}, times that at {fewer['tensors']:,}"
            found.append((what, growth, MOST_GROWTH, ""))
            found.append((f"{command} of {most['tensors']:,} tensors", took["pss"], LIMITS_MIB["same"], " MiB"))
    lines = [
        f"{what}: {value:.3g}{unit}, promised at most {most:g}{unit}: {'held' if value <= most else 'NOT held'}"
        for what, value, most, unit in found
    ]
    for name, output in record.get("outputs", {}).items():
        if name.startswith("tuneport"):
            held = "held" if output["different"] == 0 and not output["missing"] and not output["extra"] else "NOT held"
            lines.append(f"{name} equals torch's float32 to the bit, {output['elements']:,} elements: {held}")
    return lines
