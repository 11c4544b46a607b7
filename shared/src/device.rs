//! What a medium is: read from what the kernel and udev tell, by parsers that take texts.
//!
//! Everything here is for people and records. Where the system says nothing, nothing is said.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

/// A mounted file system and the device below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Device {
    /// The folder on it.
    pub folder: String,
    /// What is mounted there: `/dev/sdb1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The file system's type: `vfat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// The file system's label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The file system's UUID, or FAT's volume number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Maker and model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The serial number that the maker gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Whether the kernel takes it for removable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removable: Option<bool>,
    /// Whether it is mounted for reading only.
    pub read_only: bool,
    /// Its size, in bytes.
    pub total_bytes: u64,
    /// What is free, in bytes.
    pub free_bytes: u64,
}

impl Device {
    /// Looks at what a folder lies on.
    pub fn of(folder: &Path) -> io::Result<Self> {
        Self::read(folder, &Roots::default())
    }

    fn read(folder: &Path, roots: &Roots) -> io::Result<Self> {
        let real = folder.canonicalize()?;
        let space = statvfs(&real)?;
        let mut device = Self {
            folder: plain(&real.to_string_lossy()),
            total_bytes: space.blocks().saturating_mul(space.fragment_size()),
            free_bytes: space.blocks_available().saturating_mul(space.fragment_size()),
            ..Self::default()
        };
        let mounts = parse_mountinfo(&fs::read_to_string(&roots.mountinfo).unwrap_or_default());
        let Some(mount) = mount_of(&mounts, &real) else { return Ok(device) };
        device.read_only = mount.read_only;
        device.filesystem = Some(plain(&mount.filesystem));
        device.device = Some(plain(&mount.source));
        let block = roots.sys.join("dev/block").join(&mount.number);
        if let Ok(block) = block.canonicalize() {
            device.add_block(&block, &roots.sys);
            let name = block.file_name().unwrap_or_default().to_string_lossy().into_owned();
            device.label = link_to(&roots.by.join("by-label"), &name);
            device.uuid = link_to(&roots.by.join("by-uuid"), &name);
        }
        Ok(device)
    }

    /// What sysfs says of a partition and the disk and bus devices above it.
    fn add_block(&mut self, block: &Path, sys: &Path) {
        let sys = sys.canonicalize().unwrap_or_else(|_| sys.to_owned());
        for place in block.ancestors().take(LEVELS_MAX).take_while(|place| **place != *sys) {
            let text = |name: &str| attribute(&place.join(name));
            if self.removable.is_none() {
                self.removable = text("removable").and_then(|text| match &*text {
                    "1" | "removable" => Some(true),
                    "0" | "fixed" => Some(false),
                    _ => None,
                });
            }
            if self.model.is_none() {
                let maker = text("device/vendor").or_else(|| text("manufacturer"));
                let model = text("device/model").or_else(|| text("product"));
                self.model = match (maker, model) {
                    (Some(maker), Some(model)) => Some(format!("{maker} {model}")),
                    (_, model) => model,
                };
            }
            if self.serial.is_none() {
                self.serial = text("device/serial").or_else(|| text("serial"));
            }
        }
    }

    /// The longest file that this file system takes, where that is less than anything we write.
    pub fn file_bytes_max(&self) -> Option<u64> {
        // FAT keeps a file's length in 32 bits. FUSE drivers of FAT name themselves variously.
        let kind = self.filesystem.as_deref()?;
        let fat = ["vfat", "msdos", "umsdos"].contains(&kind)
            || (kind.starts_with("fuse") && kind.contains("fat") && !kind.contains("exfat"));
        fat.then_some(u64::from(u32::MAX))
    }

