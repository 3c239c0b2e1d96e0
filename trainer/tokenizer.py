"""A vocabulary as a Hugging Face tokenizer with one token per character. Some load and evaluation tools need one."""

import json
from collections.abc import Sequence


def tokenizer_json(characters: Sequence[str]) -> bytes:
    """tokenizer.json of the `tokenizers` library. An unknown character becomes a space, or else the first character."""
    unknown = " " if " " in characters else characters[0]
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],  # decoding would drop an end-of-text token
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {c: i for i, c in enumerate(characters)}, "unk_token": unknown},
    }
    return (json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n").encode()


def tokenizer_config(characters: Sequence[str], chat_template: str | None = None) -> dict[str, object]:
    """tokenizer_config.json of the `transformers` library, which needs it in addition to tokenizer.json.

    chat_template: how a chat becomes a text, in Jinja.
    """
    end = "\n" if "\n" in characters else characters[0]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **({"chat_template": chat_template} if chat_template else {}),
    }
