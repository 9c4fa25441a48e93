"""What makes the site quick to build: code is coloured by Python's own tokens, a word is stemmed once, the list of all pages is laid out once and not for every page,
and a type is looked up under its whole name alone (the reference writes whole names), not compared with the end of every other."""
import builtins
import functools
import io
import keyword
import re
import tokenize

from docutils import nodes
from pygments.lexer import Lexer
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text
from sphinx.domains.python import PythonDomain
from sphinx.search.en import SearchEnglish

BUILTIN = {n for n in dir(builtins) if not n.startswith("_")}
NEXT = {"def": Name.Function, "class": Name.Class}


class Tokens(Lexer):
    "Python by the standard library's tokeniser; what that refuses goes to Pygments' own lexer, which is slower by far."
    name, aliases = "Tokens", ["tokens"]

    def get_tokens_unprocessed(self, text: str):
        try: found = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (tokenize.TokenError, SyntaxError, IndentationError): found = []
        if not found or any(t.type == tokenize.ERRORTOKEN for t in found):
            yield from PythonLexer().get_tokens_unprocessed(text)
            return
        starts = [0]
        for line in text.splitlines(keepends=True): starts.append(starts[-1] + len(line))
        at, last = 0, ""
        for t in found:
            begin, end = starts[t.start[0] - 1] + t.start[1], starts[min(t.end[0], len(starts)) - 1] + t.end[1]
            if t.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER): continue
            if begin > at: yield at, Text, text[at:begin]
            yield begin, self.kind(t, last), text[begin:end]
            at, last = end, t.string
        if at < len(text): yield at, Text, text[at:]

    def kind(self, t: tokenize.TokenInfo, last: str):
        "Pygments' name for a token."
        if t.type == tokenize.COMMENT: return Comment.Single
        if t.type == tokenize.STRING or tokenize.tok_name[t.type].startswith("FSTRING"): return String
        if t.type == tokenize.NUMBER: return Number
        if t.type == tokenize.OP: return Name.Decorator if t.string == "@" and not t.line[:t.start[1]].strip() else Punctuation if t.string in "()[]{},:;." else Operator
        if t.string in ("True", "False", "None"): return Keyword.Constant
        if t.string in ("and", "or", "not", "in", "is"): return Operator.Word
        if t.string in ("import", "from"): return Keyword.Namespace
        if keyword.iskeyword(t.string): return Keyword
        if last in NEXT: return NEXT[last]
        if last == "@" and t.line.lstrip().startswith("@"): return Name.Decorator
        if t.string in ("self", "cls"): return Name.Builtin.Pseudo
        return Name.Builtin if t.string in BUILTIN and last != "." else Name


class Navigation:
    "The list of all pages, as furo lays it out for a page outside it; for each page the links are made relative and its own place is marked."
    def __init__(self, builder):
        from furo.navigation import get_navigation_tree
        self.html = get_navigation_tree(builder._get_local_toctree("search", collapse=False, titles_only=True, maxdepth=-1, includehidden=True))

    def __call__(self, page: str) -> str:
        text, at = self.html, self.html.find(f'href="{page}.html"')
        if at >= 0:
            own = text.rfind('<li class="toctree-l', 0, at)
            marks = [(own, " current current-page")]
            if text.startswith('<li class="toctree-l2', own): marks.append((text.rfind('<li class="toctree-l1', 0, own), " current"))
            for begin, more in marks:                                   # from the end to the front
                end = text.index('"', begin + 11)
                item = text[begin:end] + more + text[end:]
                if "has-children" in text[begin:end]: item = re.sub(r'(<input[^>]*?)(/?>)', r'\1 checked=""\2', item, count=1)
                text = text[:begin] + item
        up = "../" * page.count("/")
        return re.sub(r'href="(?!#)', f'href="{up}', text) if up else text


def start(app) -> None:
    "Once the builder is there."
    import furo
    cached = []
    def tree(context: dict) -> str:
        if not cached: cached.append(Navigation(app.builder))
        return cached[0](context["pagename"])
    if hasattr(furo, "_compute_navigation_tree") and app.builder.format == "html": furo._compute_navigation_tree = tree


def colons(app, doctree) -> None:
    "A parameter and what it means are kept apart by a colon: Sphinx writes two dashes and leaves it to its smart quotes, which are off, to join them."
    if app.env.docname.startswith("api/"):
        for dashes in [t for t in doctree.findall(nodes.Text) if t == " -- "]:
            words = "".join(n.astext() for n in dashes.parent[dashes.parent.index(dashes) + 1:])
            dashes.parent.replace(dashes, nodes.Text(": " if words.strip() else ""))          # an error may have none


def setup(app) -> dict:
    "As a Sphinx extension."
    for name in ("python", "python3", "ipython3", "ipython"): app.add_lexer(name, Tokens)
    PythonDomain.find_obj = lambda self, env, module, owner, name, kind, searchmode=0: [(name, self.objects[name])] if name in self.objects else []
    SearchEnglish.stem = functools.cache(SearchEnglish.stem)
    app.connect("builder-inited", start)
    app.connect("doctree-read", colons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
