"""Makes a small random model of each family with transformers, and checks that we read it, and that what we save is read again.

Usage: check_families.py TRAINER [NAME ...]

Of each: logits of a text of more than 200 tokens, as a share of the largest of their position; and the folders of a tuning of
all weights, of an adapter on attention, and of a reward model, which have to load in transformers and PEFT and to compute what
we compute.
"""

import sys
import tempfile
from pathlib import Path

import check_saved
import families
import torch
from check_tuned import policy, reward_model, train
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TINY = Path(__file__).resolve().parent.parent / "fixtures" / "tiny"
SENTENCE = "The sea was calm, and 7 ships lay in the harbour of the old town. "
POSITIONS = [1, 17, 200]
TOLERANCE = 1e-4
SEED = 13
# The module that computes queries, where it is not q_proj.
QUERIES = {"phi3": "qkv_proj", "gpt2": "c_attn", "gpt_neox": "query_key_value"}


def main(trainer: str, names: list[str]) -> None:
    for name in names or families.CONFIGS:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            base = make(name, root / "base")
            print(f"{name}:", flush=True)
            check_logits(trainer, base, SENTENCE * 8)
            print(" tuned by DPO, all weights:", flush=True)
            check_saved.check(trainer, train(trainer, root / "whole", policy(base, None), {"policyModel": base}))
            print(" tuned by DPO, an adapter on attention:", flush=True)
            attention = {"rank": 2, "alpha": 4, "save": "Adapter", "targets": ["Attention"]}
            adapter = train(trainer, root / "adapter", policy(base, attention), {"policyModel": base})
            check_saved.check(trainer, adapter, base)
            print(" reward model:", flush=True)
            query = QUERIES.get(families.CONFIGS[name]["model_type"], "q_proj")
            mlp = {"rank": 2, "alpha": 4, "save": "Merged", "targets": ["Mlp", query]}
            check_saved.check(trainer, train(trainer, root / "reward", reward_model(base, mlp), {"baseModel": base}))


def make(name: str, folder: Path) -> Path:
    """A model as transformers makes and saves it, biases and norms moved from their first values, with the fixtures' tokens."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = families.sized(name, len(tokenizer) + 1, 64, 96)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Beside a config, transformers may take the tokenizer for its family's, which cuts words by its own rules.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def check_logits(trainer: str, folder: Path, text: str) -> None:
    model, tokenizer = check_saved.load(folder, None)
    ours = check_saved.inspect(trainer, folder, None, text)
    check_saved.same_tokens(tokenizer, text, ours)
    theirs = check_saved.alone(model, ours)[0]
    largest = theirs.abs().amax(-1)
    difference = (ours["logits"].double() - theirs).abs().amax(-1) / largest
    shown = ", ".join(f"{difference[position]:.1g} at {position}" for position in POSITIONS)
    print(f"  {len(theirs)} tokens: logits differ by {difference.max():.2g} of the largest; {shown}", flush=True)
    check_saved.require(difference.max().item(), TOLERANCE)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
