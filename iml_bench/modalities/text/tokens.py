"""Texts to token ids: the task's own word-level tokenizer, or the one that comes with a model."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from iml_bench.errors import UsageError, shown

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
    spans: list[tuple[int, int]]
    """The signs of the text that follows which each of its tokens stands for; none for an end-of-text token."""


class Codec:
    """How texts become token ids for one model, and token ids texts."""

    def __init__(self, form: Form, own: Callable[[], Any]) -> None:
        """Args:
            form: of the model.
            own: makes the task's own tokenizer, where the model brings none.

        Raises:
            UsageError: when the tokenizer reads nothing, or has no way to close an answer.
        """
        self.brought = form.tokenizer is not None
        """Whether the tokenizer came with the model; the task's own reads every text of the task in whole words."""
        tokenizer = form.tokenizer if form.tokenizer is not None else own()
        self.tokenizer, self.encoder_decoder = tokenizer, form.encoder_decoder
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.size = len(vocabulary)
        """How many tokens there are."""
        self.classes = max(vocabulary.values(), default=-1) + 1
        """One more than the largest token id: ids may have holes, and then there are more of them than tokens."""
        # Padding is masked by position, never by its id, so any token will do where there is none.
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
        self.pad: int = next(token for token in known if token is not None)
        self.start = self.pad if form.start is None else form.start
        self.silent = frozenset(tokenizer.all_special_ids)
        """Tokens that are no text: begin, end, padding, unknown and their like."""
        self.prefix, self.suffix = self._surroundings(vocabulary)
        line_end = self._tried(LINE_END)
        self._alone: dict[str, list[int]] = {}
        self.parted = 0
        """How many texts so far had to be read in two parts, see ``encode``."""
        self.has_line_end = bool(line_end) and LINE_END in self.decode(line_end)
        """Some tokenizers drop line ends; answers then close with the end-of-text token."""
        self.line_end: int = line_end[-1] if self.has_line_end else self._end_of_text()

    @property
    def name(self) -> str:
        """The tokenizer, in a sentence."""
        place = str(self.tokenizer.name_or_path)
        if not self.brought:
            return "the task's own tokenizer"
        return f"the tokenizer of {shown(place)}" if place else "the model's tokenizer"

    def encode(self, pairs: list[tuple[str, str]]) -> list[Encoded]:
        """Token ids of each ``given + rest``.

        A text is read whole, as its model would meet it anywhere, and parted where its first part ends. Where a
        token would reach over that join, or what follows would change how the first part is read, the two are
        read each on its own. So what is given is always the same tokens whatever follows: a model is asked with
        those it was trained with, and no answer begins within them. Encoder-decoder models read the two apart
        anyway.

        Raises:
            UsageError: when the tokenizer cannot read a text at all.
        """
        if not pairs:
            return []
        if self.encoder_decoder:
            inputs, targets = self._ids([given for given, _ in pairs]), self.read([rest.strip() for _, rest in pairs])
            end, columns = self._end_of_text(), (targets["input_ids"], targets["offset_mapping"])
            return [
                Encoded(self.prefix + read + self.suffix, [*target, end], [*_moved(spans, _indent(rest)), (0, 0)])
                for read, target, spans, (_, rest) in zip(inputs, *columns, pairs, strict=True)
            ]
        encoded = self.read([given + rest for given, rest in pairs])
        # The task's own words never reach over a space, with which every answer begins.
        alone = self._alone
        new = list(dict.fromkeys(given for given, _ in pairs if self.brought and given not in alone))
        alone.update(zip(new, self._ids(new), strict=True) if new else ())
        close = [] if self.has_line_end else [self.line_end]
        found = []
        for row, (ids, offsets) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
            given, rest = pairs[row]
            n_given = sum(end <= len(given) for _, end in offsets)
            before, after, spans = ids[:n_given], ids[n_given:], _moved(offsets[n_given:], -len(given))
            if alone.get(given, before) != before:
                before = alone[given]
                after, spans = self._following(before, rest, ids)
                self.parted += 1
            found.append(Encoded(self.prefix + before, after + close, spans + [(0, 0)] * len(close)))
        return found

    def read(self, texts: list[str]) -> Any:
        """``input_ids`` of texts on their own, and in ``offset_mapping`` the signs that each token stands for.

        Raises:
            UsageError: when the tokenizer cannot read one of them.
        """
        try:
            return self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        except Exception as error:  # a word that is not known is one, to tokenizers without a token for such words
            lines = str(error).strip().splitlines()
            raise UsageError(
                f"{self.name} cannot read the task's texts: {lines[0] if lines else type(error).__name__}; "
                "give a model with another tokenizer, or an entry with tokenizer: task"
            ) from error

    def decode(self, ids: list[int]) -> str:
        """Token ids as they stand, without any tidying up."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def ended(self, ids: list[int]) -> bool:
        """Whether an answer is over: its text holds a line end, whatever token that is in, or the text has ended."""
        return self.tokenizer.eos_token_id in ids or (self.has_line_end and LINE_END in self.decode(ids))

    def spell(self, ids: list[int]) -> str:
        """Token ids as a person would read them, up to the end of the line."""
        ids = ids[: ids.index(self.line_end)] if self.line_end in ids else ids
        # Not every token that is marked as special is one of the few that are no text: bytes may be marked so.
        return self.decode([token for token in ids if token not in self.silent]).split(LINE_END)[0].strip()

    def _following(self, before: list[int], rest: str, whole: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of what follows some others, read on its own so that the text stays as it is; and their spans."""
        text, bare = self.decode(whole), rest.removeprefix(" ")
        read = self.read([rest, bare])  # some put a space of their own before every text
        spans = zip(read["offset_mapping"], (0, len(rest) - len(bare)), strict=True)
        found = list(zip(read["input_ids"], (_moved(own, by) for own, by in spans), strict=True))
        return next((one for one in found if self.decode(before + one[0]) == text), found[0])

    def _surroundings(self, vocabulary: Iterable[str]) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after every text."""
        probe = next((text for text in itertools.chain("a", sorted(vocabulary)) if self._tried(text)), None)
        if probe is None:
            raise UsageError(f"{self.name} reads nothing: it makes no tokens of any text")
        encoded = self.tokenizer(probe, return_special_tokens_mask=True)
        ids, added = encoded["input_ids"], encoded["special_tokens_mask"]
        first, last = added.index(0), len(added) - added[::-1].index(0)
        return ids[:first], ids[last:]

    def _tried(self, text: str) -> list[int]:
        """Token ids of a text; none where the tokenizer cannot read it."""
        try:
            return self._ids([text])[0]
        except UsageError:
            return []

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.read(texts)["input_ids"]  # type: ignore[no-any-return]

    def _end_of_text(self) -> int:
        end: int | None = self.tokenizer.eos_token_id
        if end is None:
            raise UsageError(f"{self.name} has neither a line end nor an end-of-text token to close answers with")
        return end


def _moved(spans: list[tuple[int, int]], by: int) -> list[tuple[int, int]]:
    return [(start + by, end + by) for start, end in spans]


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


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
