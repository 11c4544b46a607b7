//! What an archive itself says it holds, where there is no ledger to ask.
//!
//! An archive lists names and versions. A name that has the form of ours is a bundle's; whether what stands
//! there is that bundle shows only once it is read (`cmd::archive::restore`). Where somebody has put
//! something else under a name, a store with versions still has what was there before: the oldest comes
//! first.

use roxmltree::{Document, Node, ParsingOptions};
use shared::clock::Nanos;

use super::{Archive, ArchiveError};
use crate::http::Answer;
use crate::ledger::StoreName;

/// One version of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the archive, without the prefix of the configuration.
    pub key: String,
    /// The version; empty where the archive knows none.
    pub version: String,
    /// Its length.
    pub bytes: u64,
    /// When it was made, as the archive says.
    pub made: Nanos,
    /// Whether whoever asks for the name gets this version.
    pub current: bool,
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The name, or whatever the store gave for one.
    pub key: String,
    /// The version, where the store goes by it.
    pub version: String,
}

/// A part of a list. Versions of one name stand together, also across two parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// What is there.
    pub objects: Vec<Listed>,
    /// Where the next part begins; nothing at the end.
    pub next: Option<Marker>,
}

/// A bundle, as the name of an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBundle {
    /// The name of its file, under which it can be imported, and what that says of it.
    pub name: StoreName,
    /// The object's name.
    pub key: String,
    /// The object's versions, oldest first; at most [`VERSIONS_MAX`], the oldest ones.
    pub versions: Vec<Listed>,
    /// How many versions there are.
    pub count: u64,
    /// Whether whoever asks for the name gets one of them: otherwise somebody deleted it, and only who
    /// asks for a version gets it.
    pub current: bool,
}

impl FoundBundle {
    fn begin(key: &str) -> Option<Self> {
        let name: StoreName = key.rsplit('/').next()?.parse().ok()?;
        if super::key(&name.chain, &name.to_string()) != key {
            return None;
        }
        Some(Self { name, key: key.to_owned(), versions: Vec::new(), count: 0, current: false })
    }

    fn add(&mut self, version: Listed) {
        self.count += 1;
        self.current |= version.current;
        let at = self.versions.partition_point(|other| other.made <= version.made);
        self.versions.insert(at, version);
        self.versions.truncate(VERSIONS_MAX);
    }
}

/// Calls back with every bundle that an archive lists; gives how many other names it lists.
///
/// # Errors
/// What the archive or the caller says.
pub fn each_bundle<E: From<ArchiveError>>(
    archive: &mut dyn Archive,
    mut use_it: impl FnMut(&mut dyn Archive, FoundBundle) -> Result<(), E>,
) -> Result<u64, E> {
    let (mut others, mut other) = (0, String::new());
    let mut open: Option<FoundBundle> = None;
    let mut after = None;
    loop {
        let page = archive.list(after.as_ref())?;
        for version in page.objects {
            if open.as_ref().is_some_and(|bundle| bundle.key != version.key)
                && let Some(bundle) = open.take()
            {
                use_it(archive, bundle)?;
            }
            if open.is_none() {
                open = FoundBundle::begin(&version.key);
            }
            match &mut open {
                Some(bundle) => bundle.add(version),
                None if version.key != other => {
                    others += 1;
                    other = version.key;
                }
                None => {}
            }
        }
        if page.next.is_none() {
            break;
        }
        if page.next == after {
            let why = "its list does not go on from here".to_owned();
            let key = page.next.map(|marker| marker.key).unwrap_or_default();
            return Err(ArchiveError::Differs { key, why }.into());
        }
        after = page.next;
    }
    if let Some(bundle) = open {
        use_it(archive, bundle)?;
    }
    Ok(others)
}

/// The XML of an answer. No DTD is read, so nothing in it can grow.
pub(super) fn with_xml<T>(
    place: &str,
    answer: &Answer,
    read: impl FnOnce(Node<'_, '_>) -> T,
) -> Result<T, ArchiveError> {
    let text = String::from_utf8_lossy(&answer.body);
    let options = ParsingOptions { nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    match Document::parse_with_options(text.trim_start_matches('\u{feff}'), options) {
        Ok(document) => Ok(read(document.root_element())),
        Err(err) => Err(ArchiveError::Answer {
            place: place.to_owned(),
            status: answer.status,
            code: String::new(),
            why: format!("its list is no XML: {err}"),
            retry_after: None,
        }),
    }
}

/// The elements of this name right under a node, whatever their namespace is.
pub(super) fn children<'a, 'input: 'a>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

/// The text of the first such element; empty where there is none.
pub(super) fn text<'a>(node: Node<'a, '_>, name: &'static str) -> &'a str {
    children(node, name).next().and_then(|child| child.text()).unwrap_or_default().trim()
}

/// So many versions of one name are looked at.
pub const VERSIONS_MAX: usize = 16;
/// The most that a store is asked to list at once; each of them gives this at most anyway.
pub(super) const LISTED_MAX: &str = "1000";
/// Some 20 nodes an object are usual.
const NODES_MAX: u32 = 200_000;

#[cfg(test)]
mod tests {
    use shared::record::Epoch;

    use super::*;

    const NAME: &str = "plant-7-3-flash-0000000001-0123456789abcdef.pstk";

    #[test]
    fn only_names_of_our_form_are_bundles() {
        let good = FoundBundle::begin(&format!("plant-7/3/flash/{NAME}")).unwrap();
        assert_eq!((good.name.chain.epoch, good.name.number), (Epoch(3), 1));
        for key in [
            NAME.to_owned(),
            format!("plant-7/03/flash/{NAME}"),
            format!("plant-7/3/routine/{NAME}"),
            format!("plant-8/3/flash/{NAME}"),
            format!("plant-7/3/flash/x/{NAME}"),
            format!("plant-7/3/flash/../flash/{NAME}"),
            format!("penstock-canary/{NAME}"),
            String::new(),
        ] {
            assert_eq!(FoundBundle::begin(&key), None, "{key}");
        }
    }

    #[test]
    fn the_oldest_versions_are_kept() {
        let mut bundle = FoundBundle::begin(&format!("plant-7/3/flash/{NAME}")).unwrap();
        for made in (0..40).rev() {
            bundle.add(Listed {
                key: bundle.key.clone(),
                version: made.to_string(),
                bytes: 1,
                made: Nanos(made),
                current: made == 39,
            });
        }
        let versions: Vec<_> = bundle.versions.iter().map(|one| one.made.0).collect();
        assert_eq!((bundle.count, versions), (40, (0..16).collect()));
        assert!(bundle.current);
    }

    #[test]
    fn what_is_no_list_is_said() {
        let answer = |body: &str| Answer {
            status: 200,
            headers: hyper::HeaderMap::new(),
            body: body.as_bytes().to_vec(),
        };
        let bomb = "<!DOCTYPE a [<!ENTITY b \"x\">]><a>&b;</a>";
        for body in ["", "<a>", "{}", bomb] {
            let error = with_xml("s3://audit", &answer(body), |_| ()).unwrap_err();
            assert!(error.to_string().contains("is no XML"), "{error}");
        }
        let good = answer("\u{feff}<?xml version=\"1.0\"?><l xmlns=\"x\"><k>a&amp;b</k></l>");
        assert_eq!(with_xml("x", &good, |root| text(root, "k").to_owned()).unwrap(), "a&b");
    }
}
