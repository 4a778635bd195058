"""Fills the generated parts of the reference pages. Reads source text alone: neither mgc_jax nor JAX is imported.

A page has a marker on a line of its own, such as `<!-- generated: keys -->`. MkDocs calls `on_page_markdown` for every
page, and the marker is replaced by Markdown. What is read, and from where, is in the constants below.
"""

import ast
import html
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[2]

# The file with the function `default`, one statement `config.KEY = VALUE  # MEANING` per key.
KEYS = "mgc_jax/config/keys.py"

# Package and name of each registry of classes whose keyword-only arguments are options.
REGISTRIES = {"encoders": ("mgc_jax/models/encoders", "ENCODERS"), "poolings": ("mgc_jax/models/pooling", "POOLINGS")}
NOT_OPTIONS = ("rngs", "subgenre_parents")  # given by the program

# The public names, in the order of the page. `mgc_jax/__init__.py` has the table that says where each is defined.
PUBLIC = {
    "Run": ("load_config", "train", "evaluate"),
    "Data": ("open_corpus", "SPLITS"),
    "Models": ("load_model", "ENCODERS", "POOLINGS"),
    "Evaluation": ("load_predictions", "genre_metrics", "METRICS", "ArtistBootstrap"),
    "Errors": ("UserError",),
}
INIT = "mgc_jax/__init__.py"
# What the functions above return or take; left out where the file does not exist.
ALSO = {
    "Classes": (
        "mgc_jax.data.corpus.Corpus",
        "mgc_jax.data.bags.Bags",
        "mgc_jax.data.batches.Batch",
        "mgc_jax.evaluation.predictions.Predictions",
        "mgc_jax.inference.ExportedModel",
    )
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the text of a page with its generated parts in place."""
    makers = {
        "keys": keys,
        "encoders": lambda: options_of("encoders"),
        "poolings": lambda: options_of("poolings"),
        "api": api,
    }
    markdown = re.sub(r"^```python \w+$", "```python", markdown, flags=re.MULTILINE)  # the word is for a test
    return re.sub(r"^<!-- generated: (\w+) -->$", lambda found: makers[found[1]](), markdown, flags=re.MULTILINE)


# ---- Configuration keys


def keys() -> str:
    """Returns a table key, default, meaning for each group of the configuration."""
    path = ROOT / KEYS
    if not path.is_file():
        raise PluginError(f"no file with the configuration keys: looked for {KEYS}")
    entries = list(read_keys(path.read_text()))
    if not entries:
        raise PluginError(f"{path} has no function default() with statements config.KEY = VALUE")
    names = [name for name, _, _ in entries]
    parts, group = [], None
    for name, default, meaning in entries:
        if default is None and any(other.startswith(name + ".") for other in names):
            group = name
            parts.append(f"\n## `{name}`\n\n{sentence(meaning)}\n\n{_HEAD}")
            continue
        above = name.rpartition(".")[0]
        if above != group:  # a key of the root, or one that follows the keys of a deeper group
            group = above
            parts.append(f"\n## {f'`{above}`, continued' if above else f'`{name}`'}\n\n{_HEAD}")
        parts.append(f"| `{name}` | {code('{}' if default is None else default)} | {cell(meaning)} |")
    return "\n".join(parts)


_HEAD = "| key | default | meaning |\n|---|---|---|"


def read_keys(source: str) -> Iterator[tuple[str, str | None, str]]:
    """Yields (dotted key, default as written, comment) of every `config.KEY = VALUE` in the function `default`.

    The default is None for a group, `ConfigDict()`. A comment is on the lines of the statement, or on lines of their
    own directly above.
    """
    tree = ast.parse(source)
    constants = literals(tree)
    comments = read_comments(source)
    alone = {line for line in comments if source.splitlines()[line - 1].lstrip().startswith("#")}
    for statement in (s for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "default" for s in f.body):
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        name = dotted(statement.targets[0])
        if name is None or not name.startswith("config."):
            continue
        above: list[str] = []
        line = statement.lineno - 1
        while line in alone:
            above.insert(0, comments[line])
            line -= 1
        inside = [comments[n] for n in range(statement.lineno, statement.end_lineno + 1) if n in comments]
        value: str | None = shown(statement.value, constants)
        if isinstance(statement.value, ast.Call) and not statement.value.args and not statement.value.keywords:
            value = None
        yield name.removeprefix("config."), value, " ".join(above + inside)


def read_comments(source: str) -> dict[int, str]:
    """Returns the comment of each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}


# ---- Options of encoders and poolings


def options_of(kind: str) -> str:
    """Returns, for every entry of a registry, what it is and a table of its options."""
    folder, registry = REGISTRIES[kind]
    trees = {path: ast.parse(path.read_text()) for path in sorted((ROOT / folder).glob("*.py"))}
    classes = {
        node.name: (node, tree) for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)
    }
    entries = dict_of(trees[ROOT / folder / "__init__.py"], lambda name, _: name == registry)
    if entries is None:
        raise PluginError(f"{folder}/__init__.py has no dictionary {registry}")
    parts = []
    for name, value in entries.items():
        found = classes.get(ast.unparse(value))
        if found is None:
            raise PluginError(f"{folder}: the class {ast.unparse(value)} of {name!r} is in none of its files")
        node, tree = found
        parts.append(f"\n### `{name}`\n\n{sentence(first_paragraph(ast.get_docstring(node) or ''))}\n")
        rows = list(keyword_only(node, classes, literals(tree)))
        if rows:
            parts.append("| option | default | meaning |\n|---|---|---|")
            parts += [f"| `{option}` | {code(default)} | {cell(meaning)} |" for option, default, meaning in rows]
        else:
            parts.append("No options.")
    return "\n".join(parts)


