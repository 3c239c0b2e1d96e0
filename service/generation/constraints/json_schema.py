import json
from typing import Any

from outlines_core.json_schema import build_regex_from_schema


def json_pattern(s: Any, free: str) -> str:
    return build_regex_from_schema(json.dumps(s), whitespace_pattern="").replace("{1,}", "{1,9}")


def free_json_object(free: str) -> str:
    return r'\{"[a-z]{1,5}":"[a-z]{1,20}"\}'
