"""Names in the texts of formats: a letter that a format has no place for is written as an escape, never as it is."""

import json
import re
from typing import Any

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""XML 1.0, 2.2: what a document cannot hold, not even as a reference."""
_NOT_YAML = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""YAML 1.2, 5.1: what is not printable; and breaks of lines, which a quoted text would fold."""


def xml_text(name: str) -> str:
    r"""The name with \x01 and the like where XML has no such letter."""
    return _NOT_XML.sub(lambda found: _escape(found[0]), name)


def yaml_text(name: str) -> str:
    """The name as a double-quoted scalar of YAML, which reads back as it is."""
    quoted = json.dumps(name, ensure_ascii=False)
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def json_bytes(fields: Any) -> bytes:
    """UTF-8 JSON; all of it in ASCII where it has half a letter (of a path that is not UTF-8)."""
    try:
        return json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(fields).encode()


def _escape(letter: str) -> str:
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"
