"""Checks rendered events with validators that are not ours: the schemas and models themselves.

check_mappings.py FOLDER...   each FOLDER holds ocsf.jsonl, cim.jsonl, cef.txt and their like

Needs ocsf-json-schema, jsonschema, cefp, and the data models of pytest-splunk-addon; reads CEF back with
lognormalizer too, and CEF and LEEF with node's nsyslog-parser, where they are there.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import cefp
import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAPPING = ROOT / "low-side/src/mapping"
faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def events(path):
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            yield f"{path}:{number}", json.loads(line)


# OCSF: the JSON Schema of each class, and the captions, which the JSON Schema does not compare.


def ocsf(path):
    raw = get_ocsf_schema(version="1.8.0")
    schemas = OcsfJsonSchemaEmbedded(raw)
    by_uid = {row["uid"]: (name, row) for name, row in raw["classes"].items()}
    validators, count, seen = {}, 0, {}
    for where, event in events(path):
        count += 1
        uid = event["class_uid"]
        name, row = by_uid[uid]
        seen[name] = seen.get(name, 0) + 1
        profiles = event["metadata"].get("profiles", [])
        key = (name, *profiles)
        if key not in validators:
            schema = schemas.get_class_schema(name, profiles=profiles)
            validators[key] = jsonschema.Draft202012Validator(schema)
        for error in validators[key].iter_errors(event):
            fault(where, f"{name}: {'/'.join(map(str, error.path))}: {error.message[:300]}")
        captions(where, row, raw["objects"], event)
        if row["caption"] != event["class_name"]:
            fault(where, f"class {uid} is {row['caption']}, not {event['class_name']}")
        category = row.get("category_name", event["category_name"])
        if category != event["category_name"]:
            fault(where, f"category is {category}, not {event['category_name']}")
        caption = row["attributes"]["activity_id"]["enum"][str(event["activity_id"])]["caption"]
        if event["type_name"] != f"{row['caption']}: {caption}":
            fault(where, f"type_name {event['type_name']}: the activity is {caption}")
        if event["type_uid"] != uid * 100 + event["activity_id"]:
            fault(where, "type_uid")
    print(f"{path}: {count} events of {seen}")


def captions(where, row, objects, value):
    """Of each pair X_id and X the caption is the number's, unless the number is 99, Other."""
    for name, attribute in row["attributes"].items():
        if name not in value:
            continue
        inner = objects.get(attribute.get("object_type") or "")
        for item in value[name] if isinstance(value[name], list) else [value[name]]:
            if inner and isinstance(item, dict):
                captions(where, inner, objects, item)
        sibling = attribute.get("sibling")
        if "enum" in attribute and sibling in value and name.endswith("_id"):
            caption = attribute["enum"].get(str(value[name]), {}).get("caption")
            if value[name] != 99 and value[sibling] != caption:
                fault(where, f"{name} {value[name]} is {caption}, not {value[sibling]}")


# CIM: the required fields of each model, and the values they may have.


def cim(path):
    package = importlib.util.find_spec("pytest_splunk_addon")
    folder = pathlib.Path(package.submodule_search_locations[0]) / "data_models"
    models = {}
    for name in ("Alerts", "Authentication", "Change"):
        with open(folder / f"{name}.json", encoding="utf-8") as file:
            models[name] = json.load(file)["objects"][0]["fields"]
    seen = {}
    for where, event in events(path):
        model = event.get("cim_model")
        seen[model] = seen.get(model, 0) + 1
        for field in models.get(model, ()):
            value = event.get(field["name"])
            if field["type"] == "required" and not value:
                fault(where, f"{model} requires {field['name']}")
            if value and field.get("expected_values") and value not in field["expected_values"]:
                fault(where, f"{model}: {field['name']} is {value!r}")
            if value and value in (field.get("negative_values") or ()):
                fault(where, f"{model}: {field['name']} is {value!r}")
    print(f"{path}: events by model {seen}")


def hec(path):
    allowed = {"time", "host", "source", "sourcetype", "index", "fields", "event"}
    for where, event in events(path):
        if not set(event) <= allowed:
            fault(where, f"Splunk stops at an unknown key: {set(event) - allowed}")
        if any(isinstance(value, (dict, list)) for value in event["fields"].values()):
            fault(where, "fields must be flat")


