//! The UDP diode as its users meet it: whole agents, bad links, and a link on which nothing can come
//! back.

mod campaign;
mod link;
mod oneway;
mod recovery;
