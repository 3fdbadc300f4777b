"""Debian's Firefox without a window, on a profile of its own."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doceval_pipeline_tests.outsiders.installed import program

SETTINGS = """
user_pref("app.update.enabled", false);
user_pref("browser.send_pings", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("dom.disable_open_during_load", false);
user_pref("dom.popup_maximum", 100);
"""


@contextmanager
def firefox(*addresses: str) -> Iterator[None]:
    """Firefox with a tab for each address; it may open windows without a click."""
    with tempfile.TemporaryDirectory(prefix="doceval-firefox-", ignore_cleanup_errors=True) as home:
        profile = Path(home, "profile")
        profile.mkdir()
        (profile / "user.js").write_text(SETTINGS)
        command = [str(program("firefox-esr", "firefox-esr")), "--headless", "--no-remote", "--profile"]
        process = subprocess.Popen(
            [*command, str(profile), *addresses],
            env={"HOME": home, "PATH": os.environ["PATH"]},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
