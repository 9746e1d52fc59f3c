"""YAML text, read into a tree whose nodes know their places.

What enters is text of any origin; what leaves is a tree of plain values with lines and columns,
or problems. The parser's events are read one by one, so that nesting, size and aliases are
counted before anything is built, and no tag ever makes an object. Aliases share one node; what
they would expand to is counted, so an anchor bomb is refused where it passes the limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import yaml

from piecework.errors import Problem, show

#: No pipeline that people write comes near these.
MOST_BYTES = 1 << 20
MOST_LEVELS = 50
MOST_NODES = 100_000
_LONGEST_NUMBER = 40
_TOO_DEEP = f"found more than {MOST_LEVELS} levels of nesting; a pipeline needs fewer"

#: The C parser is some ten times faster; the other one reads the same events.
_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"yes|Yes|YES|true|True|TRUE|on|On|ON")
_FALSE = re.compile(r"no|No|NO|false|False|FALSE|off|Off|OFF")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt]|[ \t]+)[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"(?:Z|[-+][0-9]{2}:[0-9]{2})?",
    re.ASCII,
)
_TEXT_TAGS = {"!", "tag:yaml.org,2002:str"}


@dataclass(slots=True)
class Node:
    """One value and its place. `fields` or `items` hold what is in it; `size` counts all of it,
    `levels` how deep it nests, aliases counted as what they stand for.

    `wrong` is True where a problem was already told, so that it isn't told a second time.
    """

    value: Any
    line: int
    column: int
    fields: dict[str, Field] | None = None
    items: list[Node] | None = None
    size: int = 1
    levels: int = 1
    wrong: bool = False


@dataclass(slots=True)
class Field:
    """A key's place, and its value."""

    line: int
    column: int
    node: Node


class Unreadable(Exception):  # noqa: N818 - never leaves this module
    """Reading cannot go on; carries the problem that says why."""

    def __init__(self, line: int, column: int, message: str) -> None:
        self.place = (line, column)
        super().__init__(message)


