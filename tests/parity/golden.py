"""Golden files: written once by the independent implementation, compared with it again whenever asked."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "golden"


def require_equal(expected: object, found: object) -> str:
    if expected != found:
        sys.exit(f"differs from the golden file:\n  golden {expected!r}\n  now    {found!r}")
    return "equal"


def main(name: str, measure: Callable[[str], dict], compare: Callable[[dict, dict], str], arguments: list[str]) -> None:
    """Runs a golden script: measures a model, then writes the file or compares with it."""
    path = FOLDER / name
    found = measure(arguments[1])
    if arguments[2:] == ["--write"]:
        # One text a line, so that a change shows which.
        parts = [f"{json.dumps(key)}: {lines(value)}" for key, value in found.items()]
        path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
        print(f"{name}: written, {path.stat().st_size} bytes")
    else:
        print(f"{name}: {compare(json.loads(path.read_text(encoding='utf-8')), found)}")


def lines(value: list) -> str:
    separator = ",\n" if value and isinstance(value[0], dict) else ", "
    return "[" + separator.join(json.dumps(item) for item in value) + "]"
