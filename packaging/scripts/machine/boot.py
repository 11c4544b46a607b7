#!/usr/bin/env python3
"""Boots the machine of test-machine.sh once, does what its guest asks for, and says whether the guest was content.

    boot.py FOLDER CONSOLES STAGE [NAME=VALUE...]

FOLDER holds what test-machine.sh made: vmlinuz, initrd, disk.img, stick.img, labelled.img. CONSOLES is the folder for
what the kernel and systemd say on the machine's console. What the guest wants to be
told in a later boot is printed to standard output, the rest to standard error.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time

# Of one boot, in seconds: everything is emulated, and the machine below may be busy.
PATIENCE = 1800
# Of the emulator itself: until its sockets are there, and until it has ended.
MOMENT = 60


def fail(text):
    print(f"test-machine: {text}", file=sys.stderr)
    sys.exit(1)


def wait_for(what, there):
    until = time.monotonic() + MOMENT
    while not there():
        if time.monotonic() > until:
            fail(f"{what} did not happen within {MOMENT} seconds")
        time.sleep(0.05)


class Qmp:
    """The emulator's own control, one command after the other."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(MOMENT)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        for line in self.lines:
            answer = json.loads(line)
            if "error" in answer:
                fail(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return
        fail(f"the emulator ended while it was asked for {command}")


def emulator(folder, console, stage, told, tpm, snapshot):
    words = [f"machine.stage={stage}"] + [f"machine.{each}" for each in told]
    accel = os.environ.get("PENSTOCK_ACCEL", "tcg,thread=multi")
    blocks = []
    for name in ["stick", "labelled"]:
        file = {"driver": "file", "filename": f"{folder}/{name}.img"}
        blocks += ["-blockdev", json.dumps({"driver": "raw", "node-name": name, "file": file})]
    return [
        *["qemu-system-x86_64", "-M", "q35", "-accel", accel, "-cpu", "max", "-smp", "2", "-m", "1024"],
        *["-display", "none", "-nodefaults", "-no-reboot", "-nic", "none"],
        *["-kernel", f"{folder}/vmlinuz", "-initrd", f"{folder}/initrd"],
        *["-append", "console=ttyS0 root=/dev/vda rw panic=-1 quiet mitigations=off " + " ".join(words)],
        # What the guest wrote is in our page cache, and outlives the emulator's sudden end; what it had only in its own
        # does not. snapshot: for a look at a disk that is not to be changed.
        *["-drive", f"file={folder}/disk.img,if=virtio,format=raw,cache=unsafe,snapshot={'on' if snapshot else 'off'}"],
        *blocks,
        *["-device", "qemu-xhci,id=usb", "-device", "usb-storage,bus=usb.0,drive=stick,removable=on"],
        *["-chardev", f"socket,id=tpm,path={tpm}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"],
        *["-device", "tpm-crb,tpmdev=tpm0"],
        *["-serial", f"file:{console}", "-serial", "stdio"],
        *["-qmp", f"unix:{folder}/qmp,server=on,wait=off"],
    ]


def main():
    folder, consoles, stage, *told = sys.argv[1:]
    console = f"{consoles}/console-{stage}.log"
    snapshot = stage == "elsewhere"
    # Each TPM is a folder of its state.
    tpm_state = f"{folder}/tpm-{'elsewhere' if snapshot else 'here'}"
    os.makedirs(tpm_state, exist_ok=True)
    tpm_socket = f"{folder}/tpm.socket"
    for stale in [tpm_socket, f"{folder}/qmp"]:
        if os.path.exists(stale):
            os.unlink(stale)
    state = ["--tpmstate", f"dir={tpm_state}", "--ctrl", f"type=unixio,path={tpm_socket}"]
    tpm = subprocess.Popen(["swtpm", "socket", "--tpm2", "--terminate", *state], stdin=subprocess.DEVNULL)
    machine = None
    try:
        wait_for("the emulated TPM", lambda: os.path.exists(tpm_socket))
        machine = subprocess.Popen(
            emulator(folder, console, stage, told, tpm_socket, snapshot), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        content = watch(machine, folder, console, stage)
        machine.wait(MOMENT)
    finally:
        # Ours, by their numbers.
        for child in [machine, tpm]:
            if child is not None and child.poll() is None:
                child.kill()
                child.wait()
    if not content:
        fail(f"the guest did not say that all is well in the stage {stage}; its console is {console}")


def watch(machine, folder, console, stage):
    """Reads what the guest says until the emulator ends, and says whether it was content."""
    until = time.monotonic() + PATIENCE
    qmp, content, rest = None, False, b""
    selector = selectors.DefaultSelector()
    selector.register(machine.stdout, selectors.EVENT_READ)
    while True:
        left = until - time.monotonic()
        if left <= 0:
            fail(f"the stage {stage} did not end within {PATIENCE} seconds; its console is {console}")
        if not selector.select(left):
            continue
        read = os.read(machine.stdout.fileno(), 65536)
        if not read:
            return content
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            line = line.decode(errors="replace").rstrip("\r")
            if line.startswith("value "):
                print(line.removeprefix("value ").replace(" ", "="), flush=True)
                continue
            print(line, file=sys.stderr, flush=True)
            if line == f"all is well: {stage}":
                content = True
            elif line.startswith("failed: "):
                content = False
                # What a failing guest says last goes on until it has powered itself off.
            elif line == "ask power-cut":
                # No signal that it could answer, and nothing is written out any more.
                machine.send_signal(signal.SIGKILL)
            elif line == "ask plug":
                qmp = qmp or Qmp(f"{folder}/qmp")
                device = {"driver": "usb-storage", "bus": "usb.0", "id": "plugged", "drive": "labelled", "removable": True}
                qmp.ask("device_add", **device)
            elif line == "ask unplug":
                qmp = qmp or Qmp(f"{folder}/qmp")
                qmp.ask("device_del", id="plugged")


main()
