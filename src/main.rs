//! The kprov command.
fn main() {}
