"""Tests of the rules and of everything that is generated of them. Run by packaging/scripts/test-siem.sh."""

import collections
import configparser
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
import mapped
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
# When the samples came into the index, in the tests of OpenSearch.
ARRIVED = 1_795_700_000_000
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
        self.load()
        # At once, and where two runs were left out.
        for minutes in (1, 12):
            for name, search in lucene.queries().items():
                with self.subTest(name, minutes=minutes):
                    self.assertEqual(self.found(name, search, minutes), self.wanted(name))

    def test_what_arrived_before_is_no_news(self):
        self.load()
        for name, search in lucene.queries().items():
            correlation = isinstance(common.rules()[name], SigmaCorrelationRule)
            with self.subTest(name):
                # Further stages of requests that were reported came two hours later.
                self.assertEqual(self.found(name, search, 121), self.wanted(name) if correlation else type(self.wanted(name))())
                later = self.found(name, search, 60 * (lucene.LOOK_BACK_HOURS + 3))
                self.assertFalse(later)

    def wanted(self, name):
        """Cases and how often each is found; of correlations the groups."""
        if isinstance(common.rules()[name], SigmaCorrelationRule):
            return keys(name, native.samples())
        return collections.Counter({case: count for (found, case), count in native.expected().items() if found == name})

    def found(self, name, search, minutes):
        """What a monitor's search finds so long after the samples arrived."""
        rule = common.rules()[name]
        # That server runs no scripts over documents: hours are compared here.
        search = without(search, lambda item: "script" in item)
        search["size"] = 1000
        period_end = ARRIVED + minutes * 60_000
        text = json.dumps(search).replace("{{period_end}}", str(period_end))
        self.assertNotIn("{{", text)
        answer = self.ask("POST", f"/{','.join(lucene.indices(rule))}/_search", text)
        if isinstance(rule, SigmaCorrelationRule):
            groups = [bucket["key"] for bucket in answer["aggregations"]["by"]["buckets"]
                      if bucket["windows"]["buckets"] or bucket["shifted"]["buckets"]]
            # Windows are up to twice as wide: these may be found in addition.
            wide = {"authentication_brute_force": {"ida"}, "runtime_exec_then_shell": {("team-e", "api-6")}}
            return {tuple(key) if isinstance(key, list) else key for key in groups} - wide.get(name, set())
        samples = {sample["ecs"]["event"]["id"]: (case, sample) for case, sample in mapped.samples()}
        hits = [samples[hit["_id"]] for hit in answer["hits"]["hits"]]
        if not common.once(rule):
            if common.attribute(rule, "change-window"):
                hits = [hit for hit in hits if outside(hit[1]["native"])]
            return collections.Counter(case for case, _ in hits)
        requests, alone = collections.Counter(), collections.Counter()
        for bucket in answer["aggregations"]["requests"]["buckets"]:
            request, time = bucket["key"]
            [case] = {case for case, sample in hits if sample["native"]["event"].get("request-id") == request
                      and sample["ecs"]["@timestamp"].startswith(time[:-1])}
            requests[case] += 1
        if answer["aggregations"]["alone"]["doc_count"]:
            alone.update(case for case, sample in hits if "request-id" not in sample["native"]["event"])
        self.assertEqual(answer["aggregations"]["alone"]["doc_count"], alone.total())
        return requests + alone

    def load(self):
        """Puts the documents of the sink into the indices of the sink; what the ingest pipeline adds is added here."""
        self.ask("PUT", "/_index_template/penstock", mapped.template())
        lines, begun = [], set()
        for _, sample in mapped.samples():
            document = json.loads(json.dumps(sample["ecs"]))
            if document["penstock"]["stream"] not in lucene.INDICES:
                continue
            request = (document.get("http", {}).get("request", {}).get("id"), document["@timestamp"])
            stage = sample["native"]["event"].get("details", {}).get("stage")
            later = stage == "ResponseComplete" and request in begun
            begun |= {request} if stage == "ResponseStarted" else set()
            arrived = ARRIVED + (120 * 60_000 if later else 0)
            document["event"]["ingested"] = datetime.datetime.fromtimestamp(arrived / 1000, datetime.UTC).isoformat()
            index = lucene.INDICES[document["penstock"]["stream"]].replace("*", "2026.11")
            lines += [json.dumps({"create": {"_index": index, "_id": document["event"]["id"]}}), json.dumps(document)]
        answer = self.ask("POST", "/_bulk?refresh=true", "\n".join(lines) + "\n", "application/x-ndjson")
        self.assertFalse(answer["errors"], str(answer)[:1000])


