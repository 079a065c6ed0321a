"""Contract: every picture is saved as PNG and SVG, twice the same bytes for the same figures.

It has a title, units on its axes, a description, and series that can be told apart without color.
No text lies on another, at the width of a page and at that of a phone.
"""

from __future__ import annotations

import base64
import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from blank import blank_pictures
from example_grid import edit_of, on_halves, recover, rows, search_of, sweep_of
from example_report import example
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from evals.choose.grid import describe_edit
from evals.choose.search.report import chart_search
from evals.choose.sweep.pictures import PICTURES, chart_units, draw_pictures
from evals.choose.sweep.report import SweepResult
from evals.table.charts.chart import LOOKS, Chart, clean
from evals.table.charts.dots import Dot, draw_dots
from evals.table.charts.front import BlockPoint, FrontPanel, draw_front
from evals.table.charts.grid import Grid, Scale, draw_grid
from evals.table.charts.model_map import chart_map, make_map
from evals.table.charts.panels import Point, Series
from evals.table.charts.pictures import draw_stages, draw_table, draw_trade_off
from evals.table.measured import measure_value
from surgery.card.measurements import list_tables
from surgery.record.measured import BASE, Change
from surgery.selection import EditedHeads
from surgery.variants import VARIANTS

BLOCKS = 6
ABILITIES = {"story": "language", "riddle": "reasoning", "perplex": "language"}
IN_A_PAGE = ("attacked", "stages", "trade-off")


def figures_of(rng, of, **more):
    """Of an edit in a sweep, at random."""
    known = {"recited": rng.random(), "heldout": 3 + rng.random(), "kl": 0.5}
    known |= {"next_token_accuracy": rng.random(), "completion_entropy": 3 * rng.random()}
    found = rows(of, known | more, n=12)
    for name, d in zip(ABILITIES, rng.random(3) / 2, strict=True):
        change = Change(difference=-d, ci95=(-d - 0.1, 0.1 - d))
        found.append(measure_value(f"task.{name}", 0.8 - d, of=of, n=99, change=change))
    return found


@pytest.fixture(scope="module")
def sweep():
    rng = np.random.default_rng(0)
    kinds = [([block], variant, "block") for variant in VARIANTS for block in range(BLOCKS)]
    kinds += [
        (range(first, BLOCKS), variant, "last")
        for variant in VARIANTS
        for first in range(BLOCKS - 1)
    ]
    edits = [edit_of(f"edit-{at}", *one) for at, one in enumerate(kinds)]
    edits.append(edit_of("edit-head", [0], "zero", "head", heads=[1]))
    figures = rows(BASE, {"recited": 0.9, "heldout": 3.0, "next_token_accuracy": 0.9,
                          "completion_entropy": 1.0}, n=12)  # fmt: skip
    figures += rows(BASE, {f"task.{name}": 0.8 for name in ABILITIES}, n=99)
    for one in edits:
        figures += figures_of(rng, one.of)
    asked = {name: {"ability": ability, "share": name != "perplex"}
             for name, ability in ABILITIES.items()}  # fmt: skip
    return sweep_of(edits, figures, asked, num_blocks=BLOCKS, n=12, map=map_of(edits))


def map_of(edits, *, measured=True):
    """What units are worth and cost, at random."""
    rng = np.random.default_rng(5)
    units = {one.parts[0]: tuple(rng.random(2)) for one in edits if len(one.parts) == 1}
    return make_map(units, BLOCKS, 2, measured=measured)


def change(result, **more):
    """The same sweep, with other fields."""
    return SweepResult(**{**dict(result), **more})


def without(result, name, of=None):
    """The same without a figure, of some edits if these are named."""
    kept = [row for row in result.figures
            if row.name != name or (of is not None and row.of not in of)]  # fmt: skip
    return change(result, figures=kept)


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(1)
    names = ["linear", "mixed", "zero", "mean", "identity"]
    front = [
        edit_of(f"edit-{at}", [at], name) for at, name in enumerate(names, 1) if name in VARIANTS
    ]
    mixed = (EditedHeads(2, (0,), "zero"), EditedHeads(2, (1,), "mean"))
    front.insert(1, describe_edit("edit-2", mixed, 2))
    deep = edit_of("deep-blocks", [4, 5], "identity")

    def figures(share):
        return {**recover(share), "heldout": 3 + rng.random(), "kl": rng.random()}

    every = on_halves(BASE, *2 * [{**recover(0.95), "heldout": 3.0, "kl": 0.0}])
    for at, one in enumerate([*front, deep], 1):
        every += on_halves(one.of, figures(1 - min(at, 5) / BLOCKS), figures(rng.random()))
    return search_of(
        [*front, deep], every, num_blocks=BLOCKS, n=6, selected="edit-5", measure="greedy",
        settings={"limit": 0.2, "grain": "heads", "variants": list(VARIANTS)},
        front=[one.of for one in front], deep_blocks="deep-blocks",
    )  # fmt: skip


