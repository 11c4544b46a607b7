//! Room, kind and speed of the disks that records are kept on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Finding, Level, grouped};
use crate::durable;

/// A folder that may grow.
#[derive(Clone, Debug)]
pub struct Room {
    /// What it is, as `buffer`.
    pub name: &'static str,
    /// The folder; where it does not exist yet, the nearest one above it counts.
    pub path: PathBuf,
    /// What may still be added to it, in bytes.
    pub more_bytes: u64,
    /// What has to stay free on its disk, in bytes.
    pub floor_bytes: u64,
    /// The keys of the configuration that say so.
    pub keys: &'static str,
}

/// Whether what may be added to all folders of one file system fits there; free inodes, too.
pub fn room(rooms: &[Room]) -> Vec<Finding> {
    let mut disks: BTreeMap<u64, Vec<&Room>> = BTreeMap::new();
    for room in rooms {
        if let Ok(meta) = fs::metadata(existing(&room.path)) {
            disks.entry(meta.dev()).or_default().push(room);
        }
    }
    disks.into_values().flat_map(|rooms| disk(&rooms)).collect()
}

fn disk(rooms: &[&Room]) -> Vec<Finding> {
    let at = existing(&rooms[0].path);
    let names: Vec<&str> = rooms.iter().map(|room| room.name).collect();
    let names = names.join(", ");
    let Ok((free, _)) = durable::space(at) else {
        let what = format!("the room for {names} can't be asked for");
        return vec![Finding::new(Level::Skipped, "room", what).at(at.display())];
    };
    let more: u64 = rooms.iter().map(|room| room.more_bytes).sum();
    let floor = rooms.iter().map(|room| room.floor_bytes).max().unwrap_or(0);
    let mut keys: Vec<&str> = rooms.iter().map(|room| room.keys).collect();
    // Neighbours often have one limit.
    keys.dedup();
    let keys = keys.join(", ");
    let finding = judge_room(&names, &keys, free, more, floor).at(at.display());
    let mut findings = vec![finding];
    if let Ok(stat) = nix::sys::statvfs::statvfs(at)
        && stat.files() > 0
        && stat.files_available() < INODES_LEAST
    {
        let what = format!("only {} more files can be made for {names}", stat.files_available());
        findings.push(
            Finding::new(Level::Fault, "inodes", what)
                .remedy(format!("df -i {}", at.display()))
                .remedy("mkfs with more inodes, or fewer files on this file system")
                .at(at.display()),
        );
    }
    findings
}

fn judge_room(names: &str, keys: &str, free: u64, more: u64, floor: u64) -> Finding {
    if free < floor {
        let what = format!(
            "{} bytes are free for {names}, and {} have to stay free: nothing more is taken in",
            grouped(free),
            grouped(floor)
        );
        return Finding::new(Level::Fault, "room", what)
            .remedy("a larger disk, or less on it")
            .remedy(keys);
    }
    if free < more.saturating_add(floor) {
        let what = format!(
            "{} bytes are free for {names}, which may grow by {}, and {} have to stay free",
            grouped(free),
            grouped(more),
            grouped(floor)
        );
        return Finding::new(Level::Warning, "room", what)
            .remedy(format!("a disk with {} bytes more", grouped(more + floor - free)))
            .remedy(format!("smaller limits: {keys}"));
    }
    let what =
        format!("{} bytes are free, and {names} may grow by {}", grouped(free), grouped(more));
    Finding::new(Level::Fine, "room", what)
}

/// Whether what fills up between two transfers fits. `per_sec` is what came of late.
pub fn between_transfers(
    per_sec: u64,
    every: Duration,
    limit_bytes: u64,
    key: &'static str,
) -> Finding {
    let needed = per_sec.saturating_mul(every.as_secs());
    let what = format!(
        "{} bytes a second make {} until the next transfer ({}); {key} allows {}",
        grouped(per_sec),
        grouped(needed),
        crate::config::Span(every),
        grouped(limit_bytes)
    );
    if needed > limit_bytes {
        return Finding::new(Level::Fault, "between-transfers", what)
            .remedy(format!("{key} = \"{}GiB\" or more", (needed >> 30) + 1))
            .remedy("more frequent transfers");
    }
    let level = if needed * 2 > limit_bytes { Level::Warning } else { Level::Fine };
    let finding = Finding::new(level, "between-transfers", what);
    if level == Level::Fine {
        finding
    } else {
        finding.remedy(format!("a larger {key}: one transfer that falls out fills it"))
    }
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    kind: String,
}

