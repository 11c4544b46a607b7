//! File systems in files, mounted as sticks are; where the kernel has none of a kind, its FUSE driver.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use tests::peers::{find, peer};
use tests::process::run;
use tests::sandbox::Sandbox;
use tests::wait::{PATIENCE, wait_until};

/// A stick.
pub(crate) struct Disk {
    image: PathBuf,
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    kind: &'static str,
    device: Option<String>,
}

impl Disk {
    /// Makes one and mounts it; prints why, where it can't be had here.
    pub(crate) fn new(
        sandbox: &Sandbox,
        name: &str,
        kind: &'static str,
        bytes: u64,
    ) -> Option<Self> {
        let made = Self::make(sandbox, name, kind, bytes).and_then(|mut disk| {
            disk.mount(false)?;
            Ok(disk)
        });
        match made {
            Ok(disk) => Some(disk),
            Err(why) => {
                println!("NOT RUN: no {kind} on a loop device here: {}", why.trim());
                None
            }
        }
    }

    fn make(sandbox: &Sandbox, name: &str, kind: &'static str, bytes: u64) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root can mount".to_owned());
        }
        let image = sandbox.join(format!("{name}.{kind}"));
        let disk = Self { image, mount: sandbox.dir(name), kind, device: None };
        disk.format(bytes)?;
        Ok(disk)
    }

    /// Makes the file system anew.
    pub(crate) fn format(&self, bytes: u64) -> Result<(), String> {
        let made = File::create(&self.image).and_then(|file| file.set_len(bytes));
        made.map_err(|err| err.to_string())?;
        let mut mkfs = peer(match self.kind {
            "vfat" => "mkfs.vfat",
            "exfat" => "mkfs.exfat",
            _ => "mkfs.ext4",
        });
        if self.kind == "ext4" {
            mkfs.args(["-q", "-F", "-m", "0"]);
        }
        let done = run(mkfs.arg(&self.image));
        if done.code == Some(0) { Ok(()) } else { Err(done.stderr) }
    }

    /// Plugs it in.
    pub(crate) fn mount(&mut self, read_only: bool) -> Result<(), String> {
        let attach = run(peer("losetup").args(["--find", "--show"]).arg(&self.image));
        if attach.code != Some(0) {
            return Err(attach.stderr);
        }
        let device = attach.stdout.trim().to_owned();
        self.device = Some(device.clone());
        let access = if read_only { "ro" } else { "rw" };
        let mut mount = peer("mount");
        mount.args(["-t", self.kind, "-o", access, &device]).arg(&self.mount);
        let done = run(&mut mount);
        if done.code == Some(0) {
            return Ok(());
        }
        let done = self.mount_by_fuse(&device, read_only).unwrap_or(done);
        if done.code == Some(0) { Ok(()) } else { Err(done.stderr) }
    }

    fn mount_by_fuse(&self, device: &str, read_only: bool) -> Option<tests::process::Done> {
        let mut mount = match self.kind {
            "exfat" => peer_if_there("mount.exfat-fuse")?,
            "vfat" => peer_if_there("fusefat")?,
            _ => return None,
        };
        mount.arg(device).arg(&self.mount);
        match (self.kind, read_only) {
            ("vfat", false) => mount.args(["-o", "rw+"]),
            (_, true) => mount.args(["-o", "ro"]),
            _ => &mut mount,
        };
        Some(run(&mut mount))
    }

    /// Unplugs it as one should.
    pub(crate) fn unmount(&mut self) {
        wait_until(PATIENCE, "an unmounted stick", || {
            run(peer("umount").arg(&self.mount)).code == Some(0)
        });
        self.detach();
    }

    /// Pulls it out: from one moment to the next, most of the device is not there.
    pub(crate) fn yank(&self) {
        let file = OpenOptions::new().write(true).open(&self.image).unwrap();
        file.set_len(64 * 1024).unwrap();
        run(peer("losetup").arg("-c").arg(self.device.as_ref().unwrap())).success();
    }

    /// Forgets a stick that was pulled out.
    pub(crate) fn forget(&mut self) {
        run(peer("umount").arg("-l").arg(&self.mount)).success();
        self.detach();
    }

    fn detach(&mut self) {
        if let Some(device) = self.device.take() {
            // The FUSE driver lets go a moment after the unmount.
            wait_until(PATIENCE, "a detached loop device", || {
                run(peer("losetup").arg("-d").arg(&device)).code == Some(0)
            });
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Leaves only so many bytes free.
    pub(crate) fn leave_free(&self, bytes: u64) -> PathBuf {
        let ballast = self.mount.join("ballast");
        let free = shared::durable::free_bytes(&self.mount).unwrap();
        fs::write(&ballast, vec![0; usize::try_from(free.saturating_sub(bytes)).unwrap()]).unwrap();
        File::open(&ballast).unwrap().sync_all().unwrap();
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing is mounted any more where all went well.
        let _ = run(peer("umount").arg("-l").arg(&self.mount));
        if let Some(device) = &self.device {
            let _ = run(peer("losetup").arg("-d").arg(device));
        }
    }
}

fn peer_if_there(name: &str) -> Option<std::process::Command> {
    find(name).map(|_| peer(name))
}
