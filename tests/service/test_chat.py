"""The chat template, and its form for Hugging Face's tokenizers."""

from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from service.chat import ChatTemplate

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": 'Say "yes" {or} no.\n'},
    {"role": "user", "name": "Romeo", "content": "What light\nthrough yonder {{ window }}"},
    {"role": "assistant", "content": "It is the east 🎭"},
    {"role": "user", "content": ""},
    {"role": "assistant", "content": None},
    {"role": "tool", "name": "weather", "content": "fine"},
]


@pytest.mark.parametrize(
    "template",
    [
        ChatTemplate(),
        ChatTemplate(
            speakers={"user": 'Dr. "X" 語', "assistant": "\\n"}, turn="\n{{{speaker}}}: {words}\n", reply="{{{speaker}}}:"
        ),
        ChatTemplate(turn="{words}\n", reply="", stop=["\n"]),
    ],
)
@pytest.mark.parametrize("replies", [True, False])
def test_jinja_gives_the_same_text(template: ChatTemplate, replies: bool) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as in transformers
    assert template.jinja is not None
    found = environment.from_string(template.jinja).render(messages=CHAT, add_generation_prompt=replies)
    names = [None if message["role"] == "tool" else message.get("name") for message in CHAT]  # as the API reads them
    expected = template.render(
        [(message["role"], name, message["content"] or "") for message, name in zip(CHAT, names, strict=True)]
    )
    reply = template.reply.format(speaker=template.speakers.get("assistant", "ASSISTANT"))
    assert found == (expected if replies else expected.removesuffix(reply))


def test_a_template_that_formats_its_fields_has_no_jinja() -> None:
    assert ChatTemplate(turn="{speaker:>12}: {words}\n").jinja is None
    assert ChatTemplate(reply="{speaker!r}:").jinja is None
