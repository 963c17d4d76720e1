"""Pictures: every pixel is where the task says, and evaluation shows digits never trained on."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from iml_bench.errors import UsageError
from iml_bench.modalities.base import Indices, draw_noise
from iml_bench.modalities.vision.digits import DigitBank, load_banks
from iml_bench.modalities.vision.renderer import VisionFeed, VisionRenderer
from iml_bench.modalities.vision.spec import DigitGridRender
from iml_bench.modalities.vision.tags import balanced_tags
from iml_bench.protocols.base import NONE
from iml_bench.registry import TASKS
from iml_bench.run.cell import Setting
from iml_bench.runtime import Runtime
from iml_bench.spec import TaskSpec, apply_overrides
from iml_bench.streams import Streams
from iml_bench.worlds import draw_distinct

Make = Callable[..., Setting]
Array = np.ndarray


def renderer_of(setting: Setting) -> VisionRenderer:
    assert isinstance(setting.renderer, VisionRenderer)
    return setting.renderer


def shown(feed: VisionFeed, seed: int = 0) -> Array:
    """All examples of a feed as images, ``[n, height, width]``."""
    n = len(feed.examples)
    noise = torch.from_numpy(draw_noise(np.random.default_rng(seed), n, feed.noise))
    return feed.images(torch.arange(n), noise).numpy()


def pictures_of(bank: DigitBank, digit: int) -> Array:
    start, count = int(bank.start[digit]), int(bank.available[digit])
    return bank.pictures[start : start + count].numpy()


def tag_strips(setting: Setting) -> Array:
    """The three tags as they must look, ``[3, height, width]``, from their own stream."""
    spec = renderer_of(setting).spec
    rng = setting.streams.generator("tags")
    if spec.tag_code == "balanced":
        bits = balanced_tags(rng, 3, spec.tag_rows, spec.canvas[1] // spec.tag_square_px)
    else:
        bits = draw_distinct(rng, 3, [2] * spec.tag_bits, "tags")
    square = np.ones((spec.tag_square_px, spec.tag_square_px), dtype=np.int64)
    return np.stack([np.kron(tag.reshape(spec.tag_rows, -1), square) * 255 for tag in bits])


def check_images(setting: Setting, feed: VisionFeed) -> None:
    """Compare every image with what it must show, pixel by pixel."""
    renderer = renderer_of(setting)
    spec, grid = renderer.spec, renderer.grid
    strips, cell, edge = tag_strips(setting), spec.cell_px, spec.frame_px
    n = len(setting.world.values)
    aliases = draw_distinct(setting.streams.generator("aliases"), n, [10] * grid.n_attributes, "digit grids")
    top, left = renderer.grid_origin
    for image, entity, tag, asked in zip(
        shown(feed), feed.examples.entity, feed.examples.tag, feed.examples.asked, strict=True
    ):
        ignored = np.zeros(spec.canvas, dtype=bool)  # what is drawn over the digits
        expected = np.zeros(spec.canvas, dtype=np.int64)
        if asked == NONE:
            height, width = strips[tag].shape
            expected[:height, :width] = strips[tag]
            ignored[:height, :width] = True
        else:
            y, x = top + asked // grid.cols * cell, left + asked % grid.cols * cell
            framed = np.zeros(spec.canvas, dtype=bool)
            framed[y : y + cell, x : x + cell] = True
            framed[y + edge : y + cell - edge, x + edge : x + cell - edge] = False
            expected[framed] = 255
            ignored |= framed
        outside = ~ignored
        outside[top : top + grid.rows * cell, left : left + grid.cols * cell] = False
        assert (image[ignored] == expected[ignored]).all(), "the tag or the frame"
        assert (image[outside] == 0).all(), "something beside the grid"
        for index in range(grid.n_attributes):
            y, x = top + index // grid.cols * cell, left + index % grid.cols * cell
            inside = np.s_[y : y + cell, x : x + cell]
            visible = ~ignored[inside]
            options = pictures_of(feed.bank, int(aliases[entity, index]))
            assert (options[:, visible] == image[inside][visible]).all(axis=1).any(), "another digit"


GEOMETRIES = {
    "as shipped": {},
    "tag over the digits": {"render__tag_over": True, "render__canvas": [28, 28]},
    "uneven canvas": {"render__canvas": [41, 35], "render__tag_square_px": 3, "render__tag_rows": 1},
    "thick frame, wide grid": {"world__rows": 1, "world__cols": 3, "render__frame_px": 3, "render__canvas": [30, 44]},
    "digits as large as cells": {"render__digit_px": 8, "render__cell_px": 8},
}


@pytest.mark.parametrize("case", GEOMETRIES)
def test_every_pixel_is_the_tag_the_frame_or_the_right_digit(
    case: str, vision_task: TaskSpec, make_setting: Make
) -> None:
    setting = make_setting(vision_task, seed=2, **GEOMETRIES[case])
    stage2 = [setting.train_feed("stage2", branch) for branch in (0, 1)]
    for feed in (setting.train_feed("stage1"), *stage2, setting.question_feed(1)):
        check_images(setting, feed)


def test_the_three_tags_differ(vision_task: TaskSpec, make_setting: Make) -> None:
    one_row = {"render__tag_rows": 1, "render__canvas": [36, 32]}  # four squares: 16 possible tags
    for seed in range(5):
        strips = tag_strips(make_setting(vision_task, seed=seed, render__tag_square_px=8, **one_row))
        assert len(np.unique(strips.reshape(3, -1), axis=0)) == 3


def rows_of(rows: Iterable[int]) -> Indices:
    return Indices.of(np.array(list(rows), dtype=np.int64), torch.device("cpu"))


def test_a_batch_has_the_documented_shapes_types_and_range(vision_task: TaskSpec, make_setting: Make) -> None:
    feed = make_setting(vision_task).train_feed("stage1")
    noise = torch.rand(5, feed.noise, generator=torch.Generator().manual_seed(0))
    batch = feed.batch(rows_of([0, 3, 40, 41, 0]), noise)
    pixels = batch.inputs["pixels"]
    assert (pixels.shape, pixels.dtype) == ((5, 1, 32, 32), torch.float32)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    raw = feed.images(torch.tensor([0, 3, 40, 41, 0]), noise)
    assert raw.dtype == torch.uint8
    assert torch.allclose(pixels[:, 0], raw / 127.5 - 1, atol=1e-6)
    assert batch.targets.shape == batch.weights.shape == (5 * 4,)
    assert (batch.targets.dtype, batch.weights.dtype) == (torch.int64, torch.float32)


def test_a_definition_asks_for_all_labels_of_its_claim_and_a_question_for_one(
    vision_task: TaskSpec, make_setting: Make
) -> None:
    setting = make_setting(vision_task)
    feed = setting.train_feed("stage1")
    n = len(feed.examples)
    rows = rows_of(range(n))
    batch = feed.batch(rows, torch.zeros(n, 4))
    targets, weights = batch.targets.view(n, 4), batch.weights.view(n, 4)
    position, owner = (column.tolist() for column in feed.answered(rows))
    assert torch.allclose(weights.sum(1), torch.ones(n))
    assert torch.allclose(feed.mass, torch.ones(n))
    for row, (_, content, _, asked, _) in enumerate(zip(*feed.examples, strict=True)):
        cells = [place % 4 for place, whose in zip(position, owner, strict=True) if whose == row]
        assert targets[row].tolist() == setting.world.values[content].tolist()
        if asked == NONE:
            assert weights[row].tolist() == [0.25] * 4
            assert cells == [0, 1, 2, 3]
        else:
            assert weights[row].tolist() == [float(cell == asked) for cell in range(4)]
            assert cells == [asked]


def test_an_answer_is_a_label(vision_task: TaskSpec, make_setting: Make) -> None:
    renderer = make_setting(vision_task).renderer
    assert renderer.classes == 10
    assert renderer.value_classes(2, 7) == [7]
    assert renderer.spell([7]) == "H"
    assert renderer.spell([0, 1]) == "A B"


def test_the_same_noise_gives_the_same_image_and_other_noise_another(vision_task: TaskSpec, make_setting: Make) -> None:
    feed = make_setting(vision_task).train_feed("stage1")
    assert (shown(feed, 1) == shown(feed, 1)).all()
    assert (shown(feed, 1) != shown(feed, 2)).any(axis=(1, 2)).all()


def test_noise_chooses_evenly_among_a_digits_pictures(vision_task: TaskSpec, make_setting: Make) -> None:
    feed = make_setting(vision_task).train_feed("stage1")
    row = torch.tensor([0])
    last = np.nextafter(np.float32(1), np.float32(0))
    digit = int(feed.renderer.aliases[feed.examples.entity[0], 3])
    options = pictures_of(feed.bank, digit)
    for noise, picture in ((0.0, 0), (last, -1), (0.5, int(0.5 * len(options)))):
        image = feed.images(row, torch.full((1, 4), float(noise)))[0, 18:32, 16:30].numpy()
        assert (image == options[picture]).all()


def test_every_alias_is_another_grid_of_digits(vision_task: TaskSpec, make_setting: Make) -> None:
    aliases = renderer_of(make_setting(vision_task)).aliases.numpy()
    assert aliases.shape == (33, 4)
    assert len(np.unique(aliases, axis=0)) == 33
    assert (aliases >= 0).all()
    assert (aliases < 10).all()


def test_the_banks_divide_scikit_learns_digits() -> None:
    """At 8x8 nothing is resized, so the banks hold the raw pictures; no two of those are the same."""
    spec = DigitGridRender(cell_px=8, digit_px=8)
    banks = load_banks(spec, Streams(0), None)
    raw = load_digits()
    for digit in range(10):
        own = {np.round(picture * 255 / 16).astype(np.uint8).tobytes() for picture in raw.images[raw.target == digit]}
        train, evaluation = ({picture.tobytes() for picture in pictures_of(bank, digit)} for bank in banks)
        assert not train & evaluation
        assert train | evaluation == own
        assert len(evaluation) == round(0.3 * len(own))
        assert len(train) == int(banks[0].available[digit])


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_training_and_evaluation_pictures_are_disjoint_after_resizing(share: float) -> None:
    banks = load_banks(DigitGridRender(eval_share=share), Streams(1), None)
    train, evaluation = ({picture.tobytes() for picture in bank.pictures.numpy()} for bank in banks)
    assert len(train) + len(evaluation) == 1797
    assert not train & evaluation
    assert all((bank.available >= 1).all() for bank in banks)


def test_questions_are_shown_with_evaluation_pictures_only(vision_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(vision_task)
    train, evaluation = renderer_of(setting).banks
    for stage, phase in ((1, "stage1"), (2, "stage2")):
        assert setting.question_feed(stage).bank is evaluation
        assert setting.train_feed(phase).bank is train


def test_which_pictures_are_kept_depends_on_the_seed() -> None:
    one, again, other = (load_banks(DigitGridRender(), Streams(seed), None)[1].pictures for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_digit_stands_in_the_middle_of_its_cell() -> None:
    bank = load_banks(DigitGridRender(cell_px=13, digit_px=8, canvas=(40, 40)), Streams(0), None)[0]
    pictures = bank.pictures
    assert pictures.shape[1:] == (13, 13)
    assert (pictures[:, :2] == 0).all() and (pictures[:, 10:] == 0).all()
    assert (pictures[:, :, :2] == 0).all() and (pictures[:, :, 10:] == 0).all()
    assert pictures[:, 2:10, 2:10].amax() == 255


def test_a_pair_shows_the_same_digits_under_exchanged_tags(vision_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(vision_task)
    strip = renderer_of(setting).spec.strip_px
    one, two = shown(setting.train_feed("stage2", 0)), shown(setting.train_feed("stage2", 1))
    assert (one[:, strip:] == two[:, strip:]).all()
    exchanged = (one[:, :strip] != two[:, :strip]).any(axis=(1, 2))
    assert (exchanged == (setting.train_feed("stage2", 0).examples.tag != 2)).all()


def test_the_bank_is_the_same_whatever_the_processor_can_do() -> None:
    program = (
        "import hashlib\n"
        "from iml_bench.modalities.vision.digits import load_banks\n"
        "from iml_bench.modalities.vision.spec import DigitGridRender\n"
        "from iml_bench.streams import Streams\n"
        "banks = load_banks(DigitGridRender(), Streams(0), None)\n"
        "print(*(hashlib.sha256(bank.pictures.numpy().tobytes()).hexdigest() for bank in banks))"
    )
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}  # no vector units
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=plain)
    banks = load_banks(DigitGridRender(), Streams(0), None)
    here = [hashlib.sha256(bank.pictures.numpy().tobytes()).hexdigest() for bank in banks]
    assert done.stdout.split() == here


def write_mnist(folder: Path, n: int = 40) -> dict[str, Array]:
    """A tiny MNIST in its original packed form; every picture is noise of its own."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    made = {}
    for seed, part in enumerate(("train", "t10k")):
        rng = np.random.default_rng(seed)
        made[part] = images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        made[part + "-labels"] = labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, n, 28, 28)
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">II", 0x801, n)
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return made


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        stat = path.stat()
        found[str(path)] = (stat.st_mtime_ns, stat.st_size)
    return found


