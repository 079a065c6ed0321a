"""Which attacker gets past which defense: each is met by those who know it, and by a model that
never saw the passages.

    python -m benchmarks.attackers lab:gpt-neo --cut 4-5:identity --teacher 1 \\
        --twin TWINS/models/gpt-neo --output BED
    python -m benchmarks.attackers lab:pythia --private --cut 4-5:identity --teacher 0 --output BED

Makes each defense as its command would (three quarters of the passages are listed, or less), and
attacks the listed passages in one draw:

- by questions: `any`, `hints:8`, and `in-context`, which makes the prefix longer;
- by training: `relearn`, and `TUNED`, a part of the grid of `relearn-strongest`: other optimizers,
  rates, more passages, other text, and more steps than any defense rehearses. The attacker chooses
  among these by passages that he holds;
- by what was cut: `revive`; by the public base: `graft` and `graft-wide`.

Two defenses are not ours: K-FAC (`benchmarks.rivals.kfac`), and, for a fine-tune, the public model
trained again without what is listed.

`half-known` is the best of these on the half of the passages that the public base, or the twin,
predicts best. `--never` gives every erasing half of the records that no model saw, which it must
keep writing, and measures `form` on the other half. `--private` fine-tunes MODEL on records that it
never saw; MODEL is then the public base, and the twin as well. With `--name`, what was measured
goes to benchmarks/results/NAME.json. A defense that is there from an earlier run is used again.
"""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property, partial
from itertools import groupby, product
from operator import attrgetter
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.asked import check_asked
from benchmarks.lab.records import Record
from benchmarks.private import STEPS as PRIVATE_STEPS
from benchmarks.private import choose_records, make_private, save, train_on
from benchmarks.results import Cell, Column, write_results
from benchmarks.rivals import bed as rivals
from benchmarks.rivals.bed import measure_text, token_nll, write_samples
from benchmarks.rivals.kfac import kfac
from evals.data import Samples, Tokens
from evals.data.held_back import deal_unlisted
from evals.data.inputs import open_passages, require_heldout_texts, tokenize_passages
from evals.data.never import split_never
from evals.data.windows import cut_windows
from evals.jobs.erasing import EraseRequest, open_erase
from evals.jobs.exporting import ExportRequest, open_export
from evals.jobs.healing import HealRequest, open_heal
from evals.measure.attacks.attack import AttackOutcome, Setting, Target
from evals.measure.attacks.names import find_attack
from evals.measure.attacks.result import Outcomes, measure_outcomes
from evals.measure.attacks.sibling import find_sibling
from evals.run.groups import HEAL_STEPS, Passages
from evals.run.models import LoadedModel, open_model
from surgery.record.measured import EDITED, Measured
from surgery.training.training import WINDOW, scale_rate

WINDOWS = 128
ASKING = ("any", "hints:8", "in-context")
ATTACKS = (*ASKING, "relearn", "relearn-strongest", "revive", "graft", "graft-wide")
TUNED = (
    Setting("all weights on half of the passages", 1e-3, 100),
    Setting("all weights on half of the passages", 3e-4, 100),
    Setting("all weights on half of the passages", 1e-4, 100),
    Setting("all weights by SGD on half of the passages", 0.3, 100),
    Setting("all weights by SGD on half of the passages", 0.03, 100),
    Setting("rank-8 adapters on half of the passages", 1e-3, 100),
    Setting("all weights", 3e-4, 100),
    Setting("all weights on half of the passages among other text", 3e-4, 100),
)
"""Eight of the trainings of `relearn-strongest`, to 100 steps: those that take all weights come
first, and of each kind the fastest."""
TAUGHT = 30
"""Records of each kind that a private model learns."""
RECITED = 0.01
"""Of what is listed, what K-FAC may leave to `any`."""
BASE, TWIN, STEPS = "not edited", "never saw the passages", " steps"


def choose_more_records(drawn: list[Record], tokenizer: Any) -> list[Record]:
    return choose_records(drawn, tokenizer, TAUGHT)


