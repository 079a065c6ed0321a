"""Every picture is saved as PNG and SVG, twice the same bytes for the same figures, with its model,
variants and n in the title, units on its axes, and series that can be told apart without color.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from evals.bounds.pictures import draw_propagation
from evals.drawing import LINES
from evals.model_map import make_map, paint_map
from evals.search.picture import draw_front
from evals.sweep.pictures import PICTURES, draw_accuracy, draw_pictures, draw_sweep, draw_units
from surgery.selection import Part
from surgery.variants import VARIANTS

BLOCKS = 6
ABILITIES = {"story": "language", "riddle": "reasoning", "perplex": "language"}


def edit(rng, blocks, variant, **more):
    figures = {"exact_match": rng.random(), "heldout_loss": 3 + rng.random(), "heldout_kl": 0.5}
    figures |= {"next_token_accuracy": rng.random(), "completion_entropy": 3 * rng.random()}
    tasks = {name: {"metric": "acc", "value": 0.8 - d, "difference": -d,
                    "ci95": [-d - 0.1, 0.1 - d]} for name, d in
             zip(ABILITIES, rng.random(3) / 2, strict=True)}  # fmt: skip
    figures |= {"tasks": tasks}
    named = {"spec": ",".join(map(str, blocks)), "blocks": blocks, "variant": variant}
    found = named | figures | more
    return found | {"recovered": {"greedy": found["exact_match"]}}


@pytest.fixture(scope="module")
def sweep():
    rng = np.random.default_rng(0)
    base = edit(rng, [], None, kind="base", exact_match=0.9, heldout_loss=3.0)
    edits = [
        edit(rng, [block], variant, kind="block") for variant in VARIANTS for block in range(BLOCKS)
    ]
    edits += [
        edit(rng, list(range(first, BLOCKS)), variant, kind="last")
        for variant in VARIANTS
        for first in range(BLOCKS - 1)
    ]
    edits += [edit(rng, [0], "zero", kind="head", heads={"0": [1]}, spec="0.1")]
    base["tasks"] = {name: {"metric": "acc", "value": 0.8} for name in ABILITIES}
    asked = {name: {"ability": ability, "share": name != "perplex", "higher_is_better": True}
             for name, ability in ABILITIES.items()}  # fmt: skip
    return {"model": "tiny", "n": 12, "num_blocks": BLOCKS, "num_heads": 2, "base": base,
            "edits": edits, "exact_only": False, "tasks": asked}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(1)
    front = [
        edit(rng, [block], variant, exact_match=1 - block / BLOCKS)
        for block, variant in enumerate(["linear", "mixed", "zero", "mean", "identity"], start=1)
    ]
    half = {"recovered": {"greedy": 0.95}, "heldout_loss": 3.0, "heldout_kl": 0.0}
    return {
        "model": "tiny",
        "grain": "heads",
        "variants": list(VARIANTS),
        "n": 6,
        "goal": {"max_extraction": 0.2},
        "measure": "greedy",
        "base": {**half, "held_back": half},
        "front": front,
        "selected": front[-1],
        "held_back": edit(rng, [5], "identity"),
        "deep_blocks": edit(rng, [4, 5], "identity", held_back=edit(rng, [4, 5], "identity")),
    }


@pytest.fixture(scope="module")
def bounds():
    rng = np.random.default_rng(2)
    keys = ("measured_mean", "bound_mean", "pairwise_mean")
    return [{"block": block, **dict(zip(keys, np.sort(rng.random(3)), strict=True))}
            for block in range(BLOCKS)]  # fmt: skip


@pytest.fixture(scope="module")
def estimated():
    rng = np.random.default_rng(4)
    estimates = [
        {"spec": f"{block}.{head}" if kind == "head" else str(block), "kind": kind, "block": block,
         "variant": variant, "kl": rng.lognormal(), "margin": rng.lognormal()}
        for variant in ("zero", "mean", "linear")
        for block in range(BLOCKS)
        for kind, head in (("block", 0), ("head", 0), ("head", 1))
    ]  # fmt: skip
    return {
        "model": "tiny", "num_blocks": BLOCKS, "estimates": estimates,
        "estimated_on": {"windows": 20, "passages": 12, "draws": 2},
    }  # fmt: skip


def matrix(blocks):
    rng = np.random.default_rng(3)
    return [
        [None if column < row else rng.random() for column in range(blocks + 1)]
        for row in range(blocks)
    ]


@pytest.fixture(scope="module")
def drawn(sweep, found, bounds, estimated, tmp_path_factory):
    """Twice: all pictures of a sweep, and that of a search."""
    divergence = {"propagation": matrix(BLOCKS), "blocks": bounds, "tokens": 500}
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for folder in folders:
        paths = draw_pictures({**estimated, **sweep, "bounds": divergence}, folder)
        paths += draw_front(found, folder)
        expected = {folder / f"{name}.{form}" for name in NAMES for form in ("png", "svg")}
        assert set(paths) == expected
    return folders


NAMES = (*PICTURES, "front")


@pytest.mark.parametrize("name", NAMES)
def test_png_and_svg_and_twice_the_same(drawn, name):
    one, two = drawn
    png, svg = one / f"{name}.png", one / f"{name}.svg"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert "<dc:date>" not in svg.read_text()
    for path in (png, svg):
        assert path.read_bytes() == (two / path.name).read_bytes()


def texts(path) -> str:
    """What is written in an SVG: matplotlib keeps each text in a comment beside its glyphs."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", path.read_text(), re.DOTALL))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sweep", ["tiny", "identity, zero, mean, linear", "n = 12", "recited word for word, %",
                   "nats per token", "unedited", "one block alone"]),
        ("accuracy", ["tiny", "12 passages", "story, acc, %", "riddle, acc, %", "exact match, %",
                      "unedited", "one head alone", "one block alone", "mean", "block", "5"]),
        ("abilities", ["tiny", "relative fall", "language (story)", "reasoning (riddle)", "zero"]),
        ("tokens", ["tiny", "token accuracy, %", "completion entropy, nats", "unedited",
                    "(after the true tokens)", *VARIANTS]),
        ("front", ["tiny", "search over heads", "n = 6", "recited word for word, %",
                   "nats per token", "deep blocks: 4,5", "chosen: 5", "on the other half", "goal"]),
        ("model", ["tiny", "20 windows and 12 passages", "zero", "mean", "linear", "the front",
                   "heads 0–1", "block", "worth: ", "cost: ", "nats²", "nats per token", "5"]),
        ("propagation", ["tiny", "identity", "n = 500 tokens", "logits", "%"]),
        ("bounds", ["tiny", "identity", "n = 500 tokens", "measured", "bound in closed form",
                    "mean over tokens, %"]),
    ],
)  # fmt: skip
def test_titles_axes_and_legends(drawn, name, expected):
    written = texts(drawn[0] / f"{name}.svg")
    for text in expected:
        assert text in written, text


