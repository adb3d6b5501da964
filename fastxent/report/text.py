"""Numbers and names as people read them."""

import math

MISSING = "–"  # a figure that is not defined
MOST_DECIMALS = 12

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WORD_JOINER = "\u2060"


def shown(name: object) -> str:
    r"""A name that is only text: what cannot be printed is spelled out, what a spreadsheet would run is not run.

    Control characters, unpaired surrogates and marks that turn the direction of writing come as escapes. A cell that
    begins like a formula gets an invisible character in front, which makes it text where the table is pasted.

    Examples
    --------
    >>> shown("cat\x1b[2J"), shown(-3)
    ('cat\\x1b[2J', '-3')
    >>> shown("=cmd()") == "\u2060=cmd()"
    True
    """
    text = printable(str(name))
    return _WORD_JOINER + text if text.startswith(("=", "+", "-", "@")) and not _is_number(text) else text


def printable(text: str) -> str:
    """The text with escapes for what cannot be printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def shortened(text: str, most: int = 24) -> str:
    """The text, or its beginning where it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def decimals_of(spread: float) -> int:
    """How many decimals show two digits of a standard error, or of half an interval."""
    if not (math.isfinite(spread) and spread > 0):
        return 5
    return min(max(0, 1 - math.floor(math.log10(spread))), MOST_DECIMALS)


def fixed(x: "float | None", decimals: int = 4) -> str:
    """A number with so many decimals, so that a column of them is aligned; a tiny one with its power of ten.

    Examples
    --------
    >>> fixed(1234.56789, 2), fixed(-0.5, 2), fixed(3.21e-9, 4), fixed(float("nan")), fixed(float("inf"))
    ('1,234.57', '−0.50', '3.2×10⁻⁹', '–', '∞')
    """
    if x is None or math.isnan(x):
        return MISSING
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if (x != 0 and abs(x) < 0.5 * 10.0**-decimals) or abs(x) >= 1e9:
        mantissa, exponent = f"{x:.1e}".split("e")
        return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", "−", 1)
    return f"{x:,.{decimals}f}".replace("-", "−")


def percent(x: "float | None", decimals: int = 2) -> str:
    """A share of 1 as per cent.

    Examples
    --------
    >>> percent(0.50771), percent(None)
    ('50.77 %', '–')
    """
    return MISSING if x is None or math.isnan(x) else f"{100 * x:.{decimals}f} %"


def signed(x: "float | None", decimals: int = 4) -> str:
    """`fixed` with a sign.

    Examples
    --------
    >>> signed(0.25, 2), signed(-0.25, 2), signed(0.0, 1)
    ('+0.25', '−0.25', '0.0')
    """
    return ("+" if x is not None and x > 0 else "") + fixed(x, decimals)


def points(x: "float | None", decimals: int = 2) -> str:
    """A difference of shares, in percentage points.

    Examples
    --------
    >>> points(0.0125), points(-0.5)
    ('+1.25 pp', '−50.00 pp')
    """
    return MISSING if x is None or math.isnan(x) else f"{signed(100 * x, decimals)} pp"


def probability(p: "float | None") -> str:
    """A p-value.

    Examples
    --------
    >>> probability(0.0312), probability(2e-21)
    ('0.031', '2.0×10⁻²¹')
    """
    return MISSING if p is None else fixed(p, 3 if p >= 0.01 else 4) if p >= 0.001 or p == 0 else fixed(p, 2)


def count(n: int) -> str:
    """A whole number, in groups of three digits."""
    return f"{n:,}"


def counted(n: int, name: str, plural: "str | None" = None) -> str:
    """A number of things.

    Examples
    --------
    >>> counted(1, "row"), counted(2000, "class", "classes")
    ('1 row', '2,000 classes')
    """
    return f"{n:,} {name if n == 1 else plural or name + 's'}"


def compact(n: float) -> str:
    """A number in at most four characters, for the inside of plots.

    Examples
    --------
    >>> [compact(n) for n in (0, 999, 1234, 45678, 999999, 2500000)]
    ['0', '999', '1.2k', '46k', '1M', '2.5M']
    """
    for limit, unit in ((1e3, ""), (1e6, "k"), (1e9, "M"), (1e12, "G"), (math.inf, "T")):
        scaled = n / (limit / 1e3) if math.isfinite(limit) else n / 1e12
        if scaled < (999.5 if unit else 1000):
            return f"{scaled:.0f}{unit}" if scaled >= 9.95 or not unit else f"{scaled:.1f}{unit}".replace(".0", "")
    return "∞"


def size_of(n_bytes: int) -> str:
    """A number of bytes.

    Examples
    --------
    >>> size_of(999), size_of(4_140_000_000)
    ('999 B', '4.14 GB')
    """
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if n_bytes < limit:
            return f"{n_bytes} B" if unit == "B" else f"{n_bytes / (limit / 1e3):.3g} {unit}"
    return f"{n_bytes / 1e12:.4g} TB"


def name_of(figure: str) -> str:
    """What a figure of a bootstrap is called."""
    return _NAMES.get(figure, figure.replace("_", " ").replace("top ", "top-"))


_NAMES = {
    "nll": "NLL",
    "brier": "Brier score",
    "entropy": "mean entropy",
    "confidence": "mean confidence",
    "ece": "calibration error",
}
