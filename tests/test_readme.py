"""The README's table of networks, and the links of all Markdown files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def output_of(*command: str) -> str:
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout


def local_links(file: str) -> list[str]:
    """Return the links of a Markdown file that lead to files, without the part after `#`."""
    targets = re.findall(r"\]\(([^)#\s]+)", (PROJECT / file).read_text())
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


MARKDOWN_FILES = output_of("git", "ls-files", "*.md").splitlines()


def test_the_table_of_networks_equals_the_output_of_the_benchmark() -> None:
    printed = output_of(sys.executable, "-m", "benchmarks.architectures")
    assert printed.strip() in (PROJECT / "README.md").read_text()


def test_the_readme_links_to_local_files() -> None:
    assert "README.md" in MARKDOWN_FILES
    assert local_links("README.md")


@pytest.mark.parametrize("file", MARKDOWN_FILES)
def test_every_local_link_leads_to_a_file_that_exists(file: str) -> None:
    folder = (PROJECT / file).parent
    assert [link for link in local_links(file) if not (folder / link).exists()] == []
