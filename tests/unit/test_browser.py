"""The browser that other tests look at pages with: it tells what they do wrong."""

from __future__ import annotations

PAGE = """<!doctype html><meta name=viewport content="width=device-width">
<div class=scroll style="overflow-x:auto"><div style="width:3000px">may be wide</div></div>
<p id=wide style="width:{width}px">text
<img src="http://192.0.2.1/picture.png">
<script>{script}</script>"""


def test_a_page_that_behaves_has_nothing_to_tell(visit, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGE.replace("http://192.0.2.1/picture.png", "data:,").format(width=300, script="1"))
    seen = visit(path.as_uri(), width=400)
    assert (seen.errors, seen.abroad, seen.sticking_out()) == ([], [], [])


def test_errors_requests_and_what_sticks_out_are_told(visit, tmp_path):
    script = "console.error('first'); new WebSocket('ws://192.0.2.1/'); fetch('http://192.0.2.2/'); null.x"
    path = tmp_path / "page.html"
    path.write_text(PAGE.format(width=1000, script=script))
    seen = visit(path.as_uri(), width=400, color_scheme="dark")
    seen.page.wait_for_load_state("networkidle")
    assert seen.errors[0] == "first" and any("reading 'x'" in error for error in seen.errors)
    assert sorted(seen.abroad) == ["http://192.0.2.1/picture.png", "http://192.0.2.2/", "ws://192.0.2.1/"]
    page, *names = seen.sticking_out()
    assert page.startswith("page: 6") and names == ["p#wide."]
    assert seen.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