/// Whether the file system of a folder keeps what it says that it has synced.
pub fn kind(path: &Path, about: &'static str) -> Finding {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let real = fs::canonicalize(existing(path)).unwrap_or_else(|_| path.to_owned());
    match mount_of(&mounts, &real) {
        Some(mount) => judge_kind(&mount, path, about),
        None => Finding::new(Level::Skipped, about, "the file system's kind is not known"),
    }
    .at(path.display())
}

fn judge_kind(mount: &Mount, path: &Path, about: &'static str) -> Finding {
    let (kind, shown) = (mount.kind.as_str(), path.display());
    let (level, why) = match kind {
        "tmpfs" | "ramfs" => (Level::Fault, "is memory: all of it is gone after a power cut"),
        "overlay" | "aufs" => (
            Level::Warning,
            "is a container's layer: it goes when the container goes, and not every one syncs",
        ),
        "vfat" | "exfat" | "msdos" | "ntfs" | "ntfs3" => {
            (Level::Warning, "has no journal and no owners: a power cut may damage it")
        }
        "9p" | "virtiofs" | "vboxsf" | "prl_fs" => {
            (Level::Warning, "is a share of the host: whether a sync reaches a disk is not known")
        }
        _ if kind.starts_with("nfs")
            || kind.starts_with("cifs")
            || kind.starts_with("smb")
            || kind.starts_with("ceph")
            || kind.starts_with("gluster") =>
        {
            (Level::Warning, "is a network share: locks and syncs are another machine's word")
        }
        _ if kind.starts_with("fuse.") || kind == "fuse" => {
            (Level::Warning, "is a program's (FUSE): whether a sync reaches a disk is its word")
        }
        _ => {
            let what = format!("{shown} lies on {kind} ({})", mount.point.display());
            return Finding::new(Level::Fine, about, what);
        }
    };
    let what = format!("{shown} lies on {kind} ({}), which {why}", mount.point.display());
    Finding::new(level, about, what).remedy("a local disk with ext4 or XFS for this folder")
}

/// The mount with the longest path above this one; the last of those, which covers the others.
fn mount_of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?.replace("\\040", " ");
        let kind = after.split(' ').next()?.to_owned();
        Some(Mount { point: PathBuf::from(point), kind })
    });
    mounts
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.as_os_str().len())
}

/// How long a small write takes to become durable in a folder, and what that allows. Writes a file of
/// 4 KiB and removes it.
pub fn sync_speed(dir: &Path) -> Finding {
    let measured = measure(dir);
    // One that could not be removed is removed by the agent when it starts.
    let _ = fs::remove_file(probe_path(dir));
    match measured {
        Ok(times) => judge_speed(&times),
        Err(err) => {
            let what = format!("no file can be written and synced in {}: {err}", dir.display());
            let level = match err.kind() {
                io::ErrorKind::PermissionDenied => Level::Skipped,
                _ => Level::Fault,
            };
            Finding::new(level, "sync-speed", what).remedy("the same as the agent's user, or root")
        }
    }
    .at(dir.display())
}

