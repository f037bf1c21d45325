#!/usr/bin/env python3
"""Write the parts of the documents that are made from the sources.

    scripts/write_documents.py            write them
    scripts/write_documents.py --check    exit 1 and name them when they are not current

``docs/configuration.md``: types, limits and defaults come from the models of
``dicom_node.settings``, the meaning from the comment on the field's line and from the docstring's
``Attributes``. ``docs/architecture.md``: the layers come from the import contracts.
``docs/conformance.md``: the tables between ``<!-- table: NAME -->`` and ``<!-- end -->`` come from
``conformance_tables``. ``docs/decisions.md``: the list comes from the headings in ``docs/adr``.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import json
import re
import sys
import tokenize
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import conformance_tables  # noqa: E402  beside this file

from dicom_node import settings  # noqa: E402
from dicom_node.settings import dicomweb, monitoring, peer, rule, sections  # noqa: E402
from dicom_node.settings import node as node_settings  # noqa: E402

HEAD = """\
# Configuration

<!-- Written by scripts/write_documents.py from dicom_node/settings: change it there. -->

One document, `node.toml`, says everything a node is told. It is looked for in this order:
`--config FILE`, the environment variable `M3LUNG_CONFIG`, `./node.toml`,
`~/.config/m3lung/node.toml`. Without any, the defaults below hold. Unknown fields are refused.

An environment variable overrides a single field: `M3LUNG_` and the field's name, two underscores
between section and field, as in `M3LUNG_LEDGER__URL`. That is the place for secrets.
[deploy/node.example.toml](../deploy/node.example.toml) is a document to start from.

Nothing that changes a prediction stands here: that belongs to the model bundle
([ADR 0006](adr/0006-preprocessing-belongs-to-the-bundle.md)).
"""


ATTRIBUTE = re.compile(r"^(\w+) : [^\n]*\n((?:    [^\n]*\n?)+)", re.MULTILINE)


def comments(source: str) -> dict[int, str]:
    """Return the comment of each line that has one."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.string.lstrip("# ").strip()
    return found


def meanings() -> dict[str, dict[str, str]]:
    """Return class name → field → what the source says about it."""
    source = "".join(
        inspect.getsource(module)
        for module in (sections, dicomweb, monitoring, rule, peer, node_settings)
    )
    remarks = comments(source)
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found.setdefault(node.name, {})
        attributes = (ast.get_docstring(node) or "").partition("Attributes\n----------\n")[2]
        for name, text in re.findall(
            r"^(\w+) : [^\n]*\n((?:    [^\n]*\n?)+)", attributes, re.MULTILINE
        ):
            fields[name] = " ".join(text.split())
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
                remark = " ".join(remarks[line] for line in lines if line in remarks)
                if remark:
                    fields[statement.target.id] = remark
    return found


def describe(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type of a field in words."""
    if "$ref" in schema:
        return describe(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        parts = [part for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(describe(part, definitions) for part in parts)
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {describe(schema['items'], definitions)}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"table of {describe(schema['additionalProperties'], definitions)}"
    word = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
    said = "path" if schema.get("format") == "path" else word[schema["type"]]
    for limit, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤")):
        if limit in schema:
            said += f" {sign} {schema[limit]}"
    if "maxLength" in schema:
        said += f", {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    if "pattern" in schema:
        said += f" like `{schema['pattern']}`"
    return said


def table(model: dict[str, Any], remarks: dict[str, str], definitions: dict[str, Any]) -> list[str]:
    """Return the rows of one section; sub-sections have their own."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, schema in model["properties"].items():
        if name in ("peers", "rules", "credentials") or (name in SECTIONS and "$ref" in schema):
            continue
        default = f"`{json.dumps(schema['default'])}`" if "default" in schema else "required"
        if default == "`null`":
            default = "none"
        cells = (f"`{name}`", describe(schema, definitions), default, remarks.get(name, ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


SECTIONS = {
    name: field.annotation
    for name, field in settings.NodeSettings.model_fields.items()
    if inspect.isclass(field.annotation) and hasattr(field.annotation, "model_fields")
}


def configuration() -> str:
    """Return docs/configuration.md."""
    schema = settings.NodeSettings.model_json_schema()
    definitions = schema["$defs"]
    remarks = meanings()
    lines = [HEAD, "## The node", ""]
    lines += table(schema, remarks["NodeSettings"], definitions)
    parts = [(f"[{name}]", model) for name, model in SECTIONS.items()]
    parts += [
        ("[[peers]]", settings.Peer),
        ("[credentials.NAME]", settings.PeerCredentials),
        ("[[rules]]", settings.Rule),
    ]
    for title, model in parts:
        about = (inspect.getdoc(model) or "").partition("\n\n")[0].replace("\n", " ")
        lines += ["", f"## `{title}`", "", about, ""]
        lines += table(definitions[model.__name__], remarks[model.__name__], definitions)
    return "\n".join(lines) + "\n"


def architecture(page: str) -> str:
    """Return docs/architecture.md with the layers of today."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["dicom_node"]
    )
    head, block, tail = re.split(
        r"(?<=<!-- layers -->\n```\n)(.*?)(?=\n```)", page, maxsplit=1, flags=re.DOTALL
    )
    return head + "\n".join(layers) + tail if block else page


TABLE = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def conformance(page: str) -> str:
    """Return docs/conformance.md with the tables that the code gives today."""
    left_out = set(conformance_tables.BLOCKS) - {name for _, name, _ in TABLE.findall(page)}
    if left_out:
        raise SystemExit(f"docs/conformance.md has no place for: {', '.join(sorted(left_out))}")
    return TABLE.sub(
        lambda found: f"{found[1]}\n{conformance_tables.BLOCKS[found[2]]()}\n\n{found[3]}", page
    )


def decisions(page: str) -> str:
    """Return docs/decisions.md with all records of docs/adr."""
    rows = []
    for record in sorted((ROOT / "docs" / "adr").glob("*.md")):
        lines = record.read_text(encoding="utf-8").splitlines()
        number, _, title = lines[0].removeprefix("# ").partition(" · ")
        status = next(line for line in lines[1:] if line).rstrip(".").lower()
        rows.append(f"| {number} | [{title}](adr/{record.name}) | {status} |")
    table = "\n".join(["| | decision | |", "|---|---|---|", *rows])
    head, mark, _ = page.partition("<!-- decisions -->\n")
    return f"{head}{mark}\n{table}\n"


def main() -> None:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, made in (
        ("configuration.md", lambda _page: configuration()),
        ("architecture.md", architecture),
        ("conformance.md", conformance),
        ("decisions.md", decisions),
    ):
        document = ROOT / "docs" / name
        text = made(document.read_text(encoding="utf-8") if document.exists() else "")
        if not document.exists() or document.read_text(encoding="utf-8") != text:
            stale.append(document.relative_to(ROOT).as_posix())
            if not check:
                document.write_text(text, encoding="utf-8")
    if stale:
        print(("not current: " if check else "written: ") + ", ".join(stale))
        sys.exit(int(check))


if __name__ == "__main__":
    main()
