"""The pictures of the course: one function a chapter, in the one style of the project.

Each takes a figure, the results, and words in the language of the page; series differ in marker and
line style too, so that they can be told apart in grey.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

from multistride.course.numbers import Results
from multistride.errors import MissingExtraError
from multistride.groups import equal_sizes, teacher_forced, visibility
from multistride.model.weights import load_model
from multistride.report.drawing import COLOURS, EDGE, FAINT, GRID, INK, check_drawing, tidy
from multistride.shipped import directory as shipped

with suppress(ImportError):
    from matplotlib import font_manager

Words = dict[str, str]
MARKERS, LINES = "osD^vP", ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "SimHei",
)


def chinese_font() -> str:
    """Return a font that has Chinese characters. Raises `MissingExtraError` if there is none."""
    check_drawing()
    known = {font.name for font in font_manager.fontManager.ttflist}
    for name in FONTS:
        if name in known:
            return name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in font_manager.findSystemFonts():
            if "CJK" in path:
                font_manager.fontManager.addfont(path)
    known = {font.name for font in font_manager.fontManager.ttflist}
    for name in FONTS:
        if name in known:
            return name
    raise MissingExtraError(
        "no font with Chinese characters is installed, which the pictures need: install "
        "fonts-noto-cjk (apt install fonts-noto-cjk), or build with --language en"
    )


def _look(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "linewidth": 1.8,
        "markersize": 6,
    }


def _axes(figure: Any, x: str, y: str, place: int | tuple[Any, ...] = 111) -> Any:
    axes = figure.add_subplot(*place) if isinstance(place, tuple) else figure.add_subplot(place)
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.grid(color=GRID, linewidth=0.8)
    tidy(axes)
    axes.tick_params(labelsize=10)
    return axes


def _legend(axes: Any, **choices: Any) -> None:
    axes.legend(fontsize=10, frameon=False, **choices)


def _by_size(axes: Any, sizes: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.minorticks_off()


def timeline(figure: Any, results: Results, words: Words) -> None:
    """Draw what each generator wrote of one word, step by step, on one time line."""
    traces = results.value("generators.traces")
    axes = _axes(figure, words["milliseconds"], "")
    axes.grid(axis="y", visible=False)  # it would cross the words behind a block
    longest = max(sum(step["milliseconds"] for step in steps) for steps in traces.values())
    for row, steps in enumerate(traces.values()):
        begun, behind = 0.0, ""
        for index, step in enumerate(steps):
            width = step["milliseconds"]
            shade = "#cfe3f1" if index % 2 else "#f6dcc3"
            axes.barh(row, width, left=begun, height=0.6, color=shade, edgecolor=INK, linewidth=0.7)
            pieces = [piece for piece in step["pieces"] if piece.strip()]
            room = max(1, int(width / longest * 60 / 4))
            lines = [" ".join(pieces[at : at + room]) for at in range(0, len(pieces), room)]
            if len(lines) > 4:  # too narrow: the text stands behind the block
                behind = " ".join(pieces)
            else:
                shown = "\n".join(lines)
                axes.text(begun + width / 2, row, shown, ha="center", va="center", fontsize=8.5)
            begun += width
        label = words["steps"].format(len(steps)) + (f"   {behind}" if behind else "")
        axes.text(begun + longest * 0.012, row, label, va="center", fontsize=9, color=FAINT)
    axes.set_yticks(range(len(traces)), [words.get(name, name) for name in traces])
    axes.set_xlim(0, longest * 1.14)
    axes.invert_yaxis()


def places(figure: Any, results: Results, words: Words) -> None:
    """Draw what each place of a group costs against K=1 at the same positions."""
    axes = _axes(figure, words["place"], words["lost"])
    found = results.value("strides.places")
    lines = [(size, "network", f"K={size}") for size in (2, 4, 8)]
    lines.append((8, "markov", words["with-markov"].format(8)))
    for index, (size, measure, label) in enumerate(lines):
        rows = [place for place in found if place["group_size"] == size]
        lost = [100 * (row[measure] - row["alone"]) for row in rows]
        axes.plot([row["place"] for row in rows], lost, label=label, **_look(index))
    axes.axhline(0, color=INK, linewidth=1)
    _legend(axes, loc="lower left")
    axes.set_xticks(range(1, 9))


def architecture(figure: Any, results: Results, words: Words) -> None:
    """Draw the blocks of the model that ships, from its module tree."""
    model, _ = load_model(shipped(None))
    children = dict(model.named_children())
    axes = figure.add_subplot()
    axes.axis("off")
    counted = {
        name: sum(each.numel() for each in module.parameters()) for name, module in children.items()
    }

    def box(x: float, y: float, text: str, mark: bool = False, width: float = 3.6) -> None:
        face = "#f6dcc3" if mark else "#eef3f7"
        axes.add_patch(_rectangle(x, y, width, 0.66, face, "--" if mark else "-"))
        axes.text(x + width / 2, y + 0.32, text, ha="center", va="center", fontsize=9)

    def arrow(x: float, y: float, to_x: float, to_y: float) -> None:
        axes.annotate("", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "->", "color": INK})

    def named(name: str, key: str) -> str:
        return f"{words[key]}\n{name}\n{counted[name]:,}"

    def tied(name: str, key: str) -> str:
        return f"{words[key]}\n{name}\n{words['tied']}"

    def layer(kind: str) -> list[str]:
        first = next(iter(children[kind].children()))
        return [
            name
            for name, module in first.named_children()
            if "norm" not in name and sum(each.numel() for each in module.parameters()) > 4 * 512
        ]

    box(0, 0, named("target_embedding", "embedding"))
    for index, name in enumerate(layer("encoder")):
        box(0, 1.2 + 0.8 * index, f"{words.get(name, name)}\nencoder[·].{name}")
    count = len(list(children["encoder"].children()))
    axes.text(
        1.8,
        1.2 + 0.8 * len(layer("encoder")) + 0.1,
        f"× {count} · {words['encoder']} · {counted['encoder']:,}",
        ha="center",
        fontsize=9.5,
    )
    box(4.6, 0, tied("target_embedding", "embedding"))
    box(4.6, -1, words["block-shift"], True)
    arrow(6.4, -0.32, 6.4, -0.04)
    box(8.6, 0, named("reach", "block-reach"), True)
    own = layer("decoder")
    for index, name in enumerate(own):
        box(
            4.6,
            1.2 + 0.8 * index,
            f"{words.get(name, name)}\ndecoder[·].{name}",
            mark="self" in name or name == "attention",
        )
    top = 1.2 + 0.8 * len(own)
    axes.text(
        6.4,
        top + 0.1,
        f"× {len(list(children['decoder'].children()))} · {words['decoder']} · "
        f"{counted['decoder']:,}",
        ha="center",
        fontsize=9.5,
    )
    box(4.6, top + 0.7, tied("target_embedding", "output"))
    if "markov" in counted:
        box(8.6, top + 0.7, named("markov", "block-markov"), True)
        arrow(8.6, top + 1.0, 8.2, top + 1.0)
    box(8.6, 1.2, words["mask"], True)
    arrow(8.6, 1.5, 8.2, 1.5)
    arrow(8.6, 0.3, 8.2, 0.3)
    arrow(1.8, 0.68, 1.8, 1.16)
    arrow(6.4, 0.68, 6.4, 1.16)
    arrow(3.64, 2.3, 4.56, 2.3)
    arrow(6.4, top + 0.35, 6.4, top + 0.66)
    axes.set_xlim(-0.1, 12.3)
    axes.set_ylim(-1.1, top + 1.42)


def _rectangle(x: float, y: float, width: float, height: float, face: str, line: str) -> Any:
    return _PATCHES.FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0.02",
        facecolor=face,
        edgecolor=INK,
        linestyle=line,
        linewidth=1.0,
    )


with suppress(ImportError):
    from matplotlib import patches as _PATCHES


def mask(figure: Any, results: Results, words: Words) -> None:
    """Draw who sees whom for K = 1, 2, 4, from `groups.py`."""
    length = 8
    target = torch.arange(length)[None]
    for index, size in enumerate((1, 2, 4)):
        lengths = torch.tensor([length])
        slots, _ = teacher_forced(target, lengths, equal_sizes(lengths, size), -1)
        seen = visibility(slots.group, slots.group)[0]
        axes = figure.add_subplot(1, 3, index + 1)
        axes.imshow((~seen).numpy(), cmap="gray", vmin=-0.35, vmax=1.05)
        names = ["S" if token < 0 else f"y{token + 1}" for token in slots.token[0].tolist()]
        axes.set_xticks(range(length), names, fontsize=9)
        axes.set_yticks(
            range(length), [f"y{place + 1}" for place in slots.position[0].tolist()], fontsize=9
        )
        axes.set_xticks([edge - 0.5 for edge in range(1, length)], minor=True)
        axes.set_yticks([edge - 0.5 for edge in range(1, length)], minor=True)
        axes.grid(which="minor", color="white", linewidth=1.2)
        axes.tick_params(which="both", length=0)
        axes.set_title(f"K={size}", fontsize=12)
        axes.set_xlabel(words["reads"], fontsize=10)
        if not index:
            axes.set_ylabel(words["predicts"], fontsize=10)
        for side in axes.spines.values():
            side.set_color(EDGE)


def adaptive(figure: Any, results: Results, words: Words) -> None:
    """Draw what adaptive mode offered and kept at each step, and how sure it was."""
    trace = results.value("policies.trace")
    axes = _axes(figure, words["step"], words["tokens"])
    place = list(range(1, len(trace) + 1))
    axes.bar(
        place,
        [step["group_size"] for step in trace],
        color="#ffffff",
        edgecolor=INK,
        linestyle="--",
        label=words["offered"],
        width=0.7,
    )
    kept = [len(step["pieces"]) for step in trace]
    axes.bar(place, kept, color="#9cc4de", edgecolor=INK, label=words["accepted"], width=0.7)
    for x, step, height in zip(place, trace, kept, strict=True):
        text = " ".join(step["pieces"]) + f"\n{step['rest']:.2f}"
        axes.text(x, height + 0.12, text, ha="center", va="bottom", fontsize=9)
    axes.set_xticks(place)
    axes.set_ylim(0, max(step["group_size"] for step in trace) + 2.2)
    _legend(axes, loc="upper right", ncols=2)


def stages(figure: Any, results: Results, words: Words) -> None:
    """Draw the validation loss of every K through the stages of training."""
    curves, updates = results.value("training.curves"), results.value("training.updates")
    axes = _axes(figure, words["updates"], words["loss"])
    for index, size in enumerate(("1", "2", "4", "8")):
        points = [
            (row["update"] + (updates if row["stage"] == "many" else 0), row["losses"][size])
            for row in curves
            if size in row["losses"]
        ]
        axes.plot(*zip(*points, strict=True), label=f"K={size}", **_look(index))
    axes.axvline(updates, color=FAINT, linestyle=":")
    top = axes.get_ylim()[1]
    axes.text(updates * 0.98, top, words["stage-1"], ha="right", va="top", fontsize=10)
    axes.text(updates * 1.02, top, words["stage-2"], ha="left", va="top", fontsize=10)
    _legend(axes, loc="upper right", bbox_to_anchor=(1, 0.9))


def optimisation(figure: Any, results: Results, words: Words) -> None:
    """Draw learning-rate schedules, and gradient norms and losses with and without clipping."""
    rows = results.value("optimisation.rows")
    first = [row for row in rows if row["seed"] == 1]
    axes = _axes(figure, words["updates"], words["rate"], 211)
    for index, name in enumerate(("inverse_sqrt", "cosine", "wsd")):
        row = next(row for row in first if row["name"] == f"{name}/clip-1")
        axes.plot(
            row["updates"],
            [1000 * rate for rate in row["rate"]],
            label=words.get(name, name),
            **{**_look(index), "marker": ""},
        )
    _legend(axes)
    for place, key, label in ((223, "norm", "norm"), (224, "loss", "loss")):
        axes = _axes(figure, words["updates"], words[label], place)
        for index, clip in enumerate(("0", "1")):
            row = next(row for row in first if row["name"] == f"inverse_sqrt/clip-{clip}")
            axes.plot(
                row["updates"],
                row[key],
                label=words[f"clip-{clip}"],
                **{**_look(index), "marker": ""},
            )
        _legend(axes)


def applications(figure: Any, results: Results, words: Words) -> None:
    """Draw the share of K=1's quality that each task keeps, against K."""
    axes = _axes(figure, "K", words["kept"])
    tasks = (
        ("captions", "multi30k-adapted", "bleu"),
        ("everyday", "tatoeba-english-german", "bleu"),
        ("chinese", "chinese-english", "bleu"),
        ("phonemes", "english-phonemes", "exact_match"),
        ("generation", "generation-commongen", "rouge_l"),
        ("answering", "answering-chat-many-k", "f1"),
    )
    for index, (name, file, measure) in enumerate(tasks):
        rows = [
            row
            for row in results.tree(file)["results"]
            if row.get("model", "own") == "own" and row.get("mode", "fast") in ("fast", "greedy")
        ]
        values = {
            row["group_size"]: row.get("metrics", {}).get(measure, row.get(measure)) for row in rows
        }
        sizes = sorted(values)
        axes.plot(
            sizes,
            [100 * values[size] / values[1] for size in sizes],
            label=words[name],
            **_look(index),
        )
    _by_size(axes, (1, 2, 4, 8))
    _legend(axes, loc="lower left")


