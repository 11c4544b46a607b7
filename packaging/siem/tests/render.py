"""Renders raw records as native events: through a real high side, a bundle, and a real low side.

    render.py RAW.jsonl... > native.jsonl

Each line of the files is one record. The programs are looked for in target/debug, or in the folder
that PENSTOCK_BIN names.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
PATIENCE_SECS = 120


def programs():
    """The folder of both programs, or None where they are not built."""
    folder = pathlib.Path(os.environ.get("PENSTOCK_BIN", ROOT / "target/debug"))
    return folder if (folder / "penstock-high").is_file() and (folder / "penstock-low").is_file() else None


def render(lines, origin="siem-tests"):
    """The native events of raw lines (bytes, without line ends), in the order of the lines."""
    folder = programs()
    with tempfile.TemporaryDirectory(prefix="penstock-render-") as base:
        base = pathlib.Path(base)
        high, low = base / "high", base / "low"
        (base / "raw.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))

        def run(program, *arguments):
            done = subprocess.run([folder / program, *map(str, arguments)], capture_output=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{program} {arguments[0]}: {done.stderr.decode()}")
            return done.stdout

        (base / "high.pub").write_bytes(run("penstock-high", "init", "--origin", origin, "--dir", high))
        (base / "low.pub").write_bytes(run("penstock-low", "init", "--dir", low))
        (base / "crossing").mkdir()
        (high / "high.toml").write_text(
            f'origin = "{origin}"\nkeys-dir = "{high}/keys"\nstate-dir = "{high}/state"\n'
            f'[[file]]\nname = "raw"\npaths = ["{base}/raw.jsonl"]\n'
            f'[[carrier]]\nname = "folder"\ntype = "folder"\npath = "{base}/crossing"\n'
        )
        (low / "low.toml").write_text(
            f'keys-dir = "{low}/keys"\nstate-dir = "{low}/state"\n[inbox]\npath = "{base}/crossing"\n'
            f'[[sink]]\nname = "native"\ntype = "file"\npath = "{base}/native"\n'
        )
        configs = {"penstock-high": high / "high.toml", "penstock-low": low / "low.toml"}
        for program, other in (("penstock-high", "low.pub"), ("penstock-low", "high.pub")):
            run(program, "--config", configs[program], "pair", base / other)
        agents = []
        try:
            for program, config in configs.items():
                log = (base / f"{program}.log").open("wb")
                agents.append(subprocess.Popen([folder / program, "--config", config, "run"], stdout=log, stderr=log))
            deadline = time.monotonic() + PATIENCE_SECS
            wanted = sum(1 for line in lines if line)
            events = []
            while len(events) < wanted:
                if time.monotonic() > deadline:
                    logs = "".join((base / f"{program}.log").read_text() for program in configs)
                    raise RuntimeError(f"{len(events)} of {wanted} events arrived\n{logs[-4000:]}")
                time.sleep(0.5)
                subprocess.run([folder / "penstock-high", "--config", configs["penstock-high"], "seal"],
                               capture_output=True, check=False)
                written = sorted((base / "native").glob("*.ndjson"))
                events = [json.loads(line) for file in written for line in file.read_bytes().splitlines()]
        finally:
            for agent in agents:
                agent.terminate()
                agent.wait()
    place = {}
    for at, line in enumerate(line for line in lines if line):
        place.setdefault(line.decode("utf-8", "replace"), []).append(at)
    for event in events:
        # Two chains, one for each lane: the raw text says which line it was.
        event["_at"] = place[event["raw"]].pop(0)
    return sorted(events, key=lambda event: event["_at"])


def main():
    lines = [line for file in sys.argv[1:] for line in pathlib.Path(file).read_bytes().splitlines()]
    for event in render(lines):
        event.pop("_at")
        print(json.dumps(event, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
