"""YAML as people write it to us: the rules of version 1.2, and every fault in one line with its place.

`1e2` is a number, `0123` is 123, and `yes`, `1:30` and `2026-01-02` are texts. Tags beyond the core schema of version
1.2 and a key that is there twice are refused.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import Node
from ruamel.yaml.scanner import Scanner

from caligo.errors import InvalidArgument

_TAG: Final = "tag:yaml.org,2002:"
_LONGEST_NUMBER: Final = 400
"""More than a float has; Python refuses to print integers of some thousand digits."""

_DEEPEST: Final = 32
"""Brackets inside one another; a spec has four."""


class _Scanner(Scanner):
    """Looks 1,024 characters ahead for the end of a key, through every bracket: many open ones would take minutes."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
        if len(self.flow_context) >= _DEEPEST:
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass, to_push)


class _Constructor(SafeConstructor):
    """Mappings with texts as keys, lists, texts, numbers, truth values and nothing."""

    def check_mapping_key(self, node: Node, key_node: Node, mapping: Any, key: Any, value: Any) -> bool:
        if not isinstance(key, str):
            raise _refusal(key_node, "a key must be a text")
        if key in mapping:
            raise _refusal(key_node, f"the key {key!r} is there twice")
        return True

    def construct_number(self, node: Node) -> int | float:
        if len(node.value) > _LONGEST_NUMBER:
            raise _refusal(node, "a number has too many digits")
        try:
            return self.construct_yaml_int(node) if node.tag == f"{_TAG}int" else self.construct_yaml_float(node)
        except ValueError:
            raise _refusal(node, f"{node.value!r} is no number") from None

    def construct_truth(self, node: Node) -> bool:
        if node.value.lower() not in ("true", "false"):
            raise _refusal(node, f"{node.value!r} is neither true nor false")
        return self.construct_yaml_bool(node)

    def construct_unknown(self, node: Node) -> Any:
        raise _refusal(node, f"the tag {node.tag} means nothing here")


_Constructor.yaml_constructors = {
    f"{_TAG}null": SafeConstructor.construct_yaml_null,
    f"{_TAG}bool": _Constructor.construct_truth,
    f"{_TAG}int": _Constructor.construct_number,
    f"{_TAG}float": _Constructor.construct_number,
    f"{_TAG}str": SafeConstructor.construct_yaml_str,
    f"{_TAG}timestamp": SafeConstructor.construct_yaml_str,
    f"{_TAG}seq": SafeConstructor.construct_yaml_seq,
    f"{_TAG}map": SafeConstructor.construct_yaml_map,
    None: _Constructor.construct_unknown,
}


def _refusal(node: Node, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)  # the C parser knows version 1.1 alone
    yaml.Scanner, yaml.Constructor = _Scanner, _Constructor
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml


def parse(text: str, source: str) -> Any:
    """The value that a YAML text stands for.

    Args:
        source: where the text comes from, for errors.

    Raises:
        InvalidArgument: it is not YAML, or stands for something that no setting can be.
    """
    try:
        return _yaml().load(text)
    except RecursionError:
        raise InvalidArgument(source, "is nested too deep") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidArgument(source, f"is not YAML: {place}{error.problem or error.context}") from None
    except YAMLError as error:  # a character that may not be there
        raise InvalidArgument(source, f"is not YAML: {' '.join(str(error).split())}") from None


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; that in an empty one is empty.

    Raises:
        InvalidArgument: no such file, not YAML, or not a mapping.
    """
    try:
        values = parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InvalidArgument(str(path), error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise InvalidArgument(str(path), "is not YAML: not a text in UTF-8") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidArgument(str(path), "must hold a mapping of settings")
    return values


def dump(values: Any) -> str:
    """Plain values as YAML that `parse` reads as the same, a line a setting."""
    text = io.StringIO()
    _yaml().dump(values, text)
    return text.getvalue()
