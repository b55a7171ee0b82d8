"""Trains a reward model from the tests' tiny model with TRL and with our trainer, and compares loss and gradient norm of each
step.

Usage: trl_reward.py TRAINER

Losses may differ by 1e-4 of their size, gradient norms by 1e-2. TRL gets our head, which starts at zero and learns at the pace of
the layers below it.
"""

import sys
import tempfile
from pathlib import Path

import torch
import trl_runs
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer
from trl_runs import TINY, InOrder


# At the rate of the policies, the head has hardly moved after 20 steps.
RATE = 1e-3


class Reward(InOrder, RewardTrainer):
    pass


class Head(torch.nn.Linear):
    """A head of zeros whose output is divided by the square root of its inputs."""

    def reset_parameters(self) -> None:
        torch.nn.init.zeros_(self.weight)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) * self.in_features**-0.5


# By our settings of the loss: the coefficient that TRL gets, and whether its pairs have a margin.
CASES = [
    ({"centeringCoefficient": 0.0}, None, False),
    ({"centeringCoefficient": 0.01}, 0.01, False),
    ({"centeringCoefficient": 0.01, "marginWeight": 1.0}, 0.01, True),
]


def main(trainer: str) -> None:
    records = [record | {"margin": 0.1 * (i % 5)} for i, record in enumerate(trl_runs.pairs())]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        data = trl_runs.write(records, root / "data")
        for number, (loss, coefficient, margin) in enumerate(CASES):
            spec = {"loss": {"labels": "Hard"} | loss}
            found = trl_runs.ours(trainer, root / str(number), data, "RewardModel", spec, RATE)
            trl_runs.compare(f"reward model {loss}", found, with_trl(records, coefficient, margin, root / "trl"))


def with_trl(records: list[dict], coefficient: float | None, margin: bool, folder: Path) -> list[dict]:
    arguments = trl_runs.ARGUMENTS | {"learning_rate": RATE}
    args = RewardConfig(output_dir=str(folder), center_rewards_coefficient=coefficient, **arguments)
    form = {"num_labels": 1, "dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForSequenceClassification.from_pretrained(TINY, **form)
    model.score = Head(model.config.hidden_size, 1, bias=False)
    pairs = []
    for record in records:
        tokens = trl_runs.tokens(record)
        whole = {f"{side}_ids": tokens["prompt_ids"] + tokens[f"{side}_ids"] for side in ("chosen", "rejected")}
        pairs.append(whole | ({"margin": record["margin"]} if margin else {}))
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    return Reward(model=model, args=args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer).steps()


if __name__ == "__main__":
    main(sys.argv[1])
