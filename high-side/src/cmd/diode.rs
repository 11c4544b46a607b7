//! `diode-key`: the key that both ends of a link share.

use std::path::Path;

use shared::diode::LinkKey;

use super::Failure;

pub(super) fn key(file: &Path) -> Result<(), Failure> {
    let key = LinkKey::generate(file).map_err(Failure::config)?;
    tell!(
        "{} holds the key of link {:016x}\n\
         carry it to the low side, where the agent's user alone may read it, and name it on both sides\n\
         as link-key-file; it tells our datagrams from others' and opens no bundle",
        file.display(),
        key.id()
    );
    Ok(())
}
