# SPDX-License-Identifier: Apache-2.0
"""Counts for CI: one JSON file a suite in build/reports, {test: passed|failed|flaky|skipped|skipped: REASON}.

report.py failed FILE             prints what failed in a suite's file
report.py flaky FILE TEST         a failed test has passed when run alone
report.py ctest FILE JUNIT        a suite's file from what ctest wrote
report.py single FILE TEST HOW    a suite's file with one more entry
report.py merge FILE PART         PART's tests are FILE's from now on
report.py total DIRECTORY LIST    adds all up; LIST names what must not be skipped. Exit status 1 where something is wrong
"""

import fnmatch
import json
import re
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

Report = dict[str, str]


def load(file: str) -> Report:
    path = Path(file)
    return json.loads(path.read_text()) if path.exists() else {}


def save(file: str, report: Report) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps(report, indent=1) + "\n")


def failed(file: str) -> None:
    print("\n".join(test for test, how in load(file).items() if how == "failed"))


def single(file: str, test: str, how: str) -> None:
    save(file, {**load(file), test: how})


def merge(file: str, part: str) -> None:
    save(file, {**load(file), **load(part)})
    Path(part).unlink(missing_ok=True)


def ctest(file: str, junit: str) -> None:
    """A test program prints a line a test and a summary; one that dies before that counts as one failure."""
    report: Report = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        name = f"csrc/tests/{case.get('name')}.c"
        output = case.findtext("system-out") or ""
        counts = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", output, re.M)
        died = case.get("status") == "fail" and not (counts and int(counts[-1][1]))
        if not counts or died:
            report[name] = {"run": "passed", "notrun": "skipped"}.get(case.get("status") or "", "failed")
        for passed, bad, skipped in counts[-1:]:
            reasons = re.findall(r"^skipped (\w+): (.*)$", output, re.M)
            report.update({f"{name}::{test}": f"skipped: {reason}" for test, reason in reasons})
            for how, count in (("passed", passed), ("failed", bad), ("skipped", int(skipped or 0) - len(reasons))):
                report.update({f"{name}::{how}-{number + 1}": how for number in range(int(count))})
    save(file, report)


def total(directory: str, must_run: str) -> int:
    counts: Counter[str] = Counter()
    passed: set[str] = set()
    wrong = False
    for path in sorted(Path(directory).glob("*.json")):
        report = load(str(path))
        counted = Counter(how.partition(":")[0] for how in report.values())
        counts += counted
        print(f"  {path.stem:14} " + ", ".join(f"{counted[how]} {how}" for how in ("passed", "flaky", "failed", "skipped") if counted[how]))
        for test, how in report.items():
            if how in ("passed", "flaky"):
                passed.add(f"{path.stem} {test.partition('[')[0]}")
            if how in ("failed", "flaky"):
                print(f"    {how.upper()}: {test}")
        for how, count in Counter(how for how in report.values() if how.startswith("skipped: ")).most_common():
            print(f"    {how} ({count})")
    for line in Path(must_run).read_text().splitlines():
        wanted = " ".join(line.partition("#")[0].split())
        if wanted and not any(fnmatch.fnmatchcase(one, wanted) for one in passed):
            print(f"    MUST NOT BE SKIPPED, and did not pass: {wanted}")
            wrong = True
            counts["failed"] += 1
    print(f"{counts['passed'] + counts['flaky']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if wrong or counts["failed"] or not counts["passed"] else 0


def main() -> int:
    verb, *arguments = sys.argv[1:]
    if verb == "flaky":
        single(*arguments, "flaky")
        return 0
    return {"failed": failed, "single": single, "merge": merge, "ctest": ctest, "total": total}[verb](*arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
