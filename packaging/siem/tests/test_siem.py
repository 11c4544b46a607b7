"""Tests of the rules and of everything that is generated of them. Run by packaging/scripts/test-siem.sh."""

import collections
import datetime
import json
import os
import pathlib
import re
import subprocess
import tarfile
import tempfile
import time
import unittest
import urllib.error
import urllib.request
import uuid
import xml.etree.ElementTree as ElementTree

import duckdb
import duckdb_kql
import native
import osmem_server
import render
import wazuh
from sigma.correlations import SigmaCorrelationRule

import common
import generate
import kusto
import lucene

ROOT = common.SIEM.parents[1]
SAMPLES = pathlib.Path(os.environ.get("PENSTOCK_SAMPLES", ROOT.parent / "shared/samples"))
USE_CASES = {
    "privilege-escalation", "deployment-anomaly", "authentication-threat", "policy-bypass",
    "configuration-tampering", "exfiltration-indicator", "privileged-access", "runtime",
}


def rust_strings(path):
    """Every string of a Rust file, or None where there is no such file."""
    path = ROOT / path
    return set(re.findall(r'"([^"\\\n]*)"', path.read_text())) if path.is_file() else None


class Rules(unittest.TestCase):
    def test_each_says_what_it_is(self):
        known, ids = common.techniques(), collections.Counter()
        for name, rule in common.rules().items():
            with self.subTest(name):
                ids[rule.id] += 1
                self.assertIsInstance(rule.id, uuid.UUID)
                self.assertTrue(rule.description and rule.references and rule.falsepositives and rule.level)
                self.assertIn(common.attribute(rule, "use-case"), USE_CASES)
                self.assertIn(common.attribute(rule, "route"), (None, "soc"))
                self.assertTrue(common.attack(rule))
                tactics = {tag.name for tag in rule.tags if not tag.name[1].isdigit()}
                of_techniques = {t for technique in common.attack(rule) for t in known[technique]["tactics"].split(",")}
                self.assertLessEqual(tactics, of_techniques)
        self.assertEqual([id for id, count in ids.items() if count > 1], [])

    def test_every_use_case_has_one_that_raises_alerts(self):
        self.assertEqual({common.attribute(rule, "use-case") for rule in common.rules().values() if common.deployed(rule)}, USE_CASES)

    def test_privileged_access_goes_to_the_soc(self):
        for name, rule in common.rules().items():
            if name.startswith("pam_"):
                self.assertEqual(common.attribute(rule, "route"), "soc", name)


class Generated(unittest.TestCase):
    def test_what_is_checked_in_is_what_is_generated(self):
        self.assertEqual(generate.differences(), [], "run: make siem-content")

    def test_the_mappings_know_every_field(self):
        for path, column in (("ecs_fields.rs", "ecs"), ("cim.rs", "splunk"), ("sentinel.rs", "sentinel")):
            there = rust_strings(f"low-side/src/mapping/{path}")
            if there is None:
                print(f"skipped: no {path}")
                continue
            # Made by Splunk, or by the add-on.
            of_ours = {"_time", "penstock_actor"}
            self.assertLessEqual(set(common.fields(column).values()) - of_ours, there, path)

    def test_the_tables_are_those_of_the_mapping(self):
        path = ROOT / "low-side/src/mapping/sentinel.rs"
        if not path.is_file():
            self.skipTest("no mapping of Sentinel")
        there = set(re.findall(r'column\("(\w+)", (\w+)\)', path.read_text()))
        ours = {(column, kind) for table in tables().values() for column, kind in table.items()}
        self.assertEqual(ours, {(column, kind.lower()) for column, kind in there})


