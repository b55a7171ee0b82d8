"""Trains the tests' tiny model with TRL and with our trainer by each loss of the DPO family that both have, and compares loss and
gradient norm of each step.

Usage: trl_dpo.py TRAINER

Losses may differ by 1e-4 of their size, gradient norms by 1e-2. Sft is not among the losses, as TRL's depends on how a batch is
divided; so does the likelihood in TRL's ORPO, which also has the prompt in it, and is replaced by that of the response.
"""

import sys
import tempfile
from pathlib import Path

import torch
import trl_runs
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl_runs import TINY, InOrder


class Dpo(InOrder, DPOTrainer):
    pass


class Tokens:
    """Of a pair that is tokens already, what the trainers without a reference make of its texts."""

    def tokenize_row(self, feature, *_args):
        prompt = feature["prompt_ids"]
        row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side in ("chosen", "rejected"):
            response = feature[f"{side}_ids"]
            row[f"{side}_input_ids"] = prompt + response
            row[f"{side}_attention_mask"] = [1] * len(prompt + response)
            row[f"{side}_labels"] = [-100] * len(prompt) + response
        return row


class Cpo(InOrder, Tokens, CPOTrainer):
    pass


class Orpo(InOrder, Tokens, ORPOTrainer):
    def concatenated_forward(self, *args, **kwargs):
        chosen, rejected, chosen_logits, rejected_logits, _ = super().concatenated_forward(*args, **kwargs)
        return chosen, rejected, chosen_logits, rejected_logits, -chosen.mean()


def dpo(*types: str, **more):
    return Dpo, DPOConfig, {"loss_type": list(types)} | more


# By our settings: TRL's trainer, and the settings that it gets.
CASES = [
    ({"loss": "Sigmoid"}, dpo("sigmoid")),
    ({"loss": "SigmoidNorm"}, dpo("sigmoid_norm")),
    ({"loss": "Hinge"}, dpo("hinge")),
    ({"loss": "Ipo"}, dpo("ipo")),
    ({"loss": "Robust", "labelSmoothing": 0.1}, dpo("robust", label_smoothing=0.1)),
    ({"loss": "ExoPair", "labelSmoothing": 0.1}, dpo("exo_pair", label_smoothing=0.1)),
    ({"loss": "NcaPair"}, dpo("nca_pair")),
    ({"loss": "BcoPair"}, dpo("bco_pair")),
    ({"loss": "SppoHard"}, dpo("sppo_hard")),
    ({"loss": "ApoZero"}, dpo("apo_zero")),
    ({"loss": "ApoDown"}, dpo("apo_down")),
    ({"loss": "Discopop"}, dpo("discopop")),
    (
        {"losses": [{"loss": "Sigmoid", "weight": 0.7}, {"loss": "BcoPair", "weight": 0.3}]},
        dpo("sigmoid", "bco_pair", loss_weights=[0.7, 0.3]),
    ),
    (
        {"loss": "Simpo", "beta": 2.0, "simpoGamma": 1.0},
        (Cpo, CPOConfig, {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0}),
    ),
    ({"loss": "Cpo", "labelSmoothing": 0.1}, (Cpo, CPOConfig, {"loss_type": "sigmoid", "label_smoothing": 0.1})),
    ({"loss": "Orpo"}, (Orpo, ORPOConfig, {})),
]


def main(trainer: str) -> None:
    disable_progress_bars()
    records = trl_runs.pairs()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        data = trl_runs.write(records, root / "data")
        for number, (settings, theirs) in enumerate(CASES):
            spec = {"method": "DPO", "dpo": {"beta": 0.1} | settings}
            found = trl_runs.ours(trainer, root / str(number), data, "PolicyTuning", spec)
            name = settings.get("loss") or " and ".join(one["loss"] for one in settings["losses"])
            trl_runs.compare(name, found, with_trl(records, *theirs, root / "trl"))


def with_trl(records: list[dict], kind: type, config: type, settings: dict, folder: Path) -> list[dict]:
    free = {"cpo_alpha": 0.0} if kind is Cpo else {}
    args = config(output_dir=str(folder), **trl_runs.ARGUMENTS | {"beta": 0.1} | free | settings)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager")
    pairs = [trl_runs.tokens(record) for record in records]
    # The trainers without a reference read the texts before they make tokens of them.
    texts = [{field: record[field] for field in ("prompt", "chosen", "rejected")} for record in records]
    if kind is not Dpo:
        pairs = [tokens | text for tokens, text in zip(pairs, texts)]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    return kind(model=model, args=args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer).steps()


if __name__ == "__main__":
    main(sys.argv[1])
