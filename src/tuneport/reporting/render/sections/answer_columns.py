"""The section with models' answers side by side; which models, the reader chooses."""

from __future__ import annotations

from tuneport.reporting.render.markup import Markup, script_data, tag
from tuneport.reporting.render.sections import Section
from tuneport.reporting.tables.answers_side_by_side import SideBySide, shortened
from tuneport.reporting.tables.wording import DASH, listed


def answers(found: SideBySide | None, several: bool) -> Section | None:
    """Answers of three models at a time; another may be chosen for each."""
    if found is None:
        return None
    names = [model.name(several) for model in found.models]
    data = {
        "models": names,
        "said": [
            [[shortened(a.said), a.score] if (a := example.said.get(model)) else None for model in found.models]
            for example in found.asked
        ],
    }
    of = listed(
        [
            *([f"family {found.family}"] if found.family is not None else []),
            *([f"seed {found.seed}"] if found.seed is not None else []),
        ]
    )
    choosers = [
        tag(
            "label",
            f"Model {place + 1} ",
            tag(
                "select",
                [
                    tag("option", name, value=number_of, selected=model == chosen)
                    for number_of, (name, model) in enumerate(zip(names, found.models, strict=True))
                ],
                data_column=place,
            ),
        )
        for place, chosen in enumerate(found.first)
    ]
    blocks = []
    for task in dict.fromkeys(example.task for example in found.asked):
        rows = []
        for place, example in enumerate(found.asked):
            if example.task != task:
                continue
            asked = [
                tag("span", f"#{example.id}", class_="id"),
                tag("span", shortened(example.question), class_="said") if example.question else None,
            ]
            right = tag("span", shortened(example.answer), class_="said") if example.answer else DASH
            cells = [tag("th", asked, scope="row"), tag("td", right, data_label="right answer")]
            for model in found.first:
                answer = example.said.get(model)
                mark = None if answer is None else _verdict(answer.score)
                said = tag("span", shortened(answer.said) if answer else DASH, class_="said")
                cells.append(tag("td", mark, said, data_label=model.name(several)))
            rows.append(tag("tr", cells, data_example=place))
        head = ["question", "right answer", *(model.name(several) for model in found.first)]
        heads = [
            tag("th", name, scope="col", data_of=place - 2 if place > 1 else None) for place, name in enumerate(head)
        ]
        caption = f"Answers, {task}"
        blocks.append(
            tag(
                "div",
                tag("h3", task),
                tag(
                    "div",
                    tag(
                        "table",
                        tag("caption", caption, class_="unseen"),
                        tag("thead", tag("tr", heads)),
                        tag("tbody", rows),
                        class_="answers",
                    ),
                    class_="scroller", tabindex="0", role="region", aria_label=caption,
                ),
            )
        )  # fmt: skip
    intro = (
        f"A few questions{f' ({of})' if of else ''} where the models shown first differ, in the files' order: not a sample. "
        "✓ counted as right, ✗ as wrong."
    )
    chooser = tag("div", choosers, class_="choosers")
    store = tag("script", script_data(data), type="application/json", id="answers-data")
    return "answers", "Answers side by side", [tag("p", intro), chooser, blocks, store]


def _verdict(score: float) -> Markup:
    right = score > 0
    return tag(
        "span",
        tag("span", "✓" if right else "✗", aria_hidden="true"),
        tag("span", "right: " if right else "wrong: ", class_="unseen"),
        class_="verdict",
    )
