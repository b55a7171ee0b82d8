"""Logits and gradients of a tiny model of each family as transformers computes them.

Usage: golden_families.py [--write]    compares with tests/golden/families.json, or writes it

Of each model: its config as transformers 4 and 5 write it; some logits at positions 1, 17 and 200; by how much
transformers' own logits differ in BFloat16, at the position where they differ most; and the gradient of the mean negative log-probability of each token after the
first, by weight: its largest number and some more. Values are computed in 64 bits.
"""

import json
import sys

import families
import golden
import torch

POSITIONS = [1, 17, 200]
SAMPLES = 2
# Tokens whose logits are stored: every sixth.
TOKENS = slice(0, None, 6)
# An implementation may differ by this much of the largest number of a row of logits, or of a gradient.
TOLERANCE = 1e-4


def measure(_: str) -> dict:
    vocabulary = families.COMMON["vocab_size"]
    ids = (families.weight("ids", (POSITIONS[-1] + 1,)) + 0.5).mul(vocabulary).long()
    return {
        "positions": POSITIONS,
        "tokens": list(range(vocabulary))[TOKENS],
        "tolerance": [TOLERANCE],
        "ids": ids.tolist(),
        "models": [entry(name, ids) for name in families.CONFIGS],
    }


def entry(name: str, ids: torch.Tensor) -> dict:
    config = families.config(name)
    model = families.model(config, torch.float64)
    logits = model(ids.unsqueeze(0)).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:])
    loss.backward()
    with torch.no_grad():
        half = families.model(config, torch.bfloat16)(ids.unsqueeze(0)).logits[0].double()
    off = ((half - logits)[:, TOKENS].abs().amax(-1) / logits[:, TOKENS].abs().amax(-1)).max().item()
    return {
        "name": name,
        "config": config,
        "config_5": json.loads(model.config.to_json_string()),
        "logits": [rounded(logits[position][TOKENS]) for position in POSITIONS],
        "bfloat16": float(f"{off:.2g}"),
        "loss": rounded(loss.reshape(1))[0],
        "gradients": {
            families.stored_name(config, name): gradient(parameter.grad.flatten())
            for name, parameter in model.named_parameters()
        },
    }


def gradient(values: torch.Tensor) -> dict:
    """The largest number and some others, by their index in row-major order."""
    indices = [values.abs().argmax().item()] + [i * 7919 % values.numel() for i in range(1, SAMPLES + 1)]
    return {"indices": indices, "values": rounded(values[indices])}


def rounded(values: torch.Tensor) -> list:
    return [float(f"{x:.7g}") for x in values.tolist()]


def compare(expected: dict, found: dict) -> str:
    for key in ("positions", "tokens", "tolerance", "ids"):
        golden.require_equal(expected[key], found[key])
    for e, f in zip(expected["models"], found["models"], strict=True):
        golden.require_equal(e["config"], f["config"])
        golden.require_equal(e["gradients"].keys(), f["gradients"].keys())
        for ours, theirs in [
            *zip(e["logits"], f["logits"]),
            *((value["values"], f["gradients"][name]["values"]) for name, value in e["gradients"].items()),
        ]:
            a, b = torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)
            if not (a - b).abs().max() <= 1e-6 * b.abs().max():
                sys.exit(f"{e['name']} differs from the golden file: {ours} and now {theirs}")
    return f"{len(found['models'])} models, equal to six digits"


if __name__ == "__main__":
    golden.main("families.json", measure, compare, [sys.argv[0], "", *sys.argv[1:]])
