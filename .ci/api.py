"""The API reference: a page for each module, read from its source. Nothing is imported, so it takes a second and needs nothing installed."""
import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

LINK = re.compile(r"File to edit: \.\./(\S+)\.ipynb")
SHOWN = ("__call__", "__getitem__")          # methods with underscores that a reader uses


@dataclass
class Module:
    "What the source of a module says."
    name: str
    tree: ast.Module
    notes: dict[int, str]                                             # line -> the comment that ends it
    cells: list[tuple[int, str]]                                      # line, id of the notebook's cell from there on
    chapter: str                                                      # nbs/13b_watch
    names: list[str]                                                  # public, in reading order
    defined: dict[str, ast.AST] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)   # name here -> module and name there


def read(path: Path) -> Module:
    "Parse one module."
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    comments = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT and t.line.strip() != t.string.strip()]
    notes = {t.start[0]: t.string.lstrip("# ").rstrip() for t in comments}
    cells = [(i, m[1]) for i, line in enumerate(text.splitlines(), 1) if (m := re.match(r"# %% \S+\.ipynb #(\w+)", line))]
    names = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"), [])
    out = Module(path.stem, tree, notes, cells, LINK.search(text)[1], names)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module: out.imported |= {a.asname or a.name: (node.module, a.name) for a in node.names}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)): out.defined.setdefault(node.name, node)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []:
            for one in ast.walk(target):
                if isinstance(one, ast.Name): out.defined.setdefault(one.id, node)
    return out


class Whole(ast.NodeTransformer):
    "Names of this package in a type, written with their module, so that they link."
    def __init__(self, module: Module, modules: dict[str, Module]): self.module, self.modules = module, modules

    def visit_Name(self, node: ast.Name) -> ast.AST:
        home = home_of(node.id, self.module, self.modules)
        return ast.Name(f"olmoearth.{home[0]}.{home[1]}") if home else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:   # "Sample" in quotation marks
        try: return self.visit(ast.parse(node.value, mode="eval").body) if isinstance(node.value, str) else node
        except SyntaxError: return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if getattr(node.value, "id", "") == "Literal": return node
        return self.generic_visit(node)


def home_of(name: str, module: Module, modules: dict[str, Module]) -> tuple[str, str] | None:
    "Module and name under which a name that `module` uses has its entry."
    for _ in range(5):
        if name in module.defined: return (module.name, name) if name in module.names else None
        if name not in module.imported: return None
        there, name = module.imported[name]
        if there not in modules: return None
        module = modules[there]
    return None


def said(text: str) -> str:
    "Words of a comment or docstring as reStructuredText: code in backticks stays code, nothing else means anything."
    parts = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    return "".join(rf"\ ``{p}``\ " if i % 2 else re.sub(r"([\\*|_`])", r"\\\1", p) for i, p in enumerate(parts))


def indented(text: str, by: str = "   ") -> str: return "\n".join(by + line if line else "" for line in text.splitlines()) + "\n"


