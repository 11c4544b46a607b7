"""Runs the rules over native events in SQLite: pySigma's backend writes the SQL, also of correlations."""

import collections
import json
import pathlib
import sqlite3
import sys

from sigma.backends.sqlite import sqliteBackend
from sigma.backends.sqlite.runtime import ensure_fields, execute_plan
from sigma.correlations import SigmaCorrelationRule

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "build"))
import common  # noqa: E402  (it lies in the folder above)


def samples():
    """Cases and native events of the checked-in samples."""
    lines = (HERE / "native.jsonl").read_text().splitlines()
    return [(line["case"], line["event"]) for line in map(json.loads, lines)]


def expected():
    """How often each rule finds a case, by (rule, case); what is not there is never found."""
    rows = [line.split("\t") for line in (HERE / "expected.tsv").read_text().splitlines()[1:]]
    return {(rule, case): int(count) for rule, case, count in rows}


def flat(value, path=""):
    """The members of a JSON value by their dotted paths."""
    if isinstance(value, dict):
        return {key: text for name, inner in value.items() for key, text in flat(inner, f"{path}.{name}" if path else name).items()}
    return {path: json.dumps(value) if isinstance(value, list) else value}


def found(events):
    """Of each rule the groups of events that it finds: (rule name, list of places in `events`)."""
    rules = common.rules()
    table = [flat(event) for event in events]
    for row, event in zip(table, events, strict=True):
        row["timestamp"] = event["event"].get("time", event["received"])
    columns = sorted({key for row in table for key in row} | set(common.fields("native")))
    db = sqlite3.connect(":memory:")
    db.create_function("REGEXP", 2, lambda pattern, text: bool(__import__("re").search(pattern, text or "")))
    names = ", ".join(f"`{name}` TEXT COLLATE NOCASE" for name in columns)
    db.execute(f"CREATE TABLE logs ({names})")
    places = ", ".join("?" for _ in columns)
    db.executemany(f"INSERT INTO logs VALUES ({places})", [[row.get(name) for name in columns] for row in table])
    backend = sqliteBackend(common.pipeline("native", lambda streams: {"stream": streams}))
    bases = [rule for rule in rules.values() if not isinstance(rule, SigmaCorrelationRule)]
    repeats = {}
    for rule in bases:
        query = backend.convert_rule(rule)[0]
        ensure_fields(db, {"logs": backend.required_fields(rule)})
        if common.attribute(rule, "change-window") == "outside":
            query = f"SELECT * FROM ({query.replace('SELECT *', 'SELECT rowid, *')}) WHERE {outside()}"
        places = [at for (at,) in db.execute(query.replace("SELECT *", "SELECT rowid", 1))]
        if common.once(rule):
            repeats[rule.name] = again(table, places)
        for at in places:
            if at not in repeats.get(rule.name, ()):
                yield rule.name, [at - 1]
    for rule in rules.values():
        if isinstance(rule, SigmaCorrelationRule):
            backend.convert_correlation_rule(rule)
            plan = backend._correlation_plans[id(rule)]
            # What counts events counts those of one request once.
            db.execute("SAVEPOINT whole")
            for at in repeats.get(common.base_rules(rule)[0].name, ()) if rule.type.name == "EVENT_COUNT" else ():
                db.execute("DELETE FROM logs WHERE rowid = ?", (at,))
            alerts, problems = execute_plan(db, plan)
            db.execute("ROLLBACK TO whole")
            assert not problems.get("invalid_timestamp"), rule.name
            for alert in alerts:
                yield rule.name, sorted(int(event.split(":")[1]) - 1 for event in alert["event_ids"])


def again(table, places):
    """The rows (from 1) that are further records of a request of which one was found before."""
    seen, found = set(), set()
    for at in sorted(places):
        row = table[at - 1]
        key = (row.get("event.request-id"), row["timestamp"])
        if key[0] and key in seen:
            found.add(at)
        seen.add(key)
    return found


def outside():
    """Whether a row is outside of the change window."""
    window = common.WINDOW
    hour, day = ("CAST(strftime('%H', timestamp) AS INTEGER)", "(CAST(strftime('%w', timestamp) AS INTEGER) + 6) % 7 + 1")
    return f"({hour} < {window['from-hour']} OR {hour} >= {window['to-hour']} OR {day} > {window['last-day']})"


def table(cases, events):
    """How often each rule finds each case."""
    counts = collections.Counter()
    for rule, places in found(events):
        for case in {cases[place] for place in places}:
            counts[rule, case] += 1
    return dict(counts)


if __name__ == "__main__":
    cases, events = zip(*samples(), strict=True)
    print("rule\tcase\tcount")
    for (rule, case), count in sorted(table(cases, events).items()):
        print(rule, case, count, sep="\t")