# ECS: names and types of fields, as ECS itself lists them.


def ecs():
    listed = {}
    for line in (MAPPING / "golden/ecs-fields.tsv").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, kind = line.split("\t")
            listed[name] = kind
    same = {"match_only_text": "text", "wildcard": "keyword"}
    source = (MAPPING / "ecs_fields.rs").read_text(encoding="utf-8")
    fields = re.findall(r'field\(\s*"([^"]+)",\s*(\w+)', source)
    for name, kind in fields:
        kind = {"stored": "keyword"}.get(kind.lower(), kind.lower())
        if name.split(".")[0] in ("penstock", "portainer", "kubernetes"):
            continue
        if name not in listed:
            fault("ecs_fields.rs", f"{name} is not known to be a field of ECS")
        elif same.get(listed[name], listed[name]) != kind:
            fault("ecs_fields.rs", f"{name} is {listed[name]}, not {kind}")
    print(f"ecs_fields.rs: {len(fields)} fields")


# CEF: read by two programs that are not ours, and compared with our own reading.


def read_cef(line):
    """Our own reading: the fields of the header behind its version, and the pairs, unescaped."""
    head = re.match(r"CEF:0\|" + r"((?:[^|\\]|\\.)*)\|" * 6, line)
    rest = line[head.end() :]
    pairs = {}
    # An `=` that no backslash escapes ends a key.
    found = list(re.finditer(r"(?:^| )([A-Za-z0-9]+)=", rest))
    for this, following in zip(found, [*found[1:], None]):
        value = rest[this.end() : following.start() if following else None]
        pairs[this[1]] = re.sub(
            r"\\(.)", lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), value
        )
    return [re.sub(r"\\(.)", r"\1", field) for field in head.groups()], pairs


