"""Proves that an exported folder is what its manifest says, down to the last byte.

First come the checks of `surgery.proof.static`. Then those of `surgery.proof.behavior`: `loads`
and, for each edited block, `attention-free`. Then `report`, if the caller can read one: the figures
of report.json agree with each other and with the manifest, and its pages show them. Then `card`:
the generated parts of README.md show them, too. `claims` lists what the files cannot prove.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.card.text import read_card
from surgery.checkpoint.source import MANIFEST
from surgery.errors import CheckpointError, ManifestError, SurgeryError
from surgery.hub.finding import find_recorded
from surgery.hub.resolved import ResolvedModel
from surgery.proof.claims import (
    Claim,
    Render,
    check_card,
    check_report,
    list_claims,
    read_report_in,
)
from surgery.proof.static import ALONE, WITH_SOURCE, Check, FileChecks
from surgery.record.manifest import REPORTS, read_manifest
from surgery.untrusted import guard


@dataclass(frozen=True)
class Verification:
    """All checks of a folder. `seed`: of the random input. `claims`: what no check proves."""

    folder: Path
    checks: tuple[Check, ...]
    seed: int
    claims: tuple[Claim, ...] = ()

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
        names = ", ".join(claim.name for claim in self.claims)
        return f"verified {how}: {len(self.checks)} checks passed; claimed but not checked: {names}"

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "folder": str(self.folder),
            "seed": self.seed,
            "checks": [asdict(check) for check in self.checks],
            "claims": [asdict(claim) for claim in self.claims],
        }


def verify(
    folder: str | Path,
    *,
    source: str | Path | ResolvedModel | None = None,
    revision: str | None = None,
    seed: int | None = None,
    render: Render | None = None,
    card: bool = True,
) -> Verification:
    """Checks an exported folder. Stops at the first check that fails.

    **Arguments:** `source`: a folder or Hub id (default of `revision`: the recorded commit).
    `seed`: repeats the random input of an earlier run (default: a new one). `render`: reads and
    renders a report (`evals.publication.report.render_report`); without it, neither a report nor a
    card beside one is checked. `card`: whether to compare README.md.

    **Raises:** `ManifestError` if the folder has no manifest; as `find_model` for the source;
    ValueError for `revision` without `source`.
    """
    if revision is not None and source is None:
        raise ValueError("`revision` goes with `source`, whose revision it is")
    path = Path(folder)
    manifest = read_manifest(path)
    if manifest is None:
        fix = "verify a folder that `attn-surgery export` wrote"
        raise ManifestError(f"has no {MANIFEST}", where=path, fix=fix)
    found = None if source is None else find_recorded(source, revision, manifest.edit.source)
    seed = secrets.randbits(32) if seed is None else seed
    files, report, name = FileChecks(path, manifest, found), None, ""
    checks: list[Check] = []
    try:
        for name in (*ALONE, *(WITH_SOURCE if found is not None else ())):
            with guard(CheckpointError, "cannot be verified", path):
                checks.append(Check(name, True, getattr(files, f"check_{name}")()))
        name = "loads"
        from surgery.proof.behavior import check_behavior  # needs torch and transformers

        checks += check_behavior(path, manifest, seed)
        name = "report"
        fine = all(check.ok for check in checks)
        if fine and render is not None:
            report = read_report_in(path, path, render)
        if report is not None:
            checks.append(Check(name, True, check_report(path, report)))
        name = "card"
        is_known = render is not None or not (path / REPORTS[0]).exists()
        if fine and card and is_known and read_card(path) is not None:
            checks.append(Check(name, True, check_card(path, manifest, report)))
    except SurgeryError as error:
        checks.append(Check(name, False, str(error)))
    ok = all(check.ok for check in checks)
    claims = tuple(list_claims(path, manifest, report, found)) if ok else ()
    return Verification(path, tuple(checks), seed, claims)
