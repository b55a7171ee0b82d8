"""Tokens and texts of a Llama-2-type tokenizer, as transformers gives them: a space before the first word, byte fallback, a
token before every text. Its vocabulary is learnt from the fixtures' own pairs; its model is the fixtures' tiny one, to which
the ids mean nothing.

Usage: golden_sentencepiece.py TINY_MODEL_DIR [--write]    compares with tests/golden/sentencepiece.json, or writes it and
                                                          the tokenizer in tests/golden/sentencepiece
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import golden
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = golden.FOLDER / "sentencepiece"
PAIRS = golden.FOLDER.parent / "fixtures" / "pairs.jsonl"
SPECIAL = ["<unk>", "<s>", "</s>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
TEXTS = ["Once upon a time", " a space first", "", "a", "two  spaces\nand a line", "Café \U0001f600 日本", "<s>twice"]
# Two responses each. Those of the last one begin inside a word, those of the one before without a space.
RESPONSES = [
    ("Once upon a", " time", " day"),
    ("The sea is", " wide\nand deep", " far"),
    ("I said:", "Yes", "  No"),
    ("The represen", "tatives", "t"),
]
CHAT = [{"role": "user", "content": "What is the sea?"}]
ANSWER = [{"role": "assistant", "content": "It is </s> water."}]
NEW_TOKENS = 6


def make_tokenizer() -> None:
    """Learns the vocabulary and writes the folder."""
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = [row["prompt"] + row[side] for row in rows for side in ("chosen", "rejected")]
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=700, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    # Words first: these are the ids that the tiny model likes, so that its responses begin with spaces.
    pieces = sorted(learnt["vocab"], key=lambda piece: (not piece.startswith("▁"), learnt["vocab"][piece]))
    names = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learnt["merges"]]
    vocabulary = {name: i for i, name in enumerate(names)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    FOLDER.mkdir(exist_ok=True)
    made.save(str(FOLDER / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def folder_of(tiny: str, where: Path, bos: bool) -> Path:
    """The tiny model with this tokenizer, which puts a token before every text or does not."""
    shutil.copytree(FOLDER, where)
    shutil.copy(Path(tiny) / "model.safetensors", where)
    config = json.loads((Path(tiny) / "config.json").read_text())
    (where / "config.json").write_text(json.dumps({**config, "bos_token_id": 1, "eos_token_id": 2}))
    if not bos:
        rules = json.loads((where / "tokenizer.json").read_text(encoding="utf-8"))
        (where / "tokenizer.json").write_text(json.dumps({**rules, "post_processor": None}), encoding="utf-8")
    return where


def measure_one(folder: Path, bos: bool) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)

    def ids(text: str, add: bool = True) -> list[int]:
        return tokenizer(text, add_special_tokens=add)["input_ids"]

    def greedy(prompt: str) -> dict:
        tokens = ids(prompt)
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        found = tokens[len(ids(prompt)) :]
        # What the tokens add to the text before them: decoded alone they would lose their first space.
        before = tokenizer.decode(ids(prompt), skip_special_tokens=True)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        assert text.startswith(before) and 2 not in found
        return {"prompt": prompt, "ids": found, "text": text[len(before) :], "prompt_ids": ids(prompt)}

    def cut(prompt: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
        common = 0
        while common < min(len(prompt), len(whole)) and prompt[common] == whole[common]:
            common += 1
        return whole[:common], whole[common:]

    def logps(prompt: list[int], response: list[int]) -> float:
        with torch.no_grad():
            found = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        return sum(found[len(prompt) - 1 + i, token].item() for i, token in enumerate(response))

    def side(prompt: str, response: str) -> dict:
        before, after = cut(ids(prompt), ids(prompt + response))
        return {"response": response, "prompt_ids": before, "response_ids": after, "logps": logps(before, after)}

    def pair(prompt: str, chosen: str, rejected: str) -> dict:
        return {"prompt": prompt, "chosen": side(prompt, chosen), "rejected": side(prompt, rejected)}

    def chat() -> dict:
        before = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
        plain = ANSWER[0]["content"].replace("</s>", "x")
        whole = tokenizer.apply_chat_template(
            CHAT + [{"role": "assistant", "content": plain}], tokenize=False, add_generation_prompt=False
        )
        before, after = cut(ids(before, False), ids(whole, False))
        return {"prompt": CHAT, "response": plain, "prompt_ids": before, "response_ids": after}

    return {
        "bos": bos,
        "texts": [{"text": text, "ids": ids(text), "decoded": tokenizer.decode(ids(text), skip_special_tokens=True)} for text in TEXTS],
        "continuations": [greedy(prompt) for prompt, *_ in RESPONSES],
        "pairs": [pair(*row) for row in RESPONSES],
        "chats": [chat()],
    }


def measure(tiny: str) -> dict:
    if sys.argv[2:] == ["--write"]:
        make_tokenizer()
    with tempfile.TemporaryDirectory() as scratch:
        return {"variants": [measure_one(folder_of(tiny, Path(scratch) / str(bos), bos), bos) for bos in (True, False)]}


def compare(expected: dict, found: dict) -> str:
    def rounded(value: object) -> object:
        if isinstance(value, float):
            return round(value, 6)
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        return [rounded(item) for item in value] if isinstance(value, list) else value

    return golden.require_equal(rounded(expected), rounded(found))


if __name__ == "__main__":
    golden.main("sentencepiece.json", measure, compare, sys.argv)
