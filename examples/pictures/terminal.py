#!/usr/bin/env python3
"""Draws what a terminal shows as SVG: terminal.py TITLE < capture > picture.svg

The input is that of `tmux capture-pane -e -p -N`. Bars and lines are drawn as shapes, so that they look
alike with every font; text is set cell by cell.
"""
import re
import sys
from xml.sax.saxutils import escape

CELL, LINE, SIZE, EDGE, BAR = 8.4, 18, 14, 14, 30
BACK, FRONT, FAINT = "#1a1e26", "#d7dce4", "#8a93a3"
NAMED = ["#1a1e26", "#f0716b", "#7fc97a", "#e0b75a", "#6aa6f0", "#c58af0", "#5fc6c9", "#b3bac6"]
BRIGHT = ["#6b7485", "#ff8f88", "#9be495", "#f6d17a", "#8bbcff", "#dba8ff", "#80e0e2", "#ffffff"]
BARS = " ▁▂▃▄▅▆▇█"


class Style:
    def __init__(self):
        self.front, self.back, self.bold, self.dim, self.reverse = None, None, False, False, False

    def apply(self, codes):
        codes = [int(c or 0) for c in codes.split(";")]
        while codes:
            code = codes.pop(0)
            if code == 0:
                self.__init__()
            elif code == 1:
                self.bold = True
            elif code == 2:
                self.dim = True
            elif code == 22:
                self.bold = self.dim = False
            elif code == 7:
                self.reverse = True
            elif code == 27:
                self.reverse = False
            elif 30 <= code <= 37:
                self.front = NAMED[code - 30]
            elif 90 <= code <= 97:
                self.front = BRIGHT[code - 90]
            elif code == 39:
                self.front = None
            elif 40 <= code <= 47:
                self.back = NAMED[code - 40]
            elif code == 49:
                self.back = None
            elif code in (38, 48) and codes[:1] == [5]:
                number = codes[1]
                colour = (NAMED + BRIGHT)[number] if number < 16 else FRONT
                del codes[:2]
                if code == 38:
                    self.front = colour
                else:
                    self.back = colour

    def seen(self):
        front, back = self.front or FRONT, self.back
        if self.dim:
            front = FAINT
        if self.reverse:
            front, back = back or BACK, front
        return front, back, self.bold


def cells(line, style):
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b"):
            style.apply(part[2:-1])
        else:
            yield from ((char, style.seen()) for char in part)


def main():
    title = sys.argv[1]
    style, out = Style(), []
    rows = [list(cells(line, style)) for line in sys.stdin.read().rstrip("\n").split("\n")]
    columns = max(map(len, rows))
    width = 2 * EDGE + columns * CELL
    height = BAR + EDGE + len(rows) * LINE
    for y, row in enumerate(rows):
        top = BAR + y * LINE
        x = 0
        while x < len(row):
            end = x
            kind = lambda cell: (cell[1], cell[0] in BARS[1:], cell[0] == "─")
            while end < len(row) and kind(row[end]) == kind(row[x]):
                end += 1
            (front, back, bold), is_bar, is_line = kind(row[x])
            text = "".join(char for char, _ in row[x:end])
            left, long = EDGE + x * CELL, (end - x) * CELL
            if back:
                out.append(f'<rect x="{left:.1f}" y="{top}" width="{long:.1f}" height="{LINE}" fill="{back}"/>')
            if is_line:
                out.append(f'<path d="M{left:.1f} {top + LINE / 2}h{long:.1f}" stroke="{front}"/>')
            elif is_bar:
                shape = "".join(
                    f"M{left + n * CELL:.1f} {top + LINE}v-{BARS.index(char) * (LINE - 2) / 8:.1f}h{CELL - 1:.1f}V{top + LINE}z"
                    for n, char in enumerate(text)
                )
                out.append(f'<path d="{shape}" fill="{front}"/>')
            else:
                weight = ' font-weight="bold"' if bold else ""
                for word in re.finditer(r"\S+", text):
                    out.append(
                        f'<text x="{left + word.start() * CELL:.1f}" y="{top + 13.5}" fill="{front}"{weight}'
                        f' textLength="{len(word[0]) * CELL:.1f}">{escape(word[0])}</text>'
                    )
            x = end
    dots = "".join(
        f'<circle cx="{EDGE + 6 + 16 * n}" cy="{BAR / 2 - 2}" r="5" fill="{colour}"/>'
        for n, colour in enumerate(("#f0716b", "#e0b75a", "#7fc97a"))
    )
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}"'
        f' font-family="ui-monospace, \'DejaVu Sans Mono\', Menlo, Consolas, monospace" font-size="{SIZE}">'
        f"<title>{escape(title)}</title>"
        f'<rect width="100%" height="100%" rx="8" fill="{BACK}"/>{dots}'
        f'<text x="{width / 2:.0f}" y="{BAR / 2 + 3}" fill="{FAINT}" text-anchor="middle" font-size="12">{escape(title)}</text>'
    )
    print("\n".join(out))
    print("</svg>")


if __name__ == "__main__":
    main()
