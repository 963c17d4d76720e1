"""Banks of handwritten digits: scikit-learn's bundled 8x8 pictures, or MNIST through torchvision."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iml_bench.errors import UsageError
from iml_bench.modalities.vision.spec import DigitGridRender
from iml_bench.streams import Streams


class DigitBank(NamedTuple):
    """Pictures sorted by digit, as cells of a grid."""

    pictures: Tensor
    """``[n, cell_px, cell_px]`` uint8, 0 is black."""
    start: Tensor
    """``[10]`` int64: where each digit's pictures begin."""
    available: Tensor
    """``[10]`` float32: how many pictures each digit has."""


def load_banks(spec: DigitGridRender, streams: Streams, data_dir: Path | None) -> tuple[DigitBank, DigitBank]:
    """The pictures for training and, disjoint from them, for evaluation.

    Args:
        spec: the source and the size of a cell and of the digit in it.
        streams: ``pictures`` decides which of scikit-learn's digits are kept for evaluation.
        data_dir: folder that holds (or receives) torchvision's ``MNIST/raw``; not read for ``sklearn``.

    Raises:
        UsageError: when MNIST is neither in ``data_dir`` nor to be downloaded, or one of its files is damaged.
    """
    if spec.source == "mnist":
        train, evaluation = _mnist(data_dir)
    else:
        train, evaluation = _sklearn(spec.eval_share, streams.generator("pictures"))
    return _bank(*train, spec), _bank(*evaluation, spec)


SIDE = 28
"""Of MNIST's pictures, in pixels."""
MOST = 10**6
"""Pictures of a file; MNIST has 60,000. A file that says it holds more is damaged."""
MNIST_FILES = {part: (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")}
"""Pictures and labels, for training and for evaluation."""
MAGIC = {1: 0x801, 3: 0x803}
"""How a file of bytes in one dimension, or in three, begins."""
TIE = 1 / 3141
"""Many resized pixels lie exactly between two grey values; without this the processor's order of
additions would decide them."""
Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _sklearn(eval_share: float, rng: np.random.Generator) -> tuple[Pictures, Pictures]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    kept = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        own = rng.permutation(np.flatnonzero(labels == digit))
        kept[own[: max(1, round(eval_share * len(own)))]] = True
    return (pictures[~kept], labels[~kept]), (pictures[kept], labels[kept])


def _mnist(data_dir: Path | None) -> tuple[Pictures, Pictures]:
    """MNIST's training and test pictures: from a folder, packed or not, or else downloaded into it."""
    root = data_dir or Path.home() / ".cache" / "iml-bench"
    raw = root / "MNIST" / "raw"
    try:
        there = all(_file(raw, name).is_file() for names in MNIST_FILES.values() for name in names)
    except OSError as error:
        raise UsageError(f"{raw} cannot be read: {error.strerror}") from error
    if not there:
        _download_mnist(root)
    return _read_mnist(raw, *MNIST_FILES["train"]), _read_mnist(raw, *MNIST_FILES["t10k"])


def _download_mnist(root: Path) -> None:
    from torchvision.datasets import MNIST

    try:
        MNIST(root, download=True)  # downloads only what is not there
    except Exception as error:
        raise UsageError(
            f"MNIST is not in {root} and could not be downloaded ({str(error).splitlines()[0]}); "
            "put its four .gz files into DIR/MNIST/raw and give --data-dir DIR"
        ) from error


def _read_mnist(raw: Path, images: str, labels: str) -> Pictures:
    """Pictures and labels that belong together, of which every digit has some.

    Raises:
        UsageError: naming the file that is damaged, and what is wrong with it.
    """
    pictures, digits = _read_idx(_file(raw, images), 3), _read_idx(_file(raw, labels), 1)
    if len(pictures) != len(digits):
        raise _damaged(
            _file(raw, labels), f"it holds {len(digits)} labels for the {len(pictures)} pictures of {images}"
        )
    if digits.max() > 9:
        raise _damaged(_file(raw, labels), f"it holds the label {digits.max()}, and digits are 0 to 9")
    absent = np.flatnonzero(np.bincount(digits, minlength=10) == 0)
    if len(absent):
        raise _damaged(_file(raw, labels), f"no picture is of a {absent[0]}")
    return pictures, digits.astype(np.int64)


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The bytes of a file in MNIST's format: a magic number, the sizes, and nothing missing or left over."""
    what = "pictures" if dimensions == 3 else "labels"
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions:
                raise _damaged(path, f"it is too short for a file of {what}")
            magic, count, *sides = struct.unpack(f">{1 + dimensions}I", header)
            if magic != MAGIC[dimensions]:
                raise _damaged(
                    path, f"a file of {what} begins with the number {MAGIC[dimensions]}, and it with {magic}"
                )
            if sides not in ([], [SIDE, SIDE]) or not 0 < count <= MOST:
                size = f" of {sides[0]}x{sides[1]} pixels" if sides else ""
                raise _damaged(path, f"it says it holds {count} {what}{size}")
            wanted = count * SIDE ** (dimensions - 1)
            body = file.read(wanted + 1)  # beyond its end, so that a packed file's checksum is looked at
    except EOFError:
        raise _damaged(path, "it was cut off") from None
    except (OSError, zlib.error) as error:
        raise _damaged(path, getattr(error, "strerror", None) or str(error)) from error
    if len(body) != wanted:
        raise _damaged(path, f"it says it holds {count} {what} and has {'more' if len(body) > wanted else 'fewer'}")
    return np.frombuffer(body, dtype=np.uint8).reshape(count, *sides)


def _file(raw: Path, name: str) -> Path:
    """A file of MNIST: packed, where it is there so."""
    packed = raw / f"{name}.gz"
    return packed if packed.exists() else raw / name


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"the MNIST file {path} cannot be used: {why}; get it anew")


def _bank(pictures: NDArray[np.uint8], labels: NDArray[np.int64], spec: DigitGridRender) -> DigitBank:
    order = np.argsort(labels, kind="stable")
    cells = _resize(torch.from_numpy(pictures[order]), spec.digit_px)
    before = (spec.cell_px - spec.digit_px) // 2
    after = spec.cell_px - spec.digit_px - before
    cells = torch.nn.functional.pad(cells, (before, after, before, after))
    count = np.bincount(labels, minlength=10)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    return DigitBank(cells, torch.from_numpy(start), torch.from_numpy(count.astype(np.float32)))


def _resize(pictures: Tensor, side: int) -> Tensor:
    """Resize ``[n, h, w]`` uint8 to ``[n, side, side]``, smoothly, on the host and once."""
    if pictures.shape[-1] == side:
        return pictures
    resized = torch.nn.functional.interpolate(
        pictures[:, None].double(), size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
    return (resized[:, 0] + 0.5 + TIE).floor().clamp(0, 255).to(torch.uint8)
