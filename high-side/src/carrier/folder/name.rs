//! The names of files in a hand-off folder: ASCII, short, and never two bundles under one.

use std::fmt::{self, Write};

use crate::outbox::Waiting;

/// How files are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    pieces: Vec<Piece>,
    /// The longest name, with whatever is appended to it.
    bytes_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Digest,
    Epoch,
    Lane,
    Number,
    Origin,
    Outbox,
    Sha256,
    Text(String),
}

/// The outbox's names, whatever their length.
impl Default for Naming {
    fn default() -> Self {
        Self { pieces: vec![Piece::Outbox], bytes_max: usize::MAX }
    }
}

impl Naming {
    /// Reads a template, or one of the two words `outbox` and `sha256`. `bytes_max` is what is left for
    /// the name when all that is ever appended to it is taken off.
    pub fn parse(template: &str, bytes_max: usize) -> Result<Self, NamingProblem> {
        if bytes_max < BYTES_MIN {
            return Err(NamingProblem::TooShort(bytes_max));
        }
        let pieces = match template {
            "outbox" => vec![Piece::Outbox],
            "sha256" => vec![Piece::Sha256],
            _ => pieces_of(template)?,
        };
        if !pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Digest | Piece::Outbox | Piece::Sha256))
        {
            return Err(NamingProblem::NotUnique);
        }
        Ok(Self { pieces, bytes_max })
    }

    /// The name of a bundle's file.
    pub fn name(&self, waiting: &Waiting) -> String {
        let sha256 = waiting.sha256.to_string();
        let parsed = waiting.name.parse::<shared::bundle::BundleName>().ok();
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                // The header's digest stands in the outbox's name; a name without it has the file's.
                Piece::Digest => {
                    name += parsed.as_ref().map_or(&sha256[..16], |parsed| parsed.digest());
                }
                Piece::Epoch => name += &waiting.epoch.to_string(),
                Piece::Lane => name += waiting.lane.as_str(),
                Piece::Number => {
                    let _ = write!(name, "{:010}", waiting.number);
                }
                Piece::Origin => {
                    name += parsed.as_ref().map_or("unknown", |parsed| parsed.origin.as_str());
                }
                Piece::Outbox => name += &waiting.name,
                Piece::Sha256 => name += &sha256,
                Piece::Text(text) => name += text,
            }
        }
        if name.len() > self.bytes_max {
            // Cut, it would not be the only one of its kind; with the digest's begin it is.
            name.truncate(self.bytes_max - 1 - KEPT_DIGITS);
            name = format!("{name}-{}", &sha256[..KEPT_DIGITS]);
        }
        name
    }
}

fn pieces_of(template: &str) -> Result<Vec<Piece>, NamingProblem> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let (text, after) = rest.split_once('{').unwrap_or((rest, ""));
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !text.bytes().all(plain) || (pieces.is_empty() && text.starts_with('.')) {
            return Err(NamingProblem::Characters);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        if text.len() == rest.len() {
            break;
        }
        let (piece, after) = after.split_once('}').ok_or(NamingProblem::Characters)?;
        pieces.push(match piece {
            "digest" => Piece::Digest,
            "epoch" => Piece::Epoch,
            "lane" => Piece::Lane,
            "number" => Piece::Number,
            "origin" => Piece::Origin,
            "sha256" => Piece::Sha256,
            _ => return Err(NamingProblem::UnknownPiece(piece.to_owned())),
        });
        rest = after;
    }
    Ok(pieces)
}

/// What is wrong with a template.
#[derive(Debug, PartialEq, Eq)]
pub enum NamingProblem {
    /// Something else than ASCII letters, digits, `.`, `_`, `-` and pieces; or it begins with a dot.
    Characters,
    /// Two bundles could get one name.
    NotUnique,
    /// So many bytes have no room for a name.
    TooShort(usize),
    /// There is no such piece.
    UnknownPiece(String),
}

impl fmt::Display for NamingProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Characters => f.write_str(
                "is \"outbox\", \"sha256\", or a text of A-Z a-z 0-9 . _ - and pieces, which does not begin with a dot",
            ),
            Self::NotUnique => {
                f.write_str("must hold {digest} or {sha256}, so that no two bundles have one name")
            }
            Self::TooShort(left) => write!(
                f,
                "leaves {left} bytes for a name, and at least {BYTES_MIN} are needed\n    try: a greater name-max, or shorter suffixes"
            ),
            Self::UnknownPiece(piece) => write!(
                f,
                "has no piece {{{piece}}}: there are {{origin}}, {{epoch}}, {{lane}}, {{number}}, {{digest}} and {{sha256}}"
            ),
        }
    }
}

const KEPT_DIGITS: usize = 16;
/// Room for a letter, a hyphen and the digits that keep names apart.
const BYTES_MIN: usize = KEPT_DIGITS + 2;

#[cfg(test)]
mod tests {
    use shared::bundle::BundleDigest;
    use shared::record::{Epoch, Lane};

    use super::*;

    fn waiting() -> Waiting {
        Waiting {
            name: "plant-7-flash-0000000012-0123456789abcdef.pstk".to_owned(),
            bytes: 1,
            sha256: BundleDigest::of(b"x"),
            epoch: Epoch(3),
            lane: Lane::Flash,
            number: 12,
            bundle: None,
        }
    }

    #[test]
    fn names_are_made_of_their_pieces_and_have_an_end() {
        let sha256 = BundleDigest::of(b"x").to_string();
        for (template, max, wanted) in [
            ("outbox", 200, waiting().name),
            ("sha256", 64, sha256.clone()),
            (
                "{origin}_{lane}.{number}-{digest}",
                200,
                "plant-7_flash.0000000012-0123456789abcdef".to_owned(),
            ),
            ("e{epoch}-{sha256}.bin", 200, format!("e3-{sha256}.bin")),
            ("outbox", 30, format!("plant-7-flash-{}", &sha256[..16])),
        ] {
            let name = Naming::parse(template, max).unwrap().name(&waiting());
            assert!(name.len() <= max, "{name}");
            assert_eq!(name, wanted, "{template}");
        }
    }

    #[test]
    fn templates_that_could_do_harm_are_refused() {
        for (template, problem) in [
            ("../{sha256}", NamingProblem::Characters),
            (".{sha256}", NamingProblem::Characters),
            ("a b{sha256}", NamingProblem::Characters),
            ("{sha256", NamingProblem::Characters),
            ("ü{sha256}", NamingProblem::Characters),
            ("", NamingProblem::NotUnique),
            ("{origin}-{number}", NamingProblem::NotUnique),
            ("{colour}", NamingProblem::UnknownPiece("colour".to_owned())),
        ] {
            assert_eq!(Naming::parse(template, 200), Err(problem), "{template:?}");
        }
        assert_eq!(Naming::parse("sha256", 17), Err(NamingProblem::TooShort(17)));
    }
}
