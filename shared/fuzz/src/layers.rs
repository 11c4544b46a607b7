//! A valid bundle with edits at any layer, everything around them made to fit.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use arbitrary::Arbitrary;
use shared::bundle;
use shared::record::{self, SourceTag, Token};

use crate::forge::{Keys, Layer, Recipe};
use crate::{LIMITS, NOW, SITE, keys_dir};

/// One change of one layer's bytes.
#[derive(Arbitrary, Clone, Debug)]
pub struct Edit {
    layer: u8,
    at: u16,
    /// How many bytes give way to `bytes`.
    drop: u8,
    bytes: Vec<u8>,
}

const LAYERS: [Layer; 9] = [
    Layer::Records,
    Layer::Manifest,
    Layer::Plain,
    Layer::Frame,
    Layer::AgeHeader,
    Layer::Age,
    Layer::Header,
    Layer::Signature,
    Layer::File,
];

impl Edit {
    fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let start = usize::from(self.at) % (bytes.len() + 1);
        let end = (start + usize::from(self.drop)).min(bytes.len());
        [&bytes[..start], &self.bytes, &bytes[end..]].concat()
    }
}

/// Opens a bundle with these edits.
pub fn open(edits: &[Edit]) {
    let outside = Rc::new(Cell::new(false));
    let plain = Rc::new(RefCell::new(Vec::new()));
    let mut recipe = Recipe::new(&Keys::at(&keys_dir()));
    for edit in edits.iter().take(3).cloned() {
        let layer = LAYERS[usize::from(edit.layer) % LAYERS.len()];
        let outside = Rc::clone(&outside);
        recipe = recipe.edit(layer, move |bytes| {
            let changed = edit.apply(&bytes);
            if matches!(layer, Layer::Signature | Layer::File) && changed != bytes {
                outside.set(true);
            }
            changed
        });
    }
    let seen = Rc::clone(&plain);
    let recipe = recipe.edit(Layer::Plain, move |bytes| {
        seen.replace(bytes.clone());
        bytes
    });
    let bytes = recipe.forge();

    let file = tempfile::tempfile_in(SITE.dir.path()).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let _ = bundle::inspect(&file, &LIMITS);
    let verified = match bundle::open(&file, &SITE.trust, &SITE.identities, &LIMITS, NOW) {
        Ok(verified) => verified,
        Err(refusal) => {
            assert!(!refusal.is_io(), "{refusal}");
            return;
        }
    };
    // Two edits outside may undo each other only by restoring what was there, which is rare enough
    // to be looked at by hand.
    assert!(
        !outside.get(),
        "a change outside of the signature was taken"
    );
    let mut again = verified.manifest().encode().into_bytes();
    let digest = verified.digest();
    let mut reader = bundle::reopen(&file, &digest, &SITE.identities, &LIMITS).unwrap();
    while let Some(entry) = reader.next_entry().unwrap() {
        entry.encode(&mut again);
    }
    // Edits of the frame may compress other bytes than were captured; they are then parsed all the same.
    if edits
        .iter()
        .all(|edit| LAYERS[usize::from(edit.layer) % LAYERS.len()] != Layer::Frame)
    {
        assert_eq!(again, *plain.borrow());
    }
}