@dataclass(frozen=True)
class Bed:
    """A model that knows passages, and what its owner and attackers have.

    `cut`, `teacher`: BLOCKS:VARIANT; `teacher` teaches an erasing. `public`: the model that it was
    fine-tuned from, if there is one; `twin`: one that never saw the passages. `attacks`: those to
    try beside `any`; none: all.
    """

    model: str
    samples: str
    heldout: tuple[Path, ...]
    text: tuple[str, ...]
    cut: str
    teacher: str
    public: str | None
    twin: str | None
    output: Path
    steps: tuple[int, ...]
    trained: tuple[Setting, ...]
    never: Path | None = None
    left_out: float = 0.25
    heal_steps: int = HEAL_STEPS
    attacks: tuple[str, ...] = ()

    @cached_property
    def base(self) -> LoadedModel:
        return self.open(self.model)

    def open(self, name: str | Path) -> LoadedModel:
        return open_model(str(name), dtype="float32", device="cpu")

    @cached_property
    def passages(self) -> Samples:
        return tokenize_passages(open_passages(Passages(samples=self.samples)), self.base.tokenizer)

    @cached_property
    def unlisted(self) -> Any:
        return deal_unlisted(self.passages, self.left_out)

    @cached_property
    def listed(self) -> Samples:
        return self.passages.select(self.passages.trained_on & ~self.unlisted)

    @cached_property
    def texts(self) -> list[str]:
        return require_heldout_texts(self.heldout, self.model)

    @cached_property
    def unseen(self) -> Tokens:
        """Records of the passages' form that no training saw, int32 [M, T]."""
        if self.never is None:
            return self.passages.select(~self.passages.trained_on).tokens
        source = open_passages(Passages(samples=str(self.never)))
        return split_never(source, self.listed, self.base.tokenizer)[1].tokens

    def cut_text(self, length: int) -> Tokens:
        return cut_windows(self.texts, self.base.tokenizer, length)[:WINDOWS]

    def list_defenses(self) -> dict[str, Callable[[Path], object]]:
        """Defense → what makes its folder."""
        found: dict[str, Callable[[Path], object]] = {"cut": self._cut, "cut, healed": self._heal}
        ways = ["cut", "context:8"]
        if self.public is not None:
            ways.insert(0, self.public)
        for way, harden, steps in product(ways, (False, True), self.steps):
            who = {"cut": "the cut", self.public: "the public base"}.get(way, way)
            called = f"erased by {who}" + ", hardened" * harden
            strength = f", {steps}{STEPS}" * (len(self.steps) > 1)
            make = partial(self._erase, by=way, harden=harden, steps=steps)
            found[called + strength] = make
            if steps == self.steps[-1]:
                found[f"{called}, cut, healed"] = partial(self._cut_erased, by=way, harden=harden)
        found["K-FAC"] = self._remove_flat
        if self.public is not None:
            found["trained again on what is not listed"] = self._train_again
        return found

    def place(self, defense: str) -> Path:
        return self.output / "".join(c if c.isalnum() else "-" for c in defense)

    def _cut(self, output: Path, model: str | None = None) -> None:
        spec, _, variant = self.cut.partition(":")
        text = self.text if variant in ("linear", "mean") else ()
        asked = {"model": model or self.model, "drop_attn": spec, "variant": variant}
        asked["calibration"] = text
        open_export(ExportRequest.of(**asked, output=output)).run()

    def _heal(self, output: Path) -> None:
        cut = self.place("cut")
        if not cut.exists():
            self._cut(cut)
        asked = {"source": self.model, "text": self.text, "output": output}
        open_heal(HealRequest.of(model=str(cut), **asked, steps=self.heal_steps)).run()

    def _cut_erased(self, output: Path, by: str, *, harden: bool) -> None:
        """Erased, then cut, then healed: the cut's own predictions keep the passages away."""
        names = [output.with_name(f"{output.name}-{step}") for step in ("erase", "cut")]
        erased, cut = names
        if not erased.exists():
            self._erase(erased, by, harden=harden, steps=self.steps[-1])
        if not cut.exists():
            self._cut(cut, str(erased))
        asked: dict[str, Any] = {"source": self.model, "text": self.text, "samples": self.samples}
        asked |= {"leave_out": self.left_out, "steps": self.heal_steps, "device": "cpu"}
        open_heal(HealRequest.of(model=str(cut), **asked, output=output)).run()

    def _erase(self, output: Path, by: str, *, harden: bool, steps: int) -> None:
        asked: dict[str, Any] = {"by": by}
        if by == "cut":
            spec, _, variant = self.teacher.partition(":")
            asked = {"drop_attn": spec, "variant": variant or "identity"}
        asked |= {"model": self.model, "samples": self.samples, "leave_out": self.left_out}
        asked |= {"text": self.text, "harden": harden, "steps": steps, "device": "cpu"}
        asked |= {"never": None if self.never is None else str(self.never)}
        open_erase(EraseRequest.of(**asked, output=output)).run()

    def _remove_flat(self, output: Path) -> None:
        """The mildest edit of K-FAC that leaves next to nothing of what is listed."""
        loaded = self.open(self.model)
        text = self.cut_text(self.listed.tokens.shape[1])
        rival = rivals.Bed(self.model, loaded.tokenizer, self.listed, text)
        loaded.model.requires_grad_(True)
        for _ in kfac(loaded.model, rival):
            if rival.measure_recovered(loaded.model) <= RECITED:
                break
        save(loaded.model, loaded.tokenizer, output)

    def _train_again(self, output: Path) -> None:
        """The public model, trained as the private one was, without what is listed."""
        loaded = self.open(str(self.public))
        rest = self.passages.select(self.unlisted).tokens
        save(train_on(loaded, rest, PRIVATE_STEPS), loaded.tokenizer, output)


