"""A page of one module's public names, from their docments."""
import importlib, inspect, re
from dataclasses import is_dataclass
from inspect import Parameter
from fastcore.docments import docments

def told(text):
    "A piece of code or prose as a cell of a table holds it."
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").strip()

def short(text, limit=160): return text if len(text) <= limit else text[:limit] + "…"

def type_name(kind):
    "A type as it is written."
    if kind in (Parameter.empty, inspect._empty, None): return ""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind)) if "[" not in str(kind) else str(kind)
    return f"`{told(re.sub(r'(videop2r|typing|collections)[.]([a-z_]+[.])*', '', name))}`"

def default(value):
    "A default as it is written; nothing where one must be given."
    if value is Parameter.empty: return ""
    text = f"{value.__name__}" if inspect.isclass(value) or inspect.isfunction(value) else repr(value)
    return f"`{short(told(re.sub(r' at 0x[0-9a-f]+', '', text)), 60)}`"

def declared(name, about):
    "A parameter with its type and default, as a signature has them."
    kind, value = type_name(about["anno"]), default(about["default"])
    return " ".join(filter(None, [f"`{name}`", kind, value and f"= {value}"]))

def parameters(thing):
    "A table of a signature: name, type and default, and the words beside it."
    try: found = dict(docments(thing, full=True))
    except (TypeError, ValueError, OSError): return ""
    back = found.pop("return", {})
    found.pop("self", None)
    rows = [f"| {declared(name, about)} | {told(about['docment'] or '')} |" for name, about in found.items()]
    if back and (back.get("docment") or type_name(back.get("anno"))):
        rows.append(f"| *returns* {type_name(back['anno'])} | {told(back['docment'] or '')} |")
    return "\n".join(["| parameter | |", "|---|---|", *rows]) if rows else ""

def signature(name, thing):
    "How it is called, on one line."
    try: names = [str(p).split(":")[0].split("=")[0] for p in inspect.signature(thing).parameters.values() if p.name != "self"]
    except (TypeError, ValueError): return name
    return f"{name}({', '.join(names)})"

def methods(kind):
    "The public methods of a class that tell what they do."
    found = [(n, m) for n, m in vars(kind).items() if not n.startswith("_") and inspect.isfunction(m) and m.__doc__]
    return "\n".join(f"- `{signature(name, m)}`: {told(m.__doc__)}" for name, m in found)

def entry(name, thing):
    "One public name."
    called = inspect.isclass(thing) or inspect.isroutine(thing)
    if not called: return f"## `{name}`\n\nA {type(thing).__name__}: `{short(told(repr(thing)).replace('`', ''))}`"
    said = inspect.getdoc(thing) or ""
    if is_dataclass(thing) and said.startswith(f"{name}("): said = ""
    parts = [f"## `{name}`", f"```python\n{signature(name, thing)}\n```", said, parameters(thing)]
    if inspect.isclass(thing): parts.append(methods(thing))
    return "\n\n".join(filter(None, parts))

def api_page(page, library):
    "Markdown of a module: what it is, where it is explained, its public names."
    module = importlib.import_module(f"{library}.{page.module}")
    names = getattr(module, "__all__", [])
    found = [entry(name, getattr(module, name)) for name in names if hasattr(module, name)]
    head = f"# {page.module}\n\n> {page.subtitle}\n\nExplained and tested in [{page.heading}](/{page.name}.ipynb)."
    return "\n\n".join([head, *found]) + "\n"