class Native(unittest.TestCase):
    def test_every_rule_finds_what_it_should_and_nothing_else(self):
        cases, events = zip(*native.samples(), strict=True)
        self.assertEqual(native.table(cases, events), native.expected())
        self.assertEqual({rule for rule, _ in native.expected()}, set(common.rules()), "a rule that finds nothing")

    def test_the_samples_are_what_the_agents_make_of_the_raw_ones(self):
        if not render.programs():
            self.skipTest("penstock-high and penstock-low are not built")
        samples = [json.loads(line) for line in (native.HERE / "raw.jsonl").read_text().splitlines()]
        events = render.render([sample["raw"].encode() for sample in samples])
        for (case, kept), sample, event in zip(native.samples(), samples, events, strict=True):
            self.assertEqual((case, kept["event"]), (sample["case"], event["event"]), "run: packaging/siem/tests/render.py")

    def test_the_hits_in_the_logs_beside_the_workspace(self):
        if not SAMPLES.is_dir() or not render.programs():
            self.skipTest("no samples beside the workspace, or no programs")
        lines, cases = [], []
        for file in sorted(SAMPLES.glob("k8s-audit/*/*.log")) + sorted(SAMPLES.glob("falco/*/alerts.jsonl")):
            found = [line for line in file.read_bytes().splitlines() if line.strip()]
            lines += found
            cases += [file.name] * len(found)
        counts = native.table(cases, render.render(lines))
        rows = [line.split("\t") for line in (native.HERE / "expected-logs.tsv").read_text().splitlines()[1:]]
        self.assertEqual(counts, {(rule, case): int(count) for rule, case, count in rows})