Found = dict[str, AttackOutcome]


def scale(trainings: tuple[Setting, ...], model: Any) -> tuple[Setting, ...]:
    """At the rates that suit all weights of a model as wide as this one: AdamW's are for narrow
    ones."""
    by = scale_rate(model)
    return tuple(
        replace(one, learning_rate=by * one.learning_rate)
        if one.learned.startswith("all weights") and "SGD" not in one.learned
        else one
        for one in trainings
    )


def attack(bed: Bed, loaded: LoadedModel, base: Found | None, *, with_cut: bool) -> Found:
    """What each attack finds on a loaded model. `base`: the same of the model before the edit."""
    listed = bed.listed
    unrelated = bed.cut_text(listed.tokens.shape[1])
    on = Target(loaded.model, loaded.tokenizer, listed, unrelated, draws=1, cut=loaded.cut)
    names = [*ASKING, "relearn"]
    if bed.trained and loaded is not bed.base:  # which gives already what it would bring back
        names.append("relearn-strongest")
    if with_cut and loaded.cut:
        names.append("revive")
    if base is not None and bed.public is not None and with_cut:
        on = replace(on, sibling=find_sibling(bed.public, [loaded.found]))
        names += ["graft", "graft-wide"]
    made: Found = {}
    for name in names:
        if bed.attacks and name not in (ASKING[0], *bed.attacks):
            continue
        trainings = base[name].trainings if base and name in base else None
        if name == "relearn-strongest":
            trainings = scale(bed.trained, loaded.model)
        made[name] = find_attack(name).run(replace(on, trainings=trainings))
    return made


def measure_rise(bed: Bed, loaded: LoadedModel, tokens: Tokens) -> float:
    """The rise of the loss on rows, int32 [M, T], in nats per token."""
    rows = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        after, before = (float(token_nll(one.model, rows).mean()) for one in (loaded, bed.base))
    return after - before


def find_known(bed: Bed, twin: LoadedModel) -> Any:
    """The half of the listed passages whose suffixes the twin predicts best: bool [N]."""
    with torch.no_grad():
        rows = torch.from_numpy(bed.listed.tokens.astype(np.int64))
        loss = token_nll(twin.model, rows)[:, bed.listed.prefix_length - 1 :].mean(1).numpy()
    return loss <= np.median(loss)


def list_shares(name: str, before: Found | None, after: Found, never: Found | None) -> Measured:
    """The share that one attack recovers, above the twin where it was attacked, too."""
    others = (None if one is None else one.get(name) for one in (before, never))
    base, twin = others
    rows = measure_outcomes(
        find_attack(name), Outcomes(base, after[name], twin), EDITED, "all", brief=True
    )
    return next(row for row in rows if row.of == EDITED and row.name == f"recovered.{name}")


def make_cell(row: Measured) -> Cell:
    return Cell(value=row.value, n=row.n)


def name_best(outcome: AttackOutcome) -> str:
    best, _ = outcome.take_strongest(None)
    return f"{best.learned} at {best.learning_rate:g}, {best.steps} steps"


