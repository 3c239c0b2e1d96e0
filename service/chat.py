"""Renders the messages of a chat as a text that the model continues. Knows nothing of HTTP."""

from collections.abc import Sequence
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
            holds_words = MARK in self.turn.format(speaker="USER", words=MARK)
        except Exception as error:  # a format string can raise anything
            raise ValueError(f"turn may contain {{speaker}} and {{words}}, reply {{speaker}}: {error!r}") from error
        if not holds_words:
            raise ValueError("turn must contain {words} unchanged")
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

    def _speaker(self, role: str, name: str | None) -> str:
        return name.upper() if name else self.speakers.get(role, role.upper())
