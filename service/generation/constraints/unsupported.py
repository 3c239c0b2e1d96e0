"""The exception of this package, and its kinds."""


class UnsupportedConstraint(ValueError):
    """A regular expression or a JSON Schema that cannot be turned into a pattern. The message says what and where."""


class Hopeless(UnsupportedConstraint):
    """What no other alternative of the schema can make up for."""


class TooLarge(Hopeless):
    """The pattern is too large. One with tighter bounds may not be."""


class TooMuchWork(TooLarge):
    """Finding the pattern takes too long. With the tightest bounds it may not."""