@pytest.fixture(scope="module")
def estimated(sweep):
    """The same sweep, with estimates of more units."""
    rng = np.random.default_rng(4)
    places = [
        ([block], variant, kind, heads)
        for variant in ("zero", "mean", "linear")
        for block in range(BLOCKS)
        for kind, heads in (("block", (0, 1)), ("head", [0]), ("head", [1]))
    ]
    units = [edit_of(f"unit-{at}", *one[:3], heads=one[3]) for at, one in enumerate(places)]
    known = [row for one in units for row in rows(
        one.of, {f"estimated_{name}": rng.lognormal() for name in ("kl", "margin")}
    )]  # fmt: skip
    figures = [*sweep.figures, *known]
    names = {row.name: sweep.names["kl"] for row in known}
    on = {"windows": 20, "passages": 12}
    more = {"names": sweep.names | names, "estimates": units, "estimated_on": on,
            "map": map_of(units, measured=False)}  # fmt: skip
    return change(sweep, figures=figures, **more)


def draw_page():
    """The charts inside a page."""
    report = example()
    (lines,) = (some for table, some in list_tables(report) if table.key == "attacked")
    draw_table(report, lines)
    draw_stages(report)
    draw_trade_off(report)


@pytest.fixture(scope="module")
def drawn(found, estimated, tmp_path_factory):
    """All pictures of a sweep, of a search, and of a page; one of each form again; and the charts
    behind them."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    charts, page = {}, iter(IN_A_PAGE)
    with pytest.MonkeyPatch.context() as patch:
        save = Chart.save

        def keep(chart, folder, name):
            charts[name] = chart
            return save(chart, folder, name)

        patch.setattr(Chart, "save", keep)
        patch.setattr(Chart, "embed", lambda chart: charts.setdefault(next(page), chart))
        paths = draw_pictures(estimated, folders[0])
        paths += chart_search(found).save(folders[0], "front")
        draw_page()
    for name in IN_A_PAGE:
        paths += charts[name].save(folders[0], name)
    expected = {folders[0] / f"{name}.{form}" for name in NAMES for form in ("png", "svg")}
    assert set(paths) == expected
    for name in AGAIN:
        charts[name].save(folders[1], name)
    return *folders, charts


NAMES = (*PICTURES, *IN_A_PAGE, "front")
AGAIN = ("attacked", "stages", "front", "model")


@pytest.mark.parametrize("name", NAMES)
def test_png_and_svg_and_twice_the_same(drawn, name):
    one, two, charts = drawn
    png, svg = one / f"{name}.png", one / f"{name}.svg"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert "<dc:date>" not in svg.read_text()
    assert clean(charts[name].alt) in svg.read_text().replace("&gt;", ">")
    for path in (png, svg) if name in AGAIN else ():
        assert path.read_bytes() == (two / path.name).read_bytes()


@pytest.mark.parametrize(
    ("name", "narrow"),
    [
        *(pytest.param(name, False, id=f"{name}-wide") for name in NAMES),
        *(
            pytest.param(
                name, True, id=f"{name}-narrow", marks=() if name in AGAIN else pytest.mark.slow
            )
            for name in NAMES
        ),
    ],
)
def test_no_text_lies_on_another(drawn, name, narrow):
    """Labels of ticks and axes, titles, and legends; also whole, and inside the figure."""
    with drawn[2][name].open(narrow=narrow) as figure:
        figure.draw_without_rendering()
        found = [*figure.legends, *figure.texts]
        for axes in figure.axes:
            found += [axes.title, axes.xaxis.label, axes.yaxis.label]
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                found += [text for tick in ticks for text in (tick.label1, tick.label2)]
        texts = [one for one in found if one.get_visible() and getattr(one, "get_text", str)()]
        boxes = [(one, one.get_window_extent()) for one in texts]
        for text, box in boxes:
            assert min(box.x0, box.y0) >= -1, text
            assert (box.x1, box.y1) <= (figure.bbox.x1 + 1, figure.bbox.y1 + 1), text
        for (text, one), (other, two) in combinations(boxes, 2):
            assert not one.overlaps(two), (text, other)


def texts(path) -> str:
    """What is written in an SVG: matplotlib keeps each text in a comment beside its glyphs."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", path.read_text(), re.DOTALL))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sweep", ["model", "identity, zero, mean, linear", "n = 12", "recited word for word, %",
                   "nats per token", "unedited", "one block alone"]),
        ("accuracy", ["model", "12 passages", "story, acc, %", "riddle, acc, %", "exact match, %",
                      "unedited", "one head alone", "one block alone", "mean", "block", "5"]),
        ("abilities", ["model", "relative fall", "language (story)", "reasoning (riddle)", "zero"]),
        ("tokens", ["model", "token accuracy, %", "completion entropy, nats", "unedited",
                    "(after the true tokens)", *VARIANTS]),
        ("attacked", ["recovered by relearn", "never trained on", "limit", "share of passages"]),
        ("trade-off", ["found by the search", "rise of held-out loss, nats per token", "%"]),
        ("stages", ["steps of fine-tuning", "recovered (any), %", "relearn"]),
        ("front", ["model", "search over heads", "n = 6", "recited word for word, %",
                   "nats per token", "deep blocks: 4-5", "chosen: 5", "limit",
                   "on the other half"]),
        ("model", ["model", "20 windows and 12 passages", "zero", "mean", "linear", "the front",
                   "heads 0–1", "block", "worth: ", "cost: ", "nats²", "nats per token", "5"]),
    ],
)  # fmt: skip
def test_titles_axes_and_legends(drawn, name, expected):
    written = texts(drawn[0] / f"{name}.svg")
    for text in expected:
        assert text in written, text


