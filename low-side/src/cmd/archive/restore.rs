//! `archive restore`: bundles out of an archive, as files that can be imported.
//!
//! With a ledger, each is fetched by the version that was noted, and must be what was noted, byte for byte.
//! Without one, the archive is asked what it holds: of each bundle the oldest version is taken that is the
//! bundle its name says. Who signed it is not looked at here; the import does that.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use shared::bundle::{BundleDigest, Limits, compare, inspect};
use shared::clock::Nanos;
use shared::custody::Wanted;
use shared::{durable, exit};

use super::super::Failure;
use super::super::import::bar;
use super::{choose, configured, each, open};
use crate::archive::listing::{FoundBundle, Listed, VERSIONS_MAX, each_bundle};
use crate::archive::worker::hash;
use crate::archive::{Archive, ArchiveError};
use crate::config::Config;
use crate::ledger::{ArchivedBundle, ChainName, Ledger, StoreName};

/// What is fetched.
pub(super) enum Which<'a> {
    Bundle(&'a str),
    Period(Nanos, Nanos),
}

pub(super) fn restore(
    config: &Config,
    name: Option<&str>,
    which: &Which<'_>,
    dir: &Path,
) -> Result<(), Failure> {
    let ledger = Ledger::open_existing(&config.state_dir)?;
    let (settings, id) = choose(config, &ledger, name)?;
    let mut archive = open(settings);
    let mut target = Target::new(dir, &config.limits)?;
    match which {
        Which::Period(from, to) => each(
            |place| ledger.archived_of_period(id, (*from, *to), place),
            |one| target.noted(archive.as_mut(), &one),
        )?,
        Which::Bundle(text) => {
            let wanted = parse(text)?;
            each(
                |place| ledger.archived(id, place),
                |one| {
                    if !is_wanted(&wanted, &one) {
                        return Ok(());
                    }
                    target.noted(archive.as_mut(), &one)
                },
            )?;
        }
    }
    target.finish("penstock-low archive list")
}

pub(super) fn restore_without_ledger(
    config: &Config,
    name: Option<&str>,
    bundle: Option<&str>,
    dir: &Path,
) -> Result<(), Failure> {
    let settings = configured(config, name)?;
    let wanted = bundle.map(parse).transpose()?;
    let mut archive = open(settings);
    let mut target = Target::new(dir, &config.limits)?;
    each_bundle(archive.as_mut(), |archive, one| {
        if wanted.as_ref().is_some_and(|wanted| !may_be_wanted(wanted, &one)) {
            return Ok(());
        }
        target.found(archive, &one)
    })?;
    target.finish("penstock-low archive list --without-ledger")
}

fn parse(text: &str) -> Result<Wanted, Failure> {
    text.parse().map_err(|problem| Failure::new(exit::USAGE, problem))
}

fn is_wanted(wanted: &Wanted, one: &ArchivedBundle) -> bool {
    let digests = [one.digest, Some(one.object.sha256)];
    let digests = digests.into_iter().flatten().map(|digest| digest.to_string());
    wanted.is_one(
        digests,
        Some(&one.file),
        Some((&one.chain.origin, one.chain.epoch, one.chain.lane, one.number)),
    )
}

/// The same, by what a name says: of a digest only its beginning.
fn may_be_wanted(wanted: &Wanted, one: &FoundBundle) -> bool {
    let name = &one.name;
    let chain = &name.chain;
    let place = (&chain.origin, chain.epoch, chain.lane, name.number);
    wanted.is_one([name.digest().to_owned()], Some(&name.to_string()), Some(place))
}

/// Why one object was not restored.
enum Trouble {
    /// It is not what it should be.
    Differs(String),
    /// Nothing can be restored now.
    All(Failure),
}

/// The folder that bundles are written to.
struct Target<'a> {
    dir: &'a Path,
    limits: &'a Limits,
    bar: ProgressBar,
    restored: u64,
    bytes: u64,
    /// Were there already, whole, from an earlier run.
    there: u64,
    /// Are not what they should be.
    bad: u64,
}

