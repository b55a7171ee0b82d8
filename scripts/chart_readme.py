#!/usr/bin/env python3
"""Writes the table of values in charts/plumbline/README.md from values.yaml. With --check it writes nothing, and fails if
that would change something.

values.yaml keeps to a form in which each value has its comment above it and its default on its own line."""

import pathlib
import re
import sys

CHART = pathlib.Path(__file__).parent.parent / "charts/plumbline"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


def values(text):
    """Path, default and comment of each value; the default of a group is None."""
    groups, comment = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            comment = []
        elif line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif key := re.fullmatch(r"( *)([a-zA-Z]+):(?: (.+))?", line):
            if not comment:
                sys.exit(f"values.yaml:{number}: {key[2]} has no comment")
            groups = groups[: len(key[1]) // 2] + [key[2]]
            yield ".".join(groups), key[3], " ".join(comment)
            comment = []
        else:
            sys.exit(f"values.yaml:{number}: expected `key: value` on one line, found {line!r}")


def table(text):
    rows = ["| Value | Default | Description |", "|---|---|---|"]
    for path, default, comment in values(text):
        default = f"`{default}`" if default else ""
        rows.append(f"| `{path}` | {default} | {comment} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


def main():
    readme = CHART / "README.md"
    found = readme.read_text()
    before, rest = found.split(BEGIN)
    after = rest.split(END)[1]
    made = before + BEGIN + table((CHART / "values.yaml").read_text()) + END + after
    if made == found:
        return
    if "--check" in sys.argv:
        sys.exit(f"{readme} is not what values.yaml says: run `make generate`")
    readme.write_text(made)


main()
