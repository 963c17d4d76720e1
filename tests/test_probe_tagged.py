"""Where the tag is in a definition, and that what stands there instead is what it is said to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import NAMES, TEXT
from making import CPU, small_cell
from small_models import bpe_tokenizer
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.modalities.base import Feed, Indices
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.probes.states import Direction, directions, places_of, shifted, without
from iml_bench.probes.subjects import branch_steps, definitions, new_entities
from iml_bench.probes.tagged import Told, mean_inputs, moved, replaced, tag_tokens, told, worn_pair
from iml_bench.run.cell import prepare
from iml_bench.spec import TaskSpec


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def planted(shape: Any) -> nn.Module:
    """A network whose first layer shows the tag's strip, the upper four rows of a picture, in one direction only."""
    generator = torch.Generator().manual_seed(1)
    first = nn.Linear(shape.height * shape.width, 24)
    strip = 4 * shape.width
    with torch.no_grad():
        first.weight.copy_(torch.randn(first.weight.shape, generator=generator) / 16)
        direction, seen = torch.randn(24, generator=generator), torch.randn(strip, generator=generator)
        first.weight[:, :strip] = direction[:, None] * seen / 16
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(24, shape.positions * shape.classes))


PLANTED = f"python:{__file__}:planted"


class Loops(nn.Module):
    """One block three times, and one once."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(classes, 8), nn.Linear(8, classes)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.embedding(input_ids).cumsum(1)
        for _ in range(3):
            state = self.blocks[0](state).tanh()
        logits: Tensor = self.head(self.blocks[1](state))
        return logits


def loops(shape: Any) -> nn.Module:
    return Loops(shape.classes)


# Where the tag is.


def of_branch(setting: Any, branch: int = 0) -> Told:
    step = branch_steps(setting)[branch]
    return told(setting, setting.design.trained(step.phase, step.fold), worn_pair(setting))


ORDERS = ("tag-alias-entity", "alias-tag-entity", "entity-tag-alias", "alias-entity-tag")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("how", ["word", "letters", "bytes"])
@pytest.mark.parametrize("world", ["profiles", "names"])
def test_the_tags_tokens_are_those_that_spell_it(order: str, how: str, world: str, make_setting: Any) -> None:
    task = TaskSpec.model_validate(TEXT if world == "profiles" else NAMES)
    tokenizer = bpe_tokenizer() if how == "bytes" else None
    setting = make_setting(task, render__order=order, render__spelling="letters" if how == "letters" else "word",
                           tokenizer=tokenizer)  # fmt: skip
    one = of_branch(setting)
    feed = one.feed
    assert isinstance(feed, TextFeed)
    codec, renderer = feed.codec, setting.renderer
    whole = [one.given + one.rest for one in codec.encode(feed.texts)]
    for row, (first, end) in enumerate(tag_tokens(feed, renderer)):
        spelled = codec.decode(whole[row][first:end]).replace(" ", "")
        assert spelled == renderer.tags[int(feed.examples.tag[row])]
        at = np.flatnonzero((one.slots.offset[row] >= 0).numpy())
        assert at[0] == first and at[-1] == feed.tokens.length[row] - 1
        assert one.slots.width == end - first
    # What differs between two tags is within, and of tags that are one token each it is just that.
    other = one.swapped
    assert isinstance(other, TextFeed)
    within = (one.slots.offset >= 0) & (one.slots.offset < one.slots.width)
    differs = feed.tokens.ids != other.tokens.ids
    assert not (differs & ~within).any()
    of_pair = torch.from_numpy(np.isin(feed.examples.tag, worn_pair(setting)))
    assert torch.equal(differs.any(1), of_pair)
    if how == "word":
        assert torch.equal(differs, within & of_pair[:, None])


def test_tags_of_unequally_many_tokens_are_refused(make_setting: Any) -> None:
    words = ("good", "not good", "new")
    setting = make_setting(TaskSpec.model_validate(TEXT), render__tag_words=words)
    with pytest.raises(UsageError, match="equally many tokens"):
        of_branch(setting)


@pytest.mark.parametrize("task", ["vision", "text"])
@pytest.mark.parametrize("crossover", ["pair", "square"])
def test_swapped_definitions_are_those_of_the_other_tag(task: str, crossover: str, make_setting: Any) -> None:
    setting = make_setting(small_cell("mlp-xs" if task == "vision" else "neox-xs", task=task, crossover=crossover).task)
    one, other = of_branch(setting, 0), of_branch(setting, 1)
    tags = one.feed.examples.tag
    assert set(tags.tolist()) == {0, 1, 2}
    assert (one.swapped.examples.tag == np.array([1, 0, 2])[tags]).all()
    assert one.sign.tolist() == np.array([1.0, -1.0, 0.0])[tags].tolist()
    if crossover == "pair":
        assert one.swapped is other.feed  # the very examples of the other branch


# What an intervention does.


def rows_and_noise(feed: Feed) -> tuple[Indices, Tensor]:
    n = len(feed.examples)
    noise = np.random.default_rng(0).random((n, feed.noise), dtype=np.float32)
    return Indices.of(np.arange(n), torch.device("cpu")), torch.from_numpy(noise)


def passed(learner: Any, feed: Feed) -> Tensor:
    """The logits of a training pass over all of a feed, as ``fit`` makes it."""
    learner.model.train()
    logits: Tensor = learner.model(**feed.batch(*rows_and_noise(feed)).inputs)
    return logits.detach()


def test_ablated_inputs_are_the_same_under_both_tags(make_setting: Any) -> None:
    setting = make_setting(small_cell(crossover="pair").task)
    one, other = (mean_inputs(of_branch(setting, branch)) for branch in (0, 1))
    same, plain = one.batch(*rows_and_noise(one)), one.feed.batch(*rows_and_noise(one))
    for mine, theirs in zip(same, other.batch(*rows_and_noise(other)), strict=True):
        pairs = [(mine[name], theirs[name]) for name in mine] if isinstance(mine, dict) else [(mine, theirs)]
        assert all(torch.equal(*pair) for pair in pairs)
    differs = (same.inputs["pixels"] != plain.inputs["pixels"]).any(dim=3).any(dim=0).squeeze(0)
    assert differs.any() and not differs[setting.task.render.strip_px :].any()  # the strip alone


def test_ablated_embeddings_are_the_same_under_both_tags() -> None:
    setting, learner, _ = prepare(small_cell("neox-xs", task="text", crossover="pair"), CPU)
    network: Any = learner
    embedding = network.model.body.get_input_embeddings()
    logits = []
    for branch in (0, 1):
        one = of_branch(setting, branch)
        with replaced(one, embedding, one.under, lambda batch: embedding(batch.inputs["input_ids"])) as feed:
            logits.append(passed(learner, feed))
        assert not torch.equal(passed(learner, one.feed), logits[-1])
    assert torch.equal(*logits)


def swap_of(learner: Any, one: Told, name: str) -> Any:
    module = learner.model.get_submodule(name)
    embedding = "embed" in name
    run = (lambda b: module(b.inputs["input_ids"])) if embedding else (lambda b: learner.model(**b.inputs))
    return replaced(one, module, (one.swapped,), run)


def test_behind_the_embedding_a_swapped_state_is_a_swapped_input() -> None:
    setting, learner, _ = prepare(small_cell("neox-xs", task="text", render__spelling="letters"), CPU)
    one, shared = of_branch(setting), learner.snapshot()
    trained = []
    for how in ("state", "input"):
        learner.restore(shared)
        if how == "state":
            with swap_of(learner, one, "body.gpt_neox.embed_in") as feed:
                assert torch.equal(passed(learner, feed), passed(learner, one.swapped))
                learner.fit(feed, setting.task.recipe.stage2, "stage2")
        else:
            learner.fit(one.swapped, setting.task.recipe.stage2, "stage2")
        trained.append(learner.snapshot())
    for name, tensor in trained[0].items():
        assert torch.allclose(tensor, trained[1][name], atol=1e-6), name
    assert any(not torch.equal(tensor, shared[name]) for name, tensor in trained[0].items())


def test_a_swapped_state_is_the_other_tags_at_its_tokens_alone() -> None:
    setting, learner, _ = prepare(small_cell("neox-xs", task="text", render__order="alias-tag-entity"), CPU)
    network: Any = learner
    one, name = of_branch(setting), "body.gpt_neox.layers.0"
    module = network.model.get_submodule(name)
    states = {}
    for how, feed in (("own", one.feed), ("other", one.swapped)):
        rows, noise = rows_and_noise(feed)
        states[how] = learner.hidden(feed, rows, noise)[name]  # type: ignore[attr-defined]
    with swap_of(network, one, name) as changed:
        seen: list[Tensor] = []
        handle = module.register_forward_hook(lambda m, i, o: seen.append(o[0] if isinstance(o, tuple) else o))
        passed(learner, changed)
        handle.remove()
    within = ((one.slots.offset >= 0) & (one.slots.offset < one.slots.width))[:, : seen[-1].shape[1], None]
    assert torch.equal(seen[-1], torch.where(within, states["other"], states["own"]))
    assert not torch.equal(states["own"], states["other"])


def measured(setting: Any, learner: Any) -> tuple[Told, Told, nn.Module, Direction]:
    """All new entities under either tag, the first block, and its direction."""
    entities, pair = new_entities(setting), worn_pair(setting)
    one, other = (told(setting, definitions(entities, tag), pair) for tag in pair)
    name = places_of(learner, learner.model, one)[0]
    looks = torch.from_numpy(np.random.default_rng(1).random((4, len(entities), one.feed.noise), dtype=np.float32))
    found = directions(learner, one, [name], looks, np.arange(len(entities)) % 2)
    return one, other, learner.model.get_submodule(name), found[name]


def test_a_planted_direction_is_found_and_ablated_and_a_random_one_leaves_it() -> None:
    setting, learner, _ = prepare(small_cell(PLANTED), CPU)
    # Behind the first layer itself; behind its activation the tag is in other directions too.
    model: Any = learner.model  # type: ignore[attr-defined]
    model.body[2] = nn.Identity()
    one, other, module, line = measured(setting, learner)
    assert isinstance(module, nn.Identity)
    weight = model.body[1].weight.detach()[:, 0]
    assert float((line.unit[0] @ weight / weight.norm()).abs()) == pytest.approx(1, abs=1e-5)
    assert float(line.random[0] @ line.unit[0]) == pytest.approx(0, abs=1e-5)
    assert [float(vector[0].norm()) for vector in (line.unit, line.random)] == pytest.approx([1, 1], abs=1e-5)
    assert not line.unit[-1].any() and not line.random[-1].any()

    def apart(unit: Tensor, middle: Tensor) -> float:
        logits = []
        for mine in (one, other):
            with moved(mine, module, without(mine, unit, middle)) as feed:
                logits.append(passed(learner, feed))
        return float((logits[0] - logits[1]).abs().max())

    plain = float((passed(learner, one.feed) - passed(learner, other.feed)).abs().max())
    assert plain > 0.01
    assert apart(line.unit, line.middle) < 1e-5 * plain + 1e-5
    assert apart(line.random, line.random_middle) == pytest.approx(plain, rel=1e-3)
    fresh = told(setting, definitions(new_entities(setting), 2), worn_pair(setting))
    for mine, becomes in ((one, other), (other, one), (fresh, fresh)):
        with moved(mine, module, shifted(mine, line)) as feed:
            shown = passed(learner, feed)
        assert torch.allclose(shown, passed(learner, becomes.feed), atol=1e-5)


def test_texts_have_a_direction_at_each_token_from_the_tag_on() -> None:
    setting, learner, _ = prepare(small_cell("neox-xs", task="text"), CPU)
    one, other, module, line = measured(setting, learner)
    longest = int(one.feed.lengths.max())  # type: ignore[union-attr]
    assert len(line.unit) == longest + 1
    assert all(float(vector.norm()) == pytest.approx(1, abs=1e-5) for vector in line.unit[:-1])
    # The first token is the tag: nothing there knows the entity, and there is no random direction.
    assert not line.random[0].any() and line.random[1].any()
    states = []
    for mine in (one, other):
        with moved(mine, module, without(mine, line.unit, line.middle)) as feed:
            rows, noise = rows_and_noise(feed)
            states.append(learner.hidden(feed, rows, noise))  # type: ignore[attr-defined]
    found = [next(iter(hidden.values()))[:, 0] for hidden in states]
    assert torch.allclose(*found, atol=1e-5)  # at the tag the state is a matter of the tag alone


def test_a_tags_own_tokens_count_nothing_while_its_states_are_changed() -> None:
    cell = small_cell("neox-xs", task="text", recipe__loss_on="text", render__spelling="letters")
    setting, learner, _ = prepare(cell, CPU)
    network: Any = learner
    one = of_branch(setting)
    with swap_of(network, one, "body.gpt_neox.embed_in") as feed:
        rows, noise = rows_and_noise(feed)
        changed, plain = feed.batch(rows, noise), one.feed.batch(rows, noise)
    lost = one.slots.width - 1  # the first token is predicted by nothing
    assert torch.equal(one.feed.mass - feed.mass, torch.full_like(feed.mass, lost))
    assert torch.equal(changed.targets, plain.targets)
    silent = changed.weights == 0
    assert int(silent.sum()) == lost * len(rows.host)
    spelled = one.feed.codec.decode(changed.targets[silent][:lost].tolist()).replace(" ", "")  # type: ignore[attr-defined]
    assert "<|" + spelled == setting.renderer.tags[int(one.feed.examples.tag[0])]  # type: ignore[attr-defined]
    assert torch.equal(torch.zeros(len(rows.host)).index_add(0, feed.owners(rows), changed.weights), feed.mass)


# Blocks.


def test_states_are_changed_behind_whole_blocks() -> None:
    found = {}
    for model in ("mlp-xs", "convnet-xs", "neox-xs", f"python:{__file__}:loops"):
        task = "vision" if model in ("mlp-xs", "convnet-xs") else "text"
        setting, learner, _ = prepare(small_cell(model, task=task), CPU)
        network: Any = learner
        found[model] = places_of(network, network.model, of_branch(setting))
    assert list(found.values()) == [
        ["body.3", "body.6"],
        ["body.1", "body.5", "body.7"],
        ["body.gpt_neox.layers.0", "body.gpt_neox.layers.1"],
        ["body.blocks.1"],
    ]


def test_sentences_have_no_tag_to_change(make_setting: Any) -> None:
    setting = make_setting(TaskSpec.model_validate(NAMES), render__tags="sources")
    with pytest.raises(UsageError, match="sentences"):
        worn_pair(setting)