class Pages:
    "Writes the entries of all modules."
    def __init__(self, package: Path):
        files = [p for p in sorted(package.glob("*.py")) if not p.name.startswith("_")]
        self.modules = {m.name: m for m in map(read, files)}

    def kind(self, node: ast.AST | None, m: Module) -> str:
        "A type as text, with whole names; what is only documentation inside Annotated is dropped."
        if node is None: return ""
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Annotated": node = node.slice.elts[0]
        return ast.unparse(Whole(m, self.modules).visit(ast.parse(ast.unparse(node), mode="eval").body))

    def parameters(self, f: ast.FunctionDef, m: Module, method: bool) -> tuple[str, list[str]]:
        "The text between the brackets, and a field for each parameter that a comment or help explains."
        a, fields = f.args, []
        plain = [*a.posonlyargs, *a.args]
        defaults = [None] * (len(plain) - len(a.defaults)) + [*a.defaults]
        rows = [("", p, d) for p, d in zip(plain, defaults, strict=True)]
        if method and rows and not any(getattr(d, "id", "") == "staticmethod" for d in f.decorator_list): rows = rows[1:]
        bare = len(rows) if a.kwonlyargs and not a.vararg else -1     # where a lone star stands
        if a.vararg: rows.append(("*", a.vararg, None))
        rows += [("", p, d) for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
        if a.kwarg: rows.append(("**", a.kwarg, None))
        head = []
        for i, (star, p, d) in enumerate(rows):
            if i == bare: head.append("*")
            head.append(self.one(star + p.arg, p.annotation, d, m))
            note = self.note(p, d, m, rows[i + 1:i + 2])
            if note: fields.append(f":param {p.arg}: {said(note)}")
        return ", ".join(head), fields

    def one(self, name: str, kind: ast.AST | None, default: ast.AST | None, m: Module) -> str:
        "name: type = default"
        t, d = self.kind(kind, m), "" if default is None else ast.unparse(default)
        if d.startswith("field("): d = made.group(1) + "()" if (made := re.search(r"default_factory=(\w+)\)", d)) else "..."
        if len(d) > 60: d = "..."
        return name + (f": {t}" if t else "") + (f" = {d}" if d and t else f"={d}" if d else "")

    def note(self, p: ast.arg, default: ast.AST | None, m: Module, following: list) -> str:
        "The comment behind a parameter, or typer's help."
        line = (default or p).end_lineno
        last = not following or following[0][1].lineno > line
        if last and line in m.notes: return m.notes[line]
        for call in ast.walk(p.annotation) if p.annotation else []:
            for k in call.keywords if isinstance(call, ast.Call) else []:
                if k.arg == "help" and isinstance(k.value, ast.Constant): return k.value.value
        return ""

    def errors(self, node: ast.AST, m: Module) -> list[str]:
        "A field for each error that the code itself raises."
        found = {}
        for n in ast.walk(node):
            if not isinstance(n, ast.Raise) or n.exc is None: continue
            e = n.exc.func if isinstance(n.exc, ast.Call) else n.exc
            if isinstance(e, ast.Name) and e.id[0].isupper(): found[e.id] = home_of(e.id, m, self.modules)
        return [f":raises {'.'.join(('olmoearth', *home)) if home else name}:" for name, home in sorted(found.items())]

    def function(self, f: ast.FunctionDef, m: Module, owner: bool = False) -> str:
        "Entry of a function or method."
        marks = {getattr(d, "id", getattr(d, "attr", "")) for d in f.decorator_list}
        back = self.kind(f.returns, m)
        doc = said(ast.get_docstring(f) or m.notes.get(f.end_lineno if f.end_lineno == f.lineno else -1, ""))
        if owner and marks & {"property", "cached_property"}:
            return f".. py:property:: {f.name}\n" + (f"   :type: {back}\n" if back else "") + f"\n{indented(doc)}\n"
        head, fields = self.parameters(f, m, owner)
        note = m.notes.get(f.returns.end_lineno, "") if f.returns is not None and f.returns.lineno != f.lineno else ""
        if note: fields.append(f":returns: {said(note)}")
        fields += self.errors(f, m)
        options = "".join(f"   :{k}:\n" for k in ("classmethod", "staticmethod", "abstractmethod") if k in marks)
        title = f".. py:{'method' if owner else 'function'}:: {f.name}({head})" + (f" -> {back}" if back else "")
        return f"{title}\n{options}\n" + indented(doc + "\n\n" + "\n".join(fields)) + "\n"

    def klass(self, c: ast.ClassDef, m: Module) -> str:
        "Entry of a class: how it is made, its fields, its methods."
        marks = {getattr(d, "id", "") or getattr(getattr(d, "func", None), "id", "") for d in c.decorator_list}
        bases = [ast.unparse(b) for b in c.bases]
        inside = {n.name: n for n in reversed(c.body) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
        rows = [n for n in c.body if isinstance(n, (ast.AnnAssign, ast.Assign))]
        head, fields, given = "", [], []
        made = bool(marks & {"dataclass"}) or any(b.split(".")[-1] in ("NamedTuple", "TypedDict") for b in bases)
        if "__init__" in inside: head, fields = self.parameters(inside["__init__"], m, True)
        elif made:
            given = [n for n in rows if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_") and "ClassVar" not in ast.unparse(n.annotation)]
            head = ", ".join(self.one(n.target.id, n.annotation, n.value, m) for n in given)
            fields = [f":param {n.target.id}: {said(m.notes[n.end_lineno])}" for n in given if n.end_lineno in m.notes]
        doc = said(ast.get_docstring(c) or "")
        if bases:
            homes = [(b, home_of(b, m, self.modules)) for b in bases]
            doc += "\n\nA kind of " + ", ".join(f":py:class:`~olmoearth.{h[0]}.{h[1]}`" if h else f"``{b}``" for b, h in homes) + "."
        for f in [inside[k] for k in ("__init__", "__post_init__") if k in inside]: fields += self.errors(f, m)
        body = doc + "\n\n" + "\n".join(dict.fromkeys(fields)) + "\n\n"
        for n in rows:                                                 # members of an Enum and class attributes
            target = n.target if isinstance(n, ast.AnnAssign) else n.targets[0]
            if not isinstance(target, ast.Name) or target.id.startswith("_") or n in given: continue
            t = self.kind(n.annotation, m) if isinstance(n, ast.AnnAssign) else ""
            v = "" if n.value is None else ast.unparse(n.value)
            body += f".. py:attribute:: {target.id}\n" + (f"   :type: {t}\n" if t else "") + (f"   :value: {v}\n" if v and len(v) <= 60 else "") + "\n"
            body += indented(said(m.notes.get(n.end_lineno, ""))) + "\n"
        body += "".join(self.function(f, m, True) for f in sorted(inside.values(), key=lambda f: f.lineno) if not f.name.startswith("_") or f.name in SHOWN)
        return f".. py:class:: {c.name}" + (f"({head})" if head else "") + f"\n\n{indented(body)}\n"

    def value(self, name: str, n: ast.AST, m: Module) -> str:
        "Entry of a constant or of a name for a type."
        v = "" if n.value is None else ast.unparse(n.value)
        t = self.kind(n.annotation, m) if isinstance(n, ast.AnnAssign) else ""
        options = (f"   :type: {t}\n" if t else "") + (f"   :value: {v[:100]}{' ...' if len(v) > 100 else ''}\n" if v else "")
        return f".. py:data:: {name}\n{options}\n{indented(said(m.notes.get(n.end_lineno, m.notes.get(n.lineno, ''))))}\n"

    def entry(self, name: str, m: Module) -> str:
        "Whatever a public name is, with the place in the book that defines it."
        node = m.defined.get(name)
        if node is None:                                               # kept under a second name
            there, other = m.imported.get(name, ("", ""))
            words = f"The same as :py:obj:`olmoearth.{there}.{other}`." if there in self.modules and other in self.modules[there].names else "Of another package."
            return f".. py:data:: {name}\n\n   {words}\n\n"
        text = self.klass(node, m) if isinstance(node, ast.ClassDef) else self.value(name, node, m) if isinstance(node, (ast.Assign, ast.AnnAssign)) else self.function(node, m)
        cell = next((c for line, c in reversed(m.cells) if line <= node.lineno), "")
        if not cell: return text
        head, _, rest = text.partition("\n\n")
        doc, _, rest = rest.partition("\n\n")
        return f"{head}\n\n{doc or '  '} `{Path(m.chapter).name} <../{m.chapter}.html#cell-{cell}>`__\n\n{rest}\n"

    def page(self, m: Module) -> str:
        "The page of a module."
        title = f"olmoearth.{m.name}"
        about = said(ast.get_docstring(m.tree) or "")
        where = f"Written and shown working in :doc:`chapter {Path(m.chapter).name} </{m.chapter}>`."
        return f"{title}\n{'=' * len(title)}\n\n{about}\n\n{where}\n\n.. py:module:: {title}\n\n" + "".join(self.entry(n, m) for n in m.names)

    def write(self, folder: Path, daily: dict[str, str]) -> None:
        "All pages, and the first one, which lists them in the order of the book."
        folder.mkdir(parents=True, exist_ok=True)
        order = sorted(self.modules.values(), key=lambda m: m.chapter)
        for m in order: (folder / f"{m.name}.rst").write_text(self.page(m), encoding="utf-8")
        row = lambda *cells: "   * - " + "\n     - ".join(cells) + "\n"
        table = "".join(row(f":doc:`{m.name} <{m.name}>`", said(ast.get_docstring(m.tree) or ""), ", ".join(f":py:obj:`~olmoearth.{m.name}.{n}`" for n in m.names)) for m in order)
        short = "".join(row(f"``oe.{n}``", f":py:obj:`olmoearth.{home}.{n}`") for n, home in daily.items())
        (folder / "index.rst").write_text(
            "API reference\n=============\n\nEvery public name of every module: signature, types, what each parameter means, which errors it raises, and the place in the book "
            "that defines it. "
            "Shapes are written as ``(B, N, D)``: samples of a batch, tokens, width. It is read from the source when the site is made. :ref:`All names by letter <genindex>`.\n\n"
            "Names of daily use\n------------------\n\nThese are on the package itself, ``import olmoearth as oe``.\n\n" +
            ".. list-table::\n   :header-rows: 1\n\n" + row("name", "where it lives") + short +
            "\nModules\n-------\n\n.. list-table::\n   :header-rows: 1\n   :widths: 15 35 50\n\n" + row("module", "what it is", "names") + table +
            "\n.. toctree::\n   :hidden:\n   :maxdepth: 1\n\n" + "".join(f"   {m.name}\n" for m in order), encoding="utf-8")


def daily(package: Path) -> dict[str, str]:
    "The names that the package itself has, and their modules."
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    return next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "_HOME")