def read_tree(text: str | bytes, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree of one YAML document, and what is wrong with it as YAML.

    The tree is None where it could not be read to its end. Never raises for any content.
    """
    problems: list[Problem] = []
    try:
        decoded = _decode(text)
        return _Reader(decoded, file, problems).read(), problems
    except Unreadable as error:
        problems.append(Problem(file, *error.place, "", str(error)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        problems.append(Problem(file, line, column, "", _explain(error, decoded, line, column)))
    except yaml.YAMLError as error:
        problems.append(Problem(file, 0, 0, "", f"is not YAML: {_one_line(str(error))}"))
    return None, problems


def place_of(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 1, of the character at `index`."""
    line, start = 1, 0
    for match in _LINE_END.finditer(text, 0, index):
        line, start = line + 1, match.end()
    return line, index - start + 1


def _decode(text: str | bytes) -> str:
    if len(text) > MOST_BYTES:
        raise Unreadable(
            0, 0, f"found more than {MOST_BYTES:,} bytes; a pipeline file has at most that (1 MiB)"
        )
    if isinstance(text, bytes):
        try:
            decoded = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            valid = text[: error.start].decode("utf-8-sig")
            line, column = place_of(valid, len(valid))
            found = f"found the byte 0x{text[error.start]:02x}, which is not UTF-8"
            raise Unreadable(line, column, f"{found}; save the file as UTF-8 text") from None
    else:
        decoded = text.removeprefix("\ufeff")
    match = _UNPRINTABLE.search(decoded)
    if match:
        line, column = place_of(decoded, match.start())
        found = f"found the character U+{ord(match[0]):04X}, which YAML does not allow"
        raise Unreadable(line, column, f"{found}; a pipeline file is plain text")
    return decoded


def _explain(error: yaml.MarkedYAMLError, text: str, line: int, column: int) -> str:
    """What a syntax error most likely comes from, in words for people who don't know YAML's."""
    problem = _one_line(error.problem or error.context or "cannot be read")
    if "cannot start any token" in problem:
        lines = _LINE_END.split(text)
        character = lines[line - 1][column - 1 : column] if line <= len(lines) else ""
        if character == "\t":
            return "found a tab; YAML is indented with spaces"
        return f"found {show(character)}, which cannot begin a plain value in YAML; quote the value"
    context = f" {_one_line(error.context)}" if error.context and error.problem else ""
    if "mapping values are not allowed" in problem:
        context = "; quote a value that holds ': ', and check the indentation"
    return f"is not YAML: {problem}{context}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read. `key` is set while a mapping waits for its value."""

    node: Node
    anchor: str | None
    pairs: list[tuple[str, int, int, bool, Node]] | None
    key: tuple[str, int, int, bool] | None = None


class _Reader:
    """Builds the tree from the parser's events, without recursion."""

    def __init__(self, text: str, file: str, problems: list[Problem]) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._file = file
        self._problems = problems
        self._anchors: dict[str, Node] = {}
        self._open: list[_Open] = []
        self._root: Node | None = None

    def read(self) -> Node:
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    message = "found a second document; a file holds one pipeline: split the file"
                    raise Unreadable(*_place(event), message)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self._begin(event)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                self._end()
        if self._root is None or self._root.value is None:
            wanted = "a pipeline file begins with 'pipeline: NAME', or 'job: NAME' for a single job"
            raise Unreadable(0, 0, f"found nothing; {wanted}")
        return self._root

    def _tell(self, node: Node, message: str) -> None:
        node.wrong = True
        self._problems.append(Problem(self._file, node.line, node.column, self._path(), message))

    def _path(self) -> str:
        """The path to the value being read: names only, as far as they are known."""
        path: list[str | int] = []
        for part in self._open:
            if part.pairs is None:
                path.append(len(part.node.items or ()))
            elif part.key is not None:
                path.append(part.key[0])
        return field_path(path)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        line, column = _place(event)
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.pairs is not None and parent.key is None:
            merge = event.value == "<<" and event.implicit[0]
            parent.key = (event.value, line, column, merge)
            if event.anchor:
                self._anchors[event.anchor] = Node(event.value, line, column)
            return
        node = Node(event.value, line, column)
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            self._tell(node, _tag_message(event.tag))
        elif event.implicit[0] and event.tag is None:
            node.value = _resolve(event.value)
            if isinstance(node.value, _Refused):
                self._tell(node, node.value.message)
                node.value = None
        self._add(node, event.anchor)

    def _alias(self, event: yaml.AliasEvent) -> None:
        name = event.anchor
        node = self._anchors.get(name or "")
        if node is None:
            inside = any(part.anchor == name for part in self._open)
            reason = "which holds itself" if inside else f"but no anchor &{name} comes before it"
            raise Unreadable(*_place(event), f"found the alias *{name}, {reason}")
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.pairs is not None and parent.key is None:
            if not isinstance(node.value, str):
                raise Unreadable(*_place(event), f"found *{name} as a key; a key is a text")
            parent.key = (node.value, *_place(event), False)
            return
        self._add(node, None)

    def _begin(self, event: Any) -> None:
        line, column = _place(event)
        if len(self._open) >= MOST_LEVELS:
            raise Unreadable(line, column, _TOO_DEEP)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.pairs is not None and parent.key is None:
            kind = "a mapping" if is_mapping else "a list"
            hint = "; a text that begins with {{ must be quoted" if is_mapping else ""
            raise Unreadable(line, column, f"found {kind} where a name is expected{hint}")
        node = Node(None, line, column)
        if is_mapping:
            node.fields = {}
        else:
            node.items = []
        if event.tag is not None and event.tag != "!":
            self._tell(node, _tag_message(event.tag))
        self._open.append(_Open(node, event.anchor, [] if is_mapping else None))

    def _end(self) -> None:
        ended = self._open.pop()
        node = ended.node
        if ended.pairs is None:
            node.value = [item.value for item in node.items or ()]
        else:
            node.fields = self._merge(ended.pairs)
            node.value = {name: field.node.value for name, field in node.fields.items()}
        self._add(node, ended.anchor)

    def _merge(self, pairs: list[tuple[str, int, int, bool, Node]]) -> dict[str, Field]:
        """The mapping's own keys first; then what `<<` brings, where no own key says otherwise."""
        fields: dict[str, Field] = {}
        merged: list[tuple[int, int, Node]] = []
        for name, line, column, is_merge, node in pairs:
            if is_merge:
                merged.append((line, column, node))
            elif name in fields:
                path = f"{self._path()}.{_path_part(name)}".lstrip(".")
                first = (
                    f"found {show(name)} a second time; the first is in line {fields[name].line}"
                )
                self._problems.append(Problem(self._file, line, column, path, first))
            else:
                fields[name] = Field(line, column, node)
        for line, column, node in merged:
            sources = [node] if node.items is None else node.items
            for source in sources:
                if source.fields is None:
                    message = "found '<<' without a mapping; it takes an alias of one, like *name"
                    self._problems.append(Problem(self._file, line, column, self._path(), message))
                    continue
                for name, field in source.fields.items():
                    fields.setdefault(name, field)
        return fields

    def _add(self, node: Node, anchor: str | None) -> None:
        """Puts a finished node into what is open, and counts what its aliases expand to."""
        if anchor:
            self._anchors[anchor] = node
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        parent.node.size += node.size
        parent.node.levels = max(parent.node.levels, 1 + node.levels)
        if len(self._open) + node.levels > MOST_LEVELS + 1:
            raise Unreadable(node.line, node.column, _TOO_DEEP)
        if parent.node.size > MOST_NODES:
            message = (
                f"found more than {MOST_NODES:,} values, aliases counted as what they stand for"
            )
            raise Unreadable(node.line, node.column, f"{message}; a pipeline has fewer")
        if parent.pairs is None:
            assert parent.node.items is not None
            parent.node.items.append(node)
        else:
            assert parent.key is not None
            parent.pairs.append((*parent.key, node))
            parent.key = None


@dataclass(frozen=True, slots=True)
class _Refused:
    message: str


def _resolve(text: str) -> Any:
    """The value of a plain scalar: nothing, yes or no, a number, a date, or text."""
    value: Any = text
    if _NULL.fullmatch(text):
        value = None
    elif _TRUE.fullmatch(text):
        value = True
    elif _FALSE.fullmatch(text):
        value = False
    elif _NOT_FINITE.fullmatch(text):
        value = _Refused(f"found {text}, which is not a number that can be counted with")
    elif _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
        value = _number(text)
    elif _DATE.fullmatch(text):
        value = _or_text(date.fromisoformat, text)
    elif _TIME.fullmatch(text):
        value = _or_text(datetime.fromisoformat, text)
    return value


def _number(text: str) -> Any:
    if len(text) > _LONGEST_NUMBER:
        return _Refused(f"found a number of {len(text):,} characters; quote it, if it is a text")
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""), 0)
    if len(text) > 1 and text[0] == "0" and text[1].isdigit():
        return text  # 007 is a text to people, and YAML's versions disagree about it
    number = float(text.replace("_", ""))
    if number in (float("inf"), float("-inf")):
        return _Refused(f"found {text}, which is too large a number")
    return number


def _or_text(read: Any, text: str) -> Any:
    try:
        return read(text)
    except ValueError:
        return text


def _tag_message(tag: str) -> str:
    shown = show(tag.replace("tag:yaml.org,2002:", "!!"))
    return f"found the tag {shown}; tags are not read: write the plain value"


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def field_path(location: list[str | int] | tuple[str | int, ...]) -> str:
    """`jobs.clean.args[0]` from ("jobs", "clean", "args", 0)."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{_path_part(part)}"
    return path.removeprefix(".")


def _path_part(name: str) -> str:
    plain = name.isprintable() and 0 < len(name) <= 100 and not set(name) & set(" .:[]'\"")
    return name if plain else show(name)
