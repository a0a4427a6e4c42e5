# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: the mock library, warnings, and how hard hypothesis tries."""

from __future__ import annotations

import os
import signal

import pytest

# It comes with an installation; named for a checkout that was installed before it was there.
pytest_plugins = ["llm_datadist_cffi_pytest"]

# Chosen, not found: so no test but those of the warning sees "no device was found".
os.environ.setdefault("LLM_DATADIST_BACKEND", "mock")

# A warning that a user's compiler prints is an error in what the tests build.
os.environ.setdefault("LLM_DATADIST_WERROR", "1")

# A shell starts its background jobs with SIGINT ignored, which programs that the tests interrupt
# would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

try:
    import hypothesis
except ModuleNotFoundError:
    # Without hypothesis everything but the property tests runs.
    hypothesis = None
else:
    # Real processes and sanitizers make single examples slow at times: no deadline.
    hypothesis.settings.register_profile("default", max_examples=50, deadline=None)
    hypothesis.settings.register_profile(
        "ci", max_examples=500, deadline=None, print_blob=True, derandomize=True
    )
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the files that are marked slow last, so that most of what can fail fails early; and
    first where files run beside each other, so that no process is left alone with one of them.
    """
    items.sort(key=_is_slow, reverse=hasattr(config, "workerinput"))


def _is_slow(item: pytest.Item) -> bool:
    # Of a whole file: the fixtures of a file are set up once.
    module = item.getparent(pytest.Module)
    return module is not None and module.get_closest_marker("slow") is not None