class Sentinel(unittest.TestCase):
    def test_each_finds_what_the_rule_finds(self):
        passed_over = self.compare(lambda name: self.wanted(name), [datetime.timedelta(minutes=1)])
        # Windows over rows, and tests of addresses: not in that engine. The next test parses them.
        self.assertEqual(set(passed_over), {
            "authentication_brute_force", "authentication_from_public_address", "authentication_success_after_failures",
            "exfiltration_exec_frequent", "policy_violations_repeated"})

    def test_what_arrived_before_is_no_news_however_often_it_is_sent(self):
        self.compare(lambda name: type(self.wanted(name))(), [datetime.timedelta(hours=3), datetime.timedelta(minutes=1)])

    def wanted(self, name):
        if isinstance(common.rules()[name], SigmaCorrelationRule):
            return keys(name, native.samples())
        return collections.Counter({case: count for (found, case), count in native.expected().items() if found == name})

    def compare(self, wanted, arrivals):
        """Runs every query over the rows of the sink, which arrived so long ago; gives those that can't be run."""
        database = duckdb.connect()
        database.execute("SET TimeZone = 'UTC'")
        kinds = {"datetime": "TIMESTAMP", "int": "INTEGER", "long": "BIGINT", "boolean": "BOOLEAN"}
        for table, columns in tables().items():
            typed = ", ".join(f"{name} {kinds.get(kind, 'VARCHAR')}" for name, kind in columns.items())
            database.execute(f"CREATE TABLE {table} ({typed}, IngestedAt TIMESTAMP)")
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        for _, sample in mapped.samples():
            columns = tables().get(sample["table"])
            if columns is None:
                continue
            self.assertLessEqual(set(sample["sentinel"]), set(columns))
            # A string of Kusto is empty where there is none.
            row = {name: "" for name, kind in columns.items() if kind == "string"} | sample["sentinel"]
            row = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            for ago in arrivals:
                row["IngestedAt"] = now - ago
                places = ", ".join("?" for _ in row)
                database.execute(f"INSERT INTO {sample['table']} ({', '.join(row)}) VALUES ({places})", list(row.values()))
        cases = {sample["sentinel"]["RecordId"]: case for case, sample in mapped.samples()}
        rules, names, passed_over = common.rules(), common.fields("sentinel"), []
        for name, query in kusto.queries().items():
            with self.subTest(name):
                # The one function that this engine has not: when a row came in.
                query = query.replace("ingestion_time()", "IngestedAt")
                try:
                    answer = duckdb_kql.query(database, query)
                except duckdb_kql.KqlUnsupportedError:
                    passed_over.append(name)
                    continue
                columns, rows = [column[0] for column in answer.description], answer.fetchall()
                if isinstance(rules[name], SigmaCorrelationRule):
                    at = [columns.index(names[field]) for field in rules[name].group_by]
                    groups = [tuple(row[place] for place in at) for row in rows]
                    self.assertEqual({key[0] if len(key) == 1 else key for key in groups}, wanted(name))
                else:
                    found = collections.Counter(cases[row[columns.index("RecordId")]] for row in rows)
                    self.assertEqual(found, wanted(name))
        return passed_over

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

    def test_the_events_have_the_fields_of_the_searches_once(self):
        there = set()
        for _, sample in mapped.samples():
            event, indexed = sample["hec"]["event"], sample["hec"]["fields"]
            # A name in both has two values at search time.
            self.assertFalse(set(event) & set(indexed))
            there |= set(event) | set(indexed)
        self.assertLessEqual(set(common.fields("splunk").values()) - {"_time", "penstock_actor"}, there)

    def test_no_run_is_left_out_and_nothing_told_twice(self):
        config = configparser.RawConfigParser(delimiters=("=",), strict=True)
        text = (common.SIEM / "splunk/TA-penstock/default/savedsearches.conf").read_text().replace(" \\\n", " ")
        config.read_string(text)
        for title in config.sections():
            stanza = config[title]
            self.assertEqual(stanza["realtime_schedule"], "0", title)
            self.assertNotIn("schedule_window", stanza, title)
            every = int(re.match(r"\*/(\d+) ", stanza["cron_schedule"])[1])
            back = re.search(r"_index_earliest=-(\d+)([mh])", stanza["search"])
            self.assertGreater(int(back[1]) * {"m": 1, "h": 60}[back[2]], 5 * every, title)
            # What two runs find is told once: by the record, the request or the group, all of which the result has.
            self.assertEqual(stanza["alert.suppress"], "1", title)
            for field in stanza["alert.suppress.fields"].split(","):
                self.assertIn(field, stanza["search"].rsplit("| ", 1)[1], title)

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


def without(value, drop):
    """A JSON value without those items of lists that are to be dropped."""
    if isinstance(value, dict):
        return {name: without(inner, drop) for name, inner in value.items()}
    if isinstance(value, list):
        return [without(inner, drop) for inner in value if not (isinstance(inner, dict) and drop(inner))]
    return value


if __name__ == "__main__":
    unittest.main()
