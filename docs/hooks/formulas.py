"""TeX in the pages becomes MathML when the site is built: no script and no network in the reader's browser.

`pymdownx.arithmatex` finds the formulas (dollar signs, outside code); this hook converts what it found. A command that
the converter does not know ends the build.
"""

from __future__ import annotations

import html
import re
from typing import Any

from math_core import LatexError, LatexToMathML

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
CONVERTER = LatexToMathML(macros={"lam": r"\lambda", "decnorm": r"\lVert W^{\mathrm{dec}}_j \rVert"})


class TexError(ValueError):
    """A formula that cannot be converted; the message names the page and the formula."""


def on_page_content(page_html: str, page: Any, **_: Any) -> str:
    """Replace every formula of a page."""
    return FORMULA.sub(
        lambda match: formula(match[3], match[2] == "[", page.file.src_path),
        page_html,
    )


def formula(escaped: str, display: bool, where: str) -> str:
    """One formula as MathML, with its TeX as the text for readers who do not see it."""
    tex = " ".join(html.unescape(escaped).split())
    try:
        mathml = CONVERTER.convert_with_local_state(tex, displaystyle=display)
    except LatexError as error:
        raise TexError(f"{where}: the formula {tex!r} cannot be converted: {error}") from error
    mathml = mathml.replace("<math", f'<math alttext="{html.escape(tex, quote=True)}"', 1)
    if not display:
        return mathml
    # wide formulas scroll by themselves on a narrow page, by keyboard too; the search index leaves them out, where
    # their letters would stand as words
    return f'<div class="formula" data-search-exclude tabindex="0">{mathml}</div>'