def test_variants_differ_without_color():
    styles = [LINES[name] for name in [*VARIANTS, "mixed"]]
    assert len({style["marker"] for style in styles}) == len(styles)
    lines = [LINES[name]["linestyle"] for name in VARIANTS]
    assert len(set(lines)) == len(lines)


def test_colors_of_variants_differ_in_gray():
    from matplotlib.colors import to_rgb

    gray = sorted(np.dot(to_rgb(LINES[name]["color"]), (0.299, 0.587, 0.114)) for name in VARIANTS)
    assert min(np.diff(gray)) > 0.05


def test_a_sweep_without_held_out_text(sweep, tmp_path):
    def without(one):
        return {**one, "heldout_loss": None}

    result = {**sweep, "base": without(sweep["base"]), "edits": list(map(without, sweep["edits"]))}
    _, svg = draw_sweep(result, tmp_path)
    assert "recited" in texts(svg)
    assert "nats" not in texts(svg)


def test_what_was_not_measured_is_not_in_the_papers_figures(sweep, tmp_path):
    none = {key: value for key, value in sweep.items() if key != "tasks"}
    drawn = draw_pictures({**none, "exact_only": True}, tmp_path)
    assert {path.stem for path in drawn} == {"sweep"}
    only = {**sweep, "tasks": {"riddle": sweep["tasks"]["riddle"]}, "exact_only": True}
    drawn = draw_pictures(only, tmp_path)
    assert {path.stem for path in drawn} == {"sweep", "accuracy", "abilities"}
    assert "language" not in texts(tmp_path / "abilities.svg")
    nothing = {"riddle": {"metric": "acc", "value": None, "difference": None, "ci95": None}}
    draw_pictures(
        {**only, "edits": [{**edit, "tasks": nothing} for edit in sweep["edits"]]}, tmp_path
    )
    assert "one block alone" not in texts(tmp_path / "accuracy.svg")


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_legend_is_whole_and_below_the_data(sweep, monkeypatch, tmp_path, tasks):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    some = dict([*sweep["tasks"].items()][:tasks])
    draw_accuracy({**sweep, "tasks": some}, [*some], tmp_path)
    figure = figures[0]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)


