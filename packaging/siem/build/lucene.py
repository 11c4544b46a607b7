"""OpenSearch: monitors of its Alerting plugin, with Lucene queries.

pySigma's backend writes the conditions; it knows no correlations, so that these are aggregations written
here. Their windows are twice the span and overlap by the span: nothing within the span is missed, and what is
up to twice as far apart may be found, too.
"""

import json

from sigma.backends.opensearch import OpensearchLuceneBackend
from sigma.correlations import SigmaCorrelationRule

import common

INDICES = {
    "portainer-activity": "portainer-audit-*",
    "portainer-auth": "portainer-audit-*",
    "kube-audit": "kube-audit-*",
    "falco": "falco-alert-*",
}
SEVERITY = {"informational": "5", "low": "4", "medium": "3", "high": "2", "critical": "1"}
LOOK_BACK_HOURS = common.SITE["late-arrival-hours"] + 1
GROUPS_MAX = 1000
# More than lies between two runs: one that was skipped leaves no hole.
SINGLE_LOOK_BACK_MINUTES = 15
REQUEST_ID = "http.request.id"


def pipeline():
    """Field names of ECS; `penstock.stream` tells what stream it is."""
    return common.pipeline("ecs", lambda streams: {"penstock.stream": streams})


def indices(rule):
    return sorted({INDICES[stream] for stream in common.streams(rule)})


def queries():
    """The body of the search of every deployed rule, by name."""
    rules = common.rules()
    backend = OpensearchLuceneBackend(pipeline())
    bases = [rule for rule in rules.values() if not isinstance(rule, SigmaCorrelationRule)]
    found = {rule.name: {"query_string": {"query": backend.convert_rule(rule)[0], "analyze_wildcard": True}} for rule in bases}
    return {
        name: correlation(rule, found) if isinstance(rule, SigmaCorrelationRule) else single(rule, found[name])
        for name, rule in rules.items()
        if common.deployed(rule)
    }


def arrived(since):
    """What came into the index in a time, however old it is by then."""
    return {"range": {"event.ingested": {"gte": f"{{{{period_end}}}}||-{since}", "format": "epoch_millis"}}}


def single(rule, condition):
    since = f"{SINGLE_LOOK_BACK_MINUTES}m"
    if common.once(rule):
        return requests(condition, since)
    filters = [arrived(since), condition]
    if common.attribute(rule, "change-window") == "outside":
        window = common.WINDOW
        filters.append({"script": {"script": {"lang": "painless", "source": (
            "long s = doc['@timestamp'].value.toInstant().toEpochMilli() / 1000L; long hour = (s % 86400L) / 3600L; "
            # 1970-01-01 was a Thursday.
            f"return hour < {window['from-hour']} || hour >= {window['to-hour']}"
            f" || (s / 86400L + 3L) % 7L + 1L > {window['last-day']};"
        )}}})
    return {"size": 10, "query": {"bool": {"filter": filters}}}


def requests(condition, since):
    """The search of a rule that looks at one record, where all records of a request count once: the request is new
    where the first of them is; what says no request is looked at alone."""
    names = {"terms": [{"field": REQUEST_ID}, {"field": "@timestamp"}]}
    new = f"params.first >= {{{{period_end}}}}L - {SINGLE_LOOK_BACK_MINUTES * 60_000}L"
    return {
        "size": 0,
        "query": {"bool": {"filter": [arrived(f"{LOOK_BACK_HOURS}h"), condition]}},
        "aggs": {
            "requests": {"multi_terms": {**names, "size": GROUPS_MAX, "order": {"first": "desc"}}, "aggs": {
                "first": {"min": {"field": "event.ingested"}},
                "new": {"bucket_selector": {"buckets_path": {"first": "first"}, "script": new}},
            }},
            "alone": {"filter": {"bool": {"filter": [arrived(since)], "must_not": [{"exists": {"field": REQUEST_ID}}]}}},
        },
    }