    /// One line for people: what it is called, what it is, how much is free.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        let mut add = |text: Option<String>| parts.extend(text);
        add(self.model.clone());
        add(self.serial.as_ref().map(|serial| format!("serial {serial}")));
        add(self.label.as_ref().map(|label| format!("label {label}")));
        add(self.uuid.as_ref().map(|uuid| format!("uuid {uuid}")));
        add(self.filesystem.clone());
        add(self.device.clone());
        add(self.removable.map(|it| (if it { "removable" } else { "not removable" }).to_owned()));
        add(self.read_only.then(|| "read-only".to_owned()));
        parts.push(format!("{} of {} bytes free", self.free_bytes, self.total_bytes));
        format!("{} ({})", self.folder, parts.join(", "))
    }
}

/// Where the system tells what it knows.
#[derive(Debug)]
struct Roots {
    mountinfo: PathBuf,
    sys: PathBuf,
    by: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            mountinfo: "/proc/self/mountinfo".into(),
            sys: "/sys".into(),
            by: "/dev/disk".into(),
        }
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// `MAJOR:MINOR`.
    number: String,
    point: PathBuf,
    read_only: bool,
    filesystem: String,
    source: String,
}

fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Mount> {
    // A field of its own, "-", ends the optional fields.
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(2);
    let (number, _root, point, options) = (head.next()?, head.next()?, head.next()?, head.next()?);
    let mut tail = tail.split(' ');
    let (filesystem, source) = (tail.next()?, tail.next()?);
    let all = options.split(',').chain(tail.next().unwrap_or_default().split(','));
    Some(Mount {
        number: number.to_owned(),
        point: PathBuf::from(unescape_octal(point)),
        read_only: all.into_iter().any(|option| option == "ro"),
        filesystem: unescape_octal(filesystem),
        source: unescape_octal(source),
    })
}

/// The mount that a path lies on: the deepest one; of several on one folder, the last.
fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let holds = |mount: &&Mount| path.starts_with(&mount.point);
    mounts.iter().filter(holds).max_by_key(|mount| mount.point.components().count())
}

/// `\040` for a space, as the kernel writes it.
fn unescape_octal(text: &str) -> String {
    unescape(text, "\\", 3, 8)
}

/// `\x20` for a space, as udev writes it.
fn unescape_hex(text: &str) -> String {
    unescape(text, "\\x", 2, 16)
}

