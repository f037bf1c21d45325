"""Hooks of MkDocs: what stands outside ``docs/`` and is linked to becomes part of the site.

Pages are written to be read in the repository too, where ``deploy/README.md`` and the changelog lie
outside ``docs/``. They and every file that a page links to are taken in under the path that they
have in the repository, and links are turned so that they lead there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "deploy/README.md",
    "inference/bundles/phantom-v1/model_card.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
"""Pages that the navigation names."""
HOME = {"README.md": "index.md", "docs": "index.md"}
"""What the site has another page for."""

_FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
# "json schema" tells our tests what a block is; a highlighter knows one word.
_SECOND_WORD = re.compile(r"^```(\w+) \w+$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the pages outside, and each file that any page links to."""
    pages = [ROOT / "docs" / file.src_uri for file in files if file.is_documentation_page()]
    pages += [ROOT / page for page in OUTSIDE]
    linked = {target for page in pages for target in _linked(page)}
    for path in sorted({*OUTSIDE, *linked}):
        source = ROOT / path
        if source.is_file() and not path.startswith("docs/") and path not in HOME:
            files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between ``docs/`` and what lies beside it; others stay as they are."""
    here = posixpath.dirname(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        words, target, anchor = link[1], link[2], link[3] or ""
        if _is_elsewhere(target):
            return link[0]
        path = _in_repository(page.file.src_uri, target)
        path = HOME.get(path, path).removeprefix("docs/")
        if files.get_file_from_path(path) is None:
            # A folder, which no page stands for. A page that is missing is left for MkDocs to name.
            return words if (ROOT / path).is_dir() else link[0]
        return f"[{words}]({posixpath.relpath(path, here or '.')}{anchor})"

    markdown = _outside_fences(markdown, lambda text: _LINK.sub(turned, text))
    return _SECOND_WORD.sub(r"```\1", markdown)


def _linked(page: Path) -> Iterator[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    source = page.relative_to(ROOT).as_posix()
    for link in _LINK.finditer(text):
        if not _is_elsewhere(link[2]):
            yield posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))


def _in_repository(src_uri: str, target: str) -> str:
    """Return the path in the repository that a link of the site's page `src_uri` means."""
    source = src_uri if (ROOT / src_uri).is_file() else f"docs/{src_uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _is_elsewhere(target: str) -> bool:
    return "://" in target or target.startswith("mailto:")


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    parts = _FENCE.split(text)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))
