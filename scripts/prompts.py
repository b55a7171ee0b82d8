"""Makes the quickstart's prompts and labelled texts from film reviews. Usage: prompts.py REVIEWS.csv OUT

prompts-train.jsonl and prompts-heldout.jsonl: {"prompt": the first 8 words of a review}, no prompt in both.
imdb-labels.jsonl: {"text": the last 50 words of a review, "label": 1 for praise, 0 for blame}.
"""

import csv
import hashlib
import json
import re
import sys
from pathlib import Path

PROMPT_WORDS = 8
ENDING_WORDS = 50
HELD_OUT = 48


def words(review: str) -> list[str]:
    return re.sub(r"<br\s*/?>", " ", review).split()


def prompts(reviews: list[list[str]]) -> tuple[list[str], list[str]]:
    """Training and held-out prompts. The order is that of their digests: fixed, and unrelated to the file's."""
    unique = {" ".join(review[:PROMPT_WORDS]).lower(): " ".join(review[:PROMPT_WORDS]) for review in reversed(reviews)}
    ordered = sorted(unique.values(), key=lambda prompt: hashlib.sha256(prompt.lower().encode()).hexdigest())
    return ordered[HELD_OUT:], ordered[:HELD_OUT]


def write(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def main(source: Path, out: Path) -> None:
    with open(source, newline="", encoding="utf-8") as file:
        rows = [(words(row["text"]), int(row["label"])) for row in csv.DictReader(file)]
    train, held_out = prompts([review for review, _ in rows if len(review) >= PROMPT_WORDS])
    if not train or {p.lower() for p in train} & {p.lower() for p in held_out}:
        sys.exit(f"{source}: expected at least {HELD_OUT + 1} different reviews of {PROMPT_WORDS} words or more")
    write(out / "prompts-train.jsonl", [{"prompt": prompt} for prompt in train])
    write(out / "prompts-heldout.jsonl", [{"prompt": prompt} for prompt in held_out])
    labels = [{"text": " ".join(review[-ENDING_WORDS:]), "label": label} for review, label in rows]
    write(out / "imdb-labels.jsonl", labels)
    print(f"  {len(train)} prompts to train on, {len(held_out)} held out, {len(labels)} labelled texts")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
