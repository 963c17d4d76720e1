"""Writes into a wheel which commit it was built from, so that records made with it can say so."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildInfoHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return  # a checkout is asked itself
        info = {
            "commit": self._git("rev-parse", "HEAD"),
            "dirty": self._git("status", "--porcelain", "--", "iml_bench") not in ("", None),
        }
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "_build_info.json"
        path.write_text(json.dumps(info), encoding="utf-8")
        build_data["force_include"][str(path)] = "iml_bench/_build_info.json"

    def _git(self, *arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, encoding="utf-8")
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()
