"""Renders raw records as native events: through a real high side, a bundle, and a real low side.

The programs are looked for in target/debug, or in the folder that PENSTOCK_BIN names.
"""

import hashlib
import json
import os
import pathlib
import subprocess
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
        # A file for each line: its path comes along with the event and says which line it was.
        (base / "raw").mkdir()
        for at, line in enumerate(lines):
            (base / f"raw/{at}.jsonl").write_bytes(line + b"\n")

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
            '[guard]\ndefault-suppressions = false\n'
            f'[[file]]\nname = "raw"\npaths = ["{base}/raw/*.jsonl"]\n'
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
                # What stands behind the last line end is still being written.
                whole = [file.read_bytes().rpartition(b"\n")[0] for file in written]
                events = [json.loads(line) for lines in whole for line in lines.splitlines()]
        finally:
            for agent in agents:
                agent.terminate()
                agent.wait()
    for event in events:
        event["_at"] = int(pathlib.Path(event["peer"]).stem)
    return sorted(events, key=lambda event: event["_at"])


def main():
    """Renders tests/raw.jsonl into tests/native.jsonl; what differs from run to run is made equal."""
    here = pathlib.Path(__file__).parent
    samples = [json.loads(line) for line in (here / "raw.jsonl").read_text().splitlines()]
    events = render([sample["raw"].encode() for sample in samples])
    with (here / "native.jsonl").open("w") as out:
        for sample, event in zip(samples, events, strict=True):
            at = event.pop("_at")
            event["id"] = hashlib.sha256(f"siem-tests {at}".encode()).hexdigest()[:40]
            event |= {"epoch": 1, "received": "2026-11-25T12:00:00.000000000Z", "peer": "raw.jsonl"}
            out.write(json.dumps({"case": sample["case"], "event": event}, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(events)} events")


if __name__ == "__main__":
    main()
