"""Tables as Markdown, on the console and in docs/performance.md."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Table:
    """A title, columns, rows of text, and notes below."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """One row; a cell that repeats the first of the row above is left empty."""
        self.rows.append(list(cells))

    def markdown(self) -> str:
        """The table with aligned columns."""
        shown = [row if i == 0 or row[0] != self.rows[i - 1][0] else ["", *row[1:]] for i, row in enumerate(self.rows)]
        widths = [max(len(cell) for cell in column) for column in zip(self.columns, *shown, strict=True)]

        def line(cells: list[str]) -> str:
            return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        body = "\n".join([line(self.columns), rule, *(line(row) for row in shown)])
        return "\n\n".join([f"### {self.title}", body, *self.notes])


def write_section(path: Path, kind: str, head: str, tables: list[Table]) -> None:
    """Put tables between the marks of this kind of machine (`cpu` or `cuda`), each in the place of its namesake."""
    begin, end = f"<!-- {kind}: written by make bench -->", f"<!-- end of {kind} -->"
    page = path.read_text()
    if begin not in page or end not in page:
        raise SystemExit(f"{path} has no marks '{begin}' and '{end}'")
    before, rest = page.split(begin)
    old, after = rest.split(end)
    sections = {text.split("\n", 1)[0]: text.strip() for text in re.split(r"^### ", old, flags=re.MULTILINE)[1:]}
    for table in tables:
        sections[table.title] = f"{table.markdown().removeprefix('### ')}\n\n{head}"
    body = "\n\n".join(f"### {text}" for text in sections.values())
    path.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}")
