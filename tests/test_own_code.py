"""Code of a user's own: what of it is a model's identity, and whose modules are imported."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from loaded_bytes import key_of, written

from iml_bench.errors import UsageError
from iml_bench.models.own_code import contained, find_callable
from iml_bench.sources import find_model

LEAF = "WIDTH = 3\n"
PACKAGE: dict[str, str] = {
    "net.py": "import blocks\ndef build():\n    from parts.inner import deep\n    return blocks.f(), deep.WIDTH\n",
    "blocks.py": "import parts\nfrom parts import helper\n\ndef f():\n    return helper.WIDTH\n",
    "parts/__init__.py": "from .star import *\n",
    "parts/star.py": "ANY = 1\n",
    "parts/helper.py": LEAF,
    "parts/inner/__init__.py": "",
    "parts/inner/deep.py": "from ..helper import WIDTH\ndef lazy(importlib):\n    importlib.import_module('late')\n",
    "late.py": LEAF,
    "unused.py": LEAF,
}


def test_every_imported_file_changes_the_key_and_no_other(tmp_path: Path) -> None:
    folder = written(tmp_path / "code", PACKAGE)
    source = f"python:{folder}/net.py:build"
    before = key_of(source)
    shutil.copytree(folder, tmp_path / "moved")
    assert key_of(f"python:{tmp_path}/moved/net.py:build") == before
    changed = {}
    for name, text in PACKAGE.items():
        (folder / name).write_text(text + "# changed\n")
        changed[name] = key_of(source)
        (folder / name).write_text(text)
    assert {name for name, key in changed.items() if key == before} == {"unused.py"}
    assert len(set(changed.values())) == len(PACKAGE)


def test_a_file_alone_keeps_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text("import torch\nimport random\nfrom torch import nn\nimport iml_bench.models\n")
    (tmp_path / "random.py").write_text("not what is imported")
    assert (
        find_model(f"python:{file}:build").digest == "0167911a9c0cd4a9bee43032d0eeaf1e4bd575bcd007bc6fba854f8f002fc617"
    )


def test_siblings_are_imported_without_a_path_and_each_folder_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # compiled copies would hide a quick change
    for name, width in (("one", 3), ("two", 4)):
        written(tmp_path / name, {**PACKAGE, "parts/helper.py": f"WIDTH = {width}\n"})
    one, two = (find_callable(f"{tmp_path}/{name}/net.py:build") for name in ("one", "two"))
    assert (one(), two(), one()) == ((3, 3), (4, 4), (3, 3)), "also what is imported when it is called"
    assert not {"blocks", "parts", "net"} & set(sys.modules)
    (tmp_path / "one" / "parts" / "helper.py").write_text("WIDTH = 5\n")
    assert find_callable(f"{tmp_path}/one/net.py:build")() == (5, 5)
    assert two() == (4, 4)
    assert not [*tmp_path.rglob("__pycache__")]


def test_a_sibling_goes_before_what_is_installed_but_not_before_the_standard_library(tmp_path: Path) -> None:
    files = {
        "net.py": "import timm, random, numpy\ndef build(): return timm.MINE, random.random, numpy.ndarray\n",
        "timm.py": "MINE = 1\n",
        "random.py": "raise RuntimeError\n",
        "numpy/data.txt": "a folder that is no package",
    }
    import timm as installed

    mine, _, _ = find_callable(f"{written(tmp_path / 'code', files)}/net.py:build")()
    assert mine == 1
    assert sys.modules["timm"] is installed


def test_a_file_of_a_package_imports_relatively(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": "BASE = 1\n",
        "pack/common.py": "TWO = 2\n",
        "pack/sub/__init__.py": "",
        "pack/sub/net.py": "from .. import BASE, common\nfrom .near import N\nbuild = lambda: (BASE, common.TWO, N)\n",
        "pack/sub/near.py": "N = 3\n",
        "loose/net.py": "from .near import N\ndef build(): return N\n",
        "loose/near.py": "N = 4\n",
    }
    folder = written(tmp_path / "code", files)
    assert find_callable(f"{folder}/pack/sub/net.py:build")() == (1, 2, 3)
    assert find_callable(f"{folder}/loose/net.py:build")() == 4
    source = f"python:{folder}/pack/sub/net.py:build"
    before = key_of(source)
    (folder / "pack" / "__init__.py").write_text("BASE = 2\n")
    assert key_of(source) != before


def test_a_module_on_the_path_is_its_package_and_is_imported_anew_when_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "own_pack/__init__.py": "",
        "own_pack/net.py": "from .part import N\nimport own_beside\ndef build(): return N, own_beside.N\n",
        "own_pack/part.py": "N = 1\n",
        "own_beside.py": "N = 1\n",
    }
    folder = written(tmp_path / "lib", files)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    seen = set()
    for number in range(3):
        (folder / "own_pack" / "part.py").write_text(f"N = {number}\n")
        (folder / "own_beside.py").write_text(f"N = {number + 1}\n")
        assert find_callable("own_pack.net:build")() == (number, number + 1)
        seen.add(key_of("python:own_pack.net:build"))
    assert len(seen) == 3
    for name in [name for name in sys.modules if name.startswith("own_pack") or name == "own_beside"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build(:\n", "python:net.py:build: invalid syntax"),
        ("import nowhere\n", "python:net.py:build: No module named 'nowhere'; it is python:module:callable"),
        ("from blocks import nothing\n", "python:net.py:build: cannot import name 'nothing' from 'blocks'"),
        ("import blocks.x\n", "python:net.py:build: No module named 'blocks.x'"),
    ],
)
def test_code_that_cannot_be_imported_is_one_sentence(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written(tmp_path / "code", {"net.py": text, "blocks.py": ""}))
    assert find_model("python:net.py:build").digest is not None
    with pytest.raises(UsageError) as caught:
        find_callable("net.py:build")
    assert str(caught.value).startswith(message)


COMPUTED = {
    "by a computed name": "import importlib\ndef build(): return importlib.import_module('bl' + 'ocks').N\n",
    "by keyword": "import importlib\ndef build(): return importlib.import_module(name='blocks').N\n",
    "by path": (
        "import importlib.util as u, os\n"
        "s = u.spec_from_file_location('b', os.path.join(os.path.dirname(__file__), 'blocks.py'))\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m)\ndef build(): return m.N\n"
    ),
}


@pytest.mark.parametrize("how", COMPUTED)
def test_code_that_is_named_by_a_computation_is_in_the_digest(how: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(COMPUTED[how])
    (tmp_path / "blocks.py").write_text("N = 1\n")
    source = f"python:{tmp_path}/net.py:build"
    before = find_model(source).digest
    assert find_model(source).digest == before
    (tmp_path / "blocks.py").write_text("N = 2\n")
    assert find_model(source).digest != before


def test_code_from_outside_of_the_folder_is_refused_and_the_path_put_back(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "my").mkdir()
    (tmp_path / "lib" / "outside_blocks.py").write_text("N = 1\n")
    (tmp_path / "my" / "net.py").write_text(
        "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), '../lib'))\n"
        "def build():\n    from outside_blocks import N\n    return N\n"
    )
    target, paths = f"{tmp_path}/my/net.py:build", list(sys.path)
    strange = r"reads .*outside_blocks.py, which lies outside of its folder"
    with pytest.raises(UsageError, match=strange), contained(target):
        find_callable(target)()
    assert sys.path == paths
    (tmp_path / "my" / "net.py").write_text("import json, iml_bench.board\ndef build(): return 1\n")
    with contained(target):
        assert find_callable(target)() == 1
