"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("voxtal", deadline=None, max_examples=50)
settings.load_profile("voxtal")


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds setup.cfg."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(project_root: Path) -> Path:
    """The folder of real structures beside the project; without one, tests that need it are skipped."""
    folder = project_root.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the project")
    return folder
