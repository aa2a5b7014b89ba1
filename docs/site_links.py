"""For the site: links to files outside of docs/, which the site does not hold, become their paths."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's text with links that stay within the site."""

    def inside(link: re.Match[str]) -> str:
        words, target = link[1], link[2]
        place = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        outside = "://" not in target and not place.startswith("docs/")
        return f"{words} (`{place}`)" if outside and words.strip("`") != place else f"`{place}`" if outside else link[0]

    return _LINK.sub(inside, markdown)
