//! The whole way, with the senders and receivers that people have.

mod codes;
mod disorder;
mod incoming;
mod outgoing;
mod pressure;
mod samples;
