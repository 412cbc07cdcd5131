"""Do the prompts decide? Balanced accuracy on test images, as trained and with the prompts put back to their start.

    python benchmarks/put_back.py --data DATA [--out output-put-back]

XCoOp is trained at 16 shots with seeds 1 2 3. "Put back": its sentences are as they are written, and the offset of each
class stays as it was learned; "offset anew": the offset is then fitted to the training images again, under the same
prior, so that it suits the sentences as they are written. A phantom's figures are no clinical results.

Expected, in three minutes on two cores; balanced accuracy in percent, mean of three seeds:

    dataset          as trained  put back  falls by (each seed)      offset anew  falls by
    phantom          89.8        90.1      -0.3 (0.2, -0.6, -0.4)    89.7         0.1
    phantom_chest    86.1        86.9      -0.8 (2.1, -1.9, -2.8)    86.4         -0.3
    pneumonia        82.3        69.4      12.8 (11.8, 8.1, 18.5)    73.2         9.0
    pneumoniamnist   86.1        69.2      17.0 (16.2, 11.9, 22.8)   73.6         12.5
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from seen import dataset_of, trained
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from xcoop.explain.trained import TrainedModel
from xcoop.utils.console import say

SETS = ("phantom", "phantom_chest", "pneumonia", "pneumoniamnist")


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100 * float(balanced_accuracy_score(labels, logits.argmax(1)))


def fitted_offset(logits: Tensor, labels: Tensor, spread: float) -> Tensor:
    """The most probable offset of each class, (C,), of logits without any: the prior is normal, of this deviation.

    Args:
        logits: of the training images, (N, C).
        labels: (N,).
        spread: in logits.
    """
    offset = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([offset], max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        fit = torch.nn.functional.cross_entropy(logits.double() + offset, labels, reduction="sum")
        loss = fit + offset.square().sum() / (2 * spread**2)
        loss.backward()
        return loss

    optimiser.step(objective)
    return offset.detach()


@torch.no_grad()
def asked(run: TrainedModel) -> tuple[float, float, float]:
    """As trained, with the prompts put back, and with the offset fitted anew."""
    dataset, names = dataset_of(run), run.model.prompt_names()
    train, test = (run.features([item.impath for item in items]) for items in (dataset.train_x, dataset.test))
    labels, own = (torch.tensor([item.label for item in items]) for items in (dataset.test, dataset.train_x))
    whole = balanced_accuracy(run.logits(test).cpu(), labels)
    with run.at_start(names):
        put_back = balanced_accuracy(run.logits(test).cpu(), labels)
    with run.at_start([name for name in run.start if name in {*names, "offset"}]):  # there the offset is 0
        with torch.enable_grad():
            offset = fitted_offset(run.logits(train).cpu(), own, run.cfg.TRAINER.XCOOP.OFFSET_SPREAD)
        anew = balanced_accuracy(run.logits(test).cpu() + offset, labels)
    return whole, put_back, anew


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=SETS)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--cfg", default="phantom", help="the configuration, which names the backbone")
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", default="output-put-back")
    args = parser.parse_args()
    say("| dataset | as trained | put back | falls by (each seed) | offset anew | falls by |", "|" + "---|" * 6)
    for name in args.datasets:
        found = np.array([asked(run) for run in trained(name, args.shots, args.seeds, args)])  # (seeds, 3)
        whole, put_back, anew = found.mean(0)
        each = ", ".join(f"{fall:.1f}" for fall in found[:, 0] - found[:, 1])
        falls = f"{whole - put_back:.1f} ({each})"
        say(f"| {name} | {whole:.1f} | {put_back:.1f} | {falls} | {anew:.1f} | {whole - anew:.1f} |")


if __name__ == "__main__":
    main()
