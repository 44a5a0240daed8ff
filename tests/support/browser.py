"""Pages in the system's Chromium: what they say on their console, whom they ask, what is wider than they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
SANDBOX = ("--no-sandbox", "--disable-gpu")  # root has no sandbox, a container no GPU

_HERE = {"127.0.0.1", "localhost", "::1"}


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium with a profile of its own; skips the test, and says why, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="pages need playwright: pip install 'gcsearch[dev]'")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("pages need a Chromium on PATH: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*QUIET, *SANDBOX])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page, the errors that it put on its console or did not catch, and the addresses elsewhere that it asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    abroad: list[str] = field(default_factory=list)

    def sticking_out(self) -> list[str]:
        """The elements that reach beyond the page's edges, apart from those inside a box that scrolls by itself."""
        return self.page.evaluate(_STICKING_OUT)


class Visitor:
    """Opens pages in contexts of their own: no cookies, no cache, nothing from outside this machine."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def __call__(self, url: str, *, width: int = 1280, height: int = 900, **options: Any) -> Visit:
        """Open `url`; `options` are those of playwright's `new_context`, such as `color_scheme="dark"`."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, service_workers="block", **options
        )
        self._contexts.append(context)
        visit = Visit(context.new_page())
        visit.page.on("console", lambda one: visit.errors.append(one.text) if one.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))

        def pass_or_block(route: Route) -> None:
            if is_here(route.request.url):
                route.continue_()
            else:
                visit.abroad.append(route.request.url)
                route.abort()

        context.route("**/*", pass_or_block)
        context.route_web_socket(lambda url: not is_here(url), lambda socket: visit.abroad.append(socket.url))
        visit.page.goto(url)
        return visit

    def close(self) -> None:
        """Close what was opened."""
        while self._contexts:
            self._contexts.pop().close()


def is_here(url: str) -> bool:
    """Whether the address is on this machine: a file, what the page itself holds, or a server on loopback."""
    parts = urlsplit(url)
    return parts.scheme in {"file", "data", "blob", "about"} or parts.hostname in _HERE


_STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = one => ['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(one).overflowX);
  const boxed = one => {
    for (let box = one.parentElement; box && box !== document.body; box = box.parentElement)
      if (scrolls(box) && box.getBoundingClientRect().right <= width + 1) return true;
    return false;
  };
  const seen = one => one.getClientRects().length && getComputedStyle(one).visibility !== 'hidden';
  const out = [...document.body.querySelectorAll('*')].filter(one => {
    const box = one.getBoundingClientRect();
    return seen(one) && box.width && (box.right > width + 1 || (box.left < -1 && box.right > 0)) && !boxed(one);
  });
  const names = out.map(one => `${one.tagName.toLowerCase()}#${one.id}.${one.getAttribute('class') || ''}`);
  const wide = document.documentElement.scrollWidth - width;
  return wide > 0 ? [`page: ${wide} pixels`, ...names] : names;
}"""
