"""Train a draft head for a converted chat model: exact mode then writes more tokens a pass.

usage: draft_head.py MODEL PROMPTS DIRECTORY [--texts 1280] [--updates 600] [--depth 2]

MODEL is a directory of `multistride convert`, and receives `draft_head.safetensors` and, from the
same texts, a table of phrases. PROMPTS has a question in each line. The model answers them
greedily, prompts of one length together, and its last states are kept beside the answers
(DIRECTORY/written, 74 kB a text), so no update runs the model. The head learns from them: at every
place from the state there, `--depth` drafts in a row, half from what was written and half from all
probabilities of the model. The first 128 texts are held out.

After a stop, run it again to resume.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from multistride.decode.draft_head import DRAFT_HEAD, DraftHead, quantised
from multistride.decode.phrases import PHRASES
from multistride.device import keep_few_kernels, pick_precision, set_threads
from multistride.distill.phrases import phrases_of
from multistride.engines.int8.engine import Int8StepModel
from multistride.errors import UsageError, UserError
from multistride.files import replacing_file, sha256
from multistride.generator import Generator
from multistride.groups import Slots, prompt_slots

logger = logging.getLogger(__name__)

LONGEST, BATCH, HELD_OUT = 64, 128, 128
"""Tokens of an answer, prompts written together, and texts that nothing is learnt from."""

TOGETHER, DECAY = 16, 0.8
"""Texts of an update, and the weight of each draft in a row after the first."""

MULTIPLIED = (
    torch.bfloat16 if pick_precision("auto", torch.device("cpu")) == "bfloat16" else torch.float32
)
"""What products are computed in: bfloat16 where the CPU multiplies it."""


def chunks(prompts: list[list[int]], texts: int) -> list[list[list[int]]]:
    """Return prompts in batches of one length, in an order drawn once."""
    lengths: dict[int, list[list[int]]] = {}
    for prompt in prompts:
        lengths.setdefault(len(prompt), []).append(prompt)
    batches = [
        rows[first : first + BATCH]
        for rows in lengths.values()
        for first in range(0, len(rows) - BATCH // 2 + 1, BATCH)
    ]
    random.Random(0).shuffle(batches)
    return batches[: -(-texts // BATCH)]


@torch.inference_mode()
def write(model: Generator, prompts: list[list[int]], path: Path) -> None:
    """Write greedy answers to prompts of one length, with the state that each token came from.

    The int8 engine writes: its states are those that the head will draft from.
    """
    engine, config = model.engine, model.config
    assert isinstance(engine, Int8StepModel)
    known, memory = torch.tensor(prompts), engine.start(None, None)
    lengths = torch.full((len(known),), known.shape[1])
    slots = prompt_slots(known, lengths, config.start_token, config.start_symbol)
    engine.read(slots, memory)
    tokens: list[torch.Tensor] = []
    states: list[torch.Tensor] = []
    over = torch.zeros(len(prompts), dtype=torch.bool)
    while len(tokens) < LONGEST and not bool(over.all()):
        wanted = torch.cat([known, known[:, :1]], 1)  # what stands last is not read but predicted
        slots = prompt_slots(wanted, lengths + 1, config.start_token, config.start_symbol)
        checked = engine.step_checked(Slots(*(field[:, -1:] for field in slots)), memory, 0)
        assert checked.states is not None
        picked, lengths = checked.tokens[:, -1], lengths + 1
        over |= torch.isin(picked, torch.tensor(config.ends))
        known = torch.cat([known, picked[:, None]], 1)
        tokens.append(picked)
        states.append(checked.states[:, -1].bfloat16())
    with replacing_file(path) as place, open(place, "wb") as file:
        np.savez(
            file,
            tokens=torch.stack(tokens, 1).int().numpy(),
            states=torch.stack(states, 1).view(torch.int16).numpy(),
        )


@dataclass
class Written:
    """Texts [T, N] with their states [T, N, D] and lengths [T], the end included."""

    tokens: Tensor
    states: Tensor
    lengths: Tensor

    @classmethod
    def read(cls, paths: list[Path], ends: tuple[int, ...]) -> Written:
        """Return all texts of some files."""
        tokens, states = [], []
        for path in paths:
            with np.load(path) as arrays:
                token = torch.from_numpy(arrays["tokens"]).long()
                state = torch.from_numpy(arrays["states"]).view(torch.bfloat16)
            more = LONGEST - token.shape[1]
            tokens.append(nn.functional.pad(token, (0, more), value=ends[0]))
            states.append(nn.functional.pad(state, (0, 0, 0, more)))
        whole = torch.cat(tokens)
        over = torch.isin(whole, torch.tensor(ends))
        lengths = torch.where(over.any(1), over.float().argmax(1) + 1, LONGEST)
        return cls(whole, torch.cat(states), lengths)

    def frequent(self, most: int) -> list[int]:
        """Return the most frequent tokens of the texts that are learnt from."""
        inside = torch.arange(LONGEST) < self.lengths[:, None]
        counts = Counter(self.tokens[HELD_OUT:][inside[HELD_OUT:]].tolist())
        chosen = [token for token, _ in counts.most_common(most)]
        share = sum(counts[token] for token in chosen) / counts.total()
        logger.info(f"{counts.total()} tokens written, {len(chosen)} known: {share:.1%} of them")
        return chosen


class Learner(nn.Module):
    """The network of `decode.draft_head` in training, and its rows of the model's own table."""

    def __init__(self, table: Tensor, tokens: list[int], width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        size = table.shape[1]
        self.integers, self.scale = quantised(table[tokens].float())
        rows = self.integers * self.scale[:, None]
        self.rows = rows.to(MULTIPLIED)
        self.tokens = tokens
        self.index = torch.full((len(table),), len(tokens))
        self.index[torch.tensor(tokens)] = torch.arange(len(tokens))
        self.gain, self.keep = (
            nn.Parameter(torch.ones(size)),
            nn.Parameter(torch.full((size,), 0.3)),
        )
        self.into = nn.Parameter(torch.full((size,), 1 / float(rows.square().mean().sqrt())))
        self.widen, self.narrow = nn.Linear(2 * size, width), nn.Linear(width, size)
        self.bias = nn.Parameter(torch.zeros(len(tokens)))
        nn.init.normal_(self.narrow.weight, std=0.02)

    def following(self, state: Tensor, index: Tensor) -> Tensor:
        """Return the estimate of the next state (`DraftHead` has the same formula)."""
        state = state.float()
        known = index.clamp(max=len(self.tokens) - 1)
        read = self.rows[known].float() * (index < len(self.tokens))[..., None]
        normed = state * torch.rsqrt(state.square().mean(-1, keepdim=True) + 1e-5) * self.gain
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.bfloat16 == MULTIPLIED):
            wide = silu(self.widen(torch.cat([normed, read * self.into], -1)))
            narrow = self.narrow(wide)
        drafted: torch.Tensor = state * self.keep + narrow.float()
        return drafted

    def learn(self, texts: Written, rows: Tensor) -> list[float]:
        """Add the gradients of some texts; return the cross-entropy of each draft in a row."""
        index, lengths = self.index[texts.tokens[rows]], texts.lengths[rows]
        state = texts.states[rows]
        with torch.no_grad():
            taught = linear(state.to(MULTIPLIED), self.rows)
        losses, total = [], torch.zeros(())
        for depth in range(1, self.depth + 1):
            count = LONGEST - depth
            state = self.following(state[:, :count], index[:, depth - 1 : LONGEST - 1])
            inside = torch.arange(depth, LONGEST) < lengths[:, None]
            inside &= index[:, depth:] < len(self.tokens)
            estimate, wanted = state[inside], index[:, depth:][inside]
            with torch.no_grad():
                shares = (linear(estimate.to(MULTIPLIED), self.rows).float() + self.bias).softmax(1)
                losses.append(-float(shares.gather(1, wanted[:, None]).log().mean()))
                surplus = shares.sub_(taught[:, depth:][inside].float().softmax(1), alpha=0.5)
                surplus[torch.arange(len(wanted)), wanted] -= 0.5
                surplus *= DECAY ** (depth - 1) / len(wanted)
                slope = torch.mm(surplus.to(MULTIPLIED), self.rows).float()
            total = total + (estimate * slope).sum() + (self.bias * surplus.sum(0)).sum()
        total.backward()
        return losses

    def tensors(self) -> dict[str, Tensor]:
        """Return what `DraftHead` reads."""
        stored = {
            "tokens": torch.tensor(self.tokens, dtype=torch.int32),
            "table": self.integers,
            "table.scale": self.scale,
            "widen.bias": self.widen.bias,
            "narrow.bias": self.narrow.bias,
            **{name: getattr(self, name) for name in ("bias", "gain", "into", "keep")},
        }
        for name in ("widen", "narrow"):
            layer = getattr(self, name)
            stored[name], stored[f"{name}.scale"] = quantised(layer.weight.detach())
        return {name: tensor.detach().contiguous() for name, tensor in stored.items()}