def keyword_only(
    node: ast.ClassDef, classes: dict[str, tuple[ast.ClassDef, ast.Module]], constants: dict[str, ast.expr]
) -> Iterator[tuple[str, str, str]]:
    """Yields (name, default, meaning) of the keyword-only arguments of a class, or of the class that it extends."""
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        for base in node.bases:
            if (found := classes.get(ast.unparse(base))) is not None:
                yield from keyword_only(found[0], classes, literals(found[1]))
        return
    text = ast.get_docstring(init) or ""
    meanings = documented_arguments(ast.get_docstring(node) or "") | documented_arguments(text)
    for other in re.findall(r"`(\w+)`", text):  # "the options are those of `Cnn` and `BiGru`"
        if other in classes:
            others = [n for n in classes[other][0].body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            meanings = documented_arguments("".join(ast.get_docstring(n) or "" for n in others)) | meanings
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        if argument.arg not in NOT_OPTIONS:
            value = "(required)" if default is None else shown(default, constants)
            yield argument.arg, value, meanings.get(argument.arg, "")


def documented_arguments(docstring: str) -> dict[str, str]:
    """Returns what the section "Args" of a docstring says of each argument."""
    _, _, text = docstring.partition("Args:\n")
    section = re.split(r"^\S", text, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.split(r"^ {2,4}(\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}


# ---- The public names


def api() -> str:
    """Returns mkdocstrings' directives for the public names, each where it is defined."""
    tree = ast.parse((ROOT / INIT).read_text())
    parts = []
    where = public_table(tree)
    if where is None and any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        raise PluginError(f"{INIT} has no dictionary that says where the public names are defined")
    for title, names in PUBLIC.items():
        parts.append(f"\n## {title}\n")
        for name in names:
            if where is None:  # the package has no public names yet
                parts.append(f"### `mgc_jax.{name}`\n")
            elif name not in where:
                raise PluginError(f"{INIT} does not say where {name} is defined")
            else:
                heading = f"    options:\n      heading: mgc_jax.{name}\n      toc_label: {name}\n"
                parts.append(f"::: {where[name]}\n{heading}")
    for title, paths in ALSO.items():
        there = [
            path for path in paths if (ROOT / path.rpartition(".")[0].replace(".", "/")).with_suffix(".py").exists()
        ]
        parts += [f"\n## {title}\n", *(f"::: {path}\n" for path in there)] if there else []
    return "\n".join(parts)


def public_table(tree: ast.Module) -> dict[str, str] | None:
    """Returns the dotted path of every public name.

    The table is a dictionary from a name to a module, or from a module to names, whose strings hold "load_config".
    """
    table = dict_of(
        tree, lambda _, node: "load_config" in {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
    )
    if table is None:
        return None
    where = {}
    for key, node in table.items():
        value = ast.literal_eval(node)
        if isinstance(value, str) and ":" not in value:
            where[key] = f"{value}.{key}"
        elif isinstance(value, str):
            where[key] = value.replace(":", ".")
        elif "load_config" in table:  # (module, name)
            where[key] = ".".join(value)
        else:
            where |= {name: f"{key}.{name}" for name in value}
    return where


# ---- Source text and Markdown


def dict_of(tree: ast.Module, wanted: Any) -> dict[str, ast.expr] | None:
    """Returns the first dictionary with string keys that a module assigns, of those for which wanted(name, node)."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Dict) and wanted(target.id, value):
            return {ast.literal_eval(key): item for key, item in zip(value.keys, value.values, strict=True) if key}
    return None


def literals(tree: ast.Module) -> dict[str, ast.expr]:
    """Returns what a module assigns to its names."""
    return {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def shown(node: ast.expr, constants: dict[str, ast.expr]) -> str:
    """Returns an expression as written, a constant of the module by its value."""
    return ast.unparse(constants[node.id] if isinstance(node, ast.Name) and node.id in constants else node)


def dotted(node: ast.expr) -> str | None:
    """Returns `a.b.c` for that expression, None for another kind."""
    if isinstance(node, ast.Name):
        return node.id
    above = dotted(node.value) if isinstance(node, ast.Attribute) else None
    return None if above is None else f"{above}.{node.attr}"


def first_paragraph(text: str) -> str:
    """Returns the first paragraph of a docstring."""
    return " ".join(text.split("\n\n")[0].split())


def sentence(text: str) -> str:
    """Returns a comment as a sentence, with a capital letter and a full stop."""
    first = text.split(" ")[0]
    text = cell(text) if "." in first or "=" in first else cell(text[:1].upper() + text[1:])
    return text + ("" if not text or text.endswith((".", ")")) else ".")


def code(text: str) -> str:
    """Returns a default as inline code of a table."""
    return f"`{text}`".replace("|", "\\|").replace("'", '"') if text else ""


def cell(text: str) -> str:
    """Escapes a comment for a table of Markdown; what stands in backticks stays code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([*_|\[\]])", r"\\\1", html.escape(piece, quote=False))
        for piece in pieces
    )
