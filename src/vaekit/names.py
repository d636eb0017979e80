"""Names from outside (of files, folders, classes), made fit for where they go."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    r"""For a terminal, a table and a picture: what would steer a terminal, or is no text at all, as its code.

    Example:
        >>> printable("cat \x1b]0;title\x07"), printable("bad \udcff byte")
        ('cat \\x1b]0;title\\x07', 'bad \\udcff byte')
    """
    if text.isprintable():
        return text
    return "".join(_escaped(letter) if _steers(letter) else letter for letter in text)


def _steers(letter: str) -> bool:
    # controls (C0, C1), lone surrogates of names that are no text, marks that turn the direction of what follows
    return letter not in "\n\t" and (
        unicodedata.category(letter) in ("Cc", "Cs") or "\u202a" <= letter <= "\u202e" or "\u2066" <= letter <= "\u2069"
    )


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