def test_variants_differ_without_color():
    styles = [LOOKS[name] for name in [*VARIANTS, "mixed"]]
    assert len({style["marker"] for style in styles}) == len(styles)
    lines = [LOOKS[name]["linestyle"] for name in VARIANTS]
    assert len(set(lines)) == len(lines)


def test_colors_of_variants_differ_in_gray():
    from matplotlib.colors import to_rgb

    gray = sorted(np.dot(to_rgb(LOOKS[name]["color"]), (0.299, 0.587, 0.114)) for name in VARIANTS)
    assert min(np.diff(gray)) > 0.05


def test_what_was_not_measured_is_not_in_the_papers_figures(sweep, tmp_path):
    def of_tasks(*kept):
        names = {name: one for name, one in sweep.names.items()
                 if name in kept or not name.startswith("task.")}  # fmt: skip
        figures = [row for row in sweep.figures if row.name in names]
        some = sweep.edits[::8]
        return change(sweep, edits=some, names=names, figures=figures)

    with blank_pictures():
        drawn = draw_pictures(of_tasks(), tmp_path)
    assert {path.stem for path in drawn} == {"sweep", "tokens", "model"}
    only = of_tasks("task.riddle")
    drawn = draw_pictures(only, tmp_path)
    assert {path.stem for path in drawn} == {"sweep", "accuracy", "abilities", "tokens", "model"}
    assert "language" not in texts(tmp_path / "abilities.svg")
    draw_pictures(without(only, "task.riddle", {edit.of for edit in only.edits}), tmp_path)
    assert "one block alone" not in texts(tmp_path / "accuracy.svg")


def test_a_search_that_found_nothing(found, tmp_path):
    nothing = {"selected": None, "nearest": "edit-5", "deep_blocks": None}
    _, svg = chart_search(found.model_copy(update=nothing)).save(tmp_path, "front")
    written = texts(svg)
    assert "limit" in written
    assert "chosen" not in written
    assert "deep" not in written


def test_cells_with_names_have_the_colors_of_these_names():
    """Also one that stands between others of the legend."""
    cells = [["identity", None], ["mean", "linear"]]
    figure = Figure()
    draw_grid("", [Scale("", [Grid("heads", [("", cells)])])]).paint(figure, False)
    (image,) = figure.axes[0].images
    colors = [[to_rgba("0.93" if cell is None else LOOKS[cell]["color"]) for cell in row]
              for row in cells]  # fmt: skip
    assert np.allclose(image.get_array(), colors)
    assert figure.axes[0].get_legend_handles_labels()[1] == ["identity", "mean", "linear"]


