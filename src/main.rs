//! The binary `amazon-billing-source`.

fn main() {}
