"""The tool and the schema that frameworks are given. With the header CALL a user's message is answered with a call."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CALL = {"X-Folio-Tools": "call"}


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")

    city: str = Field(max_length=20)
    days: int = Field(ge=1, le=14)
    sky: Literal["clear", "rain"]


class Forecast:
    """A tool that remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def forecast(self, city: str, days: int) -> str:
        """Returns the weather in a city."""
        assert type(city) is str
        assert type(days) is int
        self.calls.append((city, days))
        return "It will rain."
