"""Elastic Security: ES|QL detection rules.

pySigma's backend writes the conditions. Its correlations count in windows that stand side by side and miss
what lies across two of them, and it knows no order: those are written here. Windows are twice the span and
overlap by the span: nothing within the span is missed, and what is up to twice as far apart may be found, too.
"""

import json

from sigma.backends.elasticsearch import ESQLBackend
from sigma.correlations import SigmaCorrelationRule

import common
import lucene

INDICES = "portainer-audit-*,kube-audit-*,falco-alert-*"
RISK = {"informational": 10, "low": 21, "medium": 47, "high": 73, "critical": 99}
LOOK_BACK_HOURS = common.SITE["late-arrival-hours"] + 1
# More than lies between two runs: one that was skipped leaves no hole, and a document makes one alert only.
SINGLE_LOOK_BACK_MINUTES = 30
TACTICS = {
    "collection": "TA0009",
    "credential-access": "TA0006",
    "defense-evasion": "TA0005",
    "discovery": "TA0007",
    "execution": "TA0002",
    "impact": "TA0040",
    "initial-access": "TA0001",
    "lateral-movement": "TA0008",
    "persistence": "TA0003",
    "privilege-escalation": "TA0004",
}


class Esql(ESQLBackend):
    """A field that is not there makes a comparison null, and so its negation: `false` is meant."""

    def convert_condition_not(self, cond, state):
        return f"not coalesce({self.convert_condition(cond.args[0], state)}, false)"

    def finalize_query_default(self, rule, query, index, state):
        return query


def queries():
    """The query of every deployed rule, by name."""
    rules = common.rules()
    backend = Esql(lucene.pipeline())
    bases = [rule for rule in rules.values() if not isinstance(rule, SigmaCorrelationRule)]
    found = {rule.name: backend.convert_rule(rule)[0] for rule in bases}
    return {
        name: correlation(rule, found) if isinstance(rule, SigmaCorrelationRule) else single(rule, found[name])
        for name, rule in rules.items()
        if common.deployed(rule)
    }


def single(rule, condition):
    text = f"from {INDICES} metadata _id, _index, _version\n| where {condition}"
    if common.attribute(rule, "change-window") == "outside":
        window = common.WINDOW
        hour, day = ('date_extract("hour_of_day", @timestamp)', 'date_extract("day_of_week", @timestamp)')
        text += f"\n| where {hour} < {window['from-hour']} or {hour} >= {window['to-hour']} or {day} > {window['last-day']}"
    return text


def correlation(rule, conditions):
    """The query of a rule that puts several records together: written here, not by pySigma."""
    names = common.fields("ecs")
    by = ", ".join(names[field] for field in rule.group_by)
    filled = " and ".join(f"{names[field]} is not null" for field in rule.group_by)
    kind, bases, span = rule.type.name.lower(), common.base_rules(rule), common.seconds(rule)
    wanted = " or ".join(f"({conditions[base.name]})" for base in bases)
    text = (
        f"from {INDICES}\n| where ({wanted}) and {filled}\n"
        f"| eval slot = date_trunc({span} seconds, @timestamp)\n"
        f"| eval slot = mv_append(slot, slot - {span} seconds)\n| mv_expand slot\n"
    )
    if kind in ("event_count", "value_count"):
        count = "count(*)" if kind == "event_count" else f"count_distinct({names[rule.condition.fieldref]})"
        if kind == "event_count" and common.once(bases[0]):
            count = 'count_distinct(coalesce(concat(http.request.id, "@", to_string(@timestamp)), event.id))'
        test = f"found >= {rule.condition.count}"
        text += f"| stats found = {count}, first_seen = min(@timestamp), last_seen = max(@timestamp) by slot, {by}\n"
    else:
        first = rule.rules[0].rule
        evals, stats, tests = [], ["first_seen = min(@timestamp)", "last_seen = max(@timestamp)"], []
        for at, base in enumerate(bases):
            evals.append(f"time{at} = case({conditions[base.name]}, @timestamp, null)")
            stats.append(f"count{at} = count(time{at})")
            least = first.condition.count if at == 0 and isinstance(first, SigmaCorrelationRule) else 1
            tests.append(f"count{at} >= {least}")
        if kind == "temporal_ordered":
            stats += ["begins = min(time0)", f"ends = max(time{len(bases) - 1})"]
            tests.append("begins <= ends")
        text += f"| eval {', '.join(evals)}\n| stats {', '.join(stats)} by slot, {by}\n"
        test = " and ".join(tests)
    return text + f"| where {test}\n| stats first_seen = min(first_seen), last_seen = max(last_seen) by {by}"