impl<'a> Target<'a> {
    fn new(dir: &'a Path, limits: &'a Limits) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir).map_err(io_failure(dir))?;
        let bar = bar(0);
        Ok(Self { dir, limits, bar, restored: 0, bytes: 0, there: 0, bad: 0 })
    }

    /// What the ledger has noted: anything else is an error that ends the command.
    fn noted(&mut self, archive: &mut dyn Archive, one: &ArchivedBundle) -> Result<(), Failure> {
        let object = &one.object;
        let limits = self.limits;
        let check = |file: &File| {
            let (_, sha256) = hash(file).map_err(|err| err.to_string())?;
            if sha256 != object.sha256 {
                return Err(format!("its SHA-256 is {sha256}, not {}", object.sha256));
            }
            match one.digest {
                Some(digest) => compare(file, &digest, limits)
                    .map(|_| ())
                    .map_err(|refusal| refusal.to_string()),
                None => Ok(()),
            }
        };
        let from = (object.key.as_str(), object.version.as_str(), object.bytes);
        match self.fetch(archive, from, &one.file, check) {
            Ok(()) => Ok(()),
            Err(Trouble::All(failure)) => Err(failure),
            Err(Trouble::Differs(why)) => {
                let text = format!("{}: {why}", archive.place(&object.key));
                Err(Failure::new(exit::REFUSED, text))
            }
        }
    }

    /// What an archive lists. What is not a bundle is said, and others go on.
    fn found(&mut self, archive: &mut dyn Archive, one: &FoundBundle) -> Result<(), Failure> {
        let place = archive.place(&one.key);
        let limits = self.limits;
        let check = |file: &File| is_bundle(file, one, limits);
        let name = one.name.to_string();
        for version in &one.versions {
            let Listed { key, version, bytes, .. } = version;
            let trouble = if *bytes > limits.file_bytes_max {
                Trouble::Differs(format!(
                    "has {bytes} bytes; the limit is {}",
                    limits.file_bytes_max
                ))
            } else {
                match self.fetch(archive, (key.as_str(), version.as_str(), *bytes), &name, check) {
                    Ok(()) => return Ok(()),
                    Err(trouble) => trouble,
                }
            };
            match trouble {
                Trouble::All(failure) => return Err(failure),
                Trouble::Differs(why) => {
                    self.bar.suspend(|| tell!("{place} {version}: {why}"));
                }
            }
        }
        self.bad += 1;
        if one.count > VERSIONS_MAX as u64 {
            let count = one.count;
            self.bar.suspend(|| {
                tell!("{place}: {count} versions; the oldest {VERSIONS_MAX} were tried");
            });
        }
        Ok(())
    }

    /// Fetches an object, and gives it its name once it has been checked.
    fn fetch(
        &mut self,
        archive: &mut dyn Archive,
        (key, version, bytes): (&str, &str, u64),
        name: &str,
        check: impl Fn(&File) -> Result<(), String>,
    ) -> Result<(), Trouble> {
        let path = self.dir.join(name);
        let io = |path: &Path| {
            let to_failure = io_failure(path);
            move |err: io::Error| Trouble::All(to_failure(err))
        };
        match crate::folders::open_untrusted(&path) {
            Ok(None) if path.symlink_metadata().is_err() => {}
            Ok(Some(file)) if check(&file).is_ok() => {
                self.there += 1;
                return Ok(());
            }
            Ok(_) => {
                let why = "is there already, and is something else: give another folder";
                let text = format!("{}: {why}", path.display());
                return Err(Trouble::All(Failure::new(exit::IO, text)));
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(io(&path)(err)),
        }
        let partial = durable::partial_path(&path);
        let mut file: File = durable::create(&partial, 0o644).map_err(io(&partial))?;
        let bar = self.bar.clone();
        bar.inc_length(bytes);
        bar.set_message(name.to_owned());
        let read = archive.read(key, version, bytes, &mut |piece| {
            bar.inc(piece.len() as u64);
            file.write_all(piece)
        });
        // What is wrong must not lie about under a name that looks right.
        let remove = || {
            let _ = std::fs::remove_file(&partial);
        };
        if let Err(error) = read {
            remove();
            return Err(match error {
                ArchiveError::Answer { status: 404, .. } => Trouble::Differs("is gone".to_owned()),
                error => Trouble::All(error.into()),
            });
        }
        file.sync_all().map_err(io(&partial))?;
        if let Err(why) = check(&file) {
            remove();
            return Err(Trouble::Differs(why));
        }
        durable::rename(&partial, &path).map_err(io(&path))?;
        self.restored += 1;
        self.bytes += bytes;
        Ok(())
    }

    fn finish(self, list: &str) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let Self { restored, bytes, there, bad, .. } = self;
        let dir = self.dir.display();
        if restored + there + bad == 0 {
            let text = format!("the archive holds no such bundle\n  try: {list}");
            return Err(Failure::new(exit::FAILED, text));
        }
        tell!("{restored} bundle(s), {bytes} bytes, verified, in {dir}");
        if there > 0 {
            tell!("{there} bundle(s) were there already");
        }
        tell!("next: penstock-low import {dir} on the low side that is to have them");
        if bad == 0 {
            return Ok(());
        }
        Err(Failure::new(exit::REFUSED, format!("{bad} bundle(s) are not what their names say")))
    }
}

/// Whether a file is the bundle that its name and its folders say.
fn is_bundle(file: &File, one: &FoundBundle, limits: &Limits) -> Result<(), String> {
    let header = inspect(file, limits).map_err(|refusal| refusal.to_string())?;
    let digest = BundleDigest::of(header.encode().as_bytes());
    compare(file, &digest, limits).map_err(|refusal| refusal.to_string())?;
    let chain = ChainName { origin: header.origin, epoch: header.epoch, lane: header.lane };
    if StoreName::new(&chain, header.number, &digest) == one.name {
        Ok(())
    } else {
        Err(format!("is the bundle {chain}/{}, {digest}", header.number))
    }
}

fn io_failure(path: &Path) -> impl Fn(io::Error) -> Failure + use<> {
    let path: PathBuf = path.to_owned();
    move |err| Failure::new(exit::IO, format!("{}: {err}", path.display()))
}
