//! Files that are not the one canonical tar.

use tests::forge::{Layer, Member, Recipe, block};

use super::Cases;

const CODE: &str = "container-malformed";

pub(crate) fn add(cases: &mut Cases) {
    blocks(cases);
    members(cases);
    ends(cases);
}

/// Members' blocks that are not the canonical one; the checksum fits unless it is the defect.
fn blocks(cases: &mut Cases) {
    type Change = fn(&mut Vec<Member>);
    let table: [(&str, &str, Change); 24] = [
        ("tar-mode", "The mode of header is 0600.", |m| m[0].set(100, b"0000600\0")),
        ("tar-uid", "The uid of header.sig is 1.", |m| m[1].set(108, b"0000001\0")),
        ("tar-gid", "The gid of payload.age is 1.", |m| m[2].set(116, b"0000001\0")),
        ("tar-mtime", "The mtime of payload.age is 1.", |m| m[2].set(136, b"00000000001\0")),
        ("tar-mtime-space", "The mtime of header ends with a space.", |m| m[0].set(136, b"00000000000 ")),
        ("tar-checksum-wrong", "The checksum of header is off by one.", |m| m[0].block[154] ^= 1),
        ("tar-checksum-gnu", "The checksum has six digits, NUL and a space, as GNU tar writes it.", |m| {
            let digits = m[0].block[149..155].to_vec();
            m[0].block[148..156].copy_from_slice(&[&digits[..], b"\0 "].concat());
        }),
        ("tar-magic-gnu", "The magic is GNU tar's.", |m| m[0].set(257, b"ustar  \0")),
        ("tar-magic-v7", "There is no magic.", |m| m[0].set(257, &[0; 8])),
        ("tar-version", "The version of ustar is 01.", |m| m[1].set(263, b"01")),
        ("tar-user-name", "There is a user name.", |m| m[2].set(265, b"root")),
        ("tar-group-name", "There is a group name.", |m| m[2].set(297, b"root")),
        ("tar-device-numbers", "The device numbers are written out as zeros.", |m| m[0].set(329, b"0000000\x000000000\0")),
        ("tar-prefix", "There is a name prefix.", |m| m[2].set(345, b"..")),
        ("tar-link-name", "A regular file has a link name.", |m| m[0].set(157, b"/etc/passwd")),
        ("tar-behind-prefix", "The last byte of a block is not zero.", |m| m[0].set(511, b"x")),
        ("tar-typeflag-old", "The type is NUL, the old form of a regular file.", |m| m[0].set(156, b"\0")),
        ("tar-symlink", "The payload is a symbolic link.", |m| {
            m[2].set(156, b"2");
            m[2].set(157, b"/etc/passwd");
        }),
        ("tar-hardlink", "The payload is a hard link.", |m| m[2].set(156, b"1")),
        ("tar-fifo", "The header is a FIFO.", |m| m[0].set(156, b"6")),
        ("tar-size-binary", "The size is in base 256.", |m| {
            let size = (m[2].content.len() as u64).to_be_bytes();
            m[2].set(124, &[&[0x80, 0, 0, 0][..], &size].concat());
        }),
        ("tar-size-spaces", "The size has spaces in place of leading zeros.", |m| {
            let size = format!("{:>11o}\0", m[2].content.len());
            m[2].set(124, size.as_bytes());
        }),
        ("tar-size-largest", "The payload claims 8 GiB - 1.", |m| m[2].set(124, b"77777777777\0")),
        ("tar-name-hidden", "Something follows the name's NUL.", |m| m[0].set(7, b"x")),
    ];
    for (name, comment, change) in table {
        let mut recipe = cases.base();
        recipe.members = Some(change);
        cases.add(name, CODE, "2", comment, recipe);
    }
}