class OpenSearch(unittest.TestCase):
    """The monitors' searches, on a server that speaks OpenSearch's protocol."""

    def setUp(self):
        program = pathlib.Path(osmem_server.__file__).parent / "bin/osmem-server"
        self.port = 19200 + os.getpid() % 1000
        self.server = subprocess.Popen([program, "-addr", f"127.0.0.1:{self.port}", "-no-stdin-watch"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.kill)
        for _ in range(100):
            try:
                self.ask("GET", "/")
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        self.fail("the server does not start")

    def ask(self, method, path, body=None, kind="application/json"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body and body.encode(), {"content-type": kind}, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def test_each_finds_what_the_rule_finds(self):
        samples = native.samples()
        self.load(samples)
        cases = [case for case, _ in samples]
        rules, expected = common.rules(), native.expected()
        for name, search in lucene.queries().items():
            with self.subTest(name):
                rule = rules[name]
                wanted = {case: count for (found, case), count in expected.items() if found == name}
                search = without(search, lambda item: "event.ingested" in item.get("range", {}) or "script" in item)
                search["size"] = 1000 if search["size"] else 0
                answer = self.ask("POST", f"/{','.join(lucene.indices(rule))}/_search", json.dumps(search))
                if not isinstance(rule, SigmaCorrelationRule):
                    places = [int(hit["_id"]) for hit in answer["hits"]["hits"]]
                    if common.attribute(rule, "change-window"):
                        places = [place for place in places if outside(samples[place][1])]
                    self.assertEqual(collections.Counter(cases[place] for place in places), wanted)
                    continue
                groups = [bucket["key"] for bucket in answer["aggregations"]["by"]["buckets"]
                          if bucket["windows"]["buckets"] or bucket["shifted"]["buckets"]]
                # Windows are up to twice as wide: these may be found in addition.
                wide = {"authentication_brute_force": {"ida"}, "runtime_exec_then_shell": {("team-e", "api-6")}}
                groups = {tuple(key) if isinstance(key, list) else key for key in groups} - wide.get(name, set())
                self.assertEqual(groups, keys(name, samples))

    def load(self, samples):
        names = common.fields("ecs")
        dates, kinds = {"@timestamp", "event.ingested"}, {"source.ip": "ip"}
        properties = {}
        for field in set(names.values()) | {"event.ingested"}:
            put(properties, field.replace(".", ".properties.").split("."), {"type": "date" if field in dates else kinds.get(field, "keyword")})
        self.ask("PUT", "/_index_template/penstock", json.dumps({
            "index_patterns": sorted(set(lucene.INDICES.values())), "template": {"mappings": {"properties": properties}}}))
        lines = []
        for at, (_, event) in enumerate(samples):
            if event["stream"] not in lucene.INDICES:
                continue
            row = native.flat(event) | {"event.time": event["event"].get("time", event["received"])}
            document = {"event": {"ingested": event["received"]}}
            for field, name in names.items():
                if row.get(field) is not None:
                    put(document, name.split("."), row[field])
            lines += [json.dumps({"create": {"_index": lucene.INDICES[event["stream"]].replace("*", "2026.11"), "_id": str(at)}}), json.dumps(document)]
        answer = self.ask("POST", "/_bulk?refresh=true", "\n".join(lines) + "\n", "application/x-ndjson")
        self.assertFalse(answer["errors"])


class Sentinel(unittest.TestCase):
    def test_each_finds_what_the_rule_finds(self):
        samples = native.samples()
        cases = {event["id"]: case for case, event in samples}
        names = common.fields("sentinel")
        database = duckdb.connect()
        for table, columns in tables().items():
            kinds = {"datetime": "TIMESTAMP", "int": "INTEGER", "long": "BIGINT", "boolean": "BOOLEAN"}
            typed = ", ".join(f"{name} {kinds.get(kind, 'VARCHAR')}" for name, kind in columns.items())
            database.execute(f"CREATE TABLE {table} ({typed})")
        for _, event in samples:
            table = kusto.TABLES.get(event["stream"])
            if table:
                row = native.flat(event) | {"event.time": event["event"].get("time", event["received"])}
                # A string of Kusto is empty where there is none.
                values = {column: row.get(field) or "" for field, column in names.items() if column in tables()[table]}
                database.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' for _ in values)})", list(values.values()))
        rules, expected, passed_over = common.rules(), native.expected(), []
        for name, query in kusto.queries().items():
            with self.subTest(name):
                query = re.sub(r"\n? *\| where Arrived > ago\(\d+m\)", "", query).replace("ingestion_time()", "EventTime")
                try:
                    answer = duckdb_kql.query(database, query)
                except duckdb_kql.KqlUnsupportedError:
                    passed_over.append(name)
                    continue
                columns, rows = [column[0] for column in answer.description], answer.fetchall()
                if isinstance(rules[name], SigmaCorrelationRule):
                    at = [columns.index(names[field]) for field in rules[name].group_by]
                    groups = [tuple(row[place] for place in at) for row in rows]
                    self.assertEqual({key[0] if len(key) == 1 else key for key in groups}, keys(name, samples))
                else:
                    wanted = {case: count for (found, case), count in expected.items() if found == name}
                    self.assertEqual(collections.Counter(cases[row[columns.index("RecordId")]] for row in rows), wanted)
        # Windows over rows, and tests of addresses: not in that engine. The next test parses them.
        self.assertEqual(set(passed_over), {
            "authentication_brute_force", "authentication_from_public_address", "authentication_success_after_failures",
            "exfiltration_exec_frequent", "policy_violations_repeated"})

    def test_the_parser_of_microsoft_finds_no_fault(self):
        queries = {name: query for name, query in kusto.queries().items()}
        wrong = {"no such function": "KubeAudit_CL | where hour(TimeGenerated) > 3", "no such column": "KubeAudit_CL | where Usernam == 'x'"}
        done = subprocess.run(
            ["node", native.HERE / "kusto.mjs", os.environ["PENSTOCK_SIEM_NPM"]], check=True, capture_output=True, text=True,
            input=json.dumps({"tables": tables(), "queries": queries | wrong}))
        found = done.stdout.splitlines()
        self.assertEqual([line for line in found if line.split(":")[0] not in wrong], [])
        self.assertEqual({line.split(":")[0] for line in found}, set(wrong), "the parser must see what is wrong")

    def test_the_template_has_a_rule_for_each_query(self):
        template = json.loads((common.SIEM / "sentinel/analytic-rules.json").read_text())
        self.assertEqual(len(template["resources"]), len(kusto.queries()))


class Splunk(unittest.TestCase):
    def test_appinspect_has_nothing_against_the_add_on(self):
        with tempfile.TemporaryDirectory() as folder:
            package = pathlib.Path(folder) / "TA-penstock.tgz"
            with tarfile.open(package, "w:gz") as archive:
                archive.add(common.SIEM / "splunk/TA-penstock", "TA-penstock")
            report = pathlib.Path(folder) / "report.json"
            subprocess.run(["splunk-appinspect", "inspect", package, "--mode", "precert", "--included-tags", "cloud",
                            "--data-format", "json", "--output-file", report], check=True, capture_output=True)
            summary = json.loads(report.read_text())["summary"]
        self.assertEqual((summary["error"], summary["failure"]), (0, 0), summary)
        self.assertGreater(summary["success"], 50)

    def test_every_search_has_a_stanza_and_brackets_that_close(self):
        text = (common.SIEM / "splunk/TA-penstock/default/savedsearches.conf").read_text()
        files = list((common.SIEM / "splunk/spl").glob("*.spl"))
        self.assertEqual(len(re.findall(r"^\[Penstock: ", text, re.M)), len(files))
        for file in files:
            search = re.sub(r'"[^"]*"', '""', file.read_text())
            for opened, closed in ("()", "[]"):
                self.assertEqual(search.count(opened), search.count(closed), file.name)


class Elastic(unittest.TestCase):
    def test_the_rules_are_whole(self):
        lines = [json.loads(line) for line in (common.SIEM / "elastic/rules.ndjson").read_text().splitlines()]
        queries = list((common.SIEM / "elastic/esql").glob("*.esql"))
        self.assertEqual(len({line["rule_id"] for line in lines}), len(queries))
        for line in lines:
            self.assertTrue(line["threat"], line["name"])
            text = re.sub(r'"[^"]*"', '""', line["query"])
            self.assertEqual(text.count("("), text.count(")"), line["name"])
            # What the mapping writes, and what the query makes itself.
            known = set(common.fields("ecs").values())
            used = set(re.findall(r"\b(?:penstock|event|user|source|orchestrator|url|container)\.[a-z_.]+", text))
            self.assertLessEqual(used, known, line["name"])


class Wazuh(unittest.TestCase):
    def test_every_rule_fires_where_it_should_and_nowhere_else(self):
        rows = [line.split("\t") for line in (native.HERE / "expected-wazuh.tsv").read_text().splitlines()[1:]]
        self.assertEqual(wazuh.table(native.samples()), {(case, rule): int(count) for case, rule, count in rows})
        quiet = {rule.id for rule in wazuh.rules().values() if rule.level} - {rule for _, rule, _ in rows}
        # Their children always say more: opened or refused, logged in or failed, by an owner or not.
        self.assertEqual(quiet, {"100712", "100717", "100770"} & quiet)

    def test_ids_fields_and_techniques_are_known(self):
        fields = {name for _, event in native.samples() for name in native.flat(event)}
        for rule in wazuh.rules().values():
            self.assertTrue(100700 <= int(rule.id) <= 100799, rule.id)
            self.assertLessEqual(rule.names(), fields, rule.id)
            self.assertLessEqual(set(rule.mitre), set(common.techniques()), rule.id)

    def test_every_file_is_xml_and_no_variable_is_used(self):
        for file in sorted((common.SIEM / "wazuh").glob("*.xml")) + sorted((common.SIEM / "wazuh").glob("*.conf")):
            ElementTree.fromstring(f"<all>{file.read_text()}</all>")
            # A second one makes Wazuh forget the folders and lists of the one it has.
            self.assertNotIn("<ruleset>", re.sub("<!--.*?-->", "", file.read_text(), flags=re.DOTALL), file.name)
            # With one variable in a file, every `$` of it is looked up.
            self.assertNotIn("<var", file.read_text(), file.name)

    def test_the_decoders_take_the_headers_that_are_sent(self):
        decoders = ElementTree.fromstring(f"<all>{(common.SIEM / 'wazuh/penstock_decoders.xml').read_text()}</all>")
        texts = [each.findtext("program_name") or each.findtext("prematch") for each in decoders]
        for stream in ("portainer-auth", "portainer-activity", "kube-audit", "falco", "other"):
            headers = (stream, f"1 2026-11-03T21:10:19.000000Z plant-7 {stream} - 52e588a0dc596a47007c916d1e4d7047 - ")
            for pattern, header in zip(texts, headers, strict=True):
                self.assertRegex(header, pattern)


def tables():
    """The columns of Sentinel's tables, with their types."""
    found = {}
    for line in (common.SIEM / "build/tables.tsv").read_text().splitlines()[1:]:
        table, column, kind = line.split("\t")
        found.setdefault(table, {})[column] = kind
    return found


def keys(name, samples):
    """The groups that a correlation finds: what its events are grouped by."""
    rule = common.rules()[name]
    groups = set()
    rows = [native.flat(event) for _, event in samples]
    for found, places in native.found([event for _, event in samples]):
        if found == name:
            groups.add(tuple(rows[places[0]][field] for field in rule.group_by))
    return {key[0] if len(key) == 1 else key for key in groups}


def outside(event):
    """Whether an event happened outside of the change window."""
    when = datetime.datetime.fromisoformat(event["event"]["time"][:19])
    return not common.WINDOW["from-hour"] <= when.hour < common.WINDOW["to-hour"] or when.isoweekday() > common.WINDOW["last-day"]


def put(tree, path, value):
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def without(value, drop):
    """A JSON value without those items of lists that are to be dropped."""
    if isinstance(value, dict):
        return {name: without(inner, drop) for name, inner in value.items()}
    if isinstance(value, list):
        return [without(inner, drop) for inner in value if not (isinstance(inner, dict) and drop(inner))]
    return value


if __name__ == "__main__":
    unittest.main()
