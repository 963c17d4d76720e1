"""Fills the generated parts of these pages from the task files and the code: ``python docs/tasks/generate.py``.

A page holds ``<!-- generated: NAME -->`` and ``<!-- end -->``; what stands between them is replaced by what ``NAME``
below gives for the page's task. All else is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iml_bench.modalities.text.model import TextShape
from iml_bench.modalities.text.spec import TextRender
from iml_bench.modalities.text.tokens import Form
from iml_bench.modalities.vision.model import VisionShape
from iml_bench.modalities.vision.spec import DigitGridRender
from iml_bench.models import count_parameters, load_form
from iml_bench.models.loading import draw_model
from iml_bench.paths import data_root
from iml_bench.protocols import measures_of, protocol_of, streams_of
from iml_bench.protocols.base import Design, Examples
from iml_bench.protocols.two_stage.design import LATIN, NEW_GROUPS, PAIR, SHARED_TAGS, branches_of
from iml_bench.protocols.two_stage.spec import TwoStageTask
from iml_bench.registry import MODELS, TASKS
from iml_bench.run.cell import Setting
from iml_bench.runtime import Runtime
from iml_bench.spec import Spec, StageRecipe
from iml_bench.spec.written import show_value
from iml_bench.worlds import World, cities, cvdb, trex
from iml_bench.worlds.profiles import ATTRIBUTES

FOLDER = Path(__file__).parent
PART = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TASK_FIELDS = ("alpha", "heldout", "crossover", "attribution", "exact_match", "stages", "until", "stage2_tags")
CPU = torch.device("cpu")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown."""
    cells = [[str(cell).replace("|", r"\|").replace("\n", r"\n") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [[*head], ["---"] * len(head), *cells])


def code(text: str) -> str:
    """A text as code of Markdown, a line end in it as it is written in a string."""
    return f"`{text}`".replace("\n", r"\n")


def described(spec: Spec, prefix: str, names: Iterable[str] = ()) -> list[tuple[str, str, str]]:
    """Field, value and meaning of every field of a specification, or of those that are named."""
    rows = []
    for name in names or type(spec).model_fields:
        value, field = getattr(spec, name), type(spec).model_fields[name]
        if isinstance(value, StageRecipe):
            rows += described(value, f"{prefix}{name}.")
            continue
        shown = value if isinstance(value, str) else show_value(list(value) if isinstance(value, tuple) else value)
        meaning = " ".join((field.description or "").replace("``", "`").split())
        rows.append((code(prefix + name), code(shown), meaning))
    return rows


def settings(task: TwoStageTask) -> str:
    """Every field of the task that can change its answer."""
    rows = described(task.world, "world.") + described(task.render, "render.") + described(task, "", TASK_FIELDS)
    return table(("field", "value", "meaning"), rows + described(task.recipe, "recipe."))


def small(task: TwoStageTask) -> str:
    """What ``--small`` changes."""
    return table(("field", "value"), [(code(name), code(show_value(value))) for name, value in task.small.items()])


def variants(task: TwoStageTask) -> str:
    """What ``--variant`` changes."""
    rows = [
        (code(variant), code(name), code(show_value(value)))
        for variant, overrides in task.variants.items()
        for name, value in overrides.items()
    ]
    return table(("variant", "field", "value"), rows)


@cache
def setting_of(name: str, form: Form = Form()) -> Setting:
    """The data of seed 0 of a task that needs no files, as a model of some form reads it."""
    return Setting(TASKS.get(name), 0, CPU, Runtime(device="cpu"), form)


def design_of(task: TwoStageTask) -> Design:
    """The design of seed 0; of a file that is not here, with entities that all have every attribute."""
    streams, n = streams_of(task, 0), task.n_entities
    if task.world.reads_file:
        attributes = task.world.n_attributes
        values = np.tile(np.arange(n)[:, None], attributes)
        world = World(("",) * attributes, ((),) * attributes, values)
    else:
        world = task.world.build(n, streams, None)
    return protocol_of(task).design(task, world, streams)


def numbers(task: TwoStageTask) -> str:
    """Entities by group, examples, steps, what is in a batch, what is asked."""
    design, recipe, varies = design_of(task), task.recipe, task.world.kind == "trex"
    rows = [(f"entities of `{name}`", f"{size:,}") for name, size in task.group_sizes.items() if size]
    rows.append(("entities", f"{task.n_entities:,}"))
    for phase, stage in (("stage1", recipe.stage1), ("stage2", recipe.stage2)):
        examples = design.trained(phase)
        shown = int(examples.is_definition.sum())
        asked = len(examples) - shown
        name = {"stage1": "stage 1", "stage2": "stage 2, each branch"}[phase]
        rows.append((f"{name}: definitions", f"{shown:,}"))
        if phase == "stage1":
            rows.append(
                (f"{name}: trained questions", "all of the file that are not held out" if varies else f"{asked:,}")
            )
        if varies and phase == "stage1":
            continue
        steps, batch = stage.total_steps(len(examples), recipe.batch_size), recipe.batch_size
        rows.append((f"{name}: optimiser steps", f"{steps:,}"))
        if stage.definition_share is not None and asked:
            k = round(stage.definition_share * batch)
            rows.append((f"{name}: a batch", f"{k} definitions and {batch - k} questions"))
            passes = f"{steps * k / shown:.1f} over definitions, {steps * (batch - k) / asked:.1f} over questions"
        else:
            passes = f"{stage.epochs or steps * batch / len(examples):.1f}"
        rows.append((f"{name}: passes", passes))
    rows.append(("branches", f"{len(branches_of(task))}"))
    if not varies:
        rows.append(("questions asked after stage 1", f"{len(design.asked(1)):,}"))
        rows.append(("questions asked after stage 2, each branch", f"{len(design.asked(2)):,}"))
    return table(("what", "number"), rows)


def attributes(task: TwoStageTask) -> str:
    """Attributes with their values, or the questions that ask for them."""
    kind = task.world.kind
    if kind == "profiles":
        wanted, values = task.world.attributes, task.world.values
        rows = [(name, ", ".join(words.split()[:values])) for name, words in [*ATTRIBUTES.items()][:wanted]]
        return table(("attribute", "values"), rows)
    templates = {"cities": cities.TEMPLATES, "cvdb": cvdb.TEMPLATES, "trex": trex.TEMPLATES}[kind]
    if kind != "trex":
        return table(("attribute", "question"), [(name, code(text)) for name, text in templates.items()])
    predicates = {name: [p for p, of in trex.PREDICATES.items() if of == name] for name in templates}
    rows = [(name, ", ".join(predicates[name]), code(text)) for name, text in templates.items()]
    return table(("attribute", "predicates", "question"), rows)


def city_words(task: TwoStageTask) -> str:
    """What the package says and the world says otherwise."""

    def listed(words: Any) -> str:
        return "; ".join(f"{key} = {value}" for key, value in words.items())

    sizes = "; ".join(f"from {least:,}: {words}" for least, words in cities.SIZES)
    rows = [
        ("continents", listed(cities.CONTINENTS)),
        ("classes of population", sizes),
        ("words that are replaced", listed(cities.USUAL)),
        ("main language by country, instead of the first that is listed", listed(cities.MAIN_LANGUAGE)),
        ("languages; a city of any other is not used", listed(cities.LANGUAGES)),
        ("calling codes that the package lacks", listed(cities.CALLING_CODES)),
        ("cities whose values make the vocabulary", f"{cities.VOCABULARY_OF:,}"),
    ]
    return table(("what", "words"), rows)


def missing_values(task: TwoStageTask) -> str:
    """How a cell of the file says that it has no value."""
    return "An empty cell, or one of " + ", ".join(code(word) for word in sorted(cvdb.MISSING) if word) + "."


def geometry(task: TwoStageTask) -> str:
    """Where what stands in a picture, in pixels."""
    spec, world = task.render, task.world
    assert isinstance(spec, DigitGridRender)
    height, width = spec.canvas
    top = 0 if spec.tag_over else spec.strip_px
    top += (height - top - world.rows * spec.cell_px) // 2
    left = (width - world.cols * spec.cell_px) // 2
    columns, inset = spec.tag_bits // spec.tag_rows, (spec.cell_px - spec.digit_px) // 2
    place = "over the digits" if spec.tag_over else "above the digits"
    rows = [
        ("picture", f"{height} x {width} (rows x columns), one channel"),
        (
            "strip of the tag",
            f"rows 0 to {spec.strip_px - 1}, columns 0 to {columns * spec.tag_square_px - 1}, {place}",
        ),
        ("squares of a tag", f"{spec.tag_rows} x {columns} of {spec.tag_square_px} x {spec.tag_square_px} pixels"),
        ("grid", f"{world.rows} x {world.cols} cells of {spec.cell_px} x {spec.cell_px} pixels"),
        ("top left pixel of the grid", f"row {top}, column {left}"),
        ("digit in its cell", f"{spec.digit_px} x {spec.digit_px}, from row {inset}, column {inset} of the cell"),
        ("frame", f"the outermost {spec.frame_px} pixel(s) of the asked cell"),
        ("outputs of a network", f"{world.rows * world.cols} cells x {world.labels} labels"),
    ]
    return table(("what", "pixels"), rows)


def pictures(task: TwoStageTask) -> str:
    """How many pictures of each digit there are for training and evaluation."""
    banks = setting_of(task.name).renderer.banks
    rows = [
        (name, *bank.available.int().tolist()) for name, bank in zip(("training", "evaluation"), banks, strict=True)
    ]
    return table(("digit", *map(str, range(10))), rows)


def tokens(task: TwoStageTask) -> str:
    """A definition and a question as tokens, with what is scored."""
    setting, rows = setting_of(task.name), []
    trained, asked = setting.design.trained("stage1"), setting.design.asked(1)
    for name, of, row in (
        ("definition", trained, 0),
        ("question, trained", trained, -1),
        ("question, asked", asked, -1),
    ):
        feed = setting.feed(Examples(*(column[[row]] for column in of)), evaluation=of is asked)
        ids, scored = [*feed.tokens.ids[0].tolist(), int(feed.tokens.targets[0, -1])], feed.tokens.scored[0]
        words = [code(word) for word in feed.codec.tokenizer.convert_ids_to_tokens(ids)]
        rows.append((name, " ".join(words), " ".join(words[place + 1] for place in np.flatnonzero(scored))))
    told = f"The vocabulary has {setting.renderer.codec.size:,} tokens."
    return told + "\n\n" + table(("example", "tokens", "scored: predicted and in the loss"), rows)


def examples(task: TwoStageTask) -> str:
    """What ``iml-bench show TASK --picture FILE`` draws."""
    pictures = data_root() / "tasks" / "pictures"
    if isinstance(task.render, TextRender):
        return f"```\n{(pictures / f'{task.name}.txt').read_text(encoding='utf-8').rstrip()}\n```"
    return f"![Examples of {task.name}](../../tasks/pictures/{task.name}.png)"


def networks(task: TwoStageTask) -> str:
    """The networks that are registered for the task and have no pretrained weights, with their trained parameters."""
    rows = []
    for name in sorted(MODELS.origins):
        entry = MODELS.get(name)
        if entry.modality != task.modality or entry.parsed.scheme not in ("ref", "timm", "hf-config"):
            continue
        if isinstance(task.render, DigitGridRender):
            cells = task.world.rows * task.world.cols
            shape: Any = VisionShape(*task.render.canvas, 1, cells, task.world.labels)
        else:
            codec = setting_of(task.name, form := load_form(entry)).renderer.codec
            shape = TextShape(codec.classes, 32, codec.pad, codec.line_end, 32 * form.encoder_decoder)
        rows.append((entry.family, count_parameters(draw_model(entry, shape, 0)), name, code(entry.source)))
    shown = [(name, source, f"{size:,}") for _, size, name, source in sorted(rows)]
    return table(("model", "source", "trained parameters"), shown)


def roles(_: None) -> str:
    """Under which tag each group of new entities is in each branch."""
    rows = []
    for name, branches in (("pair", PAIR), ("square", LATIN)):
        for index, of_groups in enumerate(branches):
            rows.append((code(name), index, *("not defined" if role < 0 else SHARED_TAGS[role] for role in of_groups)))
    return table(("`crossover`", "branch", *map(code, NEW_GROUPS)), rows)


def measures(_: None) -> str:
    """Every measure with its sentence."""
    found = measures_of(TASKS.get("vision"))
    return table(("measure", "unit", "what it is"), [(code(m.name), m.unit, m.description) for m in found])


def streams(_: None) -> str:
    """Every random stream of a seed."""
    meanings = streams_of(TASKS.get("vision"), 0).meanings
    return table(("stream", "what is drawn from it"), [(code(name), what) for name, what in meanings.items()])


PARTS: dict[str, Callable[[Any], str]] = {
    "settings": settings, "small": small, "variants": variants, "numbers": numbers, "attributes": attributes,
    "city words": city_words,
    "missing values": missing_values, "geometry": geometry, "pictures": pictures, "tokens": tokens,
    "examples": examples, "networks": networks, "roles": roles, "measures": measures, "streams": streams,
}  # fmt: skip
"""What a page may hold, by name."""


def filled(path: Path) -> str:
    """A page with its generated parts as they are now."""
    task = None if path.stem == "README" else TASKS.get(path.stem)
    return PART.sub(lambda found: f"{found[1]}{PARTS[found[2]](task)}\n{found[3]}", path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for page in sorted(FOLDER.glob("*.md")):
        new = filled(page)
        state = "as it was" if new == page.read_text(encoding="utf-8") else "written"
        page.write_text(new, encoding="utf-8")
        sys.stdout.write(f"{page.name}: {state}\n")