def threat(rule):
    """The techniques of a rule below each of its tactics, as the Detection Engine has them."""
    known = common.techniques()
    tactics = [tag.name for tag in rule.tags if not tag.name[1].isdigit()]
    found = []
    for tactic in tactics:
        list_of = {}
        for technique in common.attack(rule):
            if tactic not in known[technique]["tactics"].split(","):
                continue
            parent, _, sub = technique.partition(".")
            name = known[technique]["name"]
            entry = list_of.setdefault(parent, {
                "id": parent, "name": name.split(": ")[0], "subtechnique": [],
                "reference": f"https://attack.mitre.org/techniques/{parent}/"})
            if sub:
                entry["subtechnique"].append({
                    "id": technique, "name": name.split(": ")[1],
                    "reference": f"https://attack.mitre.org/techniques/{parent}/{sub}/"})
        if list_of:
            found.append({
                "framework": "MITRE ATT&CK",
                "tactic": {"id": TACTICS[tactic], "name": tactic.replace("-", " ").title(),
                           "reference": f"https://attack.mitre.org/tactics/{TACTICS[tactic]}/"},
                "technique": list(list_of.values())})
    return found


def generate():
    """Every file, by path: rules for Kibana's import. They go by `event.ingested`: records may come late."""
    rules = common.rules()
    lines, files = [], {}
    for name, query in queries().items():
        rule = rules[name]
        level = rule.level.name.lower()
        is_correlation = isinstance(rule, SigmaCorrelationRule)
        by = "packaging/siem/build/esql.py" if is_correlation else "pySigma"
        files[f"elastic/esql/{name}.esql"] = f"// {rule.title}\n// {common.NOTE}\n// Written by {by}.\n{query}\n"
        entry = {
            "rule_id": str(rule.id),
            "name": f"Penstock: {rule.title}",
            "description": rule.description,
            "type": "esql",
            "language": "esql",
            "query": query,
            "severity": "low" if level == "informational" else level,
            "risk_score": RISK[level],
            "interval": f"{common.CORRELATION_MINUTES if is_correlation else common.SINGLE_MINUTES}m",
            "from": f"now-{LOOK_BACK_HOURS}h" if is_correlation else f"now-{SINGLE_LOOK_BACK_MINUTES}m",
            "to": "now",
            "timestamp_override": "event.ingested",
            "timestamp_override_fallback_disabled": False,
            "max_signals": 100,
            "enabled": False,
            "author": ["Penstock"],
            "references": rule.references,
            "false_positives": rule.falsepositives,
            "tags": ["Penstock", f"Use case: {common.attribute(rule, 'use-case')}"]
            + (["Route: SOC"] if common.attribute(rule, "route") == "soc" else []),
            "threat": threat(rule),
            "version": 1,
            "exceptions_list": [],
            "actions": [],
        }
        if is_correlation:
            entry["alert_suppression"] = {
                "group_by": [common.fields("ecs")[field] for field in rule.group_by],
                "duration": {"value": 24, "unit": "h"}, "missing_fields_strategy": "suppress"}
        elif common.once(rule):
            entry["alert_suppression"] = {
                "group_by": ["http.request.id", "@timestamp"],
                "duration": {"value": 24, "unit": "h"}, "missing_fields_strategy": "doNotSuppress"}
        lines.append(json.dumps(entry))
    files["elastic/rules.ndjson"] = "\n".join(lines) + "\n"
    return files
