"""Identity: a cell's key covers all that can change its answer, and nothing else."""

from __future__ import annotations

import itertools
import types
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from making import write_result
from pydantic import ValidationError

from iml_bench.board import LeaderboardTask, build_board, build_rows, compare_models
from iml_bench.errors import UsageError
from iml_bench.records import Store
from iml_bench.registry import TASKS
from iml_bench.runtime import Runtime
from iml_bench.site.contents import arrange
from iml_bench.spec import (
    ADDED,
    OUTSIDE_KEY,
    CellSpec,
    ModelEntry,
    Needs,
    Spec,
    TaskSpec,
    cell_key,
    digest_of,
    identity,
    model_key,
    same_model,
    task_key,
)
from iml_bench.submit import board_difference
from iml_bench.submit.together import uneven

Changes = dict[str, Any]

SQUARE: Changes = {f"task.groups.new_{name}": 4 for name in ("reliable", "unreliable", "fresh", "undefined")}
PAIRS: dict[str, tuple[Changes, Changes]] = (
    {
        "task.history": ({}, {"task.history": {1: "first version"}}),
        "task.smoke": ({}, {"task.smoke": {"alpha": 0.5}}),
        "task.variants": ({}, {"task.variants": {"half": {"alpha": 0.5}}}),
        "task.small": ({}, {"task.small": {"alpha": 0.5}}),
        "model.tuned": ({}, {"model.tuned": {"vision@2": {"recipe.lr": 0.1}}}),
        "task.crossover": (SQUARE, SQUARE | {"task.crossover": "square"}),
        "task.render.tag_words": ({}, {"task.render.tag_words": ["a", "b", "c"]}),
        "task.render.in_context": ({"task.stages": 1}, {"task.stages": 1, "task.render.in_context": True}),
        "model.digest": ({}, {"model.digest": "0" * 64}),
        "model.commit": ({}, {"model.commit": "0" * 40}),
        "task.render.canvas": ({}, {"task.render.canvas": [40, 40]}),
        "model.tokenizer": (
            {"model.source": "hf:folder/model"},
            {"model.source": "hf:folder/model", "model.tokenizer": "own"},
        ),
    }
    | {
        f"task.recipe.{stage}.epochs": (
            {f"task.recipe.{stage}.steps": None, f"task.recipe.{stage}.epochs": 1.0},
            {f"task.recipe.{stage}.steps": None, f"task.recipe.{stage}.epochs": 2.0},
        )
        for stage in ("stage1", "stage2")
    }
    | {
        "task.render.sentences": (
            {"task.render.tags": "is-isnt"},
            {"task.render.tags": "is-isnt", "task.render.sentences": 2},
        )
    }
)
"""Fields that cannot be changed on their own: the changes that make the cell before and the one after."""

FORCED = {
    "vision": {
        "task.protocol": "other",
        "model.modality": "other",
        "task.world.kind": "other",
        "task.render.kind": "other",
        "task.groups.named": 1,
        "task.groups.random_tag": 1,
        "task.exact_match": "normalised",
        "task.attribution": True,
        "task.recipe.loss_on": "text",
    },
    "text": {
        "task.protocol": "other",
        "model.modality": "other",
        "task.world.kind": "other",
        "task.render.kind": "other",
        "task.groups.named": 1,
        "task.attribution": True,
        "task.render.tags": "sources",
        "task.render.sentences": 2,
    },
    "names": {
        "task.protocol": "other",
        "model.modality": "other",
        "task.world.kind": "other",
        "task.render.kind": "other",
        "task.render.attribute_order": "permuted",
    },
    "sets": {
        "task.protocol": "other",
        "model.modality": "other",
        "task.world.kind": "other",
        "task.render.kind": "other",
        "task.render.attribute_order": "permuted",
        "task.world.questions": 12,
        "task.heldout": 2,
        "task.groups.named": 1,
        "task.attribution": True,
        "task.render.tags": "sources",
        "task.render.sentences": 2,
    },
}
"""Fields with a single valid value in such a cell; they are changed without being validated."""


