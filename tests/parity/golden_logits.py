"""Logits of SmolLM2 as transformers computes them.

Usage: golden_logits.py MODEL_DIR [--write]    compares with tests/golden/smollm2_logits.json, or writes it

For every position of every text: the 8 most likely next tokens with their log-probabilities (natural logarithm of the
softmax), and the logits of the tokens in `sample_ids`, a fixed choice from the whole vocabulary. A logit before softmax
shows an error that adds the same to all, which log-probabilities hide.

Values are computed in 64 bits. `tolerance` is what an implementation in 32 bits may differ by: four times what
transformers' own 32-bit result differs by on this text, and at least 0.001.
"""

import sys

import golden
import torch
from texts import LOGITS
from transformers import AutoModelForCausalLM, AutoTokenizer

TOP = 8
SAMPLES = 16


def measure(model_dir: str) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    exact = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64).eval()
    single = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    sample_ids = [i * 7919 % exact.config.vocab_size for i in range(SAMPLES)]

    def entry(name: str, text: str) -> dict:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = exact(ids).logits[0]
            difference = (single(ids).logits[0] - logits).abs().max().item()
        top = logits.log_softmax(-1).topk(TOP)
        return {
            "name": name,
            "text": text,
            "tolerance": float(f"{max(1e-3, 4 * difference):.1g}"),
            "ids": ids[0].tolist(),
            "top_ids": top.indices.tolist(),
            "top_log_probs": rounded(top.values),
            "sample_logits": rounded(logits[:, sample_ids]),
        }

    return {"sample_ids": sample_ids, "texts": [entry(name, text) for name, text in LOGITS.items()]}


def rounded(values: torch.Tensor) -> list:
    return [[round(x, 5) for x in row] for row in values.tolist()]


def compare(expected: dict, found: dict) -> str:
    worst = 0.0
    golden.require_equal(expected["sample_ids"], found["sample_ids"])
    for e, f in zip(expected["texts"], found["texts"], strict=True):
        golden.require_equal(e["ids"], f["ids"])
        for key in ("top_log_probs", "sample_logits"):
            difference = (torch.tensor(e[key]) - torch.tensor(f[key])).abs().max().item()
            if not difference <= e["tolerance"]:
                sys.exit(f"{key} of {e['name']} differ from the golden file by {difference:.2g}; allowed are {e['tolerance']}")
            worst = max(worst, difference)
    return f"largest difference {worst:.2g}"


if __name__ == "__main__":
    golden.main("smollm2_logits.json", measure, compare, sys.argv)