fn measure(dir: &Path) -> io::Result<Vec<Duration>> {
    let mut file = durable::create(&probe_path(dir), 0o600)?;
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < SYNCS && (times.len() < SYNCS_LEAST || began.elapsed() < SYNCS_WITHIN) {
        let start = Instant::now();
        file.write_all(&[0x50; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn probe_path(dir: &Path) -> PathBuf {
    durable::partial_path(&dir.join(format!("doctor-{}", std::process::id())))
}

fn judge_speed(sorted: &[Duration]) -> Finding {
    let Some(median) = sorted.get(sorted.len() / 2).copied() else {
        return Finding::new(Level::Skipped, "sync-speed", "nothing was measured");
    };
    let worst = sorted.last().copied().unwrap_or(median);
    let per_sec = 1_000_000 / u64::try_from(median.as_micros()).unwrap_or(u64::MAX).max(1);
    let what = format!(
        "a small write is durable after {:.1} ms (at worst {:.1}, of {}): about {} commits a second, each of up to thousands of records",
        median.as_secs_f64() * 1e3,
        worst.as_secs_f64() * 1e3,
        sorted.len(),
        grouped(per_sec)
    );
    if median > SYNC_SLOW {
        return Finding::new(Level::Warning, "sync-speed", what)
            .remedy("an SSD, or a controller with a battery, for this folder")
            .remedy("sources that wait for an answer (RELP, HTTP, Forward) wait that long for it");
    }
    if worst > SYNC_STALLED {
        return Finding::new(Level::Warning, "sync-speed", what)
            .remedy("what else writes to this disk? iostat -x 1");
    }
    Finding::new(Level::Fine, "sync-speed", what)
}

/// The nearest folder above a path that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|dir| dir.exists()).unwrap_or(path)
}

/// Each bundle is two files, each open gap a few.
const INODES_LEAST: u64 = 1000;
/// Enough for a median.
const SYNCS: usize = 40;
const SYNCS_LEAST: usize = 3;
const SYNCS_WITHIN: Duration = Duration::from_secs(2);
/// A disk that turns needs about 10 ms.
const SYNC_SLOW: Duration = Duration::from_millis(30);
const SYNC_STALLED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_once_for_all_that_share_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        let room_of = |name, more_bytes, floor_bytes| Room {
            name,
            path: dir.path().join("not/there/yet"),
            more_bytes,
            floor_bytes,
            keys: "buffer.quota",
        };
        let findings = room(&[room_of("buffer", 1, 1), room_of("outbox", 1, 1)]);
        assert_eq!(findings[0].level, Level::Fine, "{findings:?}");
        assert!(findings[0].what.contains("buffer, outbox may grow by 2"), "{findings:?}");
        let findings = room(&[room_of("buffer", 1 << 60, 1)]);
        assert_eq!(findings[0].level, Level::Warning, "{findings:?}");
        let findings = room(&[room_of("buffer", 0, 1 << 60)]);
        assert_eq!(findings[0].level, Level::Fault, "{findings:?}");
    }

    #[test]
    fn what_fills_up_between_two_transfers_is_worked_out() {
        let day = Duration::from_hours(24);
        let judge = |per_sec: u64| between_transfers(per_sec, day, 8 << 30, "buffer.quota");
        assert_eq!(judge(1000).level, Level::Fine);
        assert_eq!(judge(60_000).level, Level::Warning);
        let full = judge(200_000);
        assert_eq!(full.level, Level::Fault);
        assert_eq!(full.remedies[0], "buffer.quota = \"17GiB\" or more");
    }

    #[test]
    fn kinds_of_file_systems_are_told_apart() {
        let mountinfo = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            22 21 0:20 / /run rw - tmpfs tmpfs rw\n\
            23 21 0:40 / /srv/my\\040share rw - nfs4 host:/x rw\n\
            24 21 0:41 / /mnt/s3 rw - fuse.s3fs s3fs rw\n\
            25 21 0:42 / /layer rw - overlay overlay rw\n";
        for (path, kind, level) in [
            ("/var/lib/penstock-high", "ext4", Level::Fine),
            ("/run/penstock", "tmpfs", Level::Fault),
            ("/runner", "ext4", Level::Fine),
            ("/srv/my share/state", "nfs4", Level::Warning),
            ("/mnt/s3", "fuse.s3fs", Level::Warning),
            ("/layer/x", "overlay", Level::Warning),
        ] {
            let mount = mount_of(mountinfo, Path::new(path)).unwrap();
            assert_eq!(mount.kind, kind, "{path}");
            assert_eq!(judge_kind(&mount, Path::new(path), "kind").level, level, "{path}");
        }
    }

    #[test]
    fn a_slow_disk_is_told_from_a_fast_one_and_leaves_nothing_behind() {
        let millis = |each: u64| vec![Duration::from_millis(each); 9];
        assert_eq!(judge_speed(&millis(2)).level, Level::Fine);
        assert_eq!(judge_speed(&millis(80)).level, Level::Warning);
        let mut stalled = millis(2);
        stalled.push(Duration::from_secs(3));
        assert_eq!(judge_speed(&stalled).level, Level::Warning);
        let dir = tempfile::tempdir().unwrap();
        let finding = sync_speed(dir.path());
        assert!(finding.what.contains("commits a second"), "{finding:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(sync_speed(&dir.path().join("none")).level, Level::Fault);
    }
}
