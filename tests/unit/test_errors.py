from __future__ import annotations

import inspect
import subprocess
import sys

from tenure import errors


def test_every_error_is_drawn_in_the_tree_of_its_module() -> None:
    names = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert errors.__doc__ is not None
    assert {name for name in names if name not in errors.__doc__} == set()


def test_importing_tenure_does_not_import_torch() -> None:
    code = "import sys, tenure, tenure.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
