"""Make the small web font that sets the formulas: the part of TeX Gyre Pagella Math that this site uses.

Needs the font (Debian: fonts-texgyre-math) and `pip install fonttools brotli`. Run once; the result is committed:

    python docs/scripts/subset_math_font.py texgyrepagella-math.otf docs/assets/fonts/formulas.woff2
"""

from __future__ import annotations

import sys

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

# The GUST Font License asks that a modified font carry another name.
NAME = "Allocation Formulas"
RANGES = (
    (0x20, 0x7E),  # Latin letters, digits, brackets
    (0xA0, 0xF7),  # plus-minus, times, dot
    (0x2C6, 0x2DD),  # accents
    (0x302, 0x308),  # combining accents
    (0x391, 0x3F5),  # Greek
    (0x2010, 0x2037),  # dashes, double bars, dots, primes
    (0x2061, 0x2064),  # invisible operators
    (0x2102, 0x2124),  # blackboard and script letters of the letterlike block
    (0x2190, 0x21D5),  # arrows
    (0x2200, 0x22FF),  # operators and relations
    (0x2308, 0x230B),  # ceilings and floors
    (0x27E8, 0x27E9),  # angle brackets
    (0x1D434, 0x1D467),  # italic letters
    (0x1D49C, 0x1D4CF),  # script letters
    (0x1D538, 0x1D56B),  # blackboard letters
    (0x1D6E2, 0x1D71B),  # italic Greek
)


def main(source: str, target: str) -> None:
    """Cut the font down, rename it and write it compressed."""
    font = TTFont(source)
    options = Options(layout_features=["*"], name_IDs=["*"], notdef_outline=True)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=[code for first, last in RANGES for code in range(first, last + 1)])
    subsetter.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 3, 4, 16):
            record.string = NAME
        elif record.nameID == 6:
            record.string = NAME.replace(" ", "")
    font["CFF "].cff.fontNames = [NAME.replace(" ", "")]
    font.flavor = "woff2"
    font.save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
