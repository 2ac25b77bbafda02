"""Settings as JSON: what a run folder keeps, and what comes back from it, checked field by field."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.files import write_text


def to_plain(config: CaseConfig) -> dict[str, Any]:
    """Nested dicts, lists and plain values."""
    return CONVERTER.unstructure(config)


def from_plain(content: Any, source: str = "content") -> CaseConfig:
    """Settings from nested dicts; a field that is missing has its default.

    Args:
        content: What `to_plain` gives, or a part of it.
        source: What to call it in an error.

    Raises:
        ValueError: A field is unknown, has the wrong type, or a value out of range; all are named.
    """
    if not isinstance(content, dict):
        raise ValueError(
            f"`{source}` must hold settings as a JSON object, got {type(content).__name__}. "
            'Write for example {"train": {"epochs": 60}}.'
        )
    try:
        return CONVERTER.structure(content, CaseConfig)
    except ClassValidationError as error:
        raise ValueError(
            f"`{source}` must hold only settings of CaseConfig, got {'; '.join(_describe(error))}. "
            "Correct these fields, or leave them out for their defaults."
        ) from error


def write_config(config: CaseConfig, path: Path) -> None:
    """Write every setting as indented JSON."""
    write_text(path, json.dumps(to_plain(config), indent=2) + "\n")


def read_config(path: str | Path) -> CaseConfig:
    """Settings from a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, or `from_plain` refuses its content.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`config` must be a JSON file with settings, got {path}. Check the path.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"`config` must be a JSON file, got {path} ({error}). Repair it.") from error
    return from_plain(content, path.name)


def describe_difference(old: Any, new: Any, where: str = "") -> str:
    """`train.epochs 60 instead of 30, ...`; empty when nothing differs."""
    parts = []
    for field in fields(new):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if is_dataclass(after):
            parts.append(describe_difference(before, after, f"{where}{field.name}."))
        elif before != after:
            parts.append(f"{where}{field.name} {after!r} instead of {before!r}")
    return ", ".join(part for part in parts if part)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    # cattrs would turn "yes" into True and 2.7 into 2.
    for kind, accepted in {bool: (bool,), int: (int,), float: (float, int), str: (str,)}.items():
        converter.register_structure_hook(kind, _strict(kind, accepted))
    return converter


def _strict(kind: type, accepted: tuple[type, ...]) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{value!r} instead of {'an' if kind is int else 'a'} {kind.__name__}")
        return kind(value)

    return structure


def _describe(error: BaseException, where: str = "") -> list[str]:
    """One phrase for each leaf of cattrs's tree of errors."""
    if isinstance(error, ForbiddenExtraKeysError):
        return [f"unknown field `{where}{name}`" for name in sorted(error.extra_fields)]
    if not isinstance(error, ClassValidationError):
        return [f"{where.rstrip('.')}: {error}" if where else str(error)]
    found = []
    noted, bare = error.group_exceptions()
    for cause, note in noted:
        found += _describe(cause, f"{where}{note.name}.")
    for cause in bare:
        found += _describe(cause, where)
    return found


CONVERTER = _make_converter()