def test_a_search_that_found_nothing(found, tmp_path):
    nothing = {"selected": None, "held_back": None, "goal": {"max_loss_increase": 0.001}}
    _, svg = draw_front({**found, **nothing, "deep_blocks": None}, tmp_path)
    written = texts(svg)
    assert "goal" in written
    assert "chosen" not in written
    assert "deep" not in written


def test_cells_of_a_large_model_hold_no_numbers(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    for folder, blocks in ((small, 4), (large, 24)):
        folder.mkdir()
        draw_propagation(matrix(blocks), folder, title="tiny")
    cells = [len(re.findall(r"<g id=\"text_", (f / "propagation.svg").read_text()))
             for f in (small, large)]  # fmt: skip
    assert cells[1] < 24 * 25 / 2 - 1
    assert cells[0] > 4 * 5 / 2


def test_a_map_of_measured_heads_is_in_percent(sweep, tmp_path):
    """Without estimates; and none where only whole blocks were measured."""
    drawn = draw_units(sweep, tmp_path)
    assert {path.name for path in drawn} == {"model.png", "model.svg"}
    written = texts(tmp_path / "model.svg")
    assert "worth: passages no longer recovered, %" in written
    assert "the best edit" in written
    blocks = [edit for edit in sweep["edits"] if edit["kind"] == "block"]
    assert draw_units({**sweep, "edits": blocks}, tmp_path) == []


def test_a_map_has_a_cell_for_each_unit_and_outlines_what_was_chosen():
    """Three heads to a group, as grouped queries have; single heads take only one variant."""
    blocks, heads = 4, 6
    pieces = [tuple(range(6)), (0, 1, 2), (3, 4, 5)]
    units = {Part(b, some, v): (1.0 + b, 0.01) for b in range(blocks) for some in pieces
             for v in ("identity", "zero")}  # fmt: skip
    units |= {Part(b, (h,), "zero"): (0.1, 0.001) for b in range(blocks) for h in range(heads)}
    found = make_map(units, blocks, heads, measured=False)
    sizes = {(g.kind, g.variant): np.shape(g.worths) for g in found.grids}
    of_both = {("block", "zero"): (1, 4), ("group", "zero"): (2, 4)}
    of_both |= {(kind, "identity"): shape for (kind, _), shape in of_both.items()}
    assert sizes == of_both | {("head", "zero"): (6, 4)}
    assert found.grids[0].worths == [[1.0, 2.0, 3.0, 4.0]]
    chosen = [Part(1, tuple(range(6)), "identity"), Part(2, (0, 1, 2, 5), "zero")]
    figure = Figure()
    paint_map(figure, found, chosen)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    outlined = [[patch.get_xy() for patch in axes.patches] for axes in panels]
    # rows from below: the block, two groups, six heads
    assert outlined == [[(0.5, 0)]] * 2 + [[(1.5, 1), (1.5, 8)]] * 2
    assert make_map({}, blocks, heads, measured=True) is None
