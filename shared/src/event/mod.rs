//! The parsed view of a record: which stream it belongs to, and its syslog envelope.
//!
//! A view only: the evidence is the record's bytes, and nothing here ever refuses or changes them.

mod body;
mod cut;
mod envelope;
mod falco;
mod fields;
mod google;
mod keys;
mod kubernetes;
mod portainer;
mod rfc3164;
mod rfc5424;
mod shapes;
mod stream;
mod timestamp;
mod understand;
mod view;

pub use body::Body;
pub use envelope::{Element, Envelope, Format, Parameter, Problem, envelope};
pub use fields::{Fields, fields};
pub use shapes::{Shape, guarded_shapes, is_known_kind};
pub use understand::{recognise, recognise_body, understand};
pub use view::{
    Access, Actor, Category, Classified, Event, Outcome, Privilege, PrivilegeSettings, Resource,
    Unclassified,
};

#[cfg(test)]
mod detection;
#[cfg(test)]
mod samples;
