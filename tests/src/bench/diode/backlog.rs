//! Bundles that weigh what their records weigh: messages of random text, which nothing compresses
//! much.

use std::io::{self, BufWriter, Write};
use std::net::{SocketAddr, TcpStream};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::agents::Site;
use crate::seed::Seed;

/// Sends messages of which each makes about so many bytes of a bundle, until bundles of so many bytes
/// must come of them.
pub(super) fn fill(
    address: SocketAddr,
    bundle_bytes: u64,
    message_bytes: usize,
    seed: u64,
) -> io::Result<u64> {
    let mut stream = BufWriter::with_capacity(1 << 20, TcpStream::connect(address)?);
    let mut seed = Seed::new(seed);
    let mut raw = vec![0; message_bytes];
    let mut text = String::new();
    let mut messages = 0;
    let mut left = bundle_bytes;
    while left > 0 {
        for chunk in raw.chunks_mut(8) {
            chunk.copy_from_slice(&seed.next_u64().to_le_bytes()[..chunk.len()]);
        }
        text.clear();
        text.push_str("<110>1 2026-11-23T21:10:19Z host app 1 id - ");
        STANDARD_NO_PAD.encode_string(&raw, &mut text);
        write!(stream, "{} {text}", text.len())?;
        messages += 1;
        // Six bits of eight are left when the text was compressed.
        left = left.saturating_sub(message_bytes as u64);
    }
    stream.flush()?;
    Ok(messages)
}

/// Bytes of all bundles that wait in an outbox.
pub(super) fn outbox_bytes(high: &Site) -> u64 {
    let sizes = crate::agents::bundles_in(&high.outbox());
    sizes.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum()
}

/// Random bytes in a message of some tens of kilobytes of text, as a long record has.
pub(super) const LONG_BYTES: usize = 45_000;
