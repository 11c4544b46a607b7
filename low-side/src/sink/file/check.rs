//! Whether records can be written to the folder of a file sink, made durable there, and read back.
//!
//! The sink's own file is the agent's: a line of ours in it would be taken for what a crash left. So the marked
//! record stands in a hidden file beside it, which no shipper reads, for as long as the proof takes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use shared::durable;

use super::super::marked::Marked;
use super::{FILE_MODE, FileConfig, SinkError};
use crate::event;

/// Writes the marked record, syncs it, reads it back and takes it away again; gives the id of the user as
/// whom that was done. A folder that was not there is gone again afterwards: the agent makes it as its own.
///
/// # Errors
///
/// Any of it fails, or the sink's own file can't be written to.
pub(in crate::sink) fn prove(
    name: &str,
    config: &FileConfig,
    marked: &Marked,
) -> Result<u32, SinkError> {
    let dir = &config.dir;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| SinkError::File { path, source }
    };
    let mut made = Made::default();
    let missing = dir.ancestors().take_while(|dir| !dir.exists());
    made.dirs = missing.map(Path::to_owned).collect();
    durable::create_dir(dir).map_err(at(dir))?;
    let own = dir.join(format!("{name}.ndjson"));
    can_write(&own).map_err(at(&own))?;
    let mut line = Vec::new();
    marked.with(|item| {
        event::with_view(item.chain, item.record, |view| config.schema.render(&mut line, view));
        Ok(())
    })?;
    if let Some(longest) = config.line_bytes_max.filter(|longest| line.len() > *longest) {
        let why =
            format!("the marked record has {} bytes, and line-bytes is {longest}", line.len());
        return Err(at(dir)(io::Error::other(why)));
    }
    line.push(b'\n');
    let path = dir.join(format!(".{name}-check-{}", marked.id));
    let uid = written(&path, &line, &mut made).map_err(at(&path))?;
    made.undo().map_err(at(&path))?;
    Ok(uid)
}

/// What was made for the proof; taken away at its end, however that comes.
#[derive(Default)]
struct Made {
    file: Option<PathBuf>,
    /// The innermost first.
    dirs: Vec<PathBuf>,
}

impl Made {
    fn undo(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            durable::remove(&file)?;
        }
        for dir in std::mem::take(&mut self.dirs) {
            match std::fs::remove_dir(dir) {
                // The agent has made use of it meanwhile.
                Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty => break,
                done => done?,
            }
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(%error, "what a check has made is still there");
        }
    }
}

/// The sink's own file: it is not there yet, or a regular file that may be written to.
fn can_write(path: &Path) -> io::Result<()> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(()),
        Ok(_) => Err(io::Error::other("it is not a regular file")),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err),
    }
}

fn written(path: &Path, line: &[u8], made: &mut Made) -> io::Result<u32> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    made.file = Some(path.to_owned());
    file.write_all(line)?;
    file.sync_data()?;
    if let Some(dir) = path.parent() {
        durable::sync_dir(dir)?;
    }
    let uid = file.metadata()?.uid();
    drop(file);
    let mut found = Vec::new();
    File::open(path)?.take(line.len() as u64 + 1).read_to_end(&mut found)?;
    if found == line {
        Ok(uid)
    } else {
        Err(io::Error::other("what is read back is not what was written"))
    }
}

#[cfg(test)]
mod tests {
    use shared::record::Stream;

    use super::*;
    use crate::mapping::Schema;
    use crate::testing::START;

    fn config(dir: &Path, schema: Schema) -> FileConfig {
        let dir = dir.to_owned();
        let (rotate_bytes, rotate_age) = (1 << 20, std::time::Duration::from_mins(1));
        FileConfig { dir, schema, rotate_bytes, rotate_age, line_bytes_max: None }
    }

    #[test]
    fn a_folder_is_as_it_was_after_the_proof() {
        let root = tempfile::tempdir().unwrap();
        let marked = Marked::new(Stream::Other, START).unwrap();
        let names = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        for schema in Schema::ALL {
            // One that is there, with the agent's file in it.
            let dir = root.path().join("there");
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("out.ndjson"), "{}\n").unwrap();
            prove("out", &config(&dir, schema), &marked).unwrap();
            assert_eq!(names(&dir), 1);
            assert_eq!(std::fs::read(dir.join("out.ndjson")).unwrap(), b"{}\n");
            // One that the agent will make.
            prove("out", &config(&root.path().join("a/b"), schema), &marked).unwrap();
            assert_eq!(names(root.path()), 1);
        }
    }

    #[test]
    fn what_can_not_be_written_is_said() {
        let root = tempfile::tempdir().unwrap();
        let marked = Marked::new(Stream::Other, START).unwrap();
        let nowhere = config(Path::new("/proc/penstock-nope"), Schema::Native);
        assert!(matches!(prove("out", &nowhere, &marked), Err(SinkError::File { .. })));
        let dir = root.path().join("file");
        std::fs::write(&dir, "").unwrap();
        assert!(prove("out", &config(&dir, Schema::Native), &marked).is_err());
        // Something else stands where the sink would write.
        let dir = root.path().join("dir");
        std::fs::create_dir_all(dir.join("out.ndjson")).unwrap();
        assert!(prove("out", &config(&dir, Schema::Native), &marked).is_err());
        let dir = root.path().join("linked");
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.join("out.ndjson")).unwrap();
        assert!(prove("out", &config(&dir, Schema::Native), &marked).is_err());
        let mut short = config(&root.path().join("short"), Schema::Native);
        short.line_bytes_max = Some(100);
        let error = crate::replay::chain_text(&prove("out", &short, &marked).unwrap_err());
        assert!(error.contains("line-bytes is 100"), "{error}");
        assert!(!short.dir.exists());
    }
}
