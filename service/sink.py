"""Results of one command in, one by one; standard output, a file, or a folder of subtitle files out.

What a file held before stays there until the first result comes.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Self, TextIO

from service import formats
from service.errors import InvalidOptions
from service.formats import Format
from service.localization import Localization


class Sink:
    """Where results go: one text or, for subtitles of several videos, a folder. Opened before the work begins."""

    def __init__(self, wanted: Format, output: Path | None, names: list[str]) -> None:
        self._format: Format = wanted
        self._several = len(names) > 1
        self._results: list[Localization] = []
        self._folder = self._open_folder(output, names) if wanted in formats.SUBTITLES and self._several else None
        if wanted == "activitynet" and len(set(names)) != len(names):
            raise InvalidOptions("a video stands twice in the list; ActivityNet's format holds each once")
        self._output = output if self._folder is None else None
        self._file = sys.stdout if self._output is None else _opened(self._output)
        self._begun = False

    def __enter__(self) -> Self:
        if not self._holds_something:
            self._begin()
        return self

    def add(self, result: Localization) -> None:
        if self._folder is not None:
            (self._folder / f"{result.video_name}.{self._format}").write_text(
                formats.write([result], self._format), encoding="utf-8"
            )
        elif self._format in formats.STREAMED:
            self._begin()
            self._write(formats.append(result, self._format))
        else:
            self._results.append(result)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        collected = self._folder is None and self._format not in formats.STREAMED
        if collected and (self._results or (self._several and not self._holds_something)):
            self._begin()
            self._write(formats.write(self._results, self._format, several=self._several))
        if self._file is not sys.stdout:
            self._file.close()

    @property
    def _holds_something(self) -> bool:
        """Whether the file has a content of before."""
        return self._output is not None and not self._begun and _is_plain(self._file) and self._file.tell() > 0

    def _begin(self) -> None:
        if self._begun:
            return
        if self._output is not None and _is_plain(self._file):
            self._file.truncate(0)
        self._begun = True
        if self._format in formats.STREAMED and self._folder is None:
            self._write(formats.opening(self._format))

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InvalidOptions(f"the output cannot be written: {error.strerror}") from None

    def _open_folder(self, output: Path | None, names: list[str]) -> Path:
        if output is None:
            raise InvalidOptions(
                f"{self._format} holds one video, {len(names)} were asked for; name a folder with --output"
            )
        if any(Path(name).name != name for name in names) or len(set(names)) != len(names):
            clash = next((name for name in names if Path(name).name != name), names[0])
            raise InvalidOptions(f"several videos have the same name ({clash}), so their subtitles would be one file")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidOptions(f"output {output} cannot be a folder: {error.strerror}") from None
        return output


def _opened(output: Path) -> TextIO:
    try:
        return output.open("a", encoding="utf-8")
    except OSError as error:
        raise InvalidOptions(f"output {output} cannot be written: {error.strerror}") from None


def _is_plain(file: TextIO) -> bool:
    """No pipe or device, which have no content to keep."""
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