fn unescape(text: &str, mark: &str, digits: usize, radix: u32) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once(mark) {
        bytes.extend_from_slice(before.as_bytes());
        if let Some(byte) =
            after.get(..digits).and_then(|code| u8::from_str_radix(code, radix).ok())
        {
            bytes.push(byte);
            rest = &after[digits..];
        } else {
            bytes.extend_from_slice(mark.as_bytes());
            rest = after;
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The name of the link in a folder of `/dev/disk` that leads to this device.
fn link_to(dir: &Path, device: &str) -> Option<String> {
    let leads = |path: &Path| {
        fs::read_link(path).is_ok_and(|target| target.file_name().is_some_and(|n| n == device))
    };
    let mut paths = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let found = paths.find(|path| leads(path))?;
    Some(plain(&unescape_hex(&found.file_name()?.to_string_lossy())))
}

fn attribute(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty() && text.len() <= ATTRIBUTE_BYTES_MAX).then(|| plain(text))
}

/// What a medium calls itself can be anything; in records it is one line of visible text.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A USB stick's partition lies about ten folders below its bus device.
const LEVELS_MAX: usize = 14;
/// No maker's name is longer.
const ATTRIBUTE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let text = "22 27 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
            27 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw,errors=remount-ro\n\
            42 27 8:17 / /media/AUDIT\\040ONE ro,relatime shared:1 master:2 - vfat /dev/sdb1 rw,fmask=0022\n\
            43 27 8:18 / /mnt rw - ext4 /dev/sdb2 ro\n\
            44 27 8:19 / /mnt rw - exfat /dev/sdb3 rw\n\
            nonsense\n";
        let mounts = parse_mountinfo(text);
        for (path, filesystem, source, read_only) in [
            ("/media/AUDIT ONE/out", "vfat", "/dev/sdb1", true),
            ("/media/AUDIT", "ext4", "/dev/vda1", false),
            ("/mnt", "exfat", "/dev/sdb3", false),
            ("/sys/x", "sysfs", "sysfs", false),
        ] {
            let mount = mount_of(&mounts, Path::new(path)).unwrap();
            let found = (&*mount.filesystem, &*mount.source, mount.read_only);
            assert_eq!(found, (filesystem, source, read_only), "{path}");
        }
        assert!(mounts[3].read_only, "a file system that is read-only below a mount that is not");
    }

    #[test]
    fn a_stick_is_described_from_what_sysfs_and_udev_say() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let usb = "sys/devices/pci0/usb1/1-1";
        let disk = format!("{usb}/1-1:1.0/host2/target2/2:0:0:0/block/sdb");
        let partition = format!("{disk}/sdb1");
        let device = format!("{disk}/device");
        for folder in [&*partition, &*device, "sys/dev/block", "by/by-label", "by/by-uuid"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for (name, text) in [
            (format!("{disk}/removable"), "1\n"),
            (format!("{disk}/device/vendor"), "SanDisk \n"),
            (format!("{disk}/device/model"), "Ultra\x1b[2J\n"),
            (format!("{usb}/serial"), "4C530001\n"),
            (format!("{usb}/product"), "other\n"),
        ] {
            fs::write(at(&name), text).unwrap();
        }
        for (target, name) in [
            (at(&partition), "sys/dev/block/8:17"),
            ("../../sdb2".into(), "by/by-label/OTHER"),
            ("../../sdb1".into(), "by/by-label/AUDIT\\x20ONE"),
            ("../../sdb1".into(), "by/by-uuid/1234-ABCD"),
        ] {
            std::os::unix::fs::symlink(target, at(name)).unwrap();
        }
        let real = dir.path().canonicalize().unwrap();
        let line = format!("42 27 8:17 / {} rw - vfat /dev/sdb1 rw\n", real.display());
        fs::write(at("mountinfo"), line).unwrap();
        let roots = Roots { mountinfo: at("mountinfo"), sys: at("sys"), by: at("by") };
        let device = Device::read(dir.path(), &roots).unwrap();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(device.device, text("/dev/sdb1"));
        assert_eq!(device.label, text("AUDIT ONE"));
        assert_eq!(device.uuid, text("1234-ABCD"));
        assert_eq!(device.model, text("SanDisk Ultra?[2J"));
        assert_eq!(device.serial, text("4C530001"));
        assert_eq!(device.removable, Some(true));
        assert_eq!(device.file_bytes_max(), Some(u64::from(u32::MAX)));
        assert!(device.describe().contains("label AUDIT ONE"), "{}", device.describe());
        // A system that tells nothing.
        let none = Roots { mountinfo: at("no"), sys: at("no"), by: at("no") };
        let device = Device::read(dir.path(), &none).unwrap();
        assert_eq!((device.device, device.label, device.removable), (None, None, None));
        assert!(device.total_bytes > 0);
    }

    #[test]
    fn only_fat_is_known_to_take_no_long_files() {
        let max = |kind: &str| {
            let filesystem = Some(kind.to_owned());
            Device { filesystem, ..Device::default() }.file_bytes_max().is_some()
        };
        for (kind, limited) in [
            ("vfat", true),
            ("msdos", true),
            ("fuse.fusefat", true),
            ("exfat", false),
            ("fuseblk", false),
            ("fuse.exfat", false),
            ("ext4", false),
            ("iso9660", false),
        ] {
            assert_eq!(max(kind), limited, "{kind}");
        }
    }

    #[test]
    fn escapes_are_undone_and_nothing_else() {
        assert_eq!(unescape_octal("a\\040b\\134c\\9"), "a b\\c\\9");
        assert_eq!(unescape_hex("a\\x20b\\xzz\\x2"), "a b\\xzz\\x2");
    }
}
