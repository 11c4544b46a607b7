//! From the body of a record to its parsed event.

use crate::record::Stream;

use super::view::{Category, Classified, Event, PrivilegeSettings, Unclassified};
use super::{Body, recognise};

/// The parsed view of a record. `hint` is its stream where configuration says it; otherwise the
/// stream is recognised.
///
/// It never fails: what is not understood is said in the event.
pub fn understand<'t>(
    body: &Body<'t>,
    hint: Option<Stream>,
    _settings: &PrivilegeSettings,
) -> Event<'t> {
    let stream = hint.unwrap_or_else(|| recognise(body.raw));
    let mut event = Event::blank(stream);
    event.category = match stream {
        Stream::Falco => Classified::As { category: Category::Runtime },
        Stream::PortainerAuth => Classified::As { category: Category::Authentication },
        Stream::KubeAudit | Stream::PortainerActivity => {
            Classified::Not { unclassified: Unclassified::UnknownAction }
        }
        Stream::Other => Classified::Not { unclassified: Unclassified::OtherStream },
    };
    event
}