def batches(figure: Any, results: Results, words: Words) -> None:
    """Draw the speed-up over K=1 and over another program against the batch size."""
    for index, (baseline, title) in enumerate(
        (("own-k1", "against-own"), ("ctranslate2-int8", "against-ct2"))
    ):
        axes = _axes(figure, words["batch"], words["faster"] if not index else "", 121 + index)
        rows = [row for row in results.tree("bench-base")["results"] if row["engine"] == "int8"]
        for line, size in enumerate((1, 2, 4, 8)):
            found = sorted(
                (row["batch_size"], row["ratio_to"][baseline])
                for row in rows
                if row["group_size"] == size
                and row.get("mode", "fast") == "fast"
                and baseline in row["ratio_to"]
                and not (baseline == "own-k1" and size == 1)
            )
            if found:
                axes.plot(*zip(*found, strict=True), label=f"K={size}", **_look(line))
        axes.axhline(1, color=INK, linewidth=1)
        axes.set_title(words[title], fontsize=11)
        sizes = sorted({row["batch_size"] for row in rows})
        _by_size(axes, sizes)
        axes.set_ylim(bottom=0)
        _legend(axes)


def gains(figure: Any, results: Results, words: Words) -> None:
    """Draw the error of the model after each improvement."""
    axes = _axes(figure, words["errors"], "")
    axes.grid(axis="y", visible=False)
    names = ("plain", "distillation", "start", "many", "adaptive", "exact")
    rows = [results.value(f"improvements.rows[{name}]") for name in names]
    values = [100 * row["phoneme_error_rate"] for row in rows]
    axes.barh(range(len(rows)), values, color="#9cc4de", edgecolor=INK, height=0.6)
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        text = f"{value:.1f} % · {words['passes'].format(row['passes_per_word'])}"
        axes.text(value + 0.4, place, text, va="center", fontsize=10)
    axes.set_yticks(range(len(rows)), [words[name] for name in names])
    axes.set_xlim(0, max(values) * 1.42)
    axes.invert_yaxis()


