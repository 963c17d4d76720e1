"""Banks of handwritten digits: scikit-learn's bundled 8x8 pictures, or MNIST through torchvision."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

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
        UsageError: when MNIST is neither in ``data_dir`` nor to be downloaded.
    """
    if spec.source == "mnist":
        train, evaluation = _mnist(data_dir)
    else:
        train, evaluation = _sklearn(spec.eval_share, streams.generator("pictures"))
    return _bank(*train, spec), _bank(*evaluation, spec)


MNIST_FILES = 4
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
    packed = sorted((root / "MNIST" / "raw").glob("*-ubyte.gz"))
    if len(packed) < MNIST_FILES:
        return _read_mnist(root, train=True), _read_mnist(root, train=False)
    with tempfile.TemporaryDirectory() as folder:
        # Unpacked elsewhere: the folder may be read-only, and is not ours to fill.
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        try:
            for path in packed:
                with gzip.open(path) as source, (raw / path.stem).open("wb") as target:
                    shutil.copyfileobj(source, target)
            return _read_mnist(Path(folder), train=True), _read_mnist(Path(folder), train=False)
        except (OSError, EOFError, zlib.error, ValueError, AssertionError, UsageError) as error:
            raise UsageError(f"the MNIST files in {root / 'MNIST' / 'raw'} are damaged: {error}") from error


def _read_mnist(root: Path, *, train: bool) -> Pictures:
    from torchvision.datasets import MNIST

    try:
        data = MNIST(root, train=train, download=True)  # downloads only what is not there
    except (RuntimeError, OSError, ValueError) as error:
        raise UsageError(
            f"MNIST is not in {root} and could not be downloaded ({str(error).splitlines()[0]}); "
            "put its four .gz files into DIR/MNIST/raw and give --data-dir DIR"
        ) from error
    return data.data.numpy(), data.targets.numpy()


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
