"""Splunk: the saved searches of the technology add-on.

pySigma's backend writes the conditions. Its correlations count in windows that stand side by side and miss
what lies across two of them, so that those are written here, with windows that slide (`streamstats`).
"""

import json

from sigma.backends.splunk import SplunkBackend
from sigma.correlations import SigmaCorrelationRule

import common

INDEX = "`penstock_index`"
SOURCETYPES = {
    "portainer-activity": "portainer:audit",
    "portainer-auth": "portainer:audit",
    "kube-audit": "kube:audit",
    "falco": "falco:alert",
}
# What stands for one act where all records of a request count once.
REQUEST = 'penstock_request=if(isnull(request_id), record_id, request_id."@"._time)'
SEVERITY = {"informational": 1, "low": 2, "medium": 3, "high": 4, "critical": 5}
LOOK_BACK_HOURS = common.SITE["late-arrival-hours"] + 1
# Searches of one record look at more than arrived since their last run: a run that was skipped leaves no hole, and
# what was reported already is suppressed by its id.
SINGLE_LOOK_BACK_MINUTES = 65


def queries():
    """The search of every deployed rule, by name."""
    rules = common.rules()
    backend = SplunkBackend(common.pipeline("splunk", lambda streams: {"sourcetype": sourcetypes(streams)}))
    bases = [rule for rule in rules.values() if not isinstance(rule, SigmaCorrelationRule)]
    found = {rule.name: f"{INDEX} {backend.convert_rule(rule)[0]}" for rule in bases}
    return {
        name: correlation(rule, found) if isinstance(rule, SigmaCorrelationRule) else single(rule, found[name])
        for name, rule in rules.items()
        if common.deployed(rule)
    }


def sourcetypes(streams):
    return sorted({SOURCETYPES[stream] for stream in streams})


def single(rule, search):
    """The search of a rule that looks at one record."""
    if common.attribute(rule, "change-window") == "outside":
        window = common.WINDOW
        # Seconds since 1970 are UTC, whatever zone the user has; 1970-01-01 was a Thursday.
        search += (
            "\n| eval penstock_hour=floor((_time % 86400) / 3600), penstock_day=(floor(_time / 86400) + 3) % 7 + 1"
            f"\n| where penstock_hour < {window['from-hour']} OR penstock_hour >= {window['to-hour']}"
            f" OR penstock_day > {window['last-day']}"
        )
    shown = ["_time", "host", "record_id", "penstock_actor", "user", "src", "operation", "result", "privileged",
             "environment", "namespace", "resource_type", "resource_name"]
    if common.once(rule):
        return search + f"\n| eval {REQUEST}\n| dedup penstock_request\n| table {' '.join(shown)} penstock_request"
    return search + f"\n| dedup record_id\n| table {' '.join(shown)}"


def correlation(rule, searches):
    """The search of a rule that puts several records together: written here, not by pySigma."""
    keys = [common.fields("splunk")[field] for field in rule.group_by]
    by, span = " ".join(keys), common.seconds(rule)
    kind = rule.type.name.lower()
    result = f"| stats min(first) as first max(_time) as last max(found) as found values(record_id) as record_id by {by}"
    if kind in ("event_count", "value_count"):
        count = "count" if kind == "event_count" else f"dc({common.fields('splunk')[rule.condition.fieldref]})"
        base = common.base_rules(rule)[0]
        once = f"| eval {REQUEST}\n| dedup penstock_request" if common.once(base) else "| dedup record_id"
        return (
            f"{searches[base.name]} {exist(keys)}\n{once}\n| sort 0 _time\n"
            f"| streamstats time_window={span}s {count} as found min(_time) as first by {by}\n"
            f"| where found >= {rule.condition.count}\n{result}"
        )
    bases = common.base_rules(rule)
    parts = "\n".join(
        f'[ search {searches[base.name]} {exist(keys)} | eval penstock_rule="{base.name}" ]' for base in bases
    )
    text = f"| multisearch\n{parts}\n| dedup record_id penstock_rule\n| sort 0 _time\n"
    if kind == "temporal":
        return text + (
            f"| streamstats time_window={span}s dc(penstock_rule) as found min(_time) as first by {by}\n"
            f"| where found >= {len(bases)}\n{result}"
        )
    first, second = rule.rules[0].rule, bases[1].name
    mark = f'penstock_rule="{bases[0].name}"'
    if isinstance(first, SigmaCorrelationRule):
        text += (
            f"| eval part=if({mark}, 1, null())\n"
            f"| streamstats time_window={common.seconds(first)}s count(part) as parts by {by}\n"
        )
        mark += f" AND parts >= {first.condition.count}"
    return text + (
        f"| eval begin=if({mark}, _time, null())\n"
        f"| streamstats last(begin) as first count as found by {by}\n"
        f'| where penstock_rule="{second}" AND _time - first <= {span}\n{result}'
    )


def exist(keys):
    return " ".join(f"{key}=*" for key in keys)


def savedsearches():
    """savedsearches.conf. Searches go by the time of indexing: a record may come long after it happened."""
    rules = common.rules()
    text = f"# {common.NOTE}\n"
    for name, search in queries().items():
        rule = rules[name]
        level = rule.level.name.lower()
        is_correlation = isinstance(rule, SigmaCorrelationRule)
        settings = {
            "description": rule.description,
            "search": search.replace("\n", " \\\n").replace(
                INDEX, f"{INDEX} _index_earliest=-{LOOK_BACK_HOURS}h" if is_correlation
                else f"{INDEX} _index_earliest=-{SINGLE_LOOK_BACK_MINUTES}m@m"),
            "dispatch.earliest_time": "-30d@d",
            "dispatch.latest_time": "+1d@d",
            "cron_schedule": f"*/{common.CORRELATION_MINUTES if is_correlation else common.SINGLE_MINUTES} * * * *",
            # Continuous: no run is left out, however late it comes.
            "realtime_schedule": 0,
            "enableSched": 1,
            "counttype": "number of events",
            "relation": "greater than",
            "quantity": 0,
            "alert.track": 1,
            "alert.digest_mode": 0,
            "alert.severity": SEVERITY[level],
            "alert.suppress": 1,
            "alert.suppress.period": "24h",
            "alert.suppress.fields": ",".join(common.fields("splunk")[field] for field in rule.group_by)
            if is_correlation else "penstock_request" if common.once(rule) else "record_id",
            # Read by Enterprise Security, and by nothing else.
            "action.correlationsearch.enabled": 1,
            "action.correlationsearch.label": f"Penstock: {rule.title}",
            "action.correlationsearch.annotations": json.dumps({"mitre_attack": common.attack(rule)}),
        }
        if common.attribute(rule, "route") == "soc":
            settings |= {
                "action.notable": 1,
                "action.notable.param.rule_title": rule.title,
                "action.notable.param.rule_description": rule.description,
                "action.notable.param.security_domain": "access" if "authentication" in name else "threat",
                "action.notable.param.severity": level,
                "action.notable.param.nes_fields": settings["alert.suppress.fields"],
            }
        text += f"\n[Penstock: {rule.title}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
    return text


def generate():
    """Every file, by path."""
    files = {"splunk/TA-penstock/default/savedsearches.conf": savedsearches()}
    rules = common.rules()
    for name, search in queries().items():
        by = "packaging/siem/build/splunk.py" if isinstance(rules[name], SigmaCorrelationRule) else "pySigma"
        files[f"splunk/spl/{name}.spl"] = f"``` {rules[name].title}. {common.NOTE} Written by {by}. ```\n{search}\n"
    return files
