"""A self-contained HTML page: no request leaves it, pictures are inside, every text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f8fa; color: #1f2328; line-height: 1.5;
       font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
header p { margin: 0 0 1.25rem; color: #57606a; }
section { background: #fff; border: 1px solid #d8dee4; border-radius: 8px; padding: 1.1rem 1.35rem; margin: 0 0 1rem; }
p { margin: .4rem 0; max-width: 48rem; }
p.note { color: #57606a; font-size: .9rem; }
p.missing { background: #fff8e5; border-left: 4px solid #e69f00; padding: .5rem .75rem; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1.25rem .25rem 0; border-bottom: 1px solid #eaeef2;
         overflow-wrap: anywhere; }
thead th, tbody th { font-weight: 600; color: #57606a; }
figure { margin: .75rem 0; overflow-x: auto; }
img { max-width: 100%; height: auto; display: block; }
figcaption { color: #57606a; font-size: .88rem; max-width: 48rem; }
details { margin-top: .75rem; font-size: .9rem; }
pre { overflow-x: auto; background: #f6f8fa; padding: .75rem; border-radius: 6px; font-size: .8rem; }
"""


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """The whole document from finished sections."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A titled box around finished parts."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str, style: str = "") -> str:
    """A paragraph, of the style "note" where it explains how to read what is beside it."""
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def missing(text: str) -> str:
    """Says what the report cannot show, and why."""
    return paragraph(text, "missing")


def picture(png: bytes, alt: str, caption: str) -> str:
    """A picture inside of the page, with a text for those who cannot see it and one for everybody."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    body = "\n".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f"<table><tbody>\n{body}\n</tbody></table>"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with named columns."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table>"


def folded(title: str, text: str) -> str:
    """Preformatted text that opens on a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