def mnist_task() -> TaskSpec:
    task = TASKS.get("vision-mnist")
    return apply_overrides(task, task.smoke)


def test_mnist_is_read_by_digit_without_writing_into_its_folder(tmp_path: Path) -> None:
    made = write_mnist(tmp_path)
    before = contents(tmp_path)
    spec = mnist_task().render
    assert isinstance(spec, DigitGridRender)
    for bank, part in zip(load_banks(spec, Streams(0), tmp_path), ("train", "t10k"), strict=True):
        for digit in range(10):
            assert (pictures_of(bank, digit) == made[part][made[part + "-labels"] == digit]).all()
    assert contents(tmp_path) == before


def test_the_papers_pictures_have_every_pixel_in_place(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    setting = Setting(mnist_task(), 0, torch.device("cpu"), Runtime(device="cpu", data_dir=tmp_path))
    renderer = renderer_of(setting)
    assert (renderer.spec.canvas, renderer.spec.tag_bits, renderer.grid_origin) == ((84, 84), 21, (0, 0))
    assert tag_strips(setting).shape == (3, 4, 84)
    for feed in (setting.train_feed("stage1"), setting.train_feed("stage2", 1), setting.question_feed(2)):
        check_images(setting, feed)


def test_missing_mnist_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    def no_network(self: object) -> None:
        raise RuntimeError("no network\nin this test")

    monkeypatch.setattr(MNIST, "download", no_network)
    spec = mnist_task().render
    assert isinstance(spec, DigitGridRender)
    with pytest.raises(UsageError) as caught:
        load_banks(spec, Streams(0), tmp_path)
    assert str(caught.value) == (
        f"MNIST is not in {tmp_path} and could not be downloaded (no network); "
        "put its four .gz files into DIR/MNIST/raw and give --data-dir DIR"
    )


BROKEN = {"not packed": b"plain", "not MNIST": gzip.compress(b"text"), "cut": gzip.compress(b"x" * 99)[:-9]}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_mnist_file_is_a_usage_error(broken: bytes, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").write_bytes(broken)
    spec = mnist_task().render
    assert isinstance(spec, DigitGridRender)
    with pytest.raises(UsageError):
        load_banks(spec, Streams(0), tmp_path)
