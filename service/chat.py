"""How a chat becomes a text for a model that only continues texts. Knows nothing of HTTP."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MARK = "\ufdd0"  # one of Unicode's noncharacters


class ChatTemplate(BaseModel):
    """Turns one after the other, then the beginning of the reply's; models/<name>/chat.json holds one.

    Unless told otherwise it is a play: the speaker's name in capitals, a colon, a line break, the words; a blank line ends a
    speech, so the reply ends where the next speaker would begin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    speakers: dict[str, str] = Field({}, description="a role's name in the text; the role in capitals where it is not here")
    turn: str = "{speaker}:\n{words}\n\n"
    reply: str = "{speaker}:\n"
    stop: list[Annotated[str, Field(min_length=1)]] = Field(["\n\n"], description="what ends the reply")

    @model_validator(mode="after")
    def _renders(self) -> Self:
        try:
            self.render([("user", None, "words")])
            holds_words = MARK in self.turn.format(speaker="USER", words=MARK)
        except Exception as error:  # a format string can do much
            raise ValueError(f"turn and reply may hold {{speaker}}, turn {{words}} too: {error!r}") from error
        if not holds_words:
            raise ValueError("turn must hold {words}, as they are")
        return self

    def render(self, messages: Sequence[tuple[str, str | None, str]], *, open_ended: bool = False) -> str:
        """messages: (role, name or None, words) of each. open_ended: the text ends with the last one's words, to be continued."""
        *before, last = [(self._speaker(role, name), words) for role, name, words in messages]
        turns = [self.turn.format(speaker=speaker, words=words) for speaker, words in before]
        if open_ended:
            # Where the words stand in a turn is known by something that no text holds.
            begun, _, _ = self.turn.format(speaker=last[0], words=MARK).partition(MARK)
            return "".join([*turns, begun, last[1]])
        turns.append(self.turn.format(speaker=last[0], words=last[1]))
        return "".join(turns) + self.reply.format(speaker=self._speaker("assistant", None))

    def _speaker(self, role: str, name: str | None) -> str:
        return name.upper() if name else self.speakers.get(role, role.upper())
