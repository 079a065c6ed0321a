"""A tokenizer.json as the vocabulary of a GGUF file.

llama.cpp does not read the rules by which a tokenizer splits text; it knows some by name. So a rule
must be one of those exactly. It applies no Unicode normalization (NFC), which changes only text
that is not normalized yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.source import open_tokenizer
from surgery.errors import SourceError, UnsupportedError
from surgery.untrusted import read_json

if TYPE_CHECKING:
    from gguf import GGUFWriter

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_RULES = {
    _WORDS + r"\p{N}{1,3}" + _REST: ("llama-bpe", "dbrx"),
    _WORDS + r"\p{N}" + _REST: ("qwen2", "qwen2"),
}
"""How text is split → llama.cpp's name, where whole tokens come before merges, and where not."""
_SPACE = "\u2581"  # stands for a blank in tokens of SentencePiece
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def write_vocabulary(writer: GGUFWriter, folder: Path, size: int) -> None:
    """Writes the tokens of a folder, their merges, special tokens, and chat template.

    `size`: the rows of the embedding; llama.cpp wants a name for each.
    """
    import gguf

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise SourceError("has no tokenizer.json, which a GGUF file needs", where=folder)
    tokenizer = read_json(path)
    model = tokenizer["model"]
    with open_tokenizer(folder) as copy:
        merges = not model.get("byte_fallback")
        special = gguf.SpecialVocab(copy, load_merges=merges, n_vocab=size)
    special.add_special_token.setdefault("bos", False)  # llama.cpp has defaults of its own
    if model.get("type") != "BPE":
        raise _refuse(path, f"a {model.get('type')} model", "a BPE model")
    is_spm = bool(model.get("byte_fallback"))  # a tokenizer of SentencePiece
    writer.add_tokenizer_model("llama" if is_spm else "gpt2")
    if is_spm:
        writer.add_add_space_prefix(_prepends(tokenizer, path))
    else:
        writer.add_tokenizer_pre(_name_rule(tokenizer, path))
    tokens = list(_list_tokens(tokenizer, size))
    if is_spm:
        ranks = _rank_merges(model["merges"])
        writer.add_token_scores([ranks.get(text, -1e6) for text, _ in tokens])
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    special.add_to_gguf(writer, quiet=True)


def _list_tokens(tokenizer: dict[str, Any], size: int) -> Iterator[tuple[str, int]]:
    """Yields text and `gguf.TokenType` of every id below `size`."""
    from gguf import TokenType

    model = tokenizer["model"]
    by_id = {number: text for text, number in model["vocab"].items()}
    added = {token["id"]: token for token in tokenizer.get("added_tokens") or ()}
    for number in range(size):
        text = added[number]["content"] if number in added else by_id.get(number)
        if text is None:
            yield f"[PAD{number}]", TokenType.UNUSED
        elif text == model.get("unk_token"):
            yield text, TokenType.UNKNOWN
        elif number in added:
            special = added[number].get("special")
            yield text, TokenType.CONTROL if special else TokenType.USER_DEFINED
        else:
            byte = model.get("byte_fallback") and _BYTE.fullmatch(text)
            yield text, TokenType.BYTE if byte else TokenType.NORMAL


def _rank_merges(merges: list[Any]) -> dict[str, float]:
    """Token → its score: the first merge that makes it comes first."""
    ranks: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(parts), -float(rank))
    return ranks


def _name_rule(tokenizer: dict[str, Any], path: Path) -> str:
    """Returns llama.cpp's name of the rule that splits text before merges."""
    normalizer = tokenizer.get("normalizer") or {"type": "NFC"}
    if normalizer["type"] != "NFC":
        raise _refuse(path, f"a normalizer {normalizer['type']}", "none, or NFC")
    rule = tokenizer.get("pre_tokenizer") or {}
    *before, last = rule.get("pretokenizers") or [rule]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        if not before and last.get("use_regex", True):
            return "gpt-2"
        digits = [{"type": "Digits", "individual_digits": True}]
        if last.get("use_regex", True) and before == digits:
            return "smollm"
        if len(before) == 1 and before[0].get("type") == "Split" and not last["use_regex"]:
            split = before[0]
            isolated = (split["behavior"], split["invert"])
            names = _RULES.get(split["pattern"].get("Regex", ""))
            if names and isolated in (("Isolated", False), ("Removed", True)):
                return names[0 if tokenizer["model"].get("ignore_merges") else 1]
    raise _refuse(path, "a rule of its own", "the rule of GPT-2, SmolLM, Llama 3, Qwen2, or OLMo-2")


def _prepends(tokenizer: dict[str, Any], path: Path) -> bool:
    """Whether a tokenizer of SentencePiece puts a blank before the text."""
    normalizer, rule = tokenizer.get("normalizer") or {}, tokenizer.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers") or ([normalizer] if normalizer else [])
    prepend = {"type": "Prepend", "prepend": _SPACE}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if not rule and steps in ([prepend, replace], [replace]):
        return prepend in steps
    plain = rule.get("type") == "Metaspace" and rule.get("replacement") == _SPACE
    if plain and not steps and not rule.get("split", True):
        return bool(rule.get("prepend_scheme", "always") != "never")
    raise _refuse(path, "another treatment of blanks", f"{_SPACE} in their place")


def _refuse(path: Path, got: str, expected: str) -> UnsupportedError:
    return UnsupportedError(
        "llama.cpp does not have this tokenizer", where=path, expected=expected, got=got
    )
