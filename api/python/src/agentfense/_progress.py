"""Progress of uploads: a callback, or a bar on the terminal.

A callback is called in the caller's thread (asynchronous clients: in the event loop's), some ten
times a second at most, and once at the end. What it raises ends the upload and is raised there.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Optional, Union

from .types import UploadProgress

Progress = Union[None, bool, Callable[[UploadProgress], None]]


class Bar:
    """A bar for people: tqdm's when it is installed, else a line on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._line = ""
        self._tqdm: Any = None
        try:
            import tqdm
        except ImportError:
            return
        self._tqdm = tqdm.tqdm

    def __call__(self, now: UploadProgress) -> None:
        """Shows a state."""
        if self._tqdm is None:
            self._plain(now)
            return
        if self._bar is None:
            self._bar = self._tqdm(
                total=now.bytes_total, unit="B", unit_scale=True, desc="upload", leave=False
            )
        self._bar.set_postfix(files=f"{now.files_done}/{now.files_total}", refresh=False)
        self._bar.update(now.bytes_done - self._bar.n)

    def _plain(self, now: UploadProgress) -> None:
        if not sys.stderr.isatty():
            return
        percent = 100 * now.bytes_done // now.bytes_total if now.bytes_total else 100
        line = f"upload {percent:3d} % ({now.files_done}/{now.files_total} files)"
        if line != self._line:
            self._line = line
            sys.stderr.write(f"\r{line}")
            sys.stderr.flush()

    def close(self) -> None:
        """Takes it off the terminal."""
        if self._bar is not None:
            self._bar.close()
        elif self._line:
            sys.stderr.write("\r" + " " * len(self._line) + "\r")
            sys.stderr.flush()


class Reporter:
    """Calls the callback when there is news."""

    def __init__(self, progress: Progress) -> None:
        self._bar: Optional[Bar] = None
        self._callback: Optional[Callable[[UploadProgress], None]] = None
        if progress is True:
            self._bar = self._callback = Bar()
        elif callable(progress):
            self._callback = progress
        elif progress:
            raise TypeError("progress must be a callback, True or None")
        self._last: Any = None

    def __call__(self, now: UploadProgress) -> None:
        """Reports a state unless it is the last one again."""
        seen = (now.files_done, now.bytes_done, now.path)
        if self._callback is not None and seen != self._last:
            self._last = seen
            self._callback(
                UploadProgress(
                    now.files_done, now.files_total, now.bytes_done, now.bytes_total, now.path
                )
            )

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
