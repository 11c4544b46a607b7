"""Microsoft Sentinel: KQL, and scheduled analytics rules as an ARM template.

pySigma's backend writes the conditions; it knows no correlations, so that these are written here.
"""

import json

from sigma.backends.kusto import KustoBackend
from sigma.correlations import SigmaCorrelationRule

import common

TABLES = {
    "portainer-activity": "PortainerAudit_CL",
    "portainer-auth": "PortainerAudit_CL",
    "kube-audit": "KubeAudit_CL",
    "falco": "FalcoAlert_CL",
}
# Less than two days, so that a rule may run every few minutes.
LOOK_BACK_HOURS = min(common.SITE["late-arrival-hours"] + 1, 47)
SINGLE_MINUTES, CORRELATION_MINUTES = common.SINGLE_MINUTES, common.CORRELATION_MINUTES
# What stands for one act where all records of a request count once.
REQUEST = 'Request = iff(isempty(RequestID), RecordId, strcat(RequestID, "@", tostring(EventTime)))'


class Kusto(KustoBackend):
    """Tests of an address are false, and not null, for what is no address of that family."""

    cidr_expression = 'coalesce({function}({field}, "{value}"), false)'

    def convert_condition_field_eq_val_cidr(self, cond, state):
        network = cond.value.network
        return self.cidr_expression.format(
            function="ipv4_is_in_range" if network.version == 4 else "ipv6_is_in_range",
            field=self.escape_and_quote_field(cond.field),
            value=network,
        )


def queries():
    """The query of every deployed rule, by name."""
    rules = common.rules()
    backend = Kusto(common.pipeline("sentinel", lambda streams: {}))
    bases = [rule for rule in rules.values() if not isinstance(rule, SigmaCorrelationRule)]
    found = {rule.name: backend.convert_rule(rule)[0] for rule in bases}
    return {
        name: correlation(rule, found) if isinstance(rule, SigmaCorrelationRule) else single(rule, found[name])
        for name, rule in rules.items()
        if common.deployed(rule)
    }


def hits(rule, condition, indent=""):
    """The events of a base rule, each record once, as it arrived first: what is sent again is no news."""
    tables = sorted({TABLES[stream] for stream in common.STREAMS[rule.logsource.service]})
    source = tables[0] if len(tables) == 1 else f"union isfuzzy=true {', '.join(tables)}"
    extend, key = (f", {REQUEST}", "Request") if common.once(rule) else ("", "RecordId")
    return (
        f"{source}\n{indent}| where {condition}\n{indent}| extend Arrived = ingestion_time(){extend}\n"
        f"{indent}| summarize arg_min(Arrived, *) by {key}"
    )


def news(name, by):
    """Only of whom something arrived since the last run: the rest was said then."""
    return f"\n| join kind=leftsemi ({name} | where Arrived > ago({CORRELATION_MINUTES}m) | project {by}) on {by}"


def single(rule, condition):
    """The query of a rule that looks at one record."""
    text = hits(rule, condition) + f"\n| where Arrived > ago({SINGLE_MINUTES}m)"
    if common.attribute(rule, "change-window") == "outside":
        window = common.WINDOW
        days = [f"{day % 7}d" for day in range(window["last-day"] + 1, 8)]
        text += (
            f"\n| where hourofday(EventTime) < {window['from-hour']} or hourofday(EventTime) >= "
            f"{window['to-hour']} or dayofweek(EventTime) in ({', '.join(days)})"
        )
    return text


def correlation(rule, conditions):
    """The query of a rule that puts several records together: written here, not by pySigma."""
    keys = [common.fields("sentinel")[field] for field in rule.group_by]
    by, span = ", ".join(keys), f"{common.seconds(rule)}s"
    filled = " and ".join(f"isnotempty({key})" for key in keys)
    kind = rule.type.name.lower()
    if kind in ("event_count", "value_count"):
        base = common.base_rules(rule)[0]
        start = f"let hits = {hits(base, conditions[base.name], '    ')}\n    | where {filled};\n"
        count = rule.condition.count
        if kind == "event_count":
            return start + counted("hits", keys, count, span) + news("hits", by) + f"\n| summarize Events = count() + {count - 1}, First = min(First), Last = max(Last) by {by}"
        field = common.fields("sentinel")[rule.condition.fieldref]
        return start + (
            f"hits\n| project {by}, Last = EventTime\n"
            f"| join kind=inner (hits | project {by}, EventTime, {field}) on {by}\n"
            f"| where EventTime <= Last and Last - EventTime <= {span}\n"
            f"| summarize Values = dcount({field}), First = min(EventTime) by {by}, Last\n"
            f"| where Values >= {count}{news('hits', by)}\n"
            f"| summarize Values = max(Values), First = min(First), Last = max(Last) by {by}"
        )
    lets, names = [], []
    for at, reference in enumerate(rule.rules):
        name = "abc"[at].upper()
        lets.append(part(f"rule{name}", reference.rule, conditions, keys, filled))
        names.append(f"rule{name}")
    first, *others = names
    text = f"{first}\n| project {by}, First = Time, Last = Time"
    for other in others:
        text += f"\n| join kind=inner ({other} | project {by}, Time) on {by}"
        if kind == "temporal_ordered":
            text += "\n| where Time >= Last\n| extend Last = Time"
        else:
            text += "\n| extend First = min_of(First, Time), Last = max_of(Last, Time)"
        text += f"\n| where Last - First <= {span}\n| project {by}, First, Last"
    lets.append(f"let parts = union {', '.join(names)};\n")
    text = "".join(lets) + text
    return text + news("parts", by) + f"\n| summarize First = min(First), Last = max(Last) by {by}"


