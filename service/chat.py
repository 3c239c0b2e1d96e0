"""Renders the messages of a chat as a text that the model continues. Knows nothing of HTTP."""

import json
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MARK = "\ufdd0"  # one of Unicode's noncharacters


class ChatTemplate(BaseModel):
    """All turns of a chat, followed by the beginning of the reply. models/<name>/chat.json overrides the default, which is a play.

    In a play each turn is the speaker's name in capitals, a colon, a line break, the words and a blank line. So the reply ends at a
    blank line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    speakers: dict[str, str] = Field({}, description="names of roles in the text; by default the role in capitals")
    turn: str = "{speaker}:\n{words}\n\n"
    reply: str = "{speaker}:\n"
    stop: list[Annotated[str, Field(min_length=1)]] = Field(["\n\n"], description="strings that end the reply")

    @model_validator(mode="after")
    def _renders(self) -> Self:
        try:
            self.render([("user", None, "words")])
        except Exception as error:  # a format string can raise anything
            raise ValueError(f"turn may contain {{speaker}} and {{words}}, reply {{speaker}}: {error!r}") from error
        fields = [field for _, *field in Formatter().parse(self.turn) if field[0] and "words" in field[0]]
        if not fields or any(field != ["words", "", None] for field in fields):
            raise ValueError("turn must contain {words}, without a format or a conversion")
        return self

    def render(self, messages: Sequence[tuple[str, str | None, str]], *, open_ended: bool = False) -> str:
        """messages: (role, name or None, words). open_ended: the text ends with the words of the last message, to continue it."""
        *before, last = [(self._speaker(role, name), words) for role, name, words in messages]
        turns = [self.turn.format(speaker=speaker, words=words) for speaker, words in before]
        if open_ended:
            # The mark, which no text contains, finds the position of the words in a turn.
            begun, _, _ = self.turn.format(speaker=last[0], words=MARK).partition(MARK)
            return "".join([*turns, begun, last[1]])
        turns.append(self.turn.format(speaker=last[0], words=last[1]))
        return "".join(turns) + self.reply.format(speaker=self._speaker("assistant", None))

    @property
    def jinja(self) -> str | None:
        """The same template in the notation of Hugging Face's tokenizers. None if it formats more than names and words."""
        turn = _jinja(self.turn, {"speaker": "speaker", "words": "message.content or ''"})
        reply = _jinja(self.reply, {"speaker": json.dumps(self._speaker("assistant", None), ensure_ascii=False)})
        if turn is None or reply is None:
            return None
        names = json.dumps(self.speakers, ensure_ascii=False)
        # The names of a tool and of a function are not their speakers': see `service.api.openai.messages`.
        name = "message.role not in ['tool', 'function'] and message.get('name')"
        speaker = f"message.name | upper if {name} else {names}.get(message.role, message.role | upper)"
        turns = "{% for message in messages %}{% set speaker = " + speaker + " %}" + turn + "{% endfor %}"
        return turns + "{% if add_generation_prompt %}" + reply + "{% endif %}"

    def _speaker(self, role: str, name: str | None) -> str:
        return name.upper() if name else self.speakers.get(role, role.upper())


def _jinja(template: str, fields: Mapping[str, str]) -> str | None:
    """A format string as output of Jinja. fields: the expression of each. None if it converts or formats one."""
    outputs = []
    for text, name, specification, conversion in Formatter().parse(template):
        if name is not None and (name not in fields or specification or conversion):
            return None
        outputs += ["{{ " + json.dumps(text, ensure_ascii=False) + " }}"] if text else []
        outputs += ["{{ " + fields[name] + " }}"] if name is not None else []
    return "".join(outputs)
