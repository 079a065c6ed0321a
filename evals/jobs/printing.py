"""Prints a page to a PDF file, with a browser that is on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from surgery.errors import MeasurementError
from surgery.output import create_folder, recognize_mark

BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
_SECONDS = 120
_MARK = b"%attn-surgery\n"  # a comment, which readers of PDF skip
PRINTED = recognize_mark("a PDF", _MARK)
_FIX = "print report.html yourself"


def find_browser() -> str:
    """Returns a browser that can print. Raises `MeasurementError` if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise MeasurementError(
            "no browser that can print a PDF",
            expected="Chromium, Chrome, or Edge",
            fix="install one, or open report.html in your browser and print it",
        )
    return found


def print_page(browser: str, page: Path, target: Path, *, overwrite: bool = False) -> None:
    """Prints a page that loads nothing.

    Raises `MeasurementError` if the browser fails, and `OutputError` if `target` exists and may not
    be replaced; an earlier file there then stays.
    """
    with create_folder(target, PRINTED, overwrite=overwrite) as printed:
        _run_browser(browser, page, printed)
        if not printed.is_file():
            raise MeasurementError("printed no PDF", where=browser, fix=_FIX)
        with printed.open("ab") as file:
            file.write(_MARK)


def _run_browser(browser: str, page: Path, printed: Path) -> None:
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses to run as root
    command = [browser, "--headless", "--disable-gpu", *as_root, "--no-pdf-header-footer"]
    try:
        subprocess.run(
            [*command, f"--print-to-pdf={printed.resolve()}", page.resolve().as_uri()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        what = f"printed no PDF ({type(error).__name__})"
        raise MeasurementError(what, where=browser, fix=_FIX) from None
