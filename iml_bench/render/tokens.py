"""The task's own tokenizer: one token per word, built with ``tokenizers`` from the words of the task."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any, Final

PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
LINE_END: Final = "\n"
WORD: Final = r"<\|[a-z]+\|>|\n|[A-Za-z]+:?|[^\sA-Za-z]"
"""A random string in its delimiters, a line end, a word, or any other sign."""
LETTERWISE: Final = r"<\||\|>|[a-z](?=[a-z]*\|>)|\n|[A-Za-z]+:?|[^\sA-Za-z]"


def word_tokenizer(texts: Iterable[str], extra: Iterable[str], *, letters: bool) -> Any:
    """A ``PreTrainedTokenizerFast`` that knows every word of ``texts`` and ``extra``.

    Args:
        texts: what the words are taken from.
        extra: further words, such as aliases that stand in no text.
        letters: read random strings such as ``<|qwert|>`` letter by letter.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    split = Split(Regex(LETTERWISE if letters else WORD), behavior="removed", invert=True)
    words: set[str] = set(string.ascii_lowercase) if letters else set()
    for text in (*texts, *extra):
        words.update(word for word, _ in split.pre_tokenize_str(text))
    vocabulary = {word: index for index, word in enumerate([PAD, UNKNOWN, *sorted(words)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=LINE_END)