def trends(figure: Any, results: Results, words: Words) -> None:
    """Draw what K=4 keeps of K=1 against size and data, and a map of methods by year."""
    rows = results.value("trends.rows")
    axes = _axes(figure, words["parameters"], words["kept"], 211)
    for index, count in enumerate(sorted({row["words"] for row in rows})):
        points = []
        for row in rows:
            if row["words"] == count and row["group_size"] == 4:
                alone = next(
                    other
                    for other in rows
                    if other["words"] == count
                    and other["width"] == row["width"]
                    and other["group_size"] == 1
                )
                right = max(1 - alone["phoneme_error_rate"], 0.01)
                points.append(
                    (row["parameters"] / 1000, 100 * (1 - row["phoneme_error_rate"]) / right)
                )
        axes.plot(
            *zip(*sorted(points), strict=True),
            label=words["words"].format(f"{count:,}"),
            **_look(index),
        )
    axes.set_xscale("log")
    _legend(axes)
    known = sorted({row["parameters"] / 1000 for row in rows})
    axes.set_xticks(known, [f"{count:,.0f}" for count in known])
    axes.minorticks_off()
    axes = _axes(figure, words["year"], "", 212)
    for kind in (False, True):
        points = [(year, -at) for at, (_, year, same) in enumerate(METHODS) if same == kind]
        axes.plot(
            *zip(*points, strict=True),
            label=words["lossless" if kind else "lossy"],
            **{**_look(int(kind)), "linestyle": ""},
        )
    for at, (name, year, _) in enumerate(METHODS):
        axes.annotate(name, (year, -at), xytext=(7, -3), textcoords="offset points", fontsize=9)
    axes.set_yticks([])
    axes.set_xticks(range(2018, 2027, 2))
    axes.set_xlim(2017.5, 2028.5)
    _legend(axes, loc="lower left")


