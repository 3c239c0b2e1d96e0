"""The formats of strings: an expression of some texts of each, and a check of any text."""

import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime

DATE = "(?:19[7-9][0-9]|20[0-9]{2})-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
WORD = "[a-z]{1,12}"
HOST = rf"{WORD}\.(?:com|org|net)"

FORMATS = {  # some texts of each format, that every checker accepts
    "date-time": f"{DATE}T{TIME}Z",
    "date": DATE,
    "time": f"{TIME}Z",
    "duration": "P(?:[1-9][0-9]?D|T[1-9][0-9]?[HMS])",
    "email": rf"{WORD}@{HOST}",
    "idn-email": rf"{WORD}@{HOST}",
    "hostname": HOST,
    "idn-hostname": HOST,
    "uri": rf"https://{HOST}/{WORD}",
    "uri-reference": rf"https://{HOST}/{WORD}",
    "url": rf"https://{HOST}/{WORD}",
    "iri": rf"https://{HOST}/{WORD}",
    "iri-reference": rf"https://{HOST}/{WORD}",
    "uri-template": rf"https://{HOST}/{WORD}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    **{f"uuid{i}": f"[0-9a-f]{{8}}-[0-9a-f]{{4}}-{i}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}" for i in range(1, 9)},
    "ipvanyaddress": rf"{BYTE}(?:\.{BYTE}){{3}}",
    "ipv4network": rf"10\.{BYTE}\.{BYTE}\.0/24",
    "multi-host-uri": rf"https://{HOST}/{WORD}",
    "ipv4": rf"{BYTE}(?:\.{BYTE}){{3}}",
    "ipv6": "[1-9a-f][0-9a-f]{3}(?::[1-9a-f][0-9a-f]{3}){7}",
    "json-pointer": rf"/{WORD}",
    "relative-json-pointer": rf"[1-9]/{WORD}",
    "regex": WORD,
    "byte": "(?:[A-Za-z0-9+/]{4}){1,5}",
    "base64": "(?:[A-Za-z0-9+/]{4}){1,5}",
    "base64url": "(?:[A-Za-z0-9_-]{4}){1,5}",
    "color": "#[0-9a-f]{6}",
    "json-string": "[1-9][0-9]?",
}

CHECKS: dict[str, Callable[[str], object]] = {  # raises ValueError for, or returns falsy at, a text that is none
    "date-time": lambda text: re.fullmatch(r"\d{4}-\d\d-\d\d[Tt].*(?:[Zz]|[+-]\d\d:\d\d)", text) and datetime.fromisoformat(text),
    "date": lambda text: re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) and date.fromisoformat(text),
    "time": lambda text: re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text, re.ASCII),
    "duration": lambda text: re.fullmatch(r"P(?!$)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?", text, re.ASCII),
    "email": lambda text: "@" in text,
    "idn-email": lambda text: "@" in text,
    "hostname": lambda text: (
        len(text) < 254 and re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*", text)
    ),
    "idn-hostname": lambda text: re.fullmatch(r"[a-z0-9]{1,63}(\.[a-z0-9]{1,63})*", text),
    "uri": lambda text: re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!#$&-;=?-Z_a-z~%]*", text),
    "uuid": lambda text: re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text),
    "ipv4": lambda text: ipaddress.IPv4Address(text),
    "ipv6": lambda text: "%" not in text and ipaddress.IPv6Address(text),
    "json-pointer": lambda text: re.fullmatch(r"(/([^~/]|~[01])*)*", text),
    "relative-json-pointer": lambda text: re.fullmatch(r"(0|[1-9]\d*)(#|(/([^~/]|~[01])*)*)", text, re.ASCII),
}


def is_format(text: str, name: str) -> bool:
    """Whether a text is of the format. Every text is of an unknown one."""
    if name == "regex":
        return re.fullmatch(r"[\w ,;:'@/#%&=-]*", text, re.ASCII) is not None  # surely an expression, in every dialect
    try:
        return bool(CHECKS[name](text)) if name in CHECKS else True
    except ValueError:
        return False
