# SPDX-License-Identifier: Apache-2.0
"""The logger of the package (contract 1.11)."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import TextIO

__all__ = ["get_logger", "redirect"]

_LEVELS = {"0": logging.DEBUG, "1": logging.INFO, "2": logging.WARNING, "3": logging.ERROR}


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable before Python 3.11
    """Writes to what sys.stdout is at that moment, as tests and tools replace it."""

    def __init__(self) -> None:
        self.redirected: TextIO | None = None
        super().__init__(sys.stdout)

    @property
    def stream(self) -> TextIO:
        return self.redirected or sys.stdout

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass


class _JsonFormatter(logging.Formatter):
    """One JSON object per line, with the names that the library's own lines have."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return json.dumps(
            {
                "time": round(record.created, 3),
                "level": record.levelname,
                "logger": record.name,
                "process": record.process,
                "thread": threading.get_native_id(),
                "message": message,
            }
        )


def _formatter() -> logging.Formatter:
    if os.environ.get("LLM_DATADIST_LOG") == "json":
        return _JsonFormatter()
    return logging.Formatter(
        "[%(levelname)s] %(name)s(%(process)d,%(threadName)s):%(asctime)s %(message)s"
    )


_HANDLER = _Handler()
_HANDLER.setFormatter(_formatter())


def _make_logger() -> logging.Logger:
    logger = logging.getLogger("LLM_DATADIST")
    logger.setLevel(_LEVELS.get(os.environ.get("ASCEND_GLOBAL_LOG_LEVEL", ""), logging.ERROR))
    logger.addHandler(_HANDLER)
    logger.propagate = False
    return logger


_LOGGER = _make_logger()


def get_logger() -> logging.Logger:
    """Return the logger "LLM_DATADIST": to stdout, from the level of ASCEND_GLOBAL_LOG_LEVEL on."""
    return _LOGGER


def redirect(stream: TextIO | None) -> None:
    """Send the log to stream, for tools whose stdout is their result; None: to stdout again."""
    _HANDLER.redirected = stream