def tokens_per_pass(head: DraftHead, texts: Written, group_size: int) -> float:
    """Return the tokens a pass of the held-out texts with the drafts of a head alone."""
    tokens, passes = 0, 0
    for row in range(HELD_OUT):
        length, text = int(texts.lengths[row]), texts.tokens[row]
        drafts = head.guess(texts.states[row, :length], text[:length], group_size - 1).tokens
        place, written = 0, text.tolist()
        while place < length:
            following = written[place + 1 : length]
            pairs = zip(drafts[place].tolist(), following, strict=False)
            place += 1 + next(
                (right for right, (one, other) in enumerate(pairs) if one != other),
                min(group_size - 1, len(following)),
            )
            passes += 1
        tokens += length
    return tokens / passes


def batches(texts: Written, updates: int, first: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of an update and its texts, the same in every run, from `first` on."""
    count = len(texts.tokens) - HELD_OUT
    generator, left = torch.Generator().manual_seed(1), torch.zeros(0, dtype=torch.long)
    for update in range(updates):
        if len(left) < TOGETHER:
            left = torch.randperm(count, generator=generator) + HELD_OUT
        if update >= first:
            yield update, left[:TOGETHER]
        left = left[TOGETHER:]


def train(learner: Learner, texts: Written, updates: int, rate: float, checkpoint: Path) -> None:
    """Train from the last checkpoint on; the learning rate rises for 50 updates and falls."""
    plain = [learner.widen.bias, learner.narrow.bias, learner.gain, learner.keep, learner.bias]
    groups = [
        {"params": [learner.widen.weight, learner.narrow.weight], "weight_decay": 0.05},
        {"params": plain, "weight_decay": 0.0},
        {"params": [learner.into], "weight_decay": 0.0, "times": 10.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    first = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["update"]
    shown = torch.zeros(learner.depth)
    for update, rows in batches(texts, updates, first):
        factor = min(1.0, (update + 1) / 50, 2 * (updates - update) / updates)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor * group.get("times", 1.0)
        optimizer.zero_grad(set_to_none=True)
        shown += torch.tensor(learner.learn(texts, rows)) / 50
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        if (update + 1) % 50 == 0 or update + 1 == updates:
            held_out = tokens_per_pass(DraftHead(learner.tensors()), texts, learner.depth + 1)
            logger.info(
                f"update {update + 1}: loss {' '.join(f'{value:.3f}' for value in shown)}, "
                f"held out {held_out:.3f} tokens a pass at K={learner.depth + 1}"
            )
            shown = torch.zeros(learner.depth)
            state = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict()}
            with replacing_file(checkpoint) as place:
                torch.save({**state, "update": update + 1}, place)


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="directory of a converted chat model")
    parser.add_argument("prompts", type=Path, help="some thousands of questions, one a line")
    parser.add_argument("directory", type=Path, help="where answers and states are kept")
    parser.add_argument("--texts", type=int, default=1280, help="maximum number of answers")
    parser.add_argument("--updates", type=int, default=600, help=f"of {TOGETHER} answers each")
    parser.add_argument("--tokens", type=int, default=4096, help="size of its vocabulary")
    parser.add_argument("--width", type=int, default=1024, help="inner width of the head")
    parser.add_argument("--depth", type=int, default=2, help="drafts in a row that are learnt")
    parser.add_argument("--min-count", type=int, default=1, help="of phrases in the table")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Write texts, train, and store the head in the model's directory."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked = parsed()
    set_threads(asked.threads)
    keep_few_kernels()
    torch.manual_seed(0)
    model = Generator.load(asked.model, engine="int8")
    table = model.engine.model.target_embedding.weight.detach().clone()
    prompts = model.chatting().encode(asked.prompts.read_text(encoding="utf-8").splitlines())
    paths = []
    (asked.directory / "written").mkdir(parents=True, exist_ok=True)
    batches = chunks(prompts, asked.texts)
    if (count := sum(map(len, batches))) <= HELD_OUT:
        raise UsageError(
            f"{asked.prompts} has {len(prompts):,} prompts, and {count:,} of them have a length in "
            f"tokens that at least {BATCH // 2} share; {HELD_OUT} such are held out: give some "
            "thousands of questions"
        )
    for number, rows in enumerate(batches):
        paths.append(asked.directory / "written" / f"{number:03}.npz")
        if not paths[-1].is_file():
            write(model, rows, paths[-1])
            logger.info(f"written: {paths[-1]}, {len(rows)} texts")
    ends = model.config.ends
    del model
    texts = Written.read(paths, ends)
    learner = Learner(table, texts.frequent(asked.tokens), asked.width, asked.depth)
    train(learner, texts, asked.updates, asked.learning_rate, asked.directory / "head.pt")
    made = {
        "answers": len(texts.tokens) - HELD_OUT,
        "updates": asked.updates,
        "depth": asked.depth,
        "prompts_sha256": sha256(asked.prompts),
    }
    with replacing_file(asked.model / DRAFT_HEAD) as place:
        save_file(learner.tensors(), place, {name: str(value) for name, value in made.items()})
    answers = [
        (row[:length], 0)
        for row, length in zip(
            texts.tokens[HELD_OUT:].tolist(), texts.lengths[HELD_OUT:].tolist(), strict=True
        )
    ]
    with replacing_file(asked.model / PHRASES) as place, open(place, "wb") as file:
        np.save(file, phrases_of(answers, min_count=asked.min_count))
    logger.info(f"written: {DRAFT_HEAD} and {PHRASES} in {asked.model}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"draft_head: {error}")
