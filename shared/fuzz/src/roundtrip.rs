//! What is sealed opens to the same records.

use arbitrary::Arbitrary;
use shared::bundle::{self, BundleDigest, Manifest, SealReason, StreamCount};
use shared::clock::Nanos;
use shared::keys::Recipients;
use shared::record::{self, Epoch, Lane, Sequence, SourceTag, Stream};

use crate::{LIMITS, NOW, SITE};

/// One message as a listener received it.
#[derive(Arbitrary, Debug)]
pub struct Message {
    received: u32,
    stream: u8,
    listener: String,
    peer: String,
    subject: Option<String>,
    cut: Option<u16>,
    raw: Vec<u8>,
}

/// Seals these messages and opens them.
pub fn seal_open_roundtrip(level: u8, messages: &[Message]) {
    let mut records = Vec::new();
    let mut streams = Stream::ALL.map(|stream| StreamCount {
        stream,
        records: 0,
        bytes: 0,
    });
    for (message, number) in messages.iter().zip(1..) {
        let at = usize::from(message.stream) % streams.len();
        streams[at].records += 1;
        streams[at].bytes += message.raw.len() as u64;
        let source = SourceTag::new(&message.listener, &message.peer, message.subject.as_deref());
        let cut = message
            .cut
            .map(|more| message.raw.len() as u64 + 1 + u64::from(more));
        let received = Nanos(i64::from(message.received));
        record::encode(
            &mut records,
            Sequence(number),
            received,
            streams[at].stream,
            &source,
            cut,
            &message.raw,
        );
    }
    let times = messages
        .iter()
        .map(|message| Nanos(i64::from(message.received)));
    let manifest = Manifest {
        origin: "plant-7".parse().unwrap(),
        epoch: Epoch(1),
        lane: Lane::Routine,
        number: 1,
        previous: BundleDigest::ZERO,
        agent: "fuzz/1".to_owned(),
        sealed_at: NOW,
        reason: SealReason::Count,
        records: messages.len() as u64,
        first_sequence: Sequence(1),
        last_sequence: Sequence(messages.len() as u64),
        records_bytes: records.len() as u64,
        oldest: times.clone().min(),
        newest: times.max(),
        chain_before: BundleDigest::ZERO,
        chain_head: BundleDigest::of(&records),
        streams: streams
            .into_iter()
            .filter(|count| count.records > 0)
            .collect(),
        suppressed: Vec::new(),
        losses: Vec::new(),
    };
    let mut halves = SITE.identities.public_halves("soc-1", None);
    halves.truncate(1);
    let recipients = Recipients::new(halves).unwrap();
    let file = tempfile::tempfile_in(SITE.dir.path()).unwrap();
    let level = i32::from(level % 19) + 1;
    let sealed = bundle::seal(&manifest, &SITE.signer, &recipients, level, &file, |out| {
        out.write_all(&records)
    })
    .unwrap();

    let verified = bundle::open(&file, &SITE.trust, &SITE.identities, &LIMITS, NOW).unwrap();
    assert_eq!(*verified.manifest(), manifest);
    assert_eq!(verified.digest(), sealed.digest);
    let mut reader = bundle::reopen(&file, &sealed.digest, &SITE.identities, &LIMITS).unwrap();
    let mut at = 0;
    while let Some(record) = reader.next_record().unwrap() {
        let (expected, used) = record::parse(&records[at..], 1 << 20).unwrap();
        assert_eq!(record, expected);
        at += used;
    }
    assert_eq!(at, records.len());
}
