"""What the project installs: few packages, each with a reason, all locked."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = ["requirements.txt", "requirements-dev.txt"]


def declared(section: str, option: str) -> set[str]:
    setup = ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    return set(re.findall(r"^([\w-]+)", setup[section][option], re.MULTILINE))


def locked(name: str) -> dict[str, int]:
    """Package name to the number of hashes that pin it."""
    blocks = re.split(r"^(?=[a-z])", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]
    return {block.split("==")[0]: block.count("--hash=sha256:") for block in blocks}


def test_there_are_at_most_nine_runtime_dependencies() -> None:
    assert len(declared("options", "install_requires")) <= 9


def test_every_runtime_dependency_has_one_line_that_says_why() -> None:
    document = (ROOT / "docs/dependencies.md").read_text().split("For development only")[0]
    explained = re.findall(r"^\| ([\w-]+) \| .{20,} \|$", document, re.MULTILINE)
    assert sorted(explained) == sorted(declared("options", "install_requires"))


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    assert all(locked(name).values())
    assert "://" not in (ROOT / name).read_text()


def test_the_locks_hold_what_setup_cfg_declares() -> None:
    runtime = declared("options", "install_requires")
    assert runtime <= set(locked(LOCKS[0]))
    assert set(locked(LOCKS[0])) | declared("options.extras_require", "dev") <= set(
        locked(LOCKS[1])
    )


def test_the_node_lock_holds_no_address() -> None:
    assert "://" not in (ROOT / "tests/node/package-lock.json").read_text()
