"""Words for those who do not see a picture: what the prose beside it says, else the heading that it stands under."""
import html
import re

SEEN = re.compile(r"\*In the pictures?[:.]?\*[:.]?\s*(.+?)(?:\n\s*\n|$)", re.S)     # how the chapters begin a description
SHOWS = re.compile(r"\b(pictures?|below|left|right|colou?rs?|bright|dark|blue|red|orange|grey|green|yellow|curves?|dots?|bars?|squares?|panels?|rows?|columns?|shows?|shown)"
                   r"\b", re.I)
MOST = 300
DRAWN_BY = {   # pictures of every report: what such a picture holds; its numbers stand in the table beside it
    r"\bplot_arms\(": "A panel for each quantity and a line for each arm: a dot for each seed, a stroke at their mean, a bar over their range or interval. "
                        "The table above has the numbers.",
    r"\bcurves\(": "A panel for each quantity over the steps of the training, a line for each arm: the mean over its seeds."}


def plain(text: str) -> str:
    "Markdown as words: no headings, tables, code blocks or marks."
    text = re.sub(r"```.*?```|<[^>]+>", " ", text, flags=re.S)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(#|\||>|[-*] )", line)]
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", "\n".join(lines))
    return re.sub(r"[*`$\\]|(?<!\w)_|_(?!\w)", "", text)


def sentences(text: str) -> list[str]: return [s.strip() for s in re.split(r"(?<=[.!?])\s+(?=[A-Z*])", " ".join(text.split())) if s.strip()]


def short(parts: list[str]) -> str:
    "One or two sentences, not longer than a screen reader's patience."
    text = " ".join(parts[:2])
    if len(text) > MOST and len(parts) > 1: text = parts[0]
    return text if len(text) <= MOST else text[:MOST].rsplit(" ", 1)[0] + " ..."


def heading(cells: list, i: int) -> str:
    "The last heading before a cell, behind the title of the notebook where it is another one."
    found = [m for c in cells[:i] if c.cell_type == "markdown" for m in re.findall(r"^#+ +(.+)$", c.source, re.M)]
    names = list(dict.fromkeys(plain(re.sub(r"^[\d.]+ ", "", h)).strip() for h in (found[:1] + found[-1:])))
    return ": ".join(n for n in names if n) or "Picture"


def pictured(cell) -> bool:
    "Does a cell's output hold a picture?"
    return cell.cell_type == "code" and any(k.startswith("image/") or "<img" in str(v) for o in cell.get("outputs", []) for k, v in o.get("data", {}).items())


def describe(cells: list, i: int) -> str:
    "Alternative text for the pictures of cell `i`: what follows `In the picture`, else sentences next to it that speak of what is seen, else the headings."
    at = lambda k: cells[k].source if 0 <= k < len(cells) and cells[k].cell_type == "markdown" else ""
    before, after = at(i - 1), at(i + 1)
    if found := SEEN.search(after): return short(sentences(plain(found[1])))
    if (found := SEEN.search(before)) and not (i >= 2 and pictured(cells[i - 2])): return short(sentences(plain(found[1])))
    head = heading(cells, i)
    if drawn := next((text for call, text in DRAWN_BY.items() if re.search(call, cells[i].source)), ""): return f"{head}. {drawn}"
    tail = [p for p in plain(SEEN.sub("", before)).split("\n\n") if p.strip()][-1:]
    first = [] if after.lstrip().startswith("#") else [p for p in plain(after).split("\n\n") if p.strip()][:1]
    for paragraph in (*first, *tail):
        if seen := [s for s in sentences(paragraph) if SHOWS.search(s)]: return f"{head}. {short(seen)}"
    return f"{head}. {short(sentences(tail[0])[-1:])}" if tail else head


def with_words(cells: list) -> None:
    "Give every picture in the outputs its text."
    for i, c in enumerate(cells):
        if not pictured(c): continue
        text = describe(cells, i)
        tag = f'<img alt="{html.escape(text, quote=True)}"'.replace("\\", r"\\")
        c.metadata["mystnb"] = {"image": {"alt": text}}
        for o in c.outputs:
            page = o.get("data", {}).get("text/html")
            if page: o.data["text/html"] = re.sub(r"<img(?![^>]*\balt=)", tag, "".join(page))
