"""From what a user names to what is loaded: entries, digests, files. Never imports torch."""

from iml_bench.sources.digest import digest_files
from iml_bench.sources.find import find_model
from iml_bench.sources.gguf import resolve_gguf

__all__ = ["digest_files", "find_model", "resolve_gguf"]
