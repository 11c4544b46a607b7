"""The part of Wazuh's rule engine that our rules use, to run them over native events.

As in analysisd: a field that is not there never matches, negated or not; children of a rule are asked in the order
of their levels, those of level 0 first; the first that matches wins, and its children are asked in turn.
"""

import collections
import datetime
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import native

WAZUH = pathlib.Path(__file__).resolve().parents[1] / "wazuh"


class Rule:
    """One rule of the file."""

    def __init__(self, element):
        self.id, self.level = element.get("id"), int(element.get("level"))
        self.frequency, self.timeframe = int(element.get("frequency", 1)), int(element.get("timeframe", 0))
        texts = lambda name: [each.text for each in element.findall(name)]
        split = lambda name: [word for text in texts(name) for word in text.split(",") if word]
        self.parents, self.groups, self.if_groups = split("if_sid"), split("group"), split("if_group")
        self.matched, self.same, self.different = split("if_matched_group"), texts("same_field"), texts("different_field")
        self.fields = [(each.get("name"), re.compile(each.text), each.get("negate") == "yes") for each in element.findall("field")]
        self.lists = [(each.get("field"), each.text, each.get("lookup")) for each in element.findall("list")]
        self.mitre = texts("mitre/id")
        self.description = element.findtext("description")
        self.children = []

    def names(self):
        """Every field that the rule speaks of."""
        found = [name for name, _, _ in self.fields] + self.same + self.different + [name for name, _, _ in self.lists]
        return set(found) | set(re.findall(r"\$\(([^)]+)\)", self.description))

    def fits(self, event, past):
        for name, pattern, negate in self.fields:
            if name not in event or bool(pattern.search(event[name])) == negate:
                return False
        for name, path, lookup in self.lists:
            keys = {line.partition(":")[0] for line in (WAZUH / "lists" / pathlib.Path(path).name).read_text().splitlines()}
            if name not in event or (event[name] in keys) == (lookup == "not_match_key"):
                return False
        if not self.matched:
            return True
        earlier = [
            old for old, groups in past
            if set(self.matched) & set(groups)
            and event["_time"] - old["_time"] <= datetime.timedelta(seconds=self.timeframe)
            and all(name in event and old.get(name) == event[name] for name in self.same)
            and all(name in event and old.get(name) != event[name] for name in self.different)
        ]
        if self.different:
            earlier = list({old[self.different[0]]: old for old in earlier}.values())
        # With a frequency the record itself counts, too.
        return len(earlier) >= max(self.frequency - 1, 1)


def rules():
    """Every rule, by id, with its children."""
    root = ElementTree.fromstring(f"<rules>{(WAZUH / 'penstock_rules.xml').read_text()}</rules>")
    found = {}
    for element in root.iter("rule"):
        rule = Rule(element)
        assert rule.id not in found, rule.id
        by_group = [other for other in found.values() if set(rule.if_groups or ([] if rule.parents else rule.matched)) & set(other.groups)]
        for parent in [found[parent] for parent in rule.parents] + by_group:
            parent.children.append(rule)
        found[rule.id] = rule
    for rule in found.values():
        rule.children.sort(key=lambda child: (child.level != 0, -child.level))
    return found


def table(samples):
    """How often each rule fires for each case."""
    known = rules()
    first = next(iter(known.values()))
    events = []
    for case, sample in samples:
        event = {name: str(text) for name, text in native.flat(sample).items() if text is not None}
        event["_time"] = datetime.datetime.fromisoformat(event.get("event.time", event["received"])[:26] + "+00:00")
        events.append((case, event))
    past, counts = [], collections.Counter()
    for case, event in sorted(events, key=lambda pair: pair[1]["_time"]):
        if not first.fits(event, past):
            continue
        rule = first
        while fitting := next((child for child in rule.children if child.fits(event, past)), None):
            rule = fitting
        past.append((event, rule.groups))
        if rule.level:
            counts[case, rule.id] += 1
    return dict(counts)


if __name__ == "__main__":
    print("case\trule\tcount")
    for (case, rule), count in sorted(table(native.samples()).items()):
        print(case, rule, count, sep="\t")
