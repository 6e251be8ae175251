#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the documentation's pages in docs/_site: python docs/pages.py (`make docs`)

What is written by hand (the tour, the architecture, the specifications) is taken as it is; the library's pages come from the docstrings
of runtime/wherry, the errors from docs/generate.py, the examples from their files. All is put together in build/docs first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent
STAGE = ROOT / "build/docs"
PAGES = STAGE / "pages"

LIBRARY = {
    "run": ("One program in a container of its own.", ["wherry.api.runner.run", "wherry.api.runner.Completed"]),
    "Sandbox": ("Programs that nobody has read.", ["wherry.api.sandbox.Sandbox", "wherry.api.sandbox.Stream", "wherry.api.session.Result"]),
    "Config": ("A whole config.json as a value.", ["wherry.api.config.Config", "wherry.api.config.size", "wherry.oci.default.sandbox"]),
    "Container": (
        "One that exists.",
        ["wherry.api.container.Container", "wherry.api.container.Caution", "wherry.api.events.Event", "wherry.api.ended.Ended", "wherry.api.ended.Usage"],
    ),
    "Bundle": ("A directory with a configuration.", ["wherry.api.bundle.Bundle", "wherry.plan.describe.describe"]),
    "aio": ("The library for asyncio.", ["wherry.aio"]),
    "errors": ("What all of it raises.", ["wherry.errors"]),
}

THEME = {
    "name": "material",
    "palette": [{"scheme": "default", "primary": "blue grey"}],
    "features": ["navigation.sections", "content.code.copy"],
    "font": False,  # no page of ours asks another server for anything
}
OPTIONS = {
    "show_root_heading": True,
    "show_source": False,
    "members_order": "source",
    "show_signature_annotations": True,
    "separate_signature": True,
    "merge_init_into_class": True,
    "docstring_style": None,
    "show_bases": False,
}


def page(name: str, text: str) -> str:
    path = PAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def by_hand() -> None:
    """Pages as they are; the README's links begin at the top of the repository."""
    page("index.md", (ROOT / "README.md").read_text().replace("](docs/", "](").replace("](CONTRIBUTING.md", "](contributing.md"))
    page("contributing.md", (ROOT / "CONTRIBUTING.md").read_text())
    for source in [*HERE.glob("*.md")]:
        page(source.name, source.read_text())
    for source in sorted((ROOT / "specs").rglob("*.md")):
        page(f"specs/{source.relative_to(ROOT / 'specs')}", source.read_text())


def library() -> list[dict[str, str]]:
    entries = []
    for name, (what, objects) in LIBRARY.items():
        parts = [f"# {name}\n\n{what}\n", *(f"::: {place}\n" for place in objects)]
        entries.append({name: page(f"library/{name.lower()}.md", "\n".join(parts))})
    return entries


def examples() -> list[dict[str, str]]:
    entries = []
    for source in sorted((HERE / "examples").glob("*.py")):
        text = source.read_text()
        _, docstring, code = text.split('"""', 2)
        title, _, prints = docstring.partition("Prints:\n")
        body = f"# {source.stem}\n\n{title.strip()}\n\n```python\n{code.strip()}\n```\n\nIt prints\n\n```text\n{textwrap.dedent(prints).strip()}\n```\n"
        entries.append({source.stem: page(f"examples/{source.stem}.md", body)})
    return entries


def specifications() -> list[dict[str, str]]:
    return [{path.stem: str(path.relative_to(PAGES))} for path in sorted((PAGES / "specs").rglob("*.md"))]


def configuration() -> dict[str, object]:
    by_hand()
    nav: list[dict[str, object]] = [{"wherry": "index.md"}, {"Tour": "tour.md"}]
    nav += [{"Command line": "command-line.md"}, {"Doctor": "doctor.md"}, {"Library": library()}, {"Examples": examples()}]
    nav += [{"Architecture": "architecture.md"}, {"Set-ups": "set-up.md"}, {"Shim": "shim.md"}, {"Errors": "errors.md"}, {"Coverage": "coverage.md"}]
    nav += [{"Server": "server.md"}, {"wherry-shim ctl": "ctl.md"}, {"Orchestrators": "orchestrator.md"}, {"Deaths": "deaths.md"}]
    nav += [{"Security": "security.md"}]
    nav += [{"Specifications": specifications()}, {"Contributing": "contributing.md"}]
    return {
        "site_name": "wherry",
        "docs_dir": str(PAGES),
        "site_dir": str(HERE / "_site"),
        "theme": THEME,
        "use_directory_urls": False,
        "nav": nav,
        "markdown_extensions": ["tables", "admonition", "pymdownx.superfences", {"pymdownx.highlight": {"use_pygments": True}}],
        "validation": {"nav": {"omitted_files": "info"}, "links": {"not_found": "info", "unrecognized_links": "info"}},
        "plugins": ["search", {"mkdocstrings": {"handlers": {"python": {"paths": [str(ROOT / "runtime")], "options": OPTIONS}}}}],
    }


def main() -> int:
    shutil.rmtree(STAGE, ignore_errors=True)
    if subprocess.run([sys.executable, HERE / "generate.py", "--check"]).returncode:
        return 1
    file = STAGE / "mkdocs.yml"
    text = json.dumps(configuration(), indent=1)  # JSON is YAML
    file.write_text(text)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean", "--config-file", file]
    return subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
