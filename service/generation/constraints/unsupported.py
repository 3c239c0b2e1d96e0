"""The one exception of this package."""


class UnsupportedConstraint(ValueError):
    """A regular expression or a JSON Schema that cannot be turned into a pattern. The message says what and where."""


class TooLarge(UnsupportedConstraint):
    """The pattern, or the work of finding it, is beyond a bound."""
