"""What README and documents tell to type works, typed in that order into an empty directory that has examples/.

A document is a script: blocks of `sh` and `python` run one after the other in one shell, so what one starts or exports
the next one has; a block of `yaml` or `python` whose first line is a comment with a file's name becomes that file. What
is started is ended with the shell. Three remarks of a document, which its readers do not see, say otherwise:

    <!-- not run: WHY -->                the next block
    <!-- not run on this page: WHY -->   every block of the page
    <!-- run before: COMMANDS -->        what must be there before the next block, and is no part of the text

What is not run is still read: it must be good shell, Python or YAML. Addresses are what documents say, so each has a
network of its own, from which nothing leads out.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

pytestmark = pytest.mark.documents

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("services/*/README.md")]
    if "```" in path.read_text()
)
KNOWN = {"sh", "python", "yaml", "toml", "text", "dockerfile"}
SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code, where it begins, and what is said of it."""

    language: str
    text: str
    line: int
    why_not: str
    before: str

    @property
    def file(self) -> str:
        """The name in its first line, if the block is a file."""
        found = re.match(r"# (\S+\.(?:py|yaml))\b", self.text)
        return found[1] if found else ""

    @property
    def commands(self) -> str:
        """The block as a part of a shell script."""
        if self.file:
            return _here(f"cat > {self.file}", self.text)
        if self.language == "python":
            return _here("python -", self.text)
        return self.text if self.language == "sh" else ""


def _here(command: str, text: str) -> str:
    return f"{command} <<'END OF BLOCK'\n{text}END OF BLOCK\n"


def blocks(document: Path) -> Iterator[Block]:
    """The fenced blocks of a document."""
    of_page, why_not, before = "", "", ""
    for token in MarkdownIt("commonmark").parse(document.read_text()):
        if token.type == "html_block":
            said = token.content.strip()
            if found := re.fullmatch(r"<!-- not run( on this page)?: (.+?) -->", said, re.DOTALL):
                of_page, why_not = (found[2], why_not) if found[1] else (of_page, found[2])
            elif found := re.fullmatch(r"<!-- run before:\n(.+?)-->", said, re.DOTALL):
                before = found[1]
        elif token.type == "fence":
            assert token.map is not None
            yield Block(token.info, token.content, token.map[0] + 1, why_not or of_page, before)
            why_not = before = ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_say_what_they_are_and_are_good_code(document: Path) -> None:
    for block in blocks(document):
        assert block.language in KNOWN, f"{document}:{block.line}"
        match block.language:
            case "sh":
                read = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
                assert read.returncode == 0, f"{document}:{block.line}: {read.stderr}"
            case "python":
                compile(block.text, f"{document}:{block.line}", "exec")
            case "yaml":
                yaml.safe_load(block.text)


def script(document: Path) -> str:
    """All that a document has run, with its places on standard error."""
    parts = [
        f"{block.before}echo '== {document.name}:{block.line}' >&2\n{block.commands}"
        for block in blocks(document)
        if block.commands and not block.why_not
    ]
    return "\n".join(["trap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT", *parts]) if parts else ""


TO_BE_RUN = [document for document in DOCUMENTS if script(document)]


@pytest.mark.parametrize("document", TO_BE_RUN, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_tells_to_type_works(
    document: Path, alone: tuple[str, ...], surroundings: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    said = tmp_path / "said.log"
    with said.open("w") as output:
        shell = subprocess.Popen(
            [*alone, "bash", "-euc", script(document)],
            cwd=tmp_path, env=surroundings, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            code = shell.wait(SECONDS)
        finally:
            shell.kill()
    assert code == 0, said.read_text()[-4000:]
