"""The sources of the site, gathered under build/docs for MkDocs: docs/, pages from elsewhere, pages that are made.

    python -m tools.site

A link from one file of the repository to another leads to its page; one to a file that the site has not, a folder or
a licence, becomes plain text. Tutorials show what their cells print and draw, where `make test-tutorials` has run them
as they are.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import jupytext
import yaml

from tools import reference

ROOT: Final = Path(__file__).parents[1]
SITE: Final = ROOT / "build" / "docs"
EXECUTED: Final = ROOT / "build" / "tutorials"
"""Where `make test-tutorials` leaves notebooks with what came out."""
SERVICES: Final = ("orchestrator", "sampler", "simulator", "surrogate")
OUTSIDE: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "CODE_OF_CONDUCT.md": "project/conduct.md",
    "tests/README.md": "project/tests.md",
    **{f"services/{name}/README.md": f"services/{name}.md" for name in SERVICES},
    **{f"examples/{path.name}": f"examples/{path.name}" for path in (ROOT / "examples").glob("*.yaml")},
}
"""Files beside docs/ that the site has, and where."""
LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def main() -> None:
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SITE)
    for source, page in OUTSIDE.items():
        _write(page, (ROOT / source).read_text())
    _write("decisions/index.md", _decisions())
    for page, text in reference.pages(_modules()).items():
        _write(page, text)
    pages = {**OUTSIDE, "docs/decisions": "decisions/index.md"}
    for file in sorted((ROOT / "docs").rglob("*")):
        if file.is_file():
            pages[str(file.relative_to(ROOT))] = str(file.relative_to(ROOT / "docs"))
    for source, page in pages.items():
        if page.endswith(".md") and (ROOT / source).is_file():
            _write(page, _relinked(PurePosixPath(source), pages))
    for page in (SITE / "tutorials").glob("*.md"):
        page.write_text(_with_outputs(page))


def _write(page: str, text: str) -> None:
    (SITE / page).parent.mkdir(parents=True, exist_ok=True)
    (SITE / page).write_text(text)


def _relinked(source: PurePosixPath, pages: dict[str, str]) -> str:
    here = PurePosixPath(pages[str(source)]).parent

    def moved(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups()
        aim = os.path.normpath(source.parent / target)
        if aim in pages:
            return f"{mark}[{text}]({os.path.relpath(pages[aim], here)}{anchor or ''})"
        return text if (ROOT / aim).exists() else found[0]  # what leads nowhere is left for MkDocs to refuse

    return LINK.sub(moved, _spaced((ROOT / source).read_text()))


def _spaced(text: str) -> str:
    """An empty line before every list: CommonMark does without where MkDocs' Markdown does not."""
    lines: list[str] = []
    is_code = False
    for line in text.splitlines():
        before = lines[-1] if lines else ""
        is_item = re.match(r"[-*] |1\. ", line)
        if is_item and not is_code and before and not re.match(r"[-*] |\d+\. | ", before):
            lines.append("")
        lines.append(line)
        is_code ^= line.lstrip().startswith("```")
    return "\n".join(lines) + "\n"


def _with_outputs(page: Path) -> str:
    """A tutorial with what came out below each cell; as it is, if it was not run or not in these words."""
    text, notebook = page.read_text(), EXECUTED / f"{page.stem}.ipynb"
    if not notebook.exists():
        return text
    written, executed = _code(page), _code(notebook)
    if [cell.source for cell in written] != [cell.source for cell in executed]:
        return text
    *parts, tail = re.split(r"(?<=^```\n)(?=\n|\Z)", text, flags=re.MULTILINE)
    outputs = [_output(cell, page.with_name(f"{page.stem}-{number}.png")) for number, cell in enumerate(executed)]
    return "".join(part + output for part, output in zip(parts, outputs, strict=True)) + tail


def _code(notebook: Path) -> list[Any]:
    return [cell for cell in jupytext.read(notebook).cells if cell.cell_type == "code"]


def _output(cell: Any, picture: Path) -> str:
    """What a cell printed to standard output, and its last picture, as Markdown."""
    printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    text = re.sub(r"\x1b\[[\d;]*m", "", printed).strip()
    made = f'\n```text title="prints"\n{text}\n```\n' if text else ""
    for output in cell.outputs:
        if encoded := output.get("data", {}).get("image/png"):
            picture.write_bytes(base64.b64decode(encoded))
            made += f"\n![what the cell draws]({picture.name})\n"
    return made


def _decisions() -> str:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    links = [f"- [{page.read_text().splitlines()[0].lstrip('# ')}]({page.name})" for page in pages]
    return "# Decisions\n\n" + "\n".join(links) + "\n"


def _modules() -> list[str]:
    """The modules that the navigation names."""
    # MkDocs' own tags in its file, for Python objects, are none of our business.
    yaml.SafeLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    return [match[1] for page in _leaves(navigation) if (match := re.fullmatch(r"reference/python/(.+)\.md", page))]


def _leaves(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for below in node.values() if isinstance(node, dict) else node:
            yield from _leaves(below)


if __name__ == "__main__":
    main()
