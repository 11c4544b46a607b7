#!/usr/bin/env bash
# Boots a whole machine (Debian 12, its own kernel, systemd as the first process, a TPM) in an emulator, installs the
# packages there and goes through what no bare root has: see machine/. Needs root, Debian's mirror the first time, and
# some minutes; PENSTOCK_PROGRAMS and PENSTOCK_PACKAGES as in test-packages.sh. Nothing needs hardware: all is emulated,
# unless PENSTOCK_ACCEL=kvm says otherwise.
set -euo pipefail
cd "$(dirname "$0")/../.."

# shellcheck source=packaging/scripts/debian-root.sh
. packaging/scripts/debian-root.sh
packages=${PENSTOCK_PACKAGES:-target/package/out}
# What each boot's console said is kept.
consoles=target/package/machine
guest=packaging/scripts/machine

[ "$(id -u)" = 0 ] || fail "needs root: it makes a root file system and enters it"
PATH="$PATH:/usr/sbin:/sbin"
need "debootstrap debootstrap" "dpkg-deb dpkg" "python3 python3" "qemu-system-x86_64 qemu-system-x86" "swtpm swtpm" "mke2fs e2fsprogs" \
    "mkfs.vfat dosfstools" "sfdisk fdisk"

begun=$(date +%s)
[ -n "${PENSTOCK_PACKAGES:-}" ] || build_packages --out "$packages"

work=$(mktemp -d "${TMPDIR:-/tmp}/penstock-machine.XXXXXX")
clean_up() {
    if mountpoint -q "$work/root/proc"; then umount --lazy "$work/root/proc"; fi
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT

# What a bare root lacks of a machine, made once: a kernel, systemd as the first process, what opens a TPM, and what the
# guest's script uses. ca-certificates is what the packages ask for: this machine has no network.
machine_packages=(linux-image-amd64 initramfs-tools systemd-sysv udev dbus kmod ca-certificates
    libtss2-esys-3.0.2-0 libtss2-rc0 libtss2-mu0 libtss2-tcti-device0 tpm2-tools curl iproute2)
base=target/package/$suite-machine.tar
if [ "$(cat "$base.packages" 2>/dev/null)" != "${machine_packages[*]}" ]; then
    say "a machine's root of $suite"
    bare=$(bare_root)
    unpack_root "$work/root" "$bare"
    mount -t proc proc "$work/root/proc"
    # What finds the disk, and no more: an emulated machine unpacks it slowly.
    mkdir -p "$work/root/etc/initramfs-tools/conf.d"
    echo "MODULES=list" >"$work/root/etc/initramfs-tools/conf.d/machine"
    printf '%s\n' virtio_pci virtio_blk ext4 >"$work/root/etc/initramfs-tools/modules"
    in_machine() { chroot "$work/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
    { in_machine apt-get update -qq && in_machine apt-get install --yes --no-install-recommends -qq "${machine_packages[@]}"; } \
        >"$work/apt.log" 2>&1 || fail "the machine's packages: $(tail -n 5 "$work/apt.log")"
    in_machine apt-get clean
    umount "$work/root/proc"
    # Files of modules that no emulated machine has.
    rm -rf "$work"/root/lib/modules/*/kernel/{sound,drivers/{gpu,net/[!v]*,media,infiniband,staging,scsi/[a-r]*},fs/{btrfs,xfs,ocfs2,ceph,nfs,nfsd,smb}} \
        "$work/root/usr/share/"{man,locale}/* "$work"/root/var/lib/apt/lists/*
    chroot "$work/root" depmod "$(basename "$work"/root/lib/modules/*)"
    tar -C "$work/root" -cf "$base.new" .
    mv "$base.new" "$base"
    echo "${machine_packages[*]}" >"$base.packages"
    rm -rf --one-file-system "$work/root"
fi

say "a disk"
root=$work/root
mkdir "$root"
tar -C "$root" -xpf "$base"
cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/initrd"
mkdir -p "$root/machine/"{packages,newer,handbook}
cp "$guest"/*.sh "$root/machine/"
cp "$packages"/*.deb "$root/machine/packages/"
# The same with another version, for upgrades.
for package in "$packages"/*.deb; do
    dpkg-deb --raw-extract "$package" "$work/package"
    sed -i "s/^Version: .*/Version: $new_version-1/" "$work/package/DEBIAN/control"
    dpkg-deb --root-owner-group -Zgzip -z1 --build "$work/package" "$root/machine/newer/" >/dev/null
    rm -r "$work/package"
done
documented >"$root/machine/commands"
# The commands of other pages: HEADING-NUMBER.sh, with what the heading's words are.
python3 - "$root/machine/handbook" packaging/doc/hardening.md <<'PYTHON'
import re, sys
from pathlib import Path
folder, *pages = sys.argv[1:]
for page in pages:
    heading, number, block = None, 0, None
    for line in Path(page).read_text().splitlines():
        if block is not None and line.strip() == "```":
            number += 1
            Path(folder, f"{heading}-{number}.sh").write_text("\n".join(block) + "\n")
            block = None
        elif block is not None:
            block.append(line)
        elif line.startswith("#"):
            heading, number = re.sub("[^a-z0-9]+", "-", line.lower()).strip("-"), 0
        elif line.strip() == "```sh":
            block = []
PYTHON
cat >"$root/etc/systemd/system/machine.service" <<'UNIT'
[Unit]
Description=What test-machine.sh tries in this machine

[Service]
Type=exec
ExecStart=/bin/bash /machine/guest.sh

[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl --quiet enable machine.service
# Nobody is there to be served, and nothing to be fetched from.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer
echo machine >"$root/etc/hostname"
printf '127.0.0.1 localhost machine\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 defaults 0 1\n' >"$root/etc/fstab"
rm -f "$root/etc/resolv.conf" "$root"/etc/apt/apt.conf.d/*
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
mke2fs -q -F -t ext4 -d "$root" "$work/disk.img" 2500M >/dev/null
rm -rf --one-file-system "$root"
# One stick that is there, and one that is plugged in.
for stick in stick=STICK labelled=PENSTOCK-1; do
    truncate -s 64M "$work/${stick%=*}.img"
    echo "start=2048, type=c" | sfdisk --quiet "$work/${stick%=*}.img"
    mkfs.vfat --offset 2048 -n "${stick#*=}" "$work/${stick%=*}.img" $((63 * 1024)) >/dev/null
done

mkdir -p "$consoles"
boot() {
    say "boot: $*"
    python3 "$guest/boot.py" "$work" "$consoles" "$@" >"$work/values"
}
boot start
# What the guest said last before the cut.
mapfile -t told < <(tac "$work/values" | awk -F= '!seen[$1]++')
boot elsewhere
boot again "${told[@]}"
say "all is well, after $(($(date +%s) - begun)) s"
