"""Reports are made where torch is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import multistride

SCRIPT = """
import importlib, pkgutil, sys
class NoTorch:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is not installed")
sys.meta_path.insert(0, NoTorch())
import multistride.metrics, multistride.report
for package in (multistride.metrics, multistride.report):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
from multistride.report.show import show_file
show_file(sys.argv[1])
"""


def test_every_module_of_report_and_metrics_works_without_torch():
    # Guards: an import that makes a table need a model's libraries.
    root = Path(__file__).parents[3]
    source = Path(multistride.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, root / "results/multi30k-adapted.json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    assert done.returncode == 0, done.stderr
    assert "BLEU" in done.stdout
