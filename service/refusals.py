"""What of a models folder is refused, and why."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)


class Refused(NamedTuple):
    reason: str
    fingerprint: object | None  # of the files to blame; None if they are not


class Refusals:
    """Versions, chat templates and folders that cannot be used. One thread changes them, others may read them."""

    def __init__(self) -> None:
        self.count = 0  # so far
        self._by_path: Mapping[Path, Refused] = {}  # replaced, never changed

    def add(self, path: Path, reason: str, fingerprint: object | None = None, *, exc_info: bool = False) -> None:
        """Logs and counts the refusal unless the same one is known already. fingerprint: of the files to blame, if they are."""
        reason = reason.encode("utf-8", "backslashreplace").decode()  # a folder's name may hold bytes that are not UTF-8
        if path not in self._by_path or self._by_path[path].reason != reason:
            log.warning("refused %s", reason, exc_info=exc_info)
            self.count += 1
        self._by_path = {**self._by_path, path: Refused(reason, fingerprint)}

    def holds(self, path: Path, fingerprint: object) -> bool:
        """Whether the path was refused because of files that have not changed since."""
        return path in self._by_path and self._by_path[path].fingerprint == fingerprint

    def keep(self, paths: Collection[Path]) -> None:
        """Forgets the refusals of all other paths."""
        self._by_path = {path: refused for path, refused in self._by_path.items() if path in paths}

    @property
    def reasons(self) -> list[str]:
        return [refused.reason for refused in self._by_path.values()]
