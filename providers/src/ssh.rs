//! A host over SSH. Its key is known before the first connection; nothing is trusted on first use.

pub mod keys;
