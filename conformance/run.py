# SPDX-License-Identifier: Apache-2.0
"""Runs a public conformance suite against one runtime or several, and prints their scores side by side.

    python conformance/run.py runc-bats     --checkout DIR --runtime PATH [--runtime runc ...] [--only exec --only mounts] [--case REGEX]
    python conformance/run.py runtime-tools --checkout DIR --runtime PATH [...]
    python conformance/run.py own           --runtime PATH [...]

The first runtime is the one that is judged; the others are its peers, and run on the same machine, each group of cases one after the
other. --json keeps every verdict with what the case printed; --markdown writes the table for people; --logs keeps what each group printed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parent))
import host
import own
import runc_bats
import runtime_tools
import table
import tap
import terminal

SUITES: dict[str, ModuleType] = {"runc-bats": runc_bats, "runtime-tools": runtime_tools, "own": own}


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--checkout", type=Path, default=Path(), help="where the suite is; its helper programs are built")
    parser.add_argument("--runtime", action="append", required=True, help="a path, or a command on PATH; may be repeated")
    parser.add_argument("--only", action="append", metavar="GROUP", help="a file or program of the suite; may be repeated")
    parser.add_argument("--case", metavar="REGEX", help="only cases of that name (runc-bats, own)")
    parser.add_argument("--v1-controllers", action="store_true", help="mount hugetlb, net_cls and net_prio where no cgroup v1 hierarchy has them")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--logs", type=Path, metavar="DIR")
    return parser.parse_args(words)


def resolve(name: str) -> Path:
    found = shutil.which(name)
    if not found:
        raise SystemExit(f"conformance: there is no runtime {name}")
    return Path(found).absolute()


def label(runtime: Path) -> str:
    """What the runtime says of itself, in two words; Debian's crun calls its commit first."""
    done = subprocess.run([runtime, "--version"], capture_output=True, text=True)
    words = (done.stdout.splitlines() or [runtime.name])[0].split()
    return " ".join(word for word in words if word != "version")


def run(options: argparse.Namespace, place: Path) -> table.Verdicts:
    """Group by group, runtime by runtime, so that all of them see the machine in the same hour."""
    suite = SUITES[options.suite]
    runtimes = [resolve(name) for name in options.runtime]
    labels = [label(runtime) for runtime in runtimes]
    verdicts: table.Verdicts = {name: {} for name in labels}
    for group in options.only or suite.groups(options.checkout):
        for runtime, name in zip(runtimes, labels, strict=True):
            log = (options.logs or place) / f"{group.replace('/', '_')}.{runtime.parent.name}-{runtime.name}.log"
            cases = list(suite.run(options.checkout, runtime, place, group, options.case, log))
            verdicts[name][group] = cases
            print(f"{group:32} {name:24} {table.tally(cases)}", file=sys.stderr, flush=True)
    return verdicts


def main() -> int:
    options = arguments()
    options.checkout = options.checkout.absolute()
    lack = SUITES[options.suite].lacking(options.checkout)
    if lack:
        print("conformance: needed and not here:", *lack, sep="\n  ", file=sys.stderr)
        return 2
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
    if options.suite == "own":  # those clean up behind them, and look
        host.own_null()
    else:
        terminal.become_subreaper()
        host.own_namespaces()
    place = Path(tempfile.mkdtemp(prefix="wherry-conformance-", dir="/var/tmp"))
    place.chmod(0o755)
    host.empty_unmounted_hierarchies(SUITES[options.suite].CGROUPS)  # of a run that was killed
    with host.ended_by_signals():
        try:
            with host.v1_controllers() if options.v1_controllers else nullcontext():
                verdicts = run(options, place)
        finally:
            host.remove_cgroups(SUITES[options.suite].CGROUPS)
            shutil.rmtree(place, ignore_errors=True)
    print(table.text(verdicts))
    if options.json:
        options.json.write_text(json.dumps({name: {group: [vars(case) for case in cases] for group, cases in groups.items()} for name, groups in verdicts.items()}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(table.markdown(options.suite, SUITES[options.suite].version(options.checkout), verdicts))
    judged: list[tap.Case] = [case for cases in next(iter(verdicts.values())).values() for case in cases]
    return 1 if any(case.verdict in ("failed", "died") for case in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
