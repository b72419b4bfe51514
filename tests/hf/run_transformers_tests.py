"""Run the test classes of transformers on a tiny causal and a tiny encoder-decoder model of ours.

The tests are those of the installed version, taken out of its source distribution, which pip
fetches from the package index. That distribution has the common test class and not the one of
generation: give the `tests` directory of a checkout with --tests to run both.

    python tests/hf/run_transformers_tests.py
    python tests/hf/run_transformers_tests.py --tests ~/transformers/tests -k generate

Prints each failure with its reason from `transformers_failures.json`; exits with 1 where a test
fails that is not listed there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import transformers

HERE = Path(__file__).parent
MODELS = HERE / "transformers_models.py"
EXPLAINED = HERE / "transformers_failures.json"
NOT_DISTRIBUTED = {
    "exporters/test_export.py": "ExportTesterMixin",
    "generation/test_utils.py": "GenerationTesterMixin",
}
"""Modules that the common tests import and the source distribution lacks, with what they hold."""


def distributed_tests(place: Path) -> Path:
    """Return the tests of the installed version, unpacked into `place`."""
    name = f"transformers=={transformers.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-binary", "transformers", "--dest", str(place), name]
    subprocess.run(command, check=True)
    [archive] = place.glob("transformers-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(place, filter="data")
    return place / archive.name.removesuffix(".tar.gz") / "tests"


def prepared(tests: Path, place: Path) -> Path:
    """Return a package of the tests with ours beside them, and empty classes for what is
    missing."""
    package = place / "package" / "tests"
    shutil.copytree(tests, package)
    (package / "__init__.py").touch()
    for name, held in NOT_DISTRIBUTED.items():
        path = package / name
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(f"class {held}:\n    pass\n", encoding="utf-8")
    shutil.copyfile(MODELS, package / "test_multistride.py")
    return package


def failures(package: Path, options: list[str]) -> tuple[dict[str, str], int, int]:
    """Return why each failed test failed, how many passed, and how many were skipped."""
    report = package.parent / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    command += [f"--junitxml={report}", f"--rootdir={package.parent}", *options]
    command.append(str(package / "test_multistride.py"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    log = package.parent / "log"
    with log.open("w") as output:
        subprocess.run(
            command, cwd=package.parent, env=environment, stdout=output, stderr=output, check=False
        )
    if not report.is_file():
        sys.exit(log.read_text()[-4000:])
    found, passed, skipped = {}, 0, 0
    for case in ElementTree.parse(report).iter("testcase"):
        trouble = case.find("failure")
        trouble = case.find("error") if trouble is None else trouble
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        if trouble is not None:
            found[name] = trouble.get("message", "").strip().splitlines()[-1][:200]
            if os.environ.get("MULTISTRIDE_TRACEBACKS"):
                print(name, trouble.text, sep="\n")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return found, passed, skipped


def main() -> None:
    """Run the tests and compare what fails with the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=Path, help="the tests directory of a checkout")
    parser.add_argument("-k", help="only tests whose names match, as pytest selects them")
    arguments = parser.parse_args()
    explained = json.loads(EXPLAINED.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        tests = arguments.tests or distributed_tests(place)
        options = ["-k", arguments.k] if arguments.k else []
        found, passed, skipped = failures(prepared(tests, place), options)
    print(f"transformers {transformers.__version__}: {passed} passed, {skipped} skipped")
    for name, message in sorted(found.items()):
        print(f"FAILED {name}: {explained.get(name, f'NOT EXPLAINED: {message}')}")
    sys.exit(any(name not in explained for name in found))


if __name__ == "__main__":
    main()
