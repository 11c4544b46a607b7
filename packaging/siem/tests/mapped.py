"""The samples as the sinks deliver them: rendered by the mappings themselves, in low-side/examples/siem-samples.rs."""

import functools
import json
import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def program():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "debug/examples/siem-samples"


@functools.cache
def samples():
    """Of each sample its case and what each destination gets: native, ecs, hec, table and sentinel."""
    raw = (HERE / "raw.jsonl").read_text()
    done = subprocess.run([program()], input=raw, check=True, capture_output=True, text=True)
    cases = [json.loads(line)["case"] for line in raw.splitlines()]
    return list(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))


def template():
    """The index template that `penstock-low setup` installs, without its final pipeline."""
    return subprocess.run([program(), "--template"], check=True, capture_output=True, text=True).stdout
