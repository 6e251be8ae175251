# SPDX-License-Identifier: Apache-2.0
"""House rules that no linter has: licence lines, sizes of files and functions, words that may not stay or do not belong here, numbers of the plan."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE_LIMIT = 600
LONGER = {"csrc/include/wherry/plan.h": 900}  # one definition of the plan, in one place
PYTHON_LIMIT = 40
C_LIMIT = 60
SOURCES = {".py", ".c", ".h", ".S", ".sh", ".cmake", ".pyi", ".in", ".proto"}
SPDX = "SPDX-License-Identifier: Apache-2.0"
UNFINISHED = re.compile("|".join(("TO" "DO", "FIX" "ME", "X" "XX:", "not implemented " "yet")))
FOREIGN = re.compile("|".join((r"(?<!\w)/wor" r"k/\w", r"\b[Ii]ssu" r"es?\b", "pyp" "i", "python" "hosted", "npm" "js", r"crates\." "io", r"proxy\." "golang")))
"""The project speaks of itself alone: not of where it was written, nor of where packages come from."""
OWN_WORDS = {"LICENSE"}
MADE = {".venv", "build", "dist", "_site", "__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis"}  # as .gitignore
GENERATED = ROOT / "shim/wherry_shim/proto"
NUMBERS = ROOT / "specs/plan-numbers.txt"


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():  # an unpacked archive
        return [path for path in ROOT.rglob("*") if path.is_file() and not MADE & set(path.relative_to(ROOT).parts)]
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def is_source(path: Path) -> bool:
    return path.suffix in SOURCES or path.read_bytes()[:2] == b"#!"


def text_rules(path: Path, text: str) -> Iterator[str]:
    lines = text.splitlines()
    if lines and SPDX not in "\n".join(lines[:4]):
        yield f"{path}:1: no SPDX line"
    limit = LONGER.get(path.as_posix(), FILE_LIMIT * 2 if "tests" in path.parts else FILE_LIMIT)
    if len(lines) > limit:
        yield f"{path}:1: {len(lines)} lines, more than {limit}"
    for number, line in enumerate(lines, 1):
        if UNFINISHED.search(line):
            yield f"{path}:{number}: unfinished: {line.strip()}"


def foreign_words(path: Path, data: bytes) -> Iterator[str]:
    if path.as_posix() in OWN_WORDS or b"\0" in data:
        return
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if FOREIGN.search(line):
            yield f"{path}:{number}: a word from elsewhere: {line.strip()[:120]}"


def python_functions(path: Path, text: str) -> Iterator[str]:
    """Statements of a function, its docstring left out."""
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (node.end_lineno or 0) - (body[0].lineno if body else node.lineno) + 1
            if length > PYTHON_LIMIT:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, more than {PYTHON_LIMIT}"


def c_functions(path: Path, text: str) -> Iterator[str]:
    """A body begins with a brace in the first column and ends with one."""
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line == "{":
            start = number
        elif line == "}" and start:
            if number - start - 1 > C_LIMIT:
                yield f"{path}:{start}: a function of {number - start - 1} lines, more than {C_LIMIT}"
            start = 0


def native_users(path: Path, text: str) -> Iterator[str]:
    """cffi stops at kernel/: native.py, and mounts.py, kinds.py and memory.py, which few need."""
    users = [f"runtime/wherry/kernel/{name}.py" for name in ("native", "mounts", "kinds", "memory")]
    if path.parts[0] in ("runtime", "shim") and path.as_posix() not in users and re.search(r"import\s+_native|wherry\._native", text):
        yield f"{path}: only runtime/wherry/kernel/native.py imports the extension"


def plan_numbers() -> Iterator[str]:
    """Numbers of the plan are for ever within a version: they are appended to, never changed."""
    try:
        from wherry._native import lib
    except ImportError:
        return
    now = {name: int(getattr(lib, name)) for name in dir(lib) if name.startswith("OP_") and "COUNT" not in name}
    if not NUMBERS.exists():
        yield f"{NUMBERS}: missing; house.py --write-numbers makes it"
        return
    kept = {name: int(value) for name, value in (line.split() for line in NUMBERS.read_text().splitlines() if not line.startswith("#"))}
    for name, value in kept.items():
        if name != "WHERRY_VERSION" and now.get(name) != value and kept["WHERRY_VERSION"] == lib.WHERRY_VERSION:
            yield f"{NUMBERS}: {name} was {value} and is {now.get(name)}: a changed number needs a new WHERRY_VERSION"
    if set(now) - set(kept) or kept["WHERRY_VERSION"] != lib.WHERRY_VERSION:
        yield f"{NUMBERS}: not up to date; house.py --write-numbers"


def write_numbers() -> None:
    from wherry._native import lib

    names = sorted((name for name in dir(lib) if name.startswith("OP_") and "COUNT" not in name), key=lambda name: getattr(lib, name))
    lines = ["# SPDX-License-Identifier: Apache-2.0", "# The numbers of the plan's operations, as released; checked by tests/tools/house.py"]
    lines += [f"{name} {getattr(lib, name)}" for name in ["WHERRY_VERSION", *names]]
    NUMBERS.write_text("\n".join(lines) + "\n")


def main() -> int:
    if sys.argv[1:] == ["--write-numbers"]:
        write_numbers()
        return 0
    problems = list(plan_numbers())
    for path in tracked():
        short = path.relative_to(ROOT)
        problems += foreign_words(short, path.read_bytes())
        if path.is_relative_to(GENERATED) or not is_source(path):
            continue
        text = path.read_text()
        problems += text_rules(short, text)
        if path.suffix == ".py" and short.parts[0] in ("runtime", "shim"):
            problems += [*python_functions(short, text), *native_users(short, text)]
        if path.suffix == ".c" and short.parts[:2] != ("csrc", "tests"):
            problems += c_functions(short, text)
    print("\n".join(map(str, problems)))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
