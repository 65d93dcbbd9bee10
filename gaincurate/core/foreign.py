"""Reads JSON, YAML and TOML: files, texts and bytes that others may have written.

`core.arrow` does the same for Arrow and Parquet. No other module opens such a file or parses such a text
(tests/test_architecture.py checks that). Invalid input raises a ValueError with a reason, mostly `Malformed`,
and the caller decides what it means: a file that is still being written, a damaged file, a line to skip.
Errors of a parser are passed on, because they name the line. A refusal of the file system is an OSError.

JSON is checked for depth only if its text could be deep, so that a check costs a tenth of the parsing.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

LARGEST = 1 << 32  # bytes of a file that is read whole. A state with ten million posteriors has 1 GB
LARGEST_CONFIG = 1 << 19  # bytes of YAML and TOML. The largest configuration that we know has 60 kB
LONGEST_LINE = 1 << 26  # bytes of JSON: a rollout of a million tokens, with their ids and log-probs, fits
DEEPEST = 64  # lists and objects inside each other. Python's own code for them fails at some hundreds
_BOM = b"\xef\xbb\xbf"
_NESTING = frozenset({dict, list})
_SECRET_NAME = re.compile("KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|SAS")
_SECRET = 8  # characters of the shortest value that is taken for one
_SHOWN = 60  # characters of a value in a sentence


class Malformed(ValueError):
    """The input cannot be used. The text is a clause for the middle of a sentence."""


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of a regular file; an OSError for any other file, and for more than `most` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= most:
            data = file.read(size + 1)
            # A file of the kernel has more than its size says, /proc/self/pagemap 512 GB.
            while len(data) <= most and (part := file.read(len(data) + 1)):
                data += part
            if len(data) <= most:
                return data
    raise OSError(errno.EINVAL, f"it has more than {most:,} bytes", str(path))


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read. Any other is an OSError: a pipe could block, and a device has no end."""
    mode = os.stat(path).st_mode  # before it is opened, because to open a device can do something
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise not_regular(path)
    return path.open("rb")


def not_regular(path: Path) -> OSError:
    """The OSError for a pipe or a device in place of a file."""
    return OSError(errno.EINVAL, "it is no regular file", str(path))


def read_text(path: Path, most: int = LARGEST) -> str:
    """The text of a regular file in UTF-8; see `read_bytes`."""
    return text_of(read_bytes(path, most))


def text_of(data: bytes) -> str:
    """Decode UTF-8; other bytes raise `Malformed`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start + 1} is not UTF-8") from error


def json_file(path: Path) -> Any:
    """The value of a JSON file."""
    return json_value(read_bytes(path))


def json_value(data: bytes | str, *, surrogates: bool = False) -> Any:
    """The value of a JSON text. With `surrogates`, halves of surrogate pairs are accepted.

    Raises ValueError if it is not JSON (json.JSONDecodeError), not UTF-8 (UnicodeDecodeError), nested too
    deeply, or holds half of a surrogate pair.
    """
    # Not by json.loads, which guesses other encodings and makes infinity of 1e999.
    text = data.removeprefix(_BOM).decode() if isinstance(data, bytes) else data
    if text.startswith("\ufeff"):
        raise Malformed("it begins with a byte order mark")
    try:
        value = JSON.decode(text)
    except RecursionError:
        raise _too_deep() from None
    if len(text) > 2 * DEEPEST and text.count("[") + text.count("{") > DEEPEST:
        see_depth(value)
    if not surrogates and "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Malformed("a text in it holds half of a surrogate pair") from error
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
        raise Malformed(f"the number {shown} in it is larger than a float of 64 bits")
    return value


JSON = json.JSONDecoder(parse_float=_finite)
"""Python's, but no number becomes infinity. The words NaN and Infinity are values: pandas writes them."""


def _too_deep() -> Malformed:
    return Malformed(f"lists or objects stand more than {DEEPEST} deep inside each other")


def see_depth(value: Any) -> None:
    """Refuse lists and objects that are nested too deeply, or contain themselves.

    Raises:
        Malformed: the value is such a list or object.
    """
    level: list[Any] = [[value]]
    for _ in range(DEEPEST + 1):
        values = (outer.values() if type(outer) is dict else outer for outer in level)
        inside = (inner for each in values for inner in each if type(inner) in _NESTING)
        level = list({id(inner): inner for inner in inside}.values())  # aliases of YAML repeat one
        if not level:
            return
    raise _too_deep()


def is_utf8(value: str) -> bool:
    """Whether a text can be encoded as UTF-8: it holds no half of a surrogate pair."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def without_secrets(text: str) -> str:
    """A text without the values of environment variables whose names suggest a secret."""
    for name, value in os.environ.items():
        if len(value) >= _SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text


def toml_value(text: str) -> dict[str, Any]:
    """The value of a TOML text; a ValueError for other text, and for one that is too long or too deep."""
    import tomllib

    _see_length(text)
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise _too_deep() from None
    see_depth(value)
    return value


def yaml_value(text: str, loader: Any = None) -> Any:
    """The value of a YAML text, in the types of JSON, and dates.

    The `loader`, a child of `yaml.SafeLoader`, makes values of plain texts in another way. Raises ValueError
    if the text is not YAML, too long, nested too deeply, or holds itself.
    """
    import yaml

    _see_length(text)
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # The library composes a document by recursion in C, which ends the process where it is deep enough.
        depth = 0
        for event in yaml.parse(text, Loader=fast):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise _too_deep()
        value = yaml.load(text, loader or fast)
    except yaml.YAMLError as error:
        raise Malformed(str(error)) from error
    # Its constructors believe tags: `!!timestamp x`, `!!bool x`, an empty `!!int`.
    except (AttributeError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise Malformed(f"a value in it is not what its tag says ({type(error).__name__})") from error
    see_depth(value)  # with aliases a document can hold itself
    return value


def _see_length(text: str) -> None:
    if len(text) > LARGEST_CONFIG:  # both parsers are slow
        raise Malformed(f"it has more than {LARGEST_CONFIG:,} characters")


def lines_of(file: IO[bytes]) -> Iterator[tuple[bytes | None, int]]:
    """The lines of a file and the bytes that each takes; None for one that is too long."""
    for line in iter(partial(file.readline, LONGEST_LINE), b""):
        size, part = len(line), line
        while len(part) == LONGEST_LINE and not part.endswith(b"\n"):
            part = file.readline(LONGEST_LINE)
            size += len(part)
        yield line if size == len(line) else None, size