def correlation(rule, conditions):
    """The search of a rule that puts several records together: written here, not by pySigma."""
    names = common.fields("ecs")
    keys = [names[field] for field in rule.group_by]
    kind = rule.type.name.lower()
    bases = common.base_rules(rule)
    parts = {base.name: conditions[base.name] for base in bases}
    first = rule.rules[0].rule
    span = common.seconds(rule)
    if kind in ("event_count", "value_count"):
        inner = {"found": {"cardinality": {"field": names[rule.condition.fieldref]}}} if kind == "value_count" else {}
        paths = {"found": "found" if inner else "_count"}
        script = f"params.found >= {rule.condition.count}"
        if kind == "event_count" and common.once(bases[0]):
            # Requests: by their ids or by when they came in, whichever are more; and records without any.
            inner = {
                "ids": {"cardinality": {"field": REQUEST_ID}},
                "asked": {"filter": {"exists": {"field": REQUEST_ID}}, "aggs": {"times": {"cardinality": {"field": "@timestamp"}}}},
                "alone": {"missing": {"field": REQUEST_ID}},
            }
            paths = {"ids": "ids", "times": "asked>times", "alone": "alone._count"}
            script = f"(params.ids > params.times ? params.ids : params.times) + params.alone >= {rule.condition.count}"
    else:
        inner, paths, tests = {}, {}, []
        for at, base in enumerate(bases):
            inner[base.name] = {"filter": parts[base.name], "aggs": {"first": {"min": {"field": "@timestamp"}}, "last": {"max": {"field": "@timestamp"}}}}
            paths[f"count{at}"] = f"{base.name}._count"
            least = first.condition.count if at == 0 and isinstance(first, SigmaCorrelationRule) else 1
            tests.append(f"params.count{at} >= {least}")
        if kind == "temporal_ordered":
            paths |= {"begin": f"{bases[0].name}.first", "end": f"{bases[-1].name}.last"}
            tests.append("params.begin <= params.end")
        script = " && ".join(tests)
    select = {"bucket_selector": {"buckets_path": paths, "script": script}}

    def windows(offset):
        return {"date_histogram": {"field": "@timestamp", "fixed_interval": f"{2 * span}s", "offset": f"{offset}s", "min_doc_count": 1},
                "aggs": {**inner, "enough": select}}

    by = {"terms": {"field": keys[0], "size": GROUPS_MAX}} if len(keys) == 1 else {
        "multi_terms": {"terms": [{"field": key} for key in keys], "size": GROUPS_MAX}}
    return {
        "size": 0,
        "query": {"bool": {
            "filter": [arrived(f"{LOOK_BACK_HOURS}h")] + [{"exists": {"field": key}} for key in keys],
            "should": list(parts.values()),
            "minimum_should_match": 1,
        }},
        "aggs": {"by": {**by, "aggs": {"windows": windows(0), "shifted": windows(span)}}},
    }


def generate():
    """Every file, by path: the monitors, one JSON a line, to be posted one by one."""
    rules = common.rules()
    lines = []
    for name, search in queries().items():
        rule = rules[name]
        is_correlation = isinstance(rule, SigmaCorrelationRule)
        single = "ctx.results[0].hits.total.value > 0"
        if common.once(rule):
            single = "ctx.results[0].aggregations.requests.buckets.size() > 0 || ctx.results[0].aggregations.alone.doc_count > 0"
        source = (
            "for (b in ctx.results[0].aggregations.by.buckets) { if (b.windows.buckets.size() > 0 || "
            "b.shifted.buckets.size() > 0) { return true } } return false"
            if is_correlation else single
        )
        lines.append(json.dumps({
            "type": "monitor",
            "monitor_type": "query_level_monitor",
            "name": f"Penstock: {rule.title}",
            "enabled": True,
            "schedule": {"period": {"interval": common.CORRELATION_MINUTES if is_correlation else common.SINGLE_MINUTES, "unit": "MINUTES"}},
            "inputs": [{"search": {"indices": indices(rule), "query": search}}],
            "triggers": [{"query_level_trigger": {
                "id": str(rule.id),
                "name": rule.title,
                "severity": SEVERITY[rule.level.name.lower()],
                "condition": {"script": {"source": source, "lang": "painless"}},
                "actions": [],
            }}],
            "ui_metadata": {"penstock": {"rule": name, "attack": common.attack(rule), "written-by": "packaging/siem/build/lucene.py" if is_correlation else "pySigma"}},
        }))
    return {"opensearch/monitors.ndjson": "\n".join(lines) + "\n"}