def test_a_front_fills_its_picture():
    """Where nothing is near 0 %, the axis does not go there."""
    front = [Series("unedited", [Point(0.0, 100.0)]), Series("edits", [Point(0.1, 20.0)])]
    for low, bottom in ((20.0, 10.0), (0.0, -1.0)):
        chart = draw_front(
            "", [[FrontPanel("", "", [Series("a", [Point(0.2, low)])], front=front)]]
        )
        with chart.open() as figure:
            assert bottom <= figure.axes[0].get_ylim()[0] <= low


def test_names_of_others_are_plain_text_and_short(tmp_path):
    """Dollar signs begin no formula, and control characters and markup stay out of the file."""
    hostile = "$\\frac{$ \x1b[2K <b>&" + 60 * "x"
    chart = draw_dots(hostile, "shares", [hostile], {hostile: [Dot(0.5, (0.4, 0.6))]})
    _, svg = chart.save(tmp_path, "dots")
    ElementTree.parse(svg)
    assert "\x1b" not in svg.read_text()
    wide = base64.b64decode(chart.embed().wide.partition(",")[2])
    assert b"$\\frac{$ [2K &lt;b&gt;&amp;xxx" in wide
    ElementTree.fromstring(wide)


def test_a_map_of_measured_heads_is_in_percent(sweep, tmp_path):
    """Without estimates; and none where only whole blocks were measured."""
    _, svg = chart_units(sweep).save(tmp_path, "model")
    written = texts(svg)
    assert "worth: passages no longer recovered, %" in written
    assert "the best edit" in written
    blocks = [edit for edit in sweep.edits if edit.kind == "block"]
    assert chart_units(change(sweep, edits=blocks, map=map_of(blocks))) is None


def test_a_map_has_a_cell_for_each_unit_and_outlines_what_was_chosen():
    """Three heads to a group, as grouped queries have; single heads take only one variant."""
    blocks, heads = 4, 6
    pieces = [tuple(range(6)), (0, 1, 2), (3, 4, 5)]
    units = {EditedHeads(b, some, v): (1.0 + b, 0.01) for b in range(blocks) for some in pieces
             for v in ("identity", "zero")}  # fmt: skip
    units |= {
        EditedHeads(b, (h,), "zero"): (0.1, 0.001) for b in range(blocks) for h in range(heads)
    }
    found = make_map(units, blocks, heads, measured=False)
    sizes = {(g.kind, g.variant): np.shape(g.worths) for g in found.grids}
    of_both = {("block", "zero"): (1, 4), ("group", "zero"): (2, 4)}
    of_both |= {(kind, "identity"): shape for (kind, _), shape in of_both.items()}
    assert sizes == of_both | {("head", "zero"): (6, 4)}
    assert found.grids[0].worths == [[1.0, 2.0, 3.0, 4.0]]
    chosen = [EditedHeads(1, tuple(range(6)), "identity"), EditedHeads(2, (0, 1, 2, 5), "zero")]
    figure = Figure()
    chart_map(found, chosen).paint(figure, False)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    outlined = [[patch.get_xy() for patch in axes.patches] for axes in panels]
    # rows from below: the block, two groups, six heads
    assert outlined == [[(0.5, 0)]] * 2 + [[(1.5, 1), (1.5, 8)]] * 2
    assert make_map({}, blocks, heads, measured=True) is None


def test_blocks_are_drawn_where_they_are() -> None:
    """Of blocks that share a place, or nearly, each number is there to read."""
    from matplotlib.figure import Figure

    places = {0: (1.0, 50.0), 1: (2.0, 23.3), 2: (2.0, 23.3), 3: (2.05, 24.3), 4: (5.0, 3.0)}
    points = [BlockPoint("block", block, *place) for block, place in places.items()]
    points.append(BlockPoint("head", 3, 2.0, 23.3))
    figure = Figure(layout="constrained")
    draw_front("", [[FrontPanel("x", "y", blocks=points)]], num_blocks=5).paint(figure, False)
    axes = figure.axes[0]
    drawn = []
    for marks in axes.collections:
        assert marks.get_offset_transform() == axes.transData, "nothing is moved"
        drawn += [tuple(map(float, place)) for place in marks.get_offsets()]
    assert sorted(drawn) == sorted([*places.values(), (2.0, 23.3)])
    assert sorted(text.get_text() for text in axes.texts) == ["0", "1, 2, 3", "4"]