METHODS: tuple[tuple[str, int, bool], ...] = (
    ("SAT", 2018, False),
    ("Blockwise", 2018, True),
    ("Mask-Predict", 2019, False),
    ("SynST", 2019, False),
    ("RecoverSAT", 2020, False),
    ("GLAT", 2020, False),
    ("DA-Transformer", 2022, False),
    ("SpecDec", 2022, False),
    ("HRT", 2022, False),
    ("Medusa", 2024, True),
    ("EAGLE", 2024, True),
    ("Falcon", 2024, True),
    ("BD3-LM", 2025, False),
    ("TiDAR", 2025, False),
    ("DSpark", 2026, True),
)
"""Methods of the map: name, year of publication, whether its output is that of K=1."""


def classification(figure: Any, results: Results, words: Words) -> None:
    """Draw accuracy against document length, and against seconds."""
    files = ("tfidf", "wide", "bert", "pooled", "cut512")
    left = _axes(figure, words["length"], words["accuracy"], 211)
    right = _axes(figure, words["seconds"], words["accuracy"], 212)
    for index, file in enumerate(files):
        tree = results.tree(f"classification-newsgroups-{file}")
        row = tree if "details" in tree else tree["results"][0]
        lengths = row["details"]["by_length"]
        left.plot(
            range(len(lengths)),
            [100 * each["accuracy"] for each in lengths],
            label=words[file],
            **_look(index),
        )
        left.set_xticks(
            range(len(lengths)), [f"{each['words_from']}–{each['words_to']}" for each in lengths]
        )
        rate = row["records_per_second"]
        right.plot(
            1000 / rate, 100 * row["metrics"]["accuracy"], **{**_look(index), "markersize": 9}
        )
        right.annotate(
            words[file],
            (1000 / rate, 100 * row["metrics"]["accuracy"]),
            fontsize=9,
            xytext=(0, 9 if file in ("tfidf", "bert") else -14),
            textcoords="offset points",
            ha="left" if rate > 1000 else "right" if rate < 50 else "center",
        )
    tree = results.tree("classification-newsgroups-labels")
    for index, row in enumerate(tree["results"]):
        right.plot(
            1000 / row["records_per_second"], 100 * row["metrics"]["accuracy"], "x", color=INK
        )
        right.annotate(
            f"{words['labels']} K={row['group_size']}",
            fontsize=9,
            xy=(1000 / row["records_per_second"], 100 * row["metrics"]["accuracy"]),
            xytext=(-6, 5 if not index else -12),
            textcoords="offset points",
            ha="right",
        )
    right.set_xscale("log")
    right.set_xticks([1, 10, 100], ["1", "10", "100"])
    right.set_xlim(0.2, 300)
    right.minorticks_off()
    right.set_ylim(55, 86)
    _legend(left)