def make_row(
    bed: Bed, name: str, loaded: LoadedModel, found: Mapping[str, Found], known: Any
) -> dict[str, Any]:
    """The row of a defense. `found`: by defense, also those of `BASE` and `TWIN`."""
    after, base, never = found[name], found.get(BASE), found.get(TWIN)
    shares = {one: list_shares(one, base, after, never) for one in after}
    best = max(shares, key=lambda one: (shares[one].value or 0.0, -list(shares).index(one)))
    above = shares[best].above_twin
    text = bed.cut_text(WINDOW)
    unlisted = bed.passages.select(bed.unlisted)
    others = Target(loaded.model, loaded.tokenizer, unlisted, unlisted.tokens)
    apart = find_attack("any").run(others).recovered
    way, steps = name, bed.steps[-1]
    if name.endswith(STEPS):
        way, _, told = name.rpartition(", ")
        steps = int(told.removesuffix(STEPS))
    trained = [one for one in ("relearn-strongest", "relearn") if one in after]
    kept = ", --never" if bed.never and name not in (BASE, TWIN) else ""
    row: dict[str, Any] = {
        "bed": Path(bed.model).name if not bed.public else f"{Path(bed.public).name}, fine-tuned",
        "defense": name,
        "way": {TWIN: "twin"}.get(name, way) + kept,
        **({"strength": steps} if "erased" in name else {}),
        **({"healing": bed.heal_steps} if name.endswith("healed") else {}),
        "loss": measure_rise(bed, loaded, text),
        "cost": measure_text(bed.base.model, loaded.model, text)["kl"],
        "form": measure_rise(bed, loaded, bed.unseen),
        "unlisted": Cell(value=float(apart.mean()), n=len(apart)),
        **{one: make_cell(share) for one, share in shares.items() if one in KNOWN},
        **({"setting": name_best(after[trained[0]])} if trained else {}),
        "by": f"`{best}`" if shares[best].value else "",
        "best": make_cell(shares[best]),
    }
    if above is not None and name not in (BASE, TWIN):
        row["above"] = Cell(value=above.difference, ci95=above.ci95, n=shares[best].n)
    if known is not None:
        half = {one: list_shares(one, None, {one: after[one].select(known)}, None) for one in after}
        row["half-known"] = make_cell(max(half.values(), key=lambda share: share.value or 0.0))
    return row


COLUMNS = [
    Column(key="bed", heading="model"),
    Column(key="defense", heading="defense"),
    Column(key="way", heading="way"),
    Column(key="strength", heading="steps", unit="count"),
    Column(key="healing", heading="steps of healing", unit="count"),
    Column(key="loss", heading="loss", unit="rise"),
    Column(key="cost", heading="KL", unit="nats"),
    Column(key="form", heading="form", unit="rise", digits=2),
    Column(key="unlisted", heading="not listed: `any`", unit="share"),
    *(
        Column(key=name, heading=f"`{name}`", unit="share")
        for name in (*ASKING, "relearn", "relearn-strongest")
    ),
    Column(key="setting", heading="by which training"),
    *(Column(key=name, heading=f"`{name}`", unit="share") for name in ("revive", "graft")),
    Column(key="graft-wide", heading="`graft-wide`", unit="share"),
    Column(key="best", heading="best attack", unit="share"),
    Column(key="by", heading="which"),
    Column(key="above", heading="above the model that never saw them", unit="points"),
    Column(key="half-known", heading="best, of the half that it predicts best", unit="share"),
]
KNOWN = {column.key for column in COLUMNS}
MEASURES = ["surgery/training", "evals/measure/attacks"]


