"""Compares our tokens and conversations with those of transformers, for the real tokenizer of Qwen3, on 200 texts.

Usage: check_qwen3_tokens.py TOKENIZE TOKENIZER_DIR

TOKENIZE is the example `tokenize` of plumbline-feedback. The texts are those of texts.py, the fixtures' prompts, and text
of many scripts drawn at random, the same each time.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

from texts import CHATS, TOKENS
from transformers import AutoTokenizer

COUNT = 200
# Where letters and signs of a kind are.
KINDS = [
    (0x20, 0x7E),  # ASCII
    (0xC0, 0x17F),  # Latin with marks
    (0x300, 0x36F),  # marks that combine
    (0x391, 0x3C9),  # Greek
    (0x410, 0x44F),  # Cyrillic
    (0x5D0, 0x5EA),  # Hebrew
    (0x621, 0x64A),  # Arabic
    (0x660, 0x669),  # its digits
    (0x905, 0x94D),  # Devanagari
    (0xE01, 0xE3A),  # Thai
    (0x1100, 0x11A2),  # Hangul in parts
    (0x2000, 0x206F),  # spaces and signs
    (0x3041, 0x30FE),  # Kana
    (0x4E00, 0x9FA5),  # Chinese
    (0xAC00, 0xD7A3),  # Hangul
    (0xFF01, 0xFF5E),  # wide ASCII
    (0x1F300, 0x1F6FF),  # emoji
]
PIECES = ["\n", "\r\n", "\n\n\n", "\t", "  ", "'s", "'LL", "1234", "<think>", "</think>", "<|im_end|>", "<tool_call>", "\u200d", "\ufe0f"]
THOUGHT = [
    {"role": "user", "content": "Is 91 prime?"},
    {"role": "assistant", "content": "<think>\n7 x 13 = 91\n</think>\n\nNo."},
]
MORE_CHATS = [
    THOUGHT,
    [{"role": "system", "content": "Be brief."}, *THOUGHT, {"role": "user", "content": "And 97?"}],
    [*THOUGHT, {"role": "user", "content": "And 97?"}, {"role": "assistant", "content": "Yes.\n"}],
    [{"role": "user", "content": "<tool_response>\n4\n</tool_response>"}],
]


def texts() -> list[str]:
    fixtures = Path(__file__).resolve().parent.parent / "fixtures"
    prompts = [line for name in ("prompts.txt", "prompts-held-out.txt") for line in (fixtures / name).read_text().splitlines()]
    found = [*TOKENS.values(), *prompts[:60]]
    draw = random.Random(20261130)
    while len(found) < COUNT:
        found.append("".join(piece(draw) for _ in range(draw.randint(1, 12))))
    return found


def piece(draw: random.Random) -> str:
    if draw.random() < 0.3:
        return draw.choice(PIECES)
    first, last = draw.choice(KINDS)
    word = "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 8)))
    return draw.choice(["", " "]) + word


def main(tokenize: str, theirs: str, ours: str) -> None:
    """Compares the tokenizer in `ours`, as we read it, with the one in `theirs`, as transformers does."""
    tokenizer = AutoTokenizer.from_pretrained(theirs)
    lines, expected = [], []
    for text in texts():
        ids = tokenizer(text)["input_ids"]
        lines.append({"text": text})
        expected.append({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    for messages in CHATS + MORE_CHATS:
        for prompt in (False, True):
            lines.append({"messages": messages, "add_generation_prompt": prompt})
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            expected.append({"text": rendered})
    given = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([tokenize, ours], input=given, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"tokenize ended with {done.returncode}: {done.stderr}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    different = [(line, e, f) for line, e, f in zip(lines, expected, found, strict=True) if e != f]
    for line, e, f in different[:5]:
        print(f"{line}:\n  transformers {e}\n  ours         {f}")
    tokens = sum(len(entry.get("ids", [])) for entry in expected)
    print(f"Qwen3's tokenizer: {COUNT} texts of {tokens} tokens and {len(lines) - COUNT} conversations, {len(different)} differ")
    if different:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[2])
