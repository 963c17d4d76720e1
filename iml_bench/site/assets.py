"""Everything that a page loads: styles, scripts and the two libraries, as files beside the pages.

All scripts are classic ones, ``<script src>``: a browser loads those from a folder that was simply opened (``file://``),
where it refuses modules and requests for data.
"""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iml_bench.errors import UsageError

if TYPE_CHECKING:
    import jinja2

HERE = Path(__file__).parent
NEEDED = {"altair": "altair", "vl_convert": "vl-convert-python", "itables": "itables", "jinja2": "jinja2"}


def check_installed() -> None:
    """See that the libraries of the extra ``site`` are there.

    Raises:
        UsageError: naming the missing ones and how to get them.
    """
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"the page needs {', '.join(missing)}: pip install 'iml-bench[site]'")


def templates() -> jinja2.Environment:
    """The templates of all pages: what is put in is escaped, and what is not there is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script_json(value: Any) -> str:
    """JSON that may stand in any script: nothing in it can end the script or a line of it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def data_script(kind: str, key: str, value: Any) -> bytes:
    """A script that hands data to the page: ``imlData(kind, key, value)`` of ``static/page.js``."""
    return f"imlData({script_json(kind)},{script_json(key)},{script_json(value)});\n".encode()


def shared(themes: dict[str, Any]) -> dict[str, bytes]:
    """The files that all pages share, by path.

    Args:
        themes: the charts' configuration by scheme.
    """
    own = {f"assets/{path.name}": path.read_bytes() for path in sorted((HERE / "static").iterdir()) if path.is_file()}
    bundle = _itables()
    return {
        **own,
        "assets/table.css": (bundle / "dt_bundle.css").read_bytes(),
        "assets/table.js": classic((bundle / "dt_bundle.js").read_text(encoding="utf-8")).encode(),
        "assets/vega.js": vega().encode() + data_script("themes", "all", themes),
    }


def classic(module: str) -> str:
    """DataTables with its extensions, which itables ships as one ES module, as a classic script.

    The bundle imports nothing and ends with one ``export {..., X as default, ...}``; put into a function, with
    that statement exchanged for an assignment, it is the same script with the same strictness.

    Raises:
        UsageError: when the installed itables has another form.
    """
    found = list(re.finditer(r"\bexport\s*\{[^{}]*?\b([\w$]+) as default\b[^{}]*\}", module))
    if len(found) != 1:
        raise UsageError("the installed itables does not ship DataTables as known: pip install -U 'iml-bench[site]'")
    (export,) = found
    body = f"{module[: export.start()]}window.DataTable={export[1]}{module[export.end() :]}"
    return f'(function(){{"use strict";{body}}})();\n'


@cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one classic script, from vl-convert, which draws the same version offline."""
    import vl_convert

    from iml_bench.site.charts import VEGA_LITE

    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # its stub is wrong
    return f"(function(){{{bundle}}})();\n"


def _itables() -> Path:
    spec = importlib.util.find_spec("itables")  # found, not imported: it would bring pandas or IPython along
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "html"
