"""Token ids and rendered conversations of SmolLM2 as transformers gives them.

Usage: golden_tokens.py MODEL_DIR [--write]    compares with tests/golden/smollm2_tokens.json, or writes it
"""

import sys

import golden
from texts import CHATS, TOKENS
from transformers import AutoTokenizer


def measure(model_dir: str) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)

    def entry(name: str, text: str) -> dict:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return {"name": name, "text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}

    def render(messages: list[dict], prompt: bool) -> dict:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return {"messages": messages, "add_generation_prompt": prompt, "text": text}

    return {
        "texts": [entry(name, text) for name, text in TOKENS.items()],
        "chats": [render(messages, prompt) for messages in CHATS for prompt in (False, True)],
    }


if __name__ == "__main__":
    golden.main("smollm2_tokens.json", measure, golden.require_equal, sys.argv)
