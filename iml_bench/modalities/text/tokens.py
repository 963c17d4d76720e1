"""Texts to token ids: the task's own word-level tokenizer, or the one that comes with a model."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from iml_bench.errors import UsageError

PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
LINE_END: Final = "\n"
WORD: Final = r"<\|[a-z]+\|>|\n|\d+|\p{L}[\p{L}\p{M}]*\d*:?|[^\s\p{L}]"
"""A random string in its delimiters, a line end, a number, a word, or any other sign."""
LETTERWISE: Final = r"<\||\|>|[a-z](?=[a-z]*\|>)|\n|\d+|\p{L}[\p{L}\p{M}]*\d*:?|[^\s\p{L}]"
RANDOM_STRING: Final = r"[ \x{2581}]?<\|[a-z]+\|>"
"""With the space before it, which many tokenizers take for a part of the word."""


class Form(NamedTuple):
    """How a model reads and writes text."""

    tokenizer: Any | None = None
    """The one that comes with the model; None: the task's own."""
    encoder_decoder: bool = False
    """What is given is encoded and only what follows is decoded."""
    start: int | None = None
    """The token a decoder starts from; None: padding."""


class Encoded(NamedTuple):
    """One example as token ids: what is given, and what follows, which ends with the end of an answer."""

    given: list[int]
    rest: list[int]


class Codec:
    """How texts become token ids for one model."""

    def __init__(self, form: Form, own: Callable[[], Any]) -> None:
        """Args:
        form: of the model.
        own: makes the task's own tokenizer, where the model brings none.
        """
        tokenizer = form.tokenizer or own()
        self.tokenizer, self.encoder_decoder = tokenizer, form.encoder_decoder
        # Padding is masked by position, never by its id, so any token will do where there is none.
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
        self.pad: int = next(token for token in known if token is not None)
        self.start = self.pad if form.start is None else form.start
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        special = tokenizer("a")["input_ids"]
        extra = len(special) - len(plain)
        before = next((i for i in range(extra + 1) if special[i : i + len(plain)] == plain), 0)
        self.prefix, self.suffix = special[:before], special[before + len(plain) :]
        line_end = tokenizer(LINE_END, add_special_tokens=False)["input_ids"]
        self.has_line_end = bool(line_end) and LINE_END in tokenizer.decode(line_end)
        """Some tokenizers drop line ends; answers then close with the end-of-text token."""
        self.line_end: int = line_end[-1] if self.has_line_end else self._end_of_text()

    @property
    def classes(self) -> int:
        """Size of the vocabulary."""
        return len(self.tokenizer)

    def encode(self, pairs: list[tuple[str, str]]) -> list[Encoded]:
        """Token ids of each ``given + rest``. No token reaches over the boundary between the two."""
        if not pairs:
            return []
        if self.encoder_decoder:
            inputs, targets = self._ids([given for given, _ in pairs]), self._ids([rest.strip() for _, rest in pairs])
            end = self._end_of_text()
            return [
                Encoded(self.prefix + shown + self.suffix, [*target, end])
                for shown, target in zip(inputs, targets, strict=True)
            ]
        encoded = self.tokenizer(
            [given + rest for given, rest in pairs], add_special_tokens=False, return_offsets_mapping=True
        )
        close = [] if self.has_line_end else [self.line_end]
        found = []
        for ids, offsets, (given, _) in zip(encoded["input_ids"], encoded["offset_mapping"], pairs, strict=True):
            n_given = sum(end <= len(given) for _, end in offsets)
            found.append(Encoded(self.prefix + ids[:n_given], ids[n_given:] + close))
        return found

    def spell(self, ids: list[int]) -> str:
        """Token ids as a person would read them, up to the end of the line."""
        # The line end may be a special token, which decoding drops.
        ids = ids[: ids.index(self.line_end)] if self.line_end in ids else ids
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip().split(LINE_END)[0].strip()

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    def _end_of_text(self) -> int:
        end: int | None = self.tokenizer.eos_token_id
        if end is None:
            raise UsageError(
                "the model's tokenizer has neither a line end nor an end-of-text token to close answers with"
            )
        return end


def isolate_random_strings(tokenizer: Any) -> None:
    """Keep a tokenizer from merging the delimiters of aliases and tags with the signs beside them."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Sequence, Split

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError("the model has no fast tokenizer (of the library tokenizers); iml-bench needs one")
    split = Split(Regex(RANDOM_STRING), behavior="isolated")
    own = backend.pre_tokenizer
    backend.pre_tokenizer = split if own is None else Sequence([split, own])


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
