from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_measured_tables_are_those_of_the_stored_reports() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "build_bench.py"), "--check"], check=False)
    assert done.returncode == 0, "run: python docs/build_bench.py"
