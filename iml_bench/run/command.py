"""The command line that asks for the same as a request, quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from yaml import YAMLError

from iml_bench.run.plan import Request
from iml_bench.spec import show_seeds
from iml_bench.spec.written import read_value, show_value


def command_of(request: Request, options: Mapping[str, Any] | None = None, program: str = "iml-bench") -> str:
    """``iml-bench run ...``, which plans the same cells.

    Args:
        request: what is asked for; models in whom fields are changed (``model_fields``) cannot be asked for so.
        options: other options of ``iml-bench run`` by their names without dashes before, such as ``out``; True is a
            flag, and None and False are left out.
        program: how the command line is started.
    """
    words = ["run", "--task", request.task]
    flags = {"--small": request.small, "--smoke": request.smoke, "--trust-remote-code": request.trust_remote_code}
    words += [flag for flag, given in flags.items() if given]
    words += ["--variant", request.variant] if request.variant is not None else []
    words += ["--ruleset", request.ruleset] if request.ruleset != "shared" else []
    words += [word for path, value in request.overrides.items() for word in ("--set", f"{path}={_as_typed(value)}")]
    if request.data is not None:
        words += ["--data", str(request.data)]
    words += [word for model in request.models for word in ("--model", model)]
    words += ["--seeds", seeds(request.seeds)]
    for name, value in (options or {}).items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return f"{program} {shlex.join(words)}"


def seeds(wanted: Sequence[int]) -> str:
    """What ``--seeds`` takes for these, as short as it gets: ``5``, ``3-7``, ``1,4``."""
    if list(wanted) == list(range(len(wanted))):
        return str(len(wanted))
    shown = show_seeds(wanted)
    return f"{shown}-{shown}" if shown.isdigit() else shown  # a number alone would say how many


def _as_typed(value: Any) -> str:
    """A value as a person would type it, where that is read as the same."""
    try:
        if isinstance(value, str) and read_value(value) == value:
            return value
    except YAMLError:
        return show_value(value)
    return show_value(value)
