"""Compares our logits of a saved model with what transformers computes from the same folder.

Usage: check_saved.py MODEL_DIR LOGITS.safetensors [--base BASE_DIR] [--tolerance 0.001]

transformers computes in 64 bits, so that its own rounding does not count as ours. LOGITS is written by `plumbline-trainer inspect`: `input_ids` (i64, tokens) and `logits` (f32, tokens x vocabulary).
A folder with adapter_config.json is loaded with PEFT on top of its base model (or of --base). A folder of a reward model
(one label) has `logits` of one value, its reward.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


def load(folder: Path, base: str | None) -> torch.nn.Module:
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        from peft import PeftModel

        base = base or json.loads(adapter.read_text())["base_model_name_or_path"]
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64), folder)
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    auto = AutoModelForSequenceClassification if architecture.endswith("SequenceClassification") else AutoModelForCausalLM
    model, report = auto.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    # A weight that transformers makes up because the folder lacks it would be random.
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            sys.exit(f"{folder}: {problem.replace('_', ' ')}: {sorted(map(str, report[problem]))[:5]}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("logits", type=Path)
    parser.add_argument("--base", help="folder of the base model of an adapter")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference of a logit")
    arguments = parser.parse_args()

    ours = load_file(arguments.logits)
    with torch.no_grad():
        theirs = load(arguments.model, arguments.base).eval()(ours["input_ids"].unsqueeze(0)).logits[0]
    if theirs.shape != ours["logits"].shape:
        sys.exit(f"shapes differ: ours {tuple(ours['logits'].shape)}, transformers {tuple(theirs.shape)}")
    difference = (ours["logits"].double() - theirs).abs()
    same = (ours["logits"].argmax(-1) == theirs.argmax(-1)).float().mean().item()
    print(f"{arguments.model}: largest difference {difference.max():.2g}, mean {difference.mean():.2g}, same first choice {same:.1%}")
    # Written so that a difference that is not a number fails too.
    if not difference.max() <= arguments.tolerance:
        sys.exit(f"the largest difference is beyond {arguments.tolerance}")


if __name__ == "__main__":
    main()
