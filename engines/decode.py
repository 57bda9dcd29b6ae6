"""Dataclasses from parsed JSON, field by field and strictly by type: nothing is converted, left out or added."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from engines.printable import shown

Record = TypeVar("Record")


def decode(record: type[Record], value: object, name: str) -> Record:
    """The dataclass `record` from a parsed JSON object; `name` is the object's, for messages.

    Fields are str, int, float, bool, None, dataclasses, and lists, dicts and unions of these.

    Raises:
        ValueError: a field is missing, unknown or of another type, or a number is not finite.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected an object, found {shown(value)}")
    fields = {field.name: field for field in dataclasses.fields(record) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(value.keys() - fields.keys()):
        raise ValueError(f"{name}: expected only known fields, found {', '.join(map(shown, unknown))}")
    required = [
        key
        for key, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and key not in value
    ]
    if required:
        raise ValueError(f"{name}: expected the fields {', '.join(required)}, found none")
    hints = get_type_hints(record)
    return record(**{key: _value(hints[key], item, f"{name}.{key}") for key, item in value.items()})


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(…, object_pairs_hook=…)`: ValueError where a key comes twice, of which one value would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{shown(next(key for key in keys if keys.count(key) > 1))}: expected once in an object, found twice")
    return content


def _value(hint: Any, value: object, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(arguments, value, name)
    if origin is list and isinstance(value, list):
        return [_value(arguments[0], item, f"{name}[{place}]") for place, item in enumerate(value)]
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _value(arguments[1], item, f"{name}.{shown(key)}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value, name)
    if hint is float and type(value) in (int, float) and _is_finite(value):
        return value
    if hint in (str, int, bool, types.NoneType) and type(value) is hint:
        return value
    raise ValueError(f"{name}: expected {_in_words(hint)}, found {shown(value)}")


def _union(options: tuple[Any, ...], value: object, name: str) -> Any:
    """The first that fits; the error is of the last, which is no None."""
    if value is None and types.NoneType in options:
        return None
    options = tuple(option for option in options if option is not types.NoneType)
    for option in options[:-1]:
        try:
            return _value(option, value, name)
        except ValueError:
            continue
    return _value(options[-1], value, name)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond any float
        return False


def _in_words(hint: Any) -> str:
    words = {str: "text", int: "an integer", float: "a finite number", bool: "true or false", list: "a list", dict: "an object"}
    return words.get(get_origin(hint) or hint, str(hint))