def part(name, rule, conditions, keys, filled):
    """The times at which a part of a correlation held: of a record, or of a correlation by itself."""
    by = ", ".join(keys)
    if not isinstance(rule, SigmaCorrelationRule):
        return (
            f"let {name} = {hits(rule, conditions[rule.name], '    ')}\n    | where {filled}\n"
            f"    | project {by}, Time = EventTime, Arrived;\n"
        )
    base = common.base_rules(rule)[0]
    start = f"let {name}Hits = {hits(base, conditions[base.name], '    ')}\n    | where {filled};\n"
    inner = counted(f"{name}Hits", keys, rule.condition.count, f"{common.seconds(rule)}s").replace("\n", "\n    ")
    return start + f"let {name} = {inner}\n    | project {by}, Time = Last, Arrived;\n"


def counted(hits_name, keys, count, span):
    """Each record that is the last of `count` within the span: a window that slides."""
    order = ", ".join(f"{key} asc" for key in keys)
    same = " and ".join(f"prev({key}, {count - 1}) == {key}" for key in keys)
    return (
        f"{hits_name}\n| sort by {order}, EventTime asc\n"
        f"| extend First = prev(EventTime, {count - 1}), Same = {same}, Last = EventTime\n"
        f"| where Same and Last - First <= {span}"
    )


def generate():
    """Every file, by path: one query a rule, and the template of all rules."""
    rules = common.rules()
    files, resources = {}, []
    for name, query in queries().items():
        rule = rules[name]
        is_correlation = isinstance(rule, SigmaCorrelationRule)
        by = "packaging/siem/build/kusto.py, since pySigma has no correlations for KQL" if is_correlation else "pySigma"
        files[f"sentinel/kql/{name}.kql"] = f"// {rule.title}\n// {common.NOTE}\n// Written by {by}.\n{query}\n"
        resources.append(resource(rule, query, is_correlation))
    template = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "metadata": {"comments": common.NOTE},
        "parameters": {"workspace": {"type": "string", "metadata": {"description": "Log Analytics workspace"}}},
        "resources": resources,
    }
    files["sentinel/analytic-rules.json"] = json.dumps(template, indent=2) + "\n"
    return files


def resource(rule, query, is_correlation):
    """A scheduled rule. It looks at what was ingested since its last run, however old it is by then.

    Windows stand side by side, as in https://learn.microsoft.com/azure/sentinel/ingestion-delay: a run looks at the
    time for which it was scheduled, five minutes later, and one that fails is repeated for the same time.
    """
    techniques = common.attack(rule)
    tactics = [tag.name for tag in rule.tags if not tag.name[1].isdigit()]
    level = rule.level.name.lower()
    raises = common.attribute(rule, "route") == "soc" or level in ("high", "critical")
    entities = [("Account", "Name", "Username"), ("IP", "Address", "SourceIP")]
    columns = [common.fields("sentinel")[f] for f in rule.group_by] if is_correlation else [c for _, _, c in entities]
    mapped = [
        {"entityType": kind, "fieldMappings": [{"identifier": identifier, "columnName": column}]}
        for kind, identifier, column in entities
        if column in columns
    ]
    incident = {"createIncident": raises}
    if raises:
        # One incident a day for the same user and address; without these, one for each alert.
        incident["groupingConfiguration"] = {
            "enabled": bool(mapped), "reopenClosedIncident": False, "lookbackDuration": "P1D", "matchingMethod": "AllEntities"}
    return {
        "type": "Microsoft.OperationalInsights/workspaces/providers/alertRules",
        "apiVersion": "2023-02-01",
        "name": f"[concat(parameters('workspace'), '/Microsoft.SecurityInsights/{rule.id}')]",
        "kind": "Scheduled",
        "properties": {
            "displayName": f"Penstock: {rule.title}",
            # Techniques take no sub-techniques in this version of the API.
            "description": f"{rule.description} ATT&CK: {', '.join(techniques)}.",
            "severity": "High" if level == "critical" else level.capitalize(),
            "enabled": True,
            "query": query,
            "queryFrequency": f"PT{CORRELATION_MINUTES if is_correlation else SINGLE_MINUTES}M",
            "queryPeriod": f"PT{LOOK_BACK_HOURS}H",
            "triggerOperator": "GreaterThan",
            "triggerThreshold": 0,
            "suppressionEnabled": False,
            "suppressionDuration": "PT5H",
            "tactics": ["".join(word.capitalize() for word in tactic.split("-")) for tactic in tactics],
            "techniques": sorted({technique.split(".")[0] for technique in techniques}),
            "incidentConfiguration": incident,
            "eventGroupingSettings": {"aggregationKind": "AlertPerResult"},
            **({"entityMappings": mapped} if mapped else {}),
            "customDetails": {column: column for column in columns} if is_correlation else {
                "RecordId": "RecordId", "Action": "Action", "Namespace": "Namespace", "ResourceName": "ResourceName",
            },
        },
    }
