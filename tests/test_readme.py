"""What the README says is so."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()


def test_the_table_of_networks_is_what_the_benchmark_prints() -> None:
    command = [sys.executable, "-m", "benchmarks.architectures"]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() in README


def test_every_file_it_links_to_is_there() -> None:
    links = [part.partition(")")[0] for part in README.split("](")[1:]]
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (PROJECT / link).exists()] == []
