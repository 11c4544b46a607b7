//! The macro that `age` 0.11 compiles its messages with, from the version that does it the same way every time.
//!
//! Version 0.9 writes the arguments of a message in the order of a hash map, so that no two builds of a program gave
//! the same bytes (<https://github.com/kellpossible/cargo-i18n/issues/150>). Version 0.10 sorts them, and what it
//! writes is otherwise the same. `age` 0.12 asks for it; until `age` 0.12 builds beside `hpke`, this does.
pub use sorted::fl;
