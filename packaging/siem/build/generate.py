"""Writes what is generated of the rules; with --check, compares it with what is there instead."""

import sys

import common
import esql
import kusto
import lucene
import splunk

FOLDERS = ["elastic/esql", "sentinel/kql", "splunk/spl"]


def files():
    """Every generated file, by its path below packaging/siem."""
    found = {}
    for generator in (esql, kusto, lucene, splunk):
        found |= generator.generate()
    return found


def differences():
    """The generated files that are not as they should be, and those that should not be."""
    wanted = files()
    wrong = [path for path, text in wanted.items()
             if not (common.SIEM / path).is_file() or (common.SIEM / path).read_text() != text]
    there = [str(path.relative_to(common.SIEM)) for folder in FOLDERS for path in (common.SIEM / folder).glob("*")]
    return sorted(wrong + [path for path in there if path not in wanted])


def main():
    wrong = differences()
    if "--check" in sys.argv[1:]:
        if wrong:
            sys.exit("not as generated: " + ", ".join(wrong) + "\nrun: make siem-content")
        return
    wanted = files()
    for path in wrong:
        if path not in wanted:
            (common.SIEM / path).unlink()
            continue
        (common.SIEM / path).parent.mkdir(parents=True, exist_ok=True)
        (common.SIEM / path).write_text(wanted[path])
    print(f"{len(wanted)} files, {len(wrong)} changed")


if __name__ == "__main__":
    main()
