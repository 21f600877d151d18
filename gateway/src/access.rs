//! Who may come in, and how many of them.

pub mod admission;
pub mod cluster_streams;