def leaves(spec: Spec, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, annotation and value of every recorded field that is not itself a specification."""
    for name, info in type(spec).model_fields.items():
        if info.exclude:
            continue
        value = getattr(spec, name)
        if isinstance(value, Spec):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, info.annotation, value


def values(cell: CellSpec) -> dict[str, Any]:
    return {path: value for path, _, value in leaves(cell)}


def with_changes(cell: CellSpec, changed: Changes) -> CellSpec:
    data = cell.model_dump(mode="json")
    for path, value in changed.items():
        *parents, field = path.split(".")
        section = data
        for parent in parents:
            section = section[parent]
        section[field] = value
    return CellSpec.model_validate(data)


def forced(spec: Any, path: str, value: Any) -> Any:
    field, _, rest = path.partition(".")
    return spec.model_copy(update={field: forced(getattr(spec, field), rest, value) if rest else value})


def candidates(annotation: Any, value: Any) -> Iterator[Any]:
    """Other values that a field of this type may take."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for option in get_args(annotation):
            if option is not type(None):
                yield from candidates(option, value)
    elif origin is Literal:
        yield from (option for option in get_args(annotation) if option != value)
    elif annotation is bool:
        yield not value
    elif annotation is int:
        yield from (1,) if value is None else (value + 1, value - 1)
    elif annotation is float:
        yield from (0.5,) if value is None else (value / 2, value + 0.125)
    elif annotation is str:
        yield (value or "") + "x"


def mutate(kind: str, cell: CellSpec, path: str, annotation: Any, value: Any) -> tuple[CellSpec, CellSpec] | None:
    """Two cells that differ in one field, or None when nothing here knows how to change it."""
    if path in FORCED[kind]:
        return cell, forced(cell, path, FORCED[kind][path])
    if path in PAIRS:
        before, after = PAIRS[path]
        return with_changes(cell, before), with_changes(cell, after)
    for other in candidates(annotation, value):
        try:
            return cell, with_changes(cell, {path: other})
        except ValidationError:
            continue
    return None


@pytest.mark.parametrize("kind", sorted(FORCED))
def test_every_field_of_a_cell_changes_its_key_unless_listed_as_outside(kind: str, cells: dict[str, CellSpec]) -> None:
    cell = cells[kind]
    seen = set()
    for path, annotation, value in leaves(cell):
        pair = mutate(kind, cell, path, annotation, value)
        assert pair is not None, f"{path}: say in PAIRS or FORCED how this field is changed"
        before, after = pair
        ours, theirs = values(before), values(after)
        differing = {field for field in ours | theirs if ours.get(field) != theirs.get(field)}
        assert differing == {path}, f"the mutation of {path} changed {differing}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydantic warns of the forced values
            same = cell_key(before) == cell_key(after)
        assert same == (path in OUTSIDE_KEY), f"{path}: the key {'stayed' if same else 'changed'}"
        seen.add(path)
    assert set(OUTSIDE_KEY) <= seen, "OUTSIDE_KEY names fields that no cell has"


def test_what_a_model_takes_of_a_machine_is_in_no_key_and_no_record(cells: dict[str, CellSpec]) -> None:
    assert [name for name, info in ModelEntry.model_fields.items() if info.exclude] == ["needs"]
    cell = cells["vision"]
    needy = cell.model_copy(update={"model": cell.model.model_copy(update={"needs": Needs(gpus=4, processes=4)})})
    assert cell_key(needy) == cell_key(cell) and needy.model_dump_json() == cell.model_dump_json()
    assert not any(info.exclude for kind in (CellSpec, TaskSpec) for info in kind.model_fields.values())


def test_what_is_outside_the_key_is_a_decision_and_no_accident() -> None:
    names = ("name", "modality", "family", "architecture", "size", "licence", "notes", "tuned")
    labels = {f"model.{field}" for field in names}
    told = {f"task.{field}" for field in ("history", "description", "model", "variants", "small", "smoke")}
    assert set(OUTSIDE_KEY) == told | labels
    assert all(reason.strip() for reason in OUTSIDE_KEY.values())


def test_fields_that_came_later_leave_the_keys_of_older_records_alone(cells: dict[str, CellSpec]) -> None:
    # The keys that these cells had when none of those fields was there yet, and the protocol was in its first version.
    older = {
        "vision": "f466b8d16bfb7be54c8b8cf60e14c8d5e4ddc8c1775acb7b0832c1a434712227",
        "text": "e94ca09428954dee6f8b5f8df042162fe4ea315d1fce245f11ec69ddb30989be",
    }
    assert {kind: cell_key(with_changes(cells[kind], {"protocol": 1})) for kind in older} == older
    known = {path: value for cell in cells.values() for path, value in values(cell).items()}
    assert set(ADDED) <= set(known)


def test_every_special_mutation_is_of_a_field_that_exists(cells: dict[str, CellSpec]) -> None:
    for kind, cell in cells.items():
        assert set(FORCED[kind]) <= set(values(cell))
    assert set(PAIRS) <= {path for cell in cells.values() for path in values(cell)}


def test_nothing_of_the_runtime_is_a_field_of_a_cell(cells: dict[str, CellSpec]) -> None:
    names = {path.split(".")[-1] for cell in cells.values() for path in values(cell)}
    # The recipe's micro-batch is for models whose answer depends on how a batch is cut.
    assert names & {field.name for field in fields(Runtime)} == {"micro_batch"}


@pytest.mark.parametrize("kind", sorted(FORCED))
def test_a_cell_read_back_from_json_has_the_same_key(kind: str, cells: dict[str, CellSpec]) -> None:
    cell = cells[kind]
    again = CellSpec.model_validate_json(cell.model_dump_json())
    assert again == cell
    assert cell_key(again) == cell_key(cell) == digest_of(identity(cell))
    assert len(cell_key(cell)) == 64


def test_the_same_value_written_differently_has_the_same_key(cells: dict[str, CellSpec]) -> None:
    cell = with_changes(cells["vision"], {"task.recipe.stage1.definition_share": 0.0})
    written = with_changes(
        cell,
        {
            "task.alpha": 1,
            "task.recipe.lr": "1e-3",
            "task.recipe.stage1.definition_share": 0,
            "model.source": "ref:mlp?hidden=8&depth=2",
        },
    )
    assert cell_key(written) == cell_key(cell)


def test_all_mutated_cells_have_different_keys(cells: dict[str, CellSpec]) -> None:
    cell = cells["vision"]
    sizes = [
        {"task.groups.reliable": 2 + i, "task.groups.unreliable": 2 + j}
        for i, j in itertools.product(range(4), repeat=2)
    ]
    assert len({cell_key(with_changes(cell, size)) for size in sizes}) == 16


def test_task_key_ignores_model_and_seed_and_nothing_else(cells: dict[str, CellSpec]) -> None:
    cell = cells["vision"]
    for same in ({"seed": 4}, {"model.source": "ref:convnet"}, {"task.description": "other"}):
        assert task_key(with_changes(cell, same)) == task_key(cell)
    for other in ({"task.alpha": 0.5}, {"task.version": 2}, {"task.recipe.lr": 0.1}, {"protocol": 1}):
        assert task_key(with_changes(cell, other)) != task_key(cell)


PLAIN: Changes = {"model.source": "hf:folder/model", "model.modality": "text"}
FILES = {"model.digest": "a" * 64}


@pytest.mark.parametrize(
    ("entry", "recorded", "same"),
    [
        ({}, {}, True),
        ({"model.name": "another", "model.family": "x", "model.licence": "mit", "model.modality": "any"}, {}, True),
        ({"model.source": "hf:folder/model?revision=1"}, {}, False),
        ({"model.tokenizer": "own"}, {}, False),
        ({"model.trust_remote_code": True}, {}, False),
        ({}, FILES, True),
        (FILES, {}, False),
        (FILES, FILES, True),
        (FILES, {"model.digest": "b" * 64}, False),
        (FILES, FILES | {"model.tokenizer": "own"}, False),
    ],
)
def test_an_entry_and_a_recorded_model_are_the_same_by_one_rule(
    cells: dict[str, CellSpec], entry: Changes, recorded: Changes, same: bool
) -> None:
    named, ran = (with_changes(cells["text"], PLAIN | changed) for changed in (entry, recorded))
    assert same_model(named.model, ran.model) == same
    equal = model_key(named) == model_key(ran)
    assert equal == (same and named.model.digest == ran.model.digest), "one key is always one model"


def test_two_models_of_one_source_are_two_wherever_they_are_looked_at(tmp_path: Path) -> None:
    """The board, its page, what is missing, the comparison and the difference."""
    one = ModelEntry(name="one", source="hf:folder/model", modality="any", family="x", architecture="x")
    others = {
        "tokenizer": one.model_copy(update={"tokenizer": "own"}),
        "code": one.model_copy(update={"trust_remote_code": True}),
        "files": one.model_copy(update={"digest": "a" * 64}),
    }
    write_result(tmp_path, entry=one)
    required = [LeaderboardTask("vision", TASKS.get("vision").version, "vision", {}, None, (0,))]
    for name, other in others.items():
        write_result(tmp_path / name, entry=other)
        before, after = Store(tmp_path / name).scan()[0], Store(tmp_path).scan()[0]
        assert len({row.model_key for row in build_rows(after)}) == 1 + len(before)
        absent = [row.model for row in build_board(before, [one, other], required).absent]
        assert absent == (["one"] if name != "files" else []), name
        contents = arrange(build_board(before, [one], required), before, [one], required)
        (shown,) = contents.models.values()
        assert (shown.entry is one) == (name == "files")
        with pytest.raises(UsageError, match=r"several models among the records are named 'one': hf:folder/model \("):
            compare_models(build_rows(after), ["one", "mlp-m"])
        assert {change.what for change in board_difference(before, after)} == {"new"}
        for path in (tmp_path / name).rglob("*.json"):
            path.unlink()


def test_records_of_a_row_are_of_the_same_files(tmp_path: Path) -> None:
    one = ModelEntry(name="one", source="hf:folder/model", modality="any", family="x", architecture="x")
    for seed, update in enumerate([{}, {"digest": "a" * 64}, {"tokenizer": "own", "digest": "b" * 64}]):
        write_result(tmp_path, seed=seed, entry=one.model_copy(update=update))
    stored = sorted(Store(tmp_path).scan()[0], key=lambda entry: entry.record.cell.seed)
    ((path, problem),) = uneven(stored)
    assert path == stored[1].path and problem == "its model's files are not those of seed 0: the digests differ"