def writing(figure: Any, results: Results, words: Words) -> None:
    """Draw quality, repetition and perplexity by K and policy, and the last two by position."""
    rows = results.tree("generation-commongen")["results"]
    for place, measure, label, times in (
        ((1, 2), "rouge_l", "rouge", 100),
        ((3, 4), "repetition_rate", "repeats", 100),
        ((5, 6), "perplexity", "perplexity", 1),
    ):
        axes = _axes(figure, "K", words[label], (2, 6, place))
        for index, mode in enumerate(("fast", "exact")):
            found = [
                (row["group_size"], times * row["metrics"][measure])
                for row in rows
                if row["model"] == "own" and (row["mode"] == mode or row["group_size"] == 1)
            ]
            axes.plot(*zip(*sorted(found), strict=True), label=words[mode], **_look(index))
        alone = next(row for row in rows if row["model"] == "teacher")
        axes.axhline(
            times * alone["metrics"][measure], color=FAINT, linestyle=":", label=words["teacher"]
        )
        _by_size(axes, (1, 2, 4, 8))
        if measure == "repetition_rate":  # the only one of the three with room
            _legend(axes, loc="center", bbox_to_anchor=(0.5, 0.66))
    for place, measure, label, times in (
        ((7, 9), "surprise", "surprise", 1),
        ((10, 12), "repetition", "repeated-before", 100),
    ):
        axes = _axes(figure, words["position"], words[label], (2, 6, place))
        for index, name in enumerate(("ar-1", "sat-2", "sat-4", "sat-adaptive", "gpt2-1")):
            values = results.value(f"generation-equal-budget.rows[{name}].positions.{measure}")
            axes.plot(
                range(1, len(values) + 1),
                [None if value is None else times * value for value in values],
                label=words[name],
                **{**_look(index), "markersize": 4},
            )
        axes.set_xticks([1, 5, 9, 13])  # where groups of four begin
        if measure == "repetition":
            axes.legend(fontsize=8.5, frameon=False, loc="upper left")


DRAWINGS: dict[str, tuple[float, float, Callable[[Any, Results, Words], None]]] = {
    "timeline": (7.4, 4.3, timeline),
    "places": (6.4, 4.2, places),
    "architecture": (7.4, 5.9, architecture),
    "mask": (7.4, 2.75, mask),
    "adaptive": (7.2, 4, adaptive),
    "stages": (6.8, 4.2, stages),
    "optimisation": (7.4, 6.4, optimisation),
    "applications": (6.8, 4.4, applications),
    "batches": (7.4, 3.9, batches),
    "gains": (7.4, 4, gains),
    "trends": (7.2, 8, trends),
    "classification": (7.2, 7.6, classification),
    "writing": (7.4, 6.6, writing),
}