fn members(cases: &mut Cases) {
    fn pax(flag: &[u8], name: &str, content: &[u8]) -> Member {
        let mut member = Member::new(name, content.to_vec());
        member.set(156, flag);
        member
    }
    fn renamed(m: &mut [Member], at: usize, name: &str) {
        m[at].block = block(name, m[at].content.len() as u64);
    }
    type Change = fn(&mut Vec<Member>);
    let table: [(&str, &str, Change); 21] = [
        ("member-pax", "A PAX header stands before the header.", |m| {
            m.insert(0, pax(b"x", "PaxHeaders/header", b"19 path=../../evil\n"));
        }),
        ("member-pax-global", "A global PAX header stands first.", |m| m.insert(0, pax(b"g", "pax_global_header", b"13 comment=x\n"))),
        ("member-gnu-long-name", "A GNU long name stands before the payload.", |m| m.insert(2, pax(b"L", "././@LongLink", b"payload.age\0"))),
        ("member-extra-last", "A fourth member stands last.", |m| m.push(Member::new("readme", b"x".to_vec()))),
        ("member-extra-first", "A fourth member stands first.", |m| m.insert(0, Member::new("readme", b"x".to_vec()))),
        ("member-extra-between", "A fourth member stands before the payload.", |m| m.insert(2, Member::new("header.sig2", b"x".to_vec()))),
        ("member-duplicate-header", "The header stands there twice.", |m| m.insert(1, m[0].clone())),
        ("member-duplicate-signature", "The signature stands there twice.", |m| m.insert(2, m[1].clone())),
        ("member-duplicate-payload", "The payload stands there twice.", |m| m.push(m[2].clone())),
        ("member-swapped", "The signature comes before the header.", |m| m.swap(0, 1)),
        ("member-payload-first", "The payload comes first.", |m| m.rotate_right(1)),
        ("member-missing-header", "There is no header.", |m| drop(m.remove(0))),
        ("member-missing-signature", "There is no signature.", |m| drop(m.remove(1))),
        ("member-missing-payload", "There is no payload.", |m| drop(m.remove(2))),
        ("member-empty-header", "The header is empty.", |m| m[0] = Member::new("header", Vec::new())),
        ("member-empty-signature", "The signature is empty.", |m| m[1] = Member::new("header.sig", Vec::new())),
        ("member-empty-payload", "The payload is empty.", |m| m[2] = Member::new("payload.age", Vec::new())),
        ("member-name-dot", "The header is named ./header.", |m| renamed(m, 0, "./header")),
        ("member-name-parent", "The header is named ../header.", |m| renamed(m, 0, "../header")),
        ("member-name-absolute", "The payload is named /etc/cron.d/x.", |m| renamed(m, 2, "/etc/cron.d/x")),
        ("member-name-case", "The header is named Header.", |m| renamed(m, 0, "Header")),
    ];
    for (name, comment, change) in table {
        let mut recipe = cases.base();
        recipe.members = Some(change);
        cases.add(name, CODE, "2", comment, recipe);
    }
    let long = cases.base().edit(Layer::Header, |mut header| {
        header.resize(4097, b'\n');
        header
    });
    cases.add("header-longer-than-4-kib", CODE, "2", "The header has 4,097 bytes.", long);
    let long = cases.base().edit(Layer::Signature, |mut signature| {
        signature.resize(1025, b'\n');
        signature
    });
    cases.add("signature-longer-than-1-kib", CODE, "2", "The signature has 1,025 bytes.", long);
}

/// Padding, trailer and length.
fn ends(cases: &mut Cases) {
    let base = cases.base();
    let file = |recipe: Recipe, edit: fn(Vec<u8>) -> Vec<u8>| recipe.edit(Layer::File, edit);
    let dirty = file(base, |mut file| {
        file[1023] = 1;
        file
    });
    cases.add("padding-of-header", CODE, "2", "The header's padding is not zero.", dirty);
    let dirty = file(cases.base(), |mut file| {
        file[2047] = 1;
        file
    });
    cases.add("padding-of-signature", CODE, "2", "The signature's padding is not zero.", dirty);
    // A payload that fills its last block has no padding: one byte more or less always has some.
    let dirty = file(cases.base(), |mut file| {
        let last = file.len() - 1025;
        file[last] = 1;
        file
    });
    cases.add("padding-of-payload", CODE, "2", "The payload's padding is not zero.", dirty);
    let table: [(&str, &str, fn(Vec<u8>) -> Vec<u8>); 13] = [
        ("trailer-dirty", "The trailer's last byte is not zero.", |mut file| {
            *file.last_mut().expect("a file has bytes") = 1;
            file
        }),
        ("trailer-missing", "There is no trailer.", |mut file| {
            file.truncate(file.len() - 1024);
            file
        }),
        ("trailer-one-block", "The trailer has one block.", |mut file| {
            file.truncate(file.len() - 512);
            file
        }),
        ("trailer-three-blocks", "The trailer has three blocks.", |file| [file, vec![0; 512]].concat()),
        ("trailer-tar-record", "The file is filled up to 20 blocks, as tar does.", |mut file| {
            file.resize(file.len().next_multiple_of(10240), 0);
            file
        }),
        ("trailing-zero", "A zero follows the trailer.", |file| [file, vec![0]].concat()),
        ("trailing-byte", "A byte follows the trailer.", |file| [file, vec![b'x']].concat()),
        ("trailing-bundle", "The same bundle follows again.", |file| [file.clone(), file].concat()),
        ("leading-zero-block", "A block of zeros comes first.", |file| [vec![0; 512], file].concat()),
        ("truncated", "The last third is missing.", |mut file| {
            file.truncate(file.len() * 2 / 3);
            file
        }),
        ("empty-file", "The file is empty.", |_| Vec::new()),
        ("empty-archive", "An archive without members.", |_| vec![0; 1024]),
        ("no-archive", "No archive at all.", |_| b"hello\n".repeat(1000)),
    ];
    for (name, comment, edit) in table {
        let recipe = file(cases.base(), edit);
        cases.add(name, CODE, "2", comment, recipe);
    }
}