def cef_lognorm(path, lines):
    rules = "version=2\nrule=:%f:cef%\n"
    program = os.environ.get("LOGNORMALIZER", "lognormalizer")
    with tempfile.NamedTemporaryFile("w", suffix=".rulebase", delete=False) as file:
        file.write(rules)
    try:
        answer = subprocess.run(
            [program, "-r", file.name, "-e", "json"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        print(f"{program} is not here (apt-get install liblognorm-utils): CEF is not read by it", file=sys.stderr)
        return
    finally:
        os.unlink(file.name)
    answers = answer.stdout.splitlines()
    if len(answers) != len(lines):
        fault(path, f"lognormalizer answers {len(answers)} of {len(lines)} lines")
    names = ("DeviceVendor", "DeviceProduct", "DeviceVersion", "SignatureID", "Name", "Severity")
    for number, (line, said) in enumerate(zip(lines, answers), 1):
        said = json.loads(said)
        if "f" not in said:
            fault(f"{path}:{number}", f"lognormalizer does not read it: {line[:200]}")
            continue
        header, pairs = read_cef(line)
        if header != [said["f"][name] for name in names]:
            fault(f"{path}:{number}", f"lognormalizer reads the header {said['f']}")
        # It drops the first letter of the first key: rt.
        theirs = said["f"]["Extensions"]
        theirs["rt"] = theirs.pop("t", None)
        for key in pairs.keys() | theirs.keys():
            if pairs.get(key) != theirs.get(key):
                fault(f"{path}:{number}", f"lognormalizer: {key} is {theirs.get(key)!r}, not {pairs.get(key)!r}")
    print(f"{path}: {len(lines)} lines read by lognormalizer")


def cef_cefp(path, lines):
    for number, line in enumerate(lines, 1):
        header, pairs = read_cef(line)
        said = cefp.CEFParser.parse(line)
        device = said["device"]
        theirs = [*(device[name] for name in ("vendor", "product", "version", "event_class_id")), said["name"], said["severity"]]
        if header != theirs:
            fault(f"{path}:{number}", f"cefp reads the header {theirs}")
        for key in pairs.keys() | said["extension"].keys():
            if pairs.get(key) != said["extension"].get(key):
                fault(f"{path}:{number}", f"cefp: {key} is {said['extension'].get(key)!r}, not {pairs.get(key)!r}")
    print(f"{path}: {len(lines)} lines read by cefp")


def nsyslog(lines):
    """What nsyslog-parser makes of each line behind a syslog header; nothing where it is not there."""
    modules = os.environ.get("NODE_PATH", "")
    if not os.path.isdir(os.path.join(modules, "nsyslog-parser")):
        print("nsyslog-parser is not here: CEF and LEEF are not read by it", file=sys.stderr)
        return None
    script = """
        const parse = require('nsyslog-parser');
        const lines = require('fs').readFileSync(0, 'utf8').split('\\n').filter(Boolean);
        for (const line of lines) {
            const said = parse('<110>Nov 23 21:10:19 low-side ' + line);
            console.log(JSON.stringify({header: said.cef || said.leef, fields: said.fields}));
        }"""
    answer = subprocess.run(
        ["node", "-e", script], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True
    )
    return [json.loads(said) for said in answer.stdout.splitlines()]


def cef_nsyslog(path, lines):
    answers = nsyslog(lines)
    if answers is None:
        return
    compared = 0
    for number, (line, said) in enumerate(zip(lines, answers, strict=True), 1):
        header, pairs = read_cef(line)
        # It takes no escapes off, and loses itself at an escaped `=`: plain values must agree.
        if "\\" in line:
            continue
        compared += 1
        theirs = [said["header"][name] for name in ("deviceVendor", "deviceProduct", "deviceVersion", "deviceEventClassID", "name", "severity")]
        if header != theirs:
            fault(f"{path}:{number}", f"nsyslog-parser reads the header {theirs}")
        for key, value in pairs.items():
            # It keeps blanks at the ends of some values.
            if said["fields"].get(key, "").strip() != value.strip():
                fault(f"{path}:{number}", f"nsyslog-parser: {key} is {said['fields'].get(key)!r}, not {value!r}")
    print(f"{path}: {compared} of {len(lines)} lines, those without escapes, read by nsyslog-parser")


# LEEF: read by a program that is not ours, and compared with our own reading.


def leef(path, lines):
    answers = nsyslog(lines)
    if answers is None:
        return
    names = ("vendor", "product", "version", "eventID", "delimiter")
    for number, (line, said) in enumerate(zip(lines, answers, strict=True), 1):
        where = f"{path}:{number}"
        version, *header, rest = line.split("|", 6)
        if (version, header[4]) != ("LEEF:2.0", "^"):
            fault(where, f"begins with {version}, and has the delimiter {header[4]}")
        if header != [said["header"][name] for name in names]:
            fault(where, f"nsyslog-parser reads the header {said['header']}")
        # It ends the line at the next `|`, which IBM lets stand there.
        pairs = dict(pair.split("=", 1) for pair in rest.split("|")[0].split("^"))
        if pairs.keys() != said["fields"].keys():
            fault(where, f"nsyslog-parser: other keys: {pairs.keys() ^ said['fields'].keys()}")
        for key, value in pairs.items():
            # It ends a value at an `=`, which IBM lets stand there; and takes blanks off the end of the line.
            if value.split("=")[0].rstrip() != said["fields"].get(key, "").rstrip():
                fault(where, f"nsyslog-parser: {key} is {said['fields'].get(key)!r}, not {value!r}")
    print(f"{path}: {len(lines)} lines read by nsyslog-parser")


def main():
    ecs()
    for folder in map(pathlib.Path, sys.argv[1:]):
        ocsf(folder / "ocsf.jsonl")
        cim(folder / "cim.jsonl")
        hec(folder / "hec.jsonl")
        lines = (folder / "cef.txt").read_text(encoding="utf-8").split("\n")[:-1]
        cef_lognorm(folder / "cef.txt", lines)
        cef_cefp(folder / "cef.txt", lines)
        cef_nsyslog(folder / "cef.txt", lines)
        lines = (folder / "leef.txt").read_text(encoding="utf-8").split("\n")[:-1]
        leef(folder / "leef.txt", lines)
    for line in faults[:40]:
        print(line, file=sys.stderr)
    if faults:
        sys.exit(f"{len(faults)} faults")


main()
