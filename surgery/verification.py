"""Proves that an exported folder is what its manifest says, down to the last byte.

First come the checks of `surgery.checks`. Then those of `surgery.behavior`: `loads`
and, for each edited block, `attention-free`. Then `report`, if there is one: report.json and its
pages are those that the manifest records, and about this model. Then `card`: the generated parts of
README.md show the report's figures, and nothing else. The files cannot prove these figures;
`claims` lists this and whatever else no check reads.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.card.measurements import build_measurements
from surgery.card.text import (
    compare_card,
    extract_own_text,
    find_name,
    list_own_keys,
    read_card,
)
from surgery.checkpoint import CARD, MANIFEST, list_files, open_checkpoint, read_config
from surgery.checks import WITH_SOURCE, Check, Claim, claim_added, list_checks
from surgery.config import check_config, find_method
from surgery.errors import CheckpointError, ManifestError, SurgeryError
from surgery.hub.finding import find_export, find_folder, find_recorded
from surgery.hub.resolved import ResolvedModel
from surgery.plan import check_attention
from surgery.record.manifest import RECIPE, REPORTS, Manifest, list_versions, parse_manifest
from surgery.record.report import Report
from surgery.record.reports import read_report
from surgery.untrusted import read_bytes

TOOL = "attn-surgery"
_REPEAT = "run the commands of its card"
_OTHERS = (
    "verify a model that `attn-surgery export` wrote, or measure any other with "
    "`attn-surgery audit`"
)


@dataclass(frozen=True)
class Verification:
    """All checks of a folder. `seed` made the random input. `claims`: what no check proves.

    `commit`: that of a model on the Hub. Its folder is in the client's cache.
    """

    folder: Path
    checks: tuple[Check, ...]
    seed: int
    claims: tuple[Claim, ...] = ()
    commit: str | None = None

    @property
    def ok(self) -> bool:
        return self.failed is None

    @property
    def failed(self) -> Check | None:
        """The first check that failed."""
        return next((check for check in self.checks if not check.ok), None)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.failed is not None:
            return f"NOT verified: {self.failed.name}: {self.failed.detail}"
        compared = any(check.name in WITH_SOURCE for check in self.checks)
        how = "against its source" if compared else "without its source"
        names = [claim.name for claim in self.claims]
        trained = " or ".join(name for name in names if name in ("erasing", "healing"))
        less = f", but none proves what {trained} did to the weights" if trained else ""
        passed = f"{len(self.checks)} checks passed{less}"
        return f"verified {how}: {passed}; claimed but not checked: {', '.join(names)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "folder": str(self.folder),
            "commit": self.commit,
            "seed": self.seed,
            "checks": [asdict(check) for check in self.checks],
            "claims": [asdict(claim) for claim in self.claims],
        }


def verify(
    model: str | Path,
    *,
    source: str | Path | ResolvedModel | None = None,
    revision: str | None = None,
    seed: int | None = None,
    papers: bool = True,
    text: bytes | None = None,
) -> Verification:
    """Checks an exported folder, or a published one. Stops at the first check that fails.

    **Arguments:** `model`, `source`: a folder or Hub id; `model` may be an adapter. `revision`: a
    commit of `model` if that is a Hub id, else of `source` (default: the recorded one). `seed`:
    repeats the random input of an earlier run (default: a new one). `papers`: whether to check the
    report and README.md. `text`: what surgery.json holds, if you have read it (`read_record`); the
    folder is checked against that.
    """
    is_of_source = source is not None and find_folder(model) is not None
    result, others = find_export(model, None if is_of_source else revision)
    path = result.folder
    if text is None and not (path / MANIFEST).exists():
        _check_biases(path)  # which tells more
    text = text or read_record(path, _OTHERS, model)
    manifest = parse_manifest(text, path / MANIFEST)
    found = None
    if source is not None:
        named = revision if is_of_source else None
        found = find_recorded(source, named, manifest.step.source)
    seed = secrets.randbits(32) if seed is None else seed
    checks = [Check("files", False, f"{min(others)} is not in the manifest")] if others else []
    checks += () if others else list_checks(path, manifest, found)
    unread: list[Claim] = []
    report, name, fine = None, "loads", all(check.ok for check in checks)
    try:
        if fine and not manifest.step.is_adapter:  # which runs on its base alone
            found_out, unread = _check_behavior(path, manifest, seed, found)
            checks += found_out
            fine = all(check.ok for check in checks)
        name = "report"
        report = read_report(path, manifest)[0] if fine and papers else None
        if report is not None:
            detail = f"it is as {MANIFEST} records it; nothing was measured again"
            checks.append(Check(name, True, detail))
            pages = " and ".join(page for page in REPORTS[1:] if (path / page).exists())
            what = f"that they show what {REPORTS[0]} holds: to be sure, evaluate again"
            unread += [Claim(pages, what)] if pages else []
        name = "card"
        if fine and papers and read_card(path) is not None:
            agrees, detail = _check_card(result, manifest, report)
            checks += [Check(name, True, detail)] if agrees else []
            unread += [] if agrees else [Claim(CARD, detail)]
            unread += _check_name(result)
    except SurgeryError as error:
        checks.append(Check(name, False, str(error)))
    ok = all(check.ok for check in checks)
    claims = [*unread, *_list_claims(path, manifest, report, found)] if ok else []
    if ok and others is None:
        claims.append(Claim("repository", "that it holds no other file: the Hub was not reached"))
    return Verification(path, tuple(checks), seed, tuple(claims), result.source.commit)


def _check_biases(folder: Path) -> None:
    """As `check_attention`, for a folder that may be no model."""
    try:
        checkpoint = open_checkpoint(folder)
        check_config(checkpoint.config)
    except SurgeryError:
        return
    check_attention(checkpoint.config, checkpoint.tensors)


def _check_behavior(
    folder: Path, manifest: Manifest, seed: int, found: ResolvedModel | None
) -> tuple[list[Check], list[Claim]]:
    """The checks that run the model, or a claim where that takes a package that is not here."""
    from surgery.behavior import check_behavior  # needs torch and transformers

    try:
        source = None if found is None else found.folder
        return check_behavior(folder, manifest, seed, source), []
    except SurgeryError:
        method = find_method(read_config(folder))
        if method is None:
            raise
        what = f"weights quantized by {method} are not loaded here"
        return [], [Claim("loads", f"that it loads, and what its heads do: {what}")]


def read_record(folder: Path, fix: str, named: str | Path) -> bytes:
    """Reads surgery.json once. Raises `ManifestError` with `fix` if `named` has none."""
    path = folder / MANIFEST
    if not path.exists():
        raise ManifestError(f"has no {MANIFEST}", where=named, fix=fix)
    return read_bytes(path, ManifestError)


def _check_card(
    model: ResolvedModel, manifest: Manifest, report: Report | None
) -> tuple[bool, str]:
    """Whether the generated parts could be compared, and what was found.

    Raises `CheckpointError` if one differs. What another version wrote may differ, and anyone can
    write that another version did.
    """
    measured = build_measurements(report) if report else None
    card = read_card(model.folder) or ""
    wrong, missing = compare_card(card, manifest, measured, name=model.source.model)
    wrote = (report.provenance if report else manifest.step).versions.get(TOOL)
    if wrong is None and missing:
        parts = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        return False, f"all that it says: it lacks what attn-surgery wrote of {parts}"
    if wrong is None:
        return True, f"agrees with surgery.json{f' and {REPORTS[0]}' if report else ''}"
    if _is_ours(wrote):
        raise CheckpointError(f"{wrong} of {CARD} is not what surgery.json and {REPORTS[0]} give")
    return False, f"{wrong}, which attn-surgery {wrote} is said to have written"


def _check_name(model: ResolvedModel) -> list[Claim]:
    """The repository that the card tells people to load, if it is another one, or this is a folder:
    nobody looked at it."""
    said = find_name(read_card(model.folder) or "") or ""
    is_this = model.source.commit and said.casefold() == model.source.model.casefold()
    if "/" not in said or is_this:
        return []
    what = f"that {said!r}, which it tells people to load, is this model: only this one was checked"
    return [Claim(f"the name in {CARD}", what)]


def _list_claims(
    folder: Path, manifest: Manifest, report: Report | None, found: ResolvedModel | None
) -> Iterator[Claim]:
    """Yields what a folder claims beyond its checks. `found`: the source, if given."""
    source = manifest.step.source
    named = f"{source.model}{f' at commit {source.commit}' if source.commit else ''}"
    if found is None:
        yield Claim("source", f"that {named} was edited: to check it, give it as `source`")
    elif not found.has_name:
        shows = "a folder only shows its content, which is as recorded"
        yield Claim("source", f"its name, {named}: {shows}")
    if len(manifest.history) > 1:
        yield Claim("history", "the sources of earlier steps")
    if any(step.calibration for step in manifest.history):
        yield Claim("calibration", f"the text and the fits: to repeat them, {_REPEAT}")
    for name, is_so, what in (
        ("erasing", manifest.erasings, "passages and text"),
        ("healing", manifest.healings, "text and passages"),
    ):
        if is_so:
            trained = f"that training on the recorded {what} only made the weights"
            yield Claim(name, f"{trained}, which the source cannot prove: to repeat it, {_REPEAT}")
    yield Claim("versions", "the software that made the edit")
    if report:
        yield Claim(REPORTS[0], "what it measured: to measure again, run `attn-surgery evaluate`")
    elif manifest.step.is_adapter:
        yield Claim("measurements", "how its base does with it")
    else:
        what = "how it does, as the folder has no report: run `attn-surgery evaluate`"
        yield Claim("measurements", what)
    unread = (RECIPE, "lm_eval") if report else (*REPORTS, RECIPE, "lm_eval")
    card = read_card(folder) or ""
    own = ["everything outside its generated parts"] if extract_own_text(card) else []
    if keys := list_own_keys(card):
        own.append(f"of its metadata, {', '.join(keys)}")
    if own:
        yield Claim(CARD, "; ".join(own))
    for name in (name for name in unread if (folder / name).exists()):
        yield Claim(name, "not read by any check")
    yield from claim_added(list_files(folder))


def _is_ours(version: str | None) -> bool:
    """Whether it is the version of attn-surgery that is running."""
    return version == list_versions().get(TOOL)