def attack_all(bed: Bed, only: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The row of each defense, that of the twin first."""
    found: dict[str, Found] = {}
    known = None

    def look(name: str, loaded: LoadedModel, *, with_cut: bool = True) -> dict[str, Any]:
        kept = bed.output / f"{bed.place(name).name}.found.pickle"  # made by this command alone
        if kept.exists():
            found[name] = pickle.loads(kept.read_bytes())
        else:
            found[name] = attack(bed, loaded, found.get(BASE), with_cut=with_cut)
            kept.write_bytes(pickle.dumps(found[name]))
        return make_row(bed, name, loaded, found, known)

    first = look(BASE, bed.base)
    if bed.twin is not None:
        twin = bed.open(bed.twin)
        known = find_known(bed, twin)
        yield look(TWIN, twin, with_cut=False)
    yield first
    for name, make in bed.list_defenses().items():
        if only and not any(fnmatch(name, one) for one in only):
            continue
        folder = bed.place(name)
        if not folder.exists():
            make(folder)
        yield look(name, bed.open(folder))


@click.command()
@click.argument("model")
@click.option("--samples", help="Passages. [default: a lab model's own]")
@click.option("--heldout", type=Path, multiple=True, help="[default: a lab model's own]")
@click.option("--text", multiple=True, help="[default: a lab model's own]")
@click.option("--cut", required=True, help="BLOCKS:VARIANT, the defense that cuts.")
@click.option("--teacher", required=True, help="BLOCKS[:VARIANT], the cut that teaches.")
@click.option("--public", help="The model that MODEL was fine-tuned from.")
@click.option("--twin", help="A model that never saw the passages. [default: the public one]")
@click.option("--never", is_flag=True, help="Keep half of the records that no model saw.")
@click.option("--leave-out", default=0.25, show_default=True, help="Share that is not listed.")
@click.option("--private", is_flag=True, help="Fine-tune MODEL on records that it never saw.")
@click.option(
    "--steps", multiple=True, default=(60,), show_default=True, help="Of an erasing. Repeatable."
)
@click.option("--heal-steps", default=HEAL_STEPS, show_default=True, help="Of a healing.")
@click.option("--tuned", default=100, show_default=True, help="Steps of a tuned training; 0: none.")
@click.option("--kinds", default=0, help="Tune the first rate of so many kinds alone; 0: of all.")
@click.option(
    "--only", multiple=True, help="A defense, or several, as in 'erased by*'. Repeatable."
)
@click.option(
    "--attack", multiple=True, type=click.Choice(ATTACKS),
    help="Try this attack beside any. Repeatable. [default: all]",
)  # fmt: skip
@click.option("--name", help="Also write benchmarks/results/NAME.json.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.pass_context
def main(
    context: click.Context, model: str, samples: str | None, heldout: tuple[Path, ...],
    text: tuple[str, ...], cut: str, teacher: str, public: str | None, twin: str | None,
    never: bool, leave_out: float, private: bool, steps: tuple[int, ...], heal_steps: int,
    tuned: int, kinds: int, only: tuple[str, ...], attack: tuple[str, ...], name: str | None,
    output: Path,
) -> None:  # fmt: skip
    """Attack each defense of MODEL by those who know it."""
    torch.set_num_threads(1)
    check_asked(output, {
        "model": model, "samples": samples, "cut": cut, "teacher": teacher, "public": public,
        "never": never, "leave_out": leave_out, "private": private, "steps": steps, "tuned": tuned,
        "heal_steps": heal_steps, "kinds": kinds, "attack": attack,
    })  # fmt: skip
    if private:
        place = output / "private"
        public, model = model, str(make_private(model, choose_more_records, PRIVATE_STEPS, place))
        samples = str(place / "records.jsonl")
        heldout, text = (place / "heldout.txt",), (str(place / "text.txt"),)
    first = [next(alike) for _, alike in groupby(TUNED, attrgetter("learned"))]
    taken = first[:kinds] if kinds else TUNED
    trained = tuple(replace(one, steps=tuned) for one in taken if tuned)
    texts = text or (model,)
    bed = Bed(
        model, samples or model, heldout, texts, cut, teacher, public, twin or public, output,
        steps, trained, left_out=leave_out, heal_steps=heal_steps, attacks=attack,
    )  # fmt: skip
    if never:
        bed = replace(bed, never=output / "never.jsonl")
        unseen = bed.passages.select(~bed.passages.trained_on)
        write_samples(replace(unseen, members=None, counts=None), output / "never.jsonl")
    rows = []
    for row in attack_all(bed, only):
        rows.append(row)
        click.echo({key: getattr(cell, "value", cell) for key, cell in row.items()})
        if name:
            typed = "python -m benchmarks.attackers " + _tell(context)
            write_results(name, typed, COLUMNS, rows, measures=MEASURES)


def _tell(context: click.Context) -> str:
    """The arguments of this command, with the names of files and folders alone."""
    model = str(context.params["model"])
    told = [Path(model).name if Path(model).exists() else model]
    for parameter in context.command.params[1:]:
        value = context.params[str(parameter.name)]
        values = value if isinstance(value, tuple) else (value,)
        if value is None or value is False or value in ((), parameter.default):
            continue
        flag = parameter.opts[0]
        words = [shlex.quote(Path(str(one)).name) for one in values]
        told += [flag] if value is True else [f"{flag} {word}" for word in words]
    return " ".join(told)


if __name__ == "__main__":
    main()
